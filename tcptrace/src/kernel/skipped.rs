//! Counts the transitions for which the kernel did not run our program.
//!
//! A program on a tracepoint is not run again on a CPU on which it is running already (`__bpf_trace_run`,
//! `kernel/trace/bpf_trace.c`). That happens where a packet interrupts it, or from Linux 7 on another task, and
//! changes a socket's state too. The kernel counts these; nothing else tells of them.

use std::{
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::FileExt as _,
    },
};

use aya::{Ebpf, programs::ProgramFd};

/// The kernel's count, where it keeps one (Linux 5.12).
pub(super) struct Skipped {
    fdinfo: Option<File>,
}

impl Skipped {
    /// The count of the program of that name.
    pub(super) fn of(ebpf: &Ebpf, program: &str) -> Self {
        let number = |fd: &ProgramFd| fd.as_fd().as_raw_fd();
        let fd = ebpf.program(program).and_then(|program| program.fd().ok().map(number));
        Self { fdinfo: fd.and_then(|fd| File::open(format!("/proc/self/fdinfo/{fd}")).ok()) }
    }

    /// How many in all.
    pub(super) fn total(&self) -> u64 {
        let mut text = [0; 1024];
        let length = self.fdinfo.as_ref().and_then(|fdinfo| fdinfo.read_at(&mut text, 0).ok());
        length.and_then(|length| count(&text[..length])).unwrap_or(0)
    }
}

/// The number in the line `recursion_misses:`.
fn count(fdinfo: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(fdinfo).ok()?;
    text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_among_the_other_lines() {
        let fdinfo = b"pos:\t0\nprog_type:\t26\nrun_cnt:\t9\nrecursion_misses:\t17\nverified_insns:\t5\n";
        assert_eq!(count(fdinfo), Some(17));
        assert_eq!(count(b"pos:\t0\nprog_type:\t26\n"), None);
        assert_eq!(count(b"recursion_misses:\tmany\n"), None);
    }
}
