//! Kernel features that some tests need and some kernels lack, as the tracer reports them.

use std::{io::Write as _, sync::OnceLock};

use serde_json::Value;

use crate::{Record, TracerCommand, tracer::Finished};

/// Transitions have all that the kernel knows: the namespace, and the name of the task that acts.
pub const TP_BTF: &str = "tp_btf/inet_sock_set_state";
/// Sockets are identified by the kernel's cookies, which `ss -e` prints.
pub const COOKIE: &str = "socket_cookie";
/// Holders are found by walking all descriptors, also of sockets that nothing else leads to.
pub const TASK_FILE: &str = "iter/task_file";
/// The opener of a connected socket is stored with the socket.
pub const STORAGE: &str = "sk_storage";
/// The opener of an accepted socket is known.
pub const ACCEPT: &str = "fentry/security_sock_graft";
/// The timewait socket that replaces a socket is seen.
pub const TIME_WAIT: &str = "fentry/tcp_time_wait";

fn sources() -> &'static Value {
    static START: OnceLock<Record> = OnceLock::new();
    let start = START.get_or_init(|| {
        let run =
            TracerCommand::new(&["--stuck", "1h", "--transitions", "--duration", "1ms", "--json"]).run();
        run.records.first().unwrap_or_else(|| panic!("no start: {}", run.stderr)).clone()
    });
    start.get("sources")
}

/// Counts the features that `--stuck` uses and this kernel lacks.
pub fn missing() -> usize {
    let sources = sources().as_object().expect("held against the contract");
    let is_missing = |(name, source): &(&String, &Value)| *name != TIME_WAIT && source["in_use"] == false;
    sources.iter().filter(is_missing).count()
}

/// Returns why the tracer does without a feature on this kernel; `None` if it uses it.
pub fn why_not(feature: &str) -> Option<String> {
    let source = &sources()[feature];
    match source["in_use"].as_bool() {
        Some(true) => None,
        Some(false) => {
            Some(source["why_not"].as_str().expect("a feature not in use has a reason").to_owned())
        }
        None => panic!("{feature} is not among {}", sources()),
    }
}

/// Returns whether a test cannot run on this kernel. If so, reports it by a line that `cargo xtask
/// test` counts, so that a test that runs nowhere is noticed.
pub fn is_missing(feature: &str, test: &str) -> bool {
    let Some(why) = why_not(feature) else { return false };
    tell_not_run(test, feature, &why);
    true
}

/// The most transitions that a kernel may skip with BTF. Since Linux 7 a task can be preempted
/// within a BPF program, and the kernel skips programs that run meanwhile. More losses are the
/// tracer's fault.
const SKIPPED_AT_MOST: u64 = 4;

/// Returns whether a run reports as many lost transitions as it misses. Without BTF each is
/// counted, so the numbers are equal; with BTF it may report more. A run that lost more than a
/// kernel can skip fails.
pub fn are_told(missing: Option<usize>, start: &Record, summary: &Record) -> bool {
    let Some(missing) = missing else { return false };
    let (missing, lost) = (missing as u64, summary.int("lost"));
    if is_plain(start) { missing == lost } else { missing <= skipped(start, summary) }
}

fn is_plain(start: &Record) -> bool {
    start.get("sources")[TP_BTF]["in_use"] == false
}

/// Returns how many transitions a run reports as lost; 0 if they are more than a kernel can skip.
fn skipped(start: &Record, summary: &Record) -> u64 {
    let lost = summary.int("lost");
    if is_plain(start) || lost <= SKIPPED_AT_MOST { lost } else { 0 }
}

/// Returns whether the kernel skipped programs in a run that has to see every transition. If so,
/// reports that the test did not run.
pub fn has_skipped(run: &Finished, test: &str) -> bool {
    let skipped = skipped(&run.records[0], run.summary());
    if skipped > 0 {
        tell_not_run(test, "every transition", &format!("this kernel skipped {skipped}"));
    }
    skipped > 0
}

/// Reports that a test cannot run, because something is missing that is not a feature of the
/// tracer.
pub fn tell_not_run(test: &str, needed: &str, why: &str) {
    let line = format!("@@NOTRUN {test} needs {needed}: {}\n", why.replace('\n', " "));
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}

/// Reports that the tracer lost transitions though the test did not provoke that: if the test
/// fails, it is run again (`cargo xtask test`).
pub(crate) fn tell_lost(test: &str) {
    std::io::stderr().write_all(format!("@@LOST {test}\n").as_bytes()).expect("stderr is open");
}
