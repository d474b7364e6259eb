//! Compressed files in, the bytes that were compressed out; and whatever else a file may hold.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

/// A file with this in it, from its beginning.
fn file(bytes: &[u8]) -> File {
    let memory = rustix::fs::memfd_create("recording", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let mut file = File::from(memory);
    file.write_all(bytes).expect("memory takes it");
    io::Seek::rewind(&mut file).expect("it has a beginning");
    file
}

fn uninterrupted() -> Interruption {
    Interruption::new().expect("a descriptor is left")
}

/// What comes out before the end, or before an error.
fn read(bytes: &[u8]) -> (Vec<u8>, Option<String>) {
    let mut input = match RecordingFile::new(file(bytes), None, uninterrupted()) {
        Ok(input) => input,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let mut all = Vec::new();
    let error = input.read_to_end(&mut all).err().map(|error| error.to_string());
    (all, error)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// Some lines, more than a decoder's block.
fn lines() -> Vec<u8> {
    (0..50_000).flat_map(|number: u64| format!("{}\n", number * 7_919).into_bytes()).collect()
}

#[test]
fn what_was_compressed_comes_out_also_from_several_parts() {
    let lines = lines();
    for compress in [gzip as fn(&[u8]) -> Vec<u8>, zstd] {
        let (first, second) = lines.split_at(100_001);
        // As `cat one.gz two.gz`, and log rotation, put them together.
        for whole in [compress(&lines), [compress(first), compress(b""), compress(second)].concat()] {
            assert!(read(&whole) == (lines.clone(), None));
        }
    }
    // pzstd puts a frame that is to be skipped before each.
    let skipped = [&b"\x50\x2a\x4d\x18\x04\0\0\0abcd"[..], &zstd(&lines)].concat();
    assert!(read(&skipped) == (lines.clone(), None));
    assert!(read(&lines) == (lines, None));
    assert_eq!(read(b""), (vec![], None));
    assert_eq!(read(b"{"), (b"{".to_vec(), None));
}

#[test]
fn what_is_cut_off_or_damaged_gives_what_came_before_and_says_so() {
    let lines = lines();
    for (compressed, name, after_cut) in
        [(gzip(&lines), "gzip", AFTER_CUT_GZIP), (zstd(&lines), "zstd", AFTER_CUT_ZSTD)]
    {
        let (came, error) = read(&compressed[..compressed.len() * 3 / 4]);
        assert!(came.len() > lines.len() / 4 && lines.starts_with(&came), "{name}: {}", came.len());
        assert_eq!(error, Some(format!("the {name} data is cut off here{after_cut}")));
        let mut damaged = compressed.clone();
        // Its checksum.
        let end = damaged.len() - 5;
        damaged[end] ^= 1;
        let (_, error) = read(&damaged);
        assert!(error.as_ref().is_some_and(|error| error.contains(name)), "{name}: {error:?}");
        let (came, error) = read(&[&compressed[..], b"garbage"].concat());
        assert!(came == lines && error.is_some(), "{name}: {error:?}");
    }
}

#[test]
fn what_cannot_be_read_is_named_with_what_reads_it() {
    for (bytes, words) in [
        (&b"\xfd7zXZ\0\0"[..], "xz -dc FILE | tcptrace --replay -"),
        (b"BZh91AY", "bzip2"),
        (b"\xff\xfe{\0\"\0", "UTF-16"),
    ] {
        let (_, error) = read(bytes);
        assert!(error.as_ref().is_some_and(|error| error.contains(words)), "{words}: {error:?}");
    }
}

#[test]
fn a_window_of_gigabytes_is_refused() {
    // A frame header: no checksum, a window of 2 GiB (descriptor 0xa8).
    let (_, error) = read(&[ZSTD, &[0x00, 0xa8], &[0; 16]].concat());
    assert!(error.as_ref().is_some_and(|error| error.to_lowercase().contains("window")), "{error:?}");
}

#[test]
fn once_nobody_reads_the_output_the_input_ends() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let (input_reader, mut input_writer) = io::pipe().expect("a pipe");
    input_writer.write_all(b"one line\n").expect("a pipe has room");
    let recording = File::from(OwnedFd::from(input_reader));
    let mut input =
        RecordingFile::new(recording, Some(writer.into()), uninterrupted()).expect("it can be read");
    let mut line = String::new();
    input.read_line(&mut line).expect("it can be read");
    assert_eq!(line, "one line\n");
    assert!(input.has_to_wait() && !input.is_abandoned());
    drop(reader);
    // More may come: that is not waited for.
    assert_eq!(input.read_line(&mut line).expect("it can be read"), 0);
    assert!(input.is_abandoned());
    drop(input_writer);
}

#[test]
fn the_end_is_read_once() {
    // As at a terminal, more can come after the end that was read.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("a FIFO");
    let write = |path: std::path::PathBuf| {
        std::thread::spawn(move || std::fs::write(path, "one line\n").expect("somebody reads"))
    };
    let writer = write(path.clone());
    let recording = File::open(&path).expect("somebody writes");
    let mut input = RecordingFile::new(recording, None, uninterrupted()).expect("it can be read");
    let mut line = String::new();
    input.read_line(&mut line).expect("it can be read");
    assert_eq!(input.read_line(&mut line).expect("it can be read"), 0);
    writer.join().expect("it wrote");
    write(path).join().expect("it wrote");
    assert_eq!(input.read_line(&mut line).expect("it can be read"), 0, "the end had been read");
    assert_eq!(line, "one line\n");
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_are_read(at in any::<prop::sample::Index>(), byte: u8, is_gzip: bool) {
        let lines = "a line, and another one\n".repeat(20) + &at.index(1_000_000).to_string();
        let mut bytes = if is_gzip { gzip(lines.as_bytes()) } else { zstd(lines.as_bytes()) };
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _sound_or_not = read(&bytes);
    }
}
