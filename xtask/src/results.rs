//! Runs a test program and counts what libtest reports; on this machine and in guests alike.
//!
//! libtest knows only passed and failed. A kernel test that needs a feature that the kernel lacks
//! returns early, which libtest counts as passed, and writes `@@NOTRUN TEST REASON` to stderr: it
//! is counted as not run. The tests' harness writes `@@LOST TEST` if the tracer reported losses
//! that the test did not cause; if the test failed, it is run again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{BufRead as _, BufReader, Read},
    ops::AddAssign,
    process::Child,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What a test begins its line with, on stderr, past libtest's capture.
const NOT_RUN: &str = "@@NOTRUN ";
const LOST: &str = "@@LOST ";
/// How often tests are run again that failed after a loss.
const RETRIES: u32 = 2;

/// How many tests came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that are marked `#[ignore]`.
    pub(crate) skipped: u64,
    /// Tests of a feature that the kernel lacks.
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
        for (count, what) in [(self.skipped, "skipped"), (self.not_run, "not run")] {
            if count > 0 {
                write!(formatter, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// How a test came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TestResult {
    Passed,
    /// It failed after a loss, and passed when it was run again.
    PassedAgain,
    Failed,
    /// It failed, and the tracer had reported losses.
    FailedAfterLoss,
    /// The kernel lacks what it tests, for this reason.
    NotRun(String),
}

/// How the tests of one program came out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) name: String,
    pub(crate) totals: Totals,
    pub(crate) tests: BTreeMap<String, TestResult>,
    /// What went wrong beside failed tests. It counts as a failure.
    pub(crate) trouble: Option<String>,
}

/// Runs a program's tests with `run`, and those again that failed after a loss.
///
/// Without BTF, and on Linux 7, the kernel skips BPF programs now and then; the tracer can only
/// report that.
pub(crate) fn run_with_retries(
    arguments: &[String],
    mut run: impl FnMut(&[String]) -> Result<Results>,
) -> Result<Results> {
    let mut results = run(arguments)?;
    for _ in 0..RETRIES {
        let failed = results.tests.iter().filter(|(_, result)| **result == TestResult::FailedAfterLoss);
        let failed: Vec<_> = failed.map(|(name, _)| name.clone()).collect();
        if failed.is_empty() || results.trouble.is_some() {
            break;
        }
        results.merge(&run(&[vec!["--exact".to_owned()], failed].concat())?);
    }
    Ok(results)
}

impl Results {
    /// Takes over the results of those tests that were run again.
    fn merge(&mut self, again: &Self) {
        if again.trouble.is_some() {
            return;
        }
        for (test, result) in self.tests.iter_mut().filter(|(_, old)| **old == TestResult::FailedAfterLoss) {
            let Some(new) = again.tests.get(test) else { continue };
            match new {
                TestResult::Failed | TestResult::FailedAfterLoss => *result = new.clone(),
                TestResult::NotRun(_) => {
                    *result = new.clone();
                    self.totals.not_run += 1;
                    self.totals.failed -= 1;
                }
                TestResult::Passed | TestResult::PassedAgain => {
                    *result = TestResult::PassedAgain;
                    self.totals.passed += 1;
                    self.totals.failed -= 1;
                }
            }
        }
    }
}

/// Reads what a test program writes until both its pipes are closed; `show` gets each line.
pub(crate) fn read_tests(child: &mut Child, show: impl Fn(&str) + Sync) -> Tally {
    let tally = Mutex::new(Tally::default());
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        let lines = pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n'));
        for line in lines.map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            show(&line);
            tally.lock().unwrap_or_else(PoisonError::into_inner).add_line(&line);
        }
    };
    let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
    let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
    thread::scope(|scope| {
        scope.spawn(|| read(stderr));
        read(stdout);
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What a test program has written so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    results: Results,
    /// Whether there was a line with totals.
    has_totals: bool,
    not_run: BTreeMap<String, String>,
    lost: BTreeSet<String>,
}

impl Tally {
    /// Takes a line of stdout or stderr, without its end.
    fn add_line(&mut self, line: &str) {
        // libtest may have begun a line, and not ended it, when the test writes.
        if let Some((_, not_run)) = line.split_once(NOT_RUN) {
            let not_run = not_run.trim();
            let (name, reason) = not_run.split_once(' ').unwrap_or((not_run, "no reason given"));
            self.not_run.insert(name.to_owned(), reason.to_owned());
        } else if let Some((_, name)) = line.split_once(LOST) {
            self.lost.insert(name.trim().to_owned());
        } else if let Some(totals) = parse_totals(line) {
            self.results.totals += totals;
            self.has_totals = true;
        } else if let Some((name, result)) = parse_test(line) {
            self.results.tests.insert(name.to_owned(), result);
        }
    }

    /// The results of a program that has ended with `status`; none for exit status 0.
    pub(crate) fn finish(self, name: &str, status: Option<&str>) -> Results {
        let Self { mut results, has_totals, not_run, lost } = self;
        name.clone_into(&mut results.name);
        for (test, reason) in not_run {
            // A test that gives up halfway and then fails has failed.
            if results.tests.get(&test) != Some(&TestResult::Failed) {
                results.tests.insert(test, TestResult::NotRun(reason));
                results.totals.not_run += 1;
                results.totals.passed = results.totals.passed.saturating_sub(1);
            }
        }
        for (test, result) in &mut results.tests {
            if *result == TestResult::Failed && lost.contains(test) {
                *result = TestResult::FailedAfterLoss;
            }
        }
        // It does not compile, or died halfway: a failure that no line of results shows.
        let shown = status.unwrap_or("exit status: 0");
        if !has_totals {
            results.trouble = Some(format!("{name} ended without a line of results ({shown})"));
        } else if status.is_some() && results.totals.failed == 0 {
            results.trouble = Some(format!("{name} failed without reporting a failed test ({shown})"));
        }
        results.totals.failed += u64::from(results.trouble.is_some());
        results
    }
}

/// The totals of a line `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
fn parse_totals(line: &str) -> Option<Totals> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what| {
        let mut counts = counts.split(';').filter_map(|part| part.trim().split_once(' '));
        counts.find(|(_, name)| *name == what)?.0.parse().ok()
    };
    Some(Totals {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
        not_run: 0,
    })
}

/// The name and result of a line `test NAME ... ok`.
fn parse_test(line: &str) -> Option<(&str, TestResult)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    // With --report-time the time follows.
    match outcome.split(' ').next()? {
        "ok" => Some((name, TestResult::Passed)),
        "FAILED" => Some((name, TestResult::Failed)),
        _ => None,
    }
}

/// A kernel that kernel tests ran under, and the results of each program there.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) programs: Vec<Results>,
}

/// What came of a test run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) totals: Totals,
    /// Where the kernel tests ran.
    pub(crate) places: Vec<Place>,
}

/// The tests that said in every place that they do not run there, a line each with the reasons.
///
/// Nobody would miss such a test otherwise.
pub(crate) fn list_unrun(places: &[Place]) -> Vec<String> {
    let (mut reasons, mut ran) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
    for Place { name: place, programs } in places {
        for Results { name: program, tests, .. } in programs {
            for (test, result) in tests {
                let name = format!("{program}: {test}");
                if let TestResult::NotRun(why) = result {
                    reasons.entry(name).or_default().push(format!("{place} ({why})"));
                } else {
                    ran.insert(name);
                }
            }
        }
    }
    reasons.retain(|test, _| !ran.contains(test));
    reasons.into_iter().map(|(test, reasons)| format!("{test}: {}", reasons.join(", "))).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s";
    const FAILED: &str = "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";

    pub(crate) fn totals(passed: u64, failed: u64, skipped: u64, not_run: u64) -> Totals {
        Totals { passed, failed, skipped, not_run }
    }

    /// The results of a program that writes this, and fails if a test does.
    pub(crate) fn results(output: &str) -> Results {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.add_line(line));
        let status = output.contains("FAILED").then_some("exit status: 101");
        tally.finish("stuck", status)
    }

    fn not_run(reason: &str) -> TestResult {
        TestResult::NotRun(reason.into())
    }

    #[test]
    fn only_result_lines_are_counted() {
        assert_eq!(results(&format!("{OK}\nrunning 12 tests\n{FAILED}")).totals, totals(13, 2, 1, 0));
        for line in ["", "test result: ok", "test result: x ... ok", " test result: ok. 3 passed"] {
            assert_eq!(parse_totals(line), None, "{line}");
        }
    }

    #[test]
    fn a_program_that_dies_has_failed() {
        let died = |output: &str, status: &str| {
            let mut tally = Tally::default();
            output.lines().for_each(|line| tally.add_line(line));
            let results = tally.finish("stuck", Some(status));
            (results.totals.failed, results.trouble)
        };
        let trouble = "stuck ended without a line of results (signal 11)";
        assert_eq!(died("test a ... ok", "signal 11"), (1, Some(trouble.into())));
        let trouble = "stuck failed without reporting a failed test (signal 6)";
        assert_eq!(died(OK, "signal 6"), (1, Some(trouble.into())));
        assert_eq!(died(FAILED, "exit status: 101"), (2, None));
        assert_eq!(results("").totals.failed, 1);
    }

    #[test]
    fn tests_that_did_not_run_have_not_passed() {
        let results = results(&format!(
            "@@NOTRUN who::holds needs bpf_sock_from_file\ntest who::holds ... ok\ntest when ... ok\n\
             test long ... @@NOTRUN long needs time\nok\ntest slow ... ignored, too slow\n{OK}"
        ));
        assert_eq!(results.totals, totals(1, 0, 1, 2));
        let expected = [
            ("long", not_run("needs time")),
            ("when", TestResult::Passed),
            ("who::holds", not_run("needs bpf_sock_from_file")),
        ];
        assert_eq!(results.tests, expected.map(|(name, result)| (name.to_owned(), result)).into());
    }

    #[test]
    fn tests_that_give_up_and_fail_have_failed() {
        let results =
            results(&format!("@@NOTRUN a needs b\n@@NOTRUN a needs b\ntest a ... FAILED\n{FAILED}"));
        assert_eq!(results.totals, totals(10, 2, 0, 0));
        assert_eq!(results.tests, [("a".to_owned(), TestResult::Failed)].into());
    }

    #[test]
    fn tests_that_failed_after_a_loss_are_run_again() -> Result<()> {
        let first = "test one ... FAILED\n@@LOST one\ntest two ... FAILED\n@@LOST two\ntest three ... FAILED\n\
                     @@LOST four\ntest four ... ok\ntest result: FAILED. 1 passed; 3 failed; 0 ignored";
        let again = "test one ... ok\ntest two ... FAILED\n@@LOST two\n\
                     test result: FAILED. 1 passed; 1 failed; 0 ignored";
        let third = "@@NOTRUN two needs all\ntest two ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored";
        let run = |outputs: &[&str]| {
            let (mut outputs, mut asked) = (outputs.iter(), Vec::new());
            let results = run_with_retries(&[], |arguments| {
                asked.push(arguments.join(" "));
                Ok(results(outputs.next().unwrap_or(&"")))
            })?;
            Ok::<_, anyhow::Error>((results, asked))
        };
        let (all, asked) = run(&[first, again, third])?;
        assert_eq!(asked, ["", "--exact one two", "--exact two"]);
        assert_eq!(all.totals, totals(2, 1, 0, 1));
        assert_eq!(all.tests["one"], TestResult::PassedAgain);
        assert_eq!(run(&[first, again, again])?.0.totals, totals(2, 2, 0, 0));
        // It dies when it is run again.
        assert_eq!(run(&[first, "test one ... ok"])?.0.totals, totals(1, 3, 0, 0));
        Ok(())
    }

    #[test]
    fn totals_are_one_plain_line() {
        assert_eq!(totals(12, 0, 0, 0).to_string(), "12 passed, 0 failed");
        assert_eq!(totals(12, 1, 3, 4).to_string(), "12 passed, 1 failed, 3 skipped, 4 not run");
    }

    #[test]
    fn a_test_that_ran_in_no_place_is_listed_with_its_reasons() {
        let place = |name: &str, tests: &[(&str, TestResult)]| {
            let tests = tests.iter().map(|(test, result)| ((*test).to_owned(), result.clone())).collect();
            let results = Results { name: "stuck".into(), tests, ..Results::default() };
            Place { name: name.into(), programs: vec![results] }
        };
        let host = || place("here", &[("lsm", not_run("needs lsm")), ("leak", TestResult::Failed)]);
        let ran = place("6.1", &[("lsm", TestResult::Passed), ("leak", not_run("needs more"))]);
        assert_eq!(list_unrun(&[host(), ran]), Vec::<String>::new());
        let not_run = place("6.1", &[("lsm", not_run("needs more"))]);
        assert_eq!(list_unrun(&[host(), not_run]), ["stuck: lsm: here (needs lsm), 6.1 (needs more)"]);
    }
}
