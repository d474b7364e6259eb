//! The one way to stderr: what is said beside the records.

use std::io::{IsTerminal as _, Write as _};

/// Says something on stderr, as one write. A stderr that cannot be written to is nothing to fail for.
pub fn say(message: impl std::fmt::Display) {
    let mut stderr = std::io::stderr().lock();
    // Over the `^C` that a terminal shows.
    let start = if stderr.is_terminal() { "\r" } else { "" };
    let _nobody_listens = stderr.write_all(format!("{start}tcptrace: {message}\n").as_bytes());
}

/// What the BPF programs log, passed on.
pub(crate) struct KernelLog;

impl log::Log for KernelLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say(format_args!("kernel: {}", record.args()));
    }

    fn flush(&self) {}
}
