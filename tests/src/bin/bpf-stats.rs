//! Has the kernel measure the run times of BPF programs for `cargo xtask bench`, until its stdin
//! ends.

#![expect(clippy::print_stdout, reason = "says that it is ready")]

use std::io;

fn main() -> io::Result<()> {
    let measuring = tests::bpf_cost::measure_run_times()?;
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    drop(measuring);
    Ok(())
}
