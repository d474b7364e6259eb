//! Kernel features that some tests need and some kernels lack, as the tracer itself finds them.

use std::{io::Write as _, sync::OnceLock};

use serde_json::Value;

use crate::{Record, TracerCommand, tracer::Finished};

/// Transitions come with all that the kernel knows: namespace, name of who acts.
pub const TP_BTF: &str = "tp_btf/inet_sock_set_state";
/// Identities are the kernel's cookies, those that `ss -e` prints.
pub const COOKIE: &str = "socket_cookie";
/// Holders are found by walking descriptors, also those of sockets that nothing else leads to.
pub const TASK_FILE: &str = "iter/task_file";
/// Who connected a socket is kept with it.
pub const STORAGE: &str = "sk_storage";
/// Who accepted a socket is seen.
pub const ACCEPT: &str = "fentry/security_sock_graft";
/// TIME_WAIT is seen.
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

/// How many features that `--stuck` has a use for the tracer does without on this kernel.
pub fn missing() -> usize {
    let sources = sources().as_object().expect("held against the contract");
    let is_missing = |(name, source): &(&String, &Value)| *name != TIME_WAIT && source["in_use"] == false;
    sources.iter().filter(is_missing).count()
}

/// Why the tracer does without a feature on this kernel; `None` where it has it.
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

/// Whether a test cannot run on this kernel. It is then told by a line that `cargo xtask test` counts: a test
/// that runs nowhere is seen.
pub fn is_missing(feature: &str, test: &str) -> bool {
    let Some(why) = why_not(feature) else { return false };
    tell_not_run(test, feature, &why);
    true
}

/// With BTF, a kernel that lets tasks take turns within a program (from Linux 7 on) can skip the programs that stand in for
/// each other too: so few at the most. More of them are the tracer's fault.
const SKIPPED_AT_MOST: u64 = 4;

/// Whether this run tells of so many transitions that it misses: of each, and without BTF, where they are counted one by
/// one, of no more. A kernel may skip programs; a run that has lost more than that can be is not excused.
pub fn are_told(missing: Option<usize>, start: &Record, summary: &Record) -> bool {
    let Some(missing) = missing else { return false };
    let (missing, lost) = (missing as u64, summary.int("lost"));
    if is_plain(start) { missing == lost } else { missing <= skipped(start, summary) }
}

fn is_plain(start: &Record) -> bool {
    start.get("sources")[TP_BTF]["in_use"] == false
}

/// How many transitions this run has told to be lost, as far as the kernel may skip programs; 0 where it has lost more than
/// that can be.
fn skipped(start: &Record, summary: &Record) -> u64 {
    let lost = summary.int("lost");
    if is_plain(start) || lost <= SKIPPED_AT_MOST { lost } else { 0 }
}

/// Whether that happened in a run that was to see every transition; says that the test did not run then.
pub fn has_skipped(run: &Finished, test: &str) -> bool {
    let skipped = skipped(&run.records[0], run.summary());
    if skipped > 0 {
        tell_not_run(test, "every transition", &format!("this kernel skipped {skipped}"));
    }
    skipped > 0
}

/// Tells in the same way that a test cannot run, for want of something that is not the tracer's.
pub fn tell_not_run(test: &str, needed: &str, why: &str) {
    let line = format!("@@NOTRUN {test} needs {needed}: {}\n", why.replace('\n', " "));
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}

/// Tells that the tracer has told of lost transitions, which this test did not provoke: if it fails it is run again where
/// kernels skip programs (`cargo xtask test --kernels`).
pub(crate) fn tell_lost(test: &str) {
    std::io::stderr().write_all(format!("@@LOST {test}\n").as_bytes()).expect("stderr is open");
}
