//! The one way to stderr: what is said beside the records.

use std::io::Write as _;

/// Says something on stderr, as one write. A stderr that cannot be written to is nothing to fail for.
pub fn say(message: impl std::fmt::Display) {
    let text = format!("tcptrace: {message}\n");
    let _nobody_listens = std::io::stderr().lock().write_all(text.as_bytes());
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
