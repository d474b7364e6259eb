//! What `/proc` tells of a tracer: its CPU time, its memory, and how long its BPF programs have run.

use std::{collections::BTreeMap, fs};

/// The tracepoint that all tracers here are on.
const TRACEPOINT: &str = "inet_sock_set_state";
/// `BPF_PROG_TYPE_TRACEPOINT`, `include/uapi/linux/bpf.h`: on its tracepoint by no link that would tell which.
const PLAIN_TRACEPOINT: u64 = 5;

/// CPU time, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// In user space.
    pub(crate) user: u64,
    /// In the kernel.
    pub(crate) system: u64,
}

/// The CPU time of a process; also of one that has ended and is yet to be waited for.
pub(crate) fn cpu(pid: u32) -> Option<Cpu> {
    parse_cpu(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc(5): `utime` and `stime` are the 14th and 15th field; the second is a name with anything in it.
fn parse_cpu(stat: &str) -> Option<Cpu> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11).map(|field| field.parse().ok());
    Some(Cpu { user: fields.next()??, system: fields.next()?? })
}

/// Memory of a process, KiB: `VmHWM` (the most there ever was), `VmRSS` (now).
pub(crate) fn memory(pid: u32, which: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    field(&status, which)?.trim_end_matches(" kB").parse().ok()
}

/// What the programs of a process on the tracepoint have done; times only where the kernel measures them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// All of them together.
    pub(crate) ns: u64,
    /// The first of them: how often something happened.
    pub(crate) events: u64,
}

impl Runs {
    /// What has come since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { ns: self.ns.saturating_sub(before.ns), events: self.events.saturating_sub(before.events) }
    }
}

/// The programs on the tracepoint that a process has open.
pub(crate) fn runs(pid: u32) -> Runs {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let fdinfo: Vec<String> = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
    parse_runs(&fdinfo)
}

fn parse_runs(fdinfo: &[String]) -> Runs {
    let number = |text: &str, name| field(text, name)?.parse::<u64>().ok();
    let on_it: Vec<u64> = fdinfo
        .iter()
        .filter(|text| field(text, "tp_name") == Some(TRACEPOINT))
        .filter_map(|text| number(text, "prog_id"))
        .collect();
    // One program may be open twice.
    let programs: BTreeMap<u64, Runs> = fdinfo
        .iter()
        .filter_map(|text| {
            let (id, kind) = (number(text, "prog_id")?, number(text, "prog_type")?);
            let is_there = kind == PLAIN_TRACEPOINT || on_it.contains(&id);
            let events = number(text, "run_cnt")? + number(text, "recursion_misses").unwrap_or(0);
            is_there.then_some((id, Runs { ns: number(text, "run_time_ns")?, events }))
        })
        .collect();
    Runs {
        ns: programs.values().map(|runs| runs.ns).sum(),
        events: programs.values().map(|runs| runs.events).max().unwrap_or(0),
    }
}

/// The value in the line `NAME:\tVALUE`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 1 0 0 0 17 4 0 0 20 0 2 0 99 8192 5 1";
        assert_eq!(parse_cpu(stat), Some(Cpu { user: 17, system: 4 }));
        assert_eq!(parse_cpu("42 (a) S 1"), None);
    }

    fn program(kind: u32, id: u32, ns: u32, runs: u32, missed: u32) -> String {
        format!(
            "pos:\t0\nprog_type:\t{kind}\nprog_id:\t{id}\nrun_time_ns:\t{ns}\nrun_cnt:\t{runs}\n\
             recursion_misses:\t{missed}\n"
        )
    }

    #[test]
    fn the_programs_on_the_tracepoint_are_added_up() {
        let link = |id: u32, name: &str| {
            format!("pos:\t0\nlink_type:\traw_tracepoint\nprog_id:\t{id}\ntp_name:\t{name}\n")
        };
        let fdinfo = [
            program(26, 7, 1_000, 8, 2),
            program(26, 8, 300, 10, 0),
            program(26, 9, 50_000, 3, 0), // an iterator
            link(7, TRACEPOINT),
            link(8, TRACEPOINT),
            link(9, "sched_switch"),
        ];
        assert_eq!(parse_runs(&fdinfo), Runs { ns: 1_300, events: 10 });
    }

    #[test]
    fn a_plain_tracepoint_program_counts_without_a_link() {
        let once = program(5, 7, 900, 9, 0);
        let fdinfo = [once.clone(), once, "pos:\t0\n".to_owned()];
        assert_eq!(parse_runs(&fdinfo), Runs { ns: 900, events: 9 });
        assert_eq!(parse_runs(&[]), Runs::default());
    }
}
