//! Errors as one line of text.

use std::{error::Error, fmt::Write as _};

use aya::programs::ProgramError;

/// Formats an error with its causes.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _infallible = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}

/// Formats the error of a BPF program: of a long verifier log, only its last line that says
/// something.
pub(crate) fn of_program(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        let last = log.lines().map(str::trim).rfind(|line| !line.is_empty() && !is_statistics(line));
        return match last {
            Some(line) => format!("{io_error}: {line}"),
            None => io_error.to_string(),
        };
    }
    with_causes(error)
}

/// Whether a line of the verifier's log only says what verification cost.
fn is_statistics(line: &str) -> bool {
    ["verification time", "stack depth", "processed "].iter().any(|start| line.starts_with(start))
}
