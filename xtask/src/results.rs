//! Counts what libtest reports, while it is passed on to the user.
//!
//! libtest knows passed and failed alone. A kernel test that cannot run for lack of a kernel feature returns early,
//! which libtest counts as passed, and says so in a line `@@NOTRUN TEST REASON` on stderr: here it counts as not run.
//! `@@LOST TEST` says that the tracer told it of transitions that it never got.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, Read, Write},
    ops::AddAssign,
};

/// How the line begins with which a test says that it doesn't run, on stderr, past libtest's capture.
pub(crate) const NOT_RUN: &str = "@@NOTRUN ";
/// How it begins with which the tests' harness says that the tracer has told of lost transitions that the test did not make
/// it lose.
const LOST: &str = "@@LOST ";

/// How many tests came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were not run, because they are marked `#[ignore]`.
    pub(crate) skipped: u64,
    /// Tests that did not run, because the kernel lacks what they test.
    pub(crate) not_run: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_run += other.not_run;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(formatter, ", {} skipped", self.skipped)?;
        }
        if self.not_run > 0 {
            write!(formatter, ", {} not run", self.not_run)?;
        }
        Ok(())
    }
}

/// What became of the tests of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    /// The numbers.
    pub(crate) totals: Totals,
    /// Each test that ran or said why not; in the latter case, the reason.
    pub(crate) tests: BTreeMap<String, Option<String>>,
    /// Whether there was a line with results at all.
    pub(crate) reported: bool,
    /// Those that failed.
    pub(crate) failed: BTreeSet<String>,
    /// Those among them where the tracer had told of losses.
    pub(crate) failed_by_loss: Vec<String>,
}

/// Reads a test program's output line by line.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    totals: Totals,
    reported: bool,
    /// By name, whether it failed.
    ran: BTreeMap<String, bool>,
    not_run: BTreeMap<String, String>,
    lost: BTreeSet<String>,
}

impl Tally {
    /// Takes a line of stdout or stderr, without its end.
    pub(crate) fn line(&mut self, line: &str) {
        // libtest may have begun a line, and not ended it, when the test writes.
        if let Some((_, not_run)) = line.split_once(NOT_RUN) {
            let (name, reason) =
                not_run.trim().split_once(' ').unwrap_or((not_run.trim(), "no reason given"));
            self.not_run.insert(name.to_owned(), reason.to_owned());
        } else if let Some((_, name)) = line.split_once(LOST) {
            self.lost.insert(name.trim().to_owned());
        } else if let Some(totals) = result_line(line) {
            self.totals += totals;
            self.reported = true;
        } else if let Some((name, failed)) = test_line(line) {
            self.ran.insert(name.to_owned(), failed);
        }
    }

    /// The sum.
    pub(crate) fn finish(mut self) -> Results {
        // One that gives up halfway and fails all the same has failed.
        self.not_run.retain(|name, _| self.ran.get(name) != Some(&true));
        let not_run = u64::try_from(self.not_run.len()).unwrap_or(u64::MAX);
        self.totals.not_run = not_run;
        self.totals.passed = self.totals.passed.saturating_sub(not_run);
        let failed = self.ran.iter().filter(|(_, failed)| **failed).map(|(name, _)| name.clone());
        let failed: BTreeSet<_> = failed.collect();
        let failed_by_loss = self.lost.intersection(&failed).cloned().collect();
        let mut tests: BTreeMap<_, _> = self.ran.into_keys().map(|name| (name, None)).collect();
        tests.extend(self.not_run.into_iter().map(|(name, reason)| (name, Some(reason))));
        Results { totals: self.totals, tests, reported: self.reported, failed, failed_by_loss }
    }
}

/// Copies what tests print as it comes, unfinished lines too, and shows each line to `take`.
pub(crate) fn forward(mut from: impl Read, mut to: impl Write, mut take: impl FnMut(&str)) -> io::Result<()> {
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
                take(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(byte);
            }
        }
    }
    take(&String::from_utf8_lossy(&line));
    Ok(())
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
    Some(Totals {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
        not_run: 0,
    })
}

/// Name, and whether it failed, in a line `test NAME ... ok`.
fn test_line(line: &str) -> Option<(&str, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    // With --report-time the time follows.
    match outcome.split(' ').next()? {
        "ok" => Some((name, false)),
        "FAILED" => Some((name, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s";
    const FAILED: &str = "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";

    fn totals(passed: u64, failed: u64, skipped: u64, not_run: u64) -> Totals {
        Totals { passed, failed, skipped, not_run }
    }

    fn results(output: &str) -> Results {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.line(line));
        tally.finish()
    }

    #[test]
    fn result_lines_are_read() {
        assert_eq!(result_line(OK), Some(totals(3, 0, 1, 0)));
        assert_eq!(result_line(FAILED), Some(totals(10, 2, 0, 0)));
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
        let (mut copy, mut tally) = (Vec::new(), Tally::default());
        forward(output.as_bytes(), &mut copy, |line| tally.line(line))?;
        assert_eq!(tally.finish().totals, totals(13, 2, 1, 0));
        assert_eq!(copy, output.as_bytes());
        Ok(())
    }

    #[test]
    fn tests_that_did_not_run_have_not_passed() {
        let results = results(&format!(
            "@@NOTRUN who::holds needs bpf_sock_from_file\ntest who::holds ... ok\ntest when ... ok\n\
             test long ... @@NOTRUN long needs time\nok\ntest slow ... ignored, too slow\n{OK}"
        ));
        assert_eq!(results.totals, totals(1, 0, 1, 2));
        let expected =
            [("long", Some("needs time")), ("when", None), ("who::holds", Some("needs bpf_sock_from_file"))];
        let expected = expected.map(|(name, reason)| (name.to_owned(), reason.map(str::to_owned)));
        assert_eq!(results.tests, expected.into());
    }

    #[test]
    fn tests_that_give_up_and_fail_have_failed() {
        let results =
            results(&format!("@@NOTRUN a needs b\n@@NOTRUN a needs b\ntest a ... FAILED\n{FAILED}"));
        assert_eq!(results.totals, totals(10, 2, 0, 0));
        assert_eq!(results.tests, BTreeMap::from([("a".to_owned(), None)]));
    }

    #[test]
    fn tests_that_failed_after_a_loss_are_told() {
        let output =
            format!("@@LOST a\ntest b ... @@LOST b\nok\ntest a ... FAILED\ntest c ... FAILED\n{FAILED}");
        assert_eq!(results(&output).failed_by_loss, ["a"]);
    }

    #[test]
    fn no_line_of_results_is_noticed() {
        assert!(results(OK).reported);
        assert!(!results("test a ... ok").reported);
    }

    #[test]
    fn totals_make_one_plain_line() {
        assert_eq!(totals(12, 0, 0, 0).to_string(), "12 passed, 0 failed");
        assert_eq!(totals(12, 1, 3, 0).to_string(), "12 passed, 1 failed, 3 skipped");
        assert_eq!(totals(12, 1, 0, 4).to_string(), "12 passed, 1 failed, 4 not run");
    }
}
