//! The measure of all tracers in `cargo xtask bench`: keeps a BPF program that does nothing on the
//! tracepoint.
//!
//! It prints `ready` when the program is there, and ends on SIGINT.

#![expect(clippy::print_stdout, reason = "says that it is ready")]

use std::io;

fn main() -> io::Result<()> {
    let _attached = tests::bpf_cost::attach_nothing()?;
    println!("ready");
    loop {
        std::thread::park();
    }
}
