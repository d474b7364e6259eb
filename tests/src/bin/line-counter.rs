//! The reader at the other end of a tracer's pipe in `cargo xtask bench`: takes all that comes,
//! and costs little itself.
//!
//! It prints the first line as soon as that has come, and at the end how many lines there were,
//! and the last.

#![expect(clippy::print_stdout, reason = "its answers")]

use std::io::{self, ErrorKind, Read as _};

/// Bytes read at a time: all that a pipe holds.
const CHUNK: usize = 64 << 10;

fn main() -> io::Result<()> {
    let mut stdin = io::stdin();
    let mut buffer = vec![0; CHUNK];
    let mut lines = 0_usize;
    // The last whole line, and what came after it.
    let (mut last, mut rest) = (Vec::new(), Vec::new());
    loop {
        let read = match stdin.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        let chunk = &buffer[..read];
        if chunk.is_empty() {
            break;
        }
        let Some(end) = chunk.iter().rposition(|byte| *byte == b'\n') else {
            rest.extend_from_slice(chunk);
            continue;
        };
        let whole = &chunk[..end];
        if lines == 0 {
            let first = whole.split(|byte| *byte == b'\n').next().unwrap_or_default();
            println!("{}{}", String::from_utf8_lossy(&rest), String::from_utf8_lossy(first));
        }
        lines += 1 + whole.iter().filter(|byte| **byte == b'\n').count();
        match whole.iter().rposition(|byte| *byte == b'\n') {
            Some(before) => last = whole[before + 1..].to_vec(),
            None => last = [&rest, whole].concat(),
        }
        rest.clear();
        rest.extend_from_slice(&chunk[end + 1..]);
    }
    if lines == 0 {
        println!();
    }
    println!("{lines}");
    println!("{}", String::from_utf8_lossy(&last));
    Ok(())
}
