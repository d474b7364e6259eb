//! Reads from `/proc` what a tracer has used: CPU time, memory, and the run time of its BPF
//! programs.

use std::{collections::BTreeMap, fs};

use procfs::{ProcResult, process::Process};

/// The tracepoint that all tracers here are on.
const TRACEPOINT: &str = "inet_sock_set_state";
/// `BPF_PROG_TYPE_TRACEPOINT` of `include/uapi/linux/bpf.h`: no link names the tracepoint of such
/// a program.
const PLAIN_TRACEPOINT: u64 = 5;

/// CPU time, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// In user space.
    pub(crate) user: u64,
    /// In the kernel.
    pub(crate) system: u64,
}

/// The CPU time of a process, even if it has ended and is yet to be waited for.
pub(crate) fn read_cpu(pid: u32) -> ProcResult<Cpu> {
    let stat = open_process(pid)?.stat()?;
    Ok(Cpu { user: stat.utime, system: stat.stime })
}

/// The memory of a process, KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// All that is resident now.
    pub(crate) resident: u64,
    /// The most that ever was resident.
    pub(crate) peak: u64,
    /// What the process has allocated: resident memory without programs and the ring buffer.
    ///
    /// Before Linux 6.2 a thread adds the pages that it maps to `resident` only now and then, so
    /// that this can grow by a whole ring buffer at any time. Allocated pages are added soon.
    pub(crate) allocated: u64,
}

/// The memory of a process; none if it has ended.
pub(crate) fn read_memory(pid: u32) -> Option<Memory> {
    let status = open_process(pid).ok()?.status().ok()?;
    Some(Memory { resident: status.vmrss?, peak: status.vmhwm?, allocated: status.rssanon? })
}

fn open_process(pid: u32) -> ProcResult<Process> {
    let pid = i32::try_from(pid).map_err(|error| procfs::ProcError::Other(error.to_string()))?;
    Process::new(pid)
}

/// What the programs of a process on the tracepoint have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// The time of all of them, if the kernel measures it.
    pub(crate) ns: u64,
    /// Runs of the one that ran most: how often something happened.
    pub(crate) events: u64,
}

impl Runs {
    /// What has come since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { ns: self.ns.saturating_sub(before.ns), events: self.events.saturating_sub(before.events) }
    }
}

/// The runs of the programs on the tracepoint that a process has open.
pub(crate) fn read_runs(pid: u32) -> Runs {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let fdinfo: Vec<String> = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
    parse_runs(&fdinfo)
}

fn parse_runs(fdinfo: &[String]) -> Runs {
    let number = |text: &str, name| find_field(text, name)?.parse::<u64>().ok();
    let links = fdinfo.iter().filter(|text| find_field(text, "tp_name") == Some(TRACEPOINT));
    let linked: Vec<u64> = links.filter_map(|text| number(text, "prog_id")).collect();
    let program = |text: &String| {
        let (id, kind) = (number(text, "prog_id")?, number(text, "prog_type")?);
        let is_on_it = kind == PLAIN_TRACEPOINT || linked.contains(&id);
        let events = number(text, "run_cnt")? + number(text, "recursion_misses").unwrap_or(0);
        is_on_it.then_some((id, Runs { ns: number(text, "run_time_ns")?, events }))
    };
    // One program may be open twice.
    let programs: BTreeMap<u64, Runs> = fdinfo.iter().filter_map(program).collect();
    Runs {
        ns: programs.values().map(|runs| runs.ns).sum(),
        events: programs.values().map(|runs| runs.events).max().unwrap_or(0),
    }
}

/// The value in the line `NAME:\tVALUE`.
fn find_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_on_the_tracepoint_are_added_up() {
        let program = |kind: u32, id: u32, ns: u32, runs: u32, missed: u32| {
            format!(
                "pos:\t0\nprog_type:\t{kind}\nprog_id:\t{id}\nrun_time_ns:\t{ns}\nrun_cnt:\t{runs}\n\
                 recursion_misses:\t{missed}\n"
            )
        };
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
        let plain = program(5, 7, 900, 9, 0);
        assert_eq!(parse_runs(&[plain.clone(), plain, "pos:\t0\n".into()]), Runs { ns: 900, events: 9 });
        assert_eq!(parse_runs(&[]), Runs::default());
    }
}
