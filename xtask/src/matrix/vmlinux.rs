//! Takes the kernel proper out of the file that boot loaders load. QEMU starts it without the detour through the
//! loader's own unpacking, which an emulated processor takes seconds for.
//!
//! The header is described in the kernel's documentation, arch/x86/boot.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// How a compressed kernel begins, and what unpacks it.
const FORMATS: [(&[u8], &str); 4] =
    [(b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"\x02\x21\x4c\x18", "lz4"), (b"\x1f\x8b", "gzip")];

/// Unpacks the kernel in `image`; the result is at `to`.
pub(crate) fn extract(image: &Path, to: &Path) -> Result<()> {
    let context = || format!("{} is not a kernel that we can unpack", image.display());
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let payload = payload(&bytes).with_context(context)?;
    let (_, program) =
        FORMATS.into_iter().find(|(magic, _)| payload.starts_with(magic)).with_context(context)?;
    let packed = to.with_extension("packed");
    fs::write(&packed, trimmed(payload, program))
        .with_context(|| format!("cannot write {}", packed.display()))?;
    unpack(program, &packed, to)?;
    let mut magic = [0; 4];
    let read = File::open(to).and_then(|mut file| file.read_exact(&mut magic));
    if read.is_err() || magic != *b"\x7fELF" {
        bail!("what {program} unpacks from {} is not a kernel", image.display());
    }
    fs::remove_file(&packed).with_context(|| format!("cannot remove {}", packed.display()))
}

/// Runs a program that unpacks stdin to stdout.
pub(crate) fn unpack(program: &str, from: &Path, to: &Path) -> Result<()> {
    let input = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let output = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut command: Command = shell::command(program);
    command.arg("-dc").stdin(input).stdout(output).stderr(Stdio::piped());
    let result = command.output().with_context(|| format!("cannot run {program}"))?;
    if !result.status.success() {
        let complaint = String::from_utf8_lossy(&result.stderr).trim().to_owned();
        bail!("{program} cannot unpack {}: {complaint}", from.display());
    }
    Ok(())
}

/// The compressed kernel in the file.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("it has no boot header");
    }
    // 0 stands for 4, and the boot sector comes before them.
    let setup_sectors = match image.get(0x1f1) {
        Some(0) | None => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let (offset, length) = word(0x248).zip(word(0x24c)).context("its boot header is cut short")?;
    let start = (setup_sectors + 1) * 512 + offset;
    image.get(start..start + length).context("the kernel in it is cut short")
}

/// Without the length of what is unpacked, which the kernel's build appends and all but gzip stumble over.
fn trimmed<'a>(payload: &'a [u8], program: &str) -> &'a [u8] {
    if program == "gzip" { payload } else { &payload[..payload.len().saturating_sub(4)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(setup_sectors: u8, payload: &[u8]) -> Vec<u8> {
        let sectors = if setup_sectors == 0 { 4 } else { usize::from(setup_sectors) };
        let mut image = vec![0; (sectors + 1) * 512 + 16];
        image[0x1f1] = setup_sectors;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c] = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        image.extend(payload);
        image
    }

    #[test]
    fn the_payload_is_where_the_header_says() -> Result<()> {
        for setup_sectors in [0, 3, 39] {
            assert_eq!(payload(&image(setup_sectors, b"kernel"))?, b"kernel");
        }
        Ok(())
    }

    #[test]
    fn torn_images_are_refused() {
        let whole = image(3, b"kernel");
        assert!(payload(&whole[..whole.len() - 1]).is_err());
        assert!(payload(&whole[..0x24a]).is_err());
        assert!(payload(b"MZ").is_err());
        assert!(payload(&[]).is_err());
    }

    #[test]
    fn only_gzip_keeps_the_length_at_the_end() {
        assert_eq!(trimmed(b"packed1234", "zstd"), b"packed");
        assert_eq!(trimmed(b"packed1234", "gzip"), b"packed1234");
        assert_eq!(trimmed(b"1", "xz"), b"");
    }
}
