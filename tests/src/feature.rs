//! Kernel features that some tests need and some kernels lack, as the tracer itself finds them.

use std::{io::Write as _, sync::OnceLock};

use crate::{Record, TracerCommand};

/// Identities are the kernel's cookies, those that `ss -e` prints.
pub const COOKIE: &str = "socket_cookie";
/// Holders are found by walking descriptors, also those of sockets that nothing else leads to.
pub const TASK_FILE: &str = "iter/task_file";
/// Who connected a socket is kept with it.
pub const STORAGE: &str = "sk_storage";
/// Who accepted a socket is seen.
pub const ACCEPT: &str = "fentry/security_sock_graft";

/// Why the tracer does without a feature on this kernel; `None` where it has it.
pub fn why_not(feature: &str) -> Option<String> {
    static START: OnceLock<Record> = OnceLock::new();
    let start = START.get_or_init(|| {
        let run = TracerCommand::new(&["--stuck", "1h", "--duration", "1ms", "--json"]).run();
        run.records.first().unwrap_or_else(|| panic!("no start: {}", run.stderr)).clone()
    });
    let source = &start.get("sources")[feature];
    match source["in_use"].as_bool() {
        Some(true) => None,
        Some(false) => {
            Some(source["why_not"].as_str().expect("a feature not in use has a reason").to_owned())
        }
        None => panic!("{feature} is not among {start:?}"),
    }
}

/// Whether a test cannot run on this kernel. It is then told by a line that `cargo xtask test` counts: a test
/// that runs nowhere is seen.
pub fn is_missing(feature: &str, test: &str) -> bool {
    let Some(why) = why_not(feature) else { return false };
    tell_not_run(test, feature, &why);
    true
}

/// Tells in the same way that a test cannot run, for want of something that is not the tracer's.
pub fn tell_not_run(test: &str, needed: &str, why: &str) {
    let line = format!("@@NOTRUN {test} needs {needed}: {}\n", why.replace('\n', " "));
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}
