//! Counts what libtest reports, while it is passed on to the user.

use std::{
    fmt,
    io::{self, Read, Write},
    ops::AddAssign,
};

/// How many tests came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were not run, because they are marked `#[ignore]`.
    pub(crate) skipped: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(formatter, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Copies what tests print as it comes, unfinished lines too, and adds up the results in it.
pub(crate) fn forward(mut from: impl Read, mut to: impl Write) -> io::Result<Totals> {
    let mut totals = Totals::default();
    let mut line = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..length])?;
        to.flush()?;
        for &byte in &buffer[..length] {
            if byte == b'\n' {
                totals += result_line(&String::from_utf8_lossy(&line)).unwrap_or_default();
                line.clear();
            } else {
                line.push(byte);
            }
        }
    }
    totals += result_line(&String::from_utf8_lossy(&line)).unwrap_or_default();
    Ok(totals)
}

/// The numbers of a line `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
fn result_line(line: &str) -> Option<Totals> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what| {
        counts.split(';').find_map(|part| {
            let (number, name) = part.trim().split_once(' ')?;
            if name == what { number.parse().ok() } else { None }
        })
    };
    Some(Totals { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s";
    const FAILED: &str = "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn result_lines_are_read() {
        assert_eq!(result_line(OK), Some(Totals { passed: 3, failed: 0, skipped: 1 }));
        assert_eq!(result_line(FAILED), Some(Totals { passed: 10, failed: 2, skipped: 0 }));
    }

    #[test]
    fn other_lines_are_not() {
        for line in
            ["", "running 3 tests", "test result: ok", "test result: x ... ok", " test result: ok. 3 passed"]
        {
            assert_eq!(result_line(line), None, "{line}");
        }
    }

    #[test]
    fn output_is_forwarded_and_counted() -> io::Result<()> {
        // Doctests of several crates and a last line without its end.
        let output = format!("running 4 tests\n\n{OK}\n\nrunning 12 tests\n\u{fffd}\n{FAILED}");
        let mut copy = Vec::new();
        let totals = forward(output.as_bytes(), &mut copy)?;
        assert_eq!(totals, Totals { passed: 13, failed: 2, skipped: 1 });
        assert_eq!(copy, output.as_bytes());
        Ok(())
    }

    #[test]
    fn totals_make_one_plain_line() {
        assert_eq!(Totals { passed: 12, failed: 0, skipped: 0 }.to_string(), "12 passed, 0 failed");
        assert_eq!(
            Totals { passed: 12, failed: 1, skipped: 3 }.to_string(),
            "12 passed, 1 failed, 3 skipped"
        );
    }
}
