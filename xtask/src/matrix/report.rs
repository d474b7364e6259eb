//! Judges a guest: counts its tests, and finds out whether it did all that it should.
//!
//! A pure function of what came over the serial line and how QEMU ended.

use std::{fmt, time::Duration};

use super::{features::Features, guest::Frame};
use crate::results::{Results, TestResult, Totals};

/// What came of a guest.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// `uname -r` and the version of the package, once it has booted.
    kernel: Option<(String, String)>,
    /// The kernel features that the tracer uses there, once it has been started.
    pub(super) features: Option<Features>,
    /// The results of each program, in the order of running, and what the program printed.
    pub(super) programs: Vec<(Results, String)>,
    /// What went wrong beside the programs. Each counts as a failure.
    pub(super) troubles: Vec<String>,
    time: Duration,
}

impl Report {
    /// Reads the frames of a guest, with what was wrong with its end. A line that is no frame was
    /// being written when the guest died.
    pub(super) fn new(frames: &str, trouble: Option<String>, time: Duration) -> Self {
        let mut report = Self { time, ..Self::default() };
        let (mut running, mut output, mut is_complete) = (None, String::new(), false);
        for frame in frames.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match frame {
                Frame::Kernel(release, version) => {
                    report.kernel = Some((release, package_version(&version).to_owned()));
                }
                Frame::Features(features) => report.features = Some(features),
                Frame::Run(name) => running = Some(name),
                Frame::Line(line) => output += &(line + "\n"),
                Frame::Results(results) => {
                    report.programs.push((results, std::mem::take(&mut output)));
                    running = None;
                }
                Frame::Trouble(text) => report.troubles.push(text),
                Frame::End => is_complete = true,
            }
        }
        let during = running.map(|name| format!(" while {name} ran")).unwrap_or_default();
        match trouble {
            Some(trouble) => report.troubles.push(format!("{trouble}{during}")),
            None if is_complete => {}
            None if report.kernel.is_none() => report.troubles.push("it did not boot".to_owned()),
            None => report.troubles.push(format!("it crashed or was turned off{during}")),
        }
        let Totals { passed, failed, not_run, .. } = report.totals();
        if passed + failed + not_run == 0 {
            report.troubles.push("no test ran".to_owned());
        }
        report
    }

    /// A guest that could not be started.
    pub(super) fn of_failure(why: String) -> Self {
        Self { troubles: vec![why], ..Self::default() }
    }

    /// The tests, and one more failure for each trouble.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.programs.iter().for_each(|(results, _)| totals += results.totals);
        self.troubles.iter().for_each(|_| totals.failed += 1);
        totals
    }
}

impl fmt::Display for Report {
    /// Writes one line, and below it what did not run or went wrong.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.kernel {
            Some((release, version)) => format!("{release} ({version})"),
            None => "not booted".to_owned(),
        };
        let Totals { passed, failed, skipped, not_run } = self.totals();
        let run = passed + self.programs.iter().map(|(results, _)| results.totals.failed).sum::<u64>();
        write!(formatter, "{name:52} {run:3} run, {not_run} not run, {failed} failed")?;
        if skipped > 0 {
            write!(formatter, ", {skipped} skipped")?;
        }
        write!(formatter, ", {:.1} s", self.time.as_secs_f64())?;
        let program_troubles = self.programs.iter().filter_map(|(results, _)| results.trouble.as_ref());
        for trouble in self.troubles.iter().chain(program_troubles) {
            write!(formatter, "\n        TROUBLE: {trouble}")?;
        }
        for (Results { name, tests, .. }, _) in &self.programs {
            for (test, result) in tests {
                if *result == TestResult::PassedAgain {
                    let why = "passed when run again; before that the tracer had reported losses";
                    write!(formatter, "\n        {name}: {test}: {why}")?;
                } else if let TestResult::NotRun(reason) = result {
                    write!(formatter, "\n        not run: {name}: {test}: {reason}")?;
                }
            }
        }
        Ok(())
    }
}

/// Debian's version in `uname -v`: `#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-01)`.
fn package_version(version: &str) -> &str {
    let package = version.split_once("Debian ").and_then(|(_, rest)| rest.split(' ').next());
    package.unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{results, totals};

    /// What a guest sends that has booted.
    fn booted(frames: &[Frame]) -> String {
        let kernel =
            Frame::Kernel("6.1.0-56-cloud-amd64".into(), "#1 SMP Debian 6.1.192-2 (2026-11-01)".into());
        let features = Frame::Features([("iter/tcp".to_owned(), None)].into());
        let frames = [kernel, features].into_iter().chain(frames.iter().cloned());
        frames.filter_map(|frame| Some(serde_json::to_string(&frame).ok()? + "\n")).collect()
    }

    fn report(frames: &[Frame], trouble: Option<&str>) -> Report {
        Report::new(&booted(frames), trouble.map(str::to_owned), Duration::from_millis(11_300))
    }

    fn ran(output: &str) -> [Frame; 3] {
        [Frame::Run("stuck".into()), Frame::Line(output.into()), Frame::Results(results(output))]
    }

    #[test]
    fn a_guest_that_did_everything_is_summed_up_in_a_line() {
        let output = "test one ... ok\n@@NOTRUN two needs lsm\ntest two ... ok\n\
                      test result: ok. 2 passed; 0 failed; 0 ignored";
        let report = report(&[&ran(output)[..], &[Frame::End]].concat(), None);
        assert_eq!(report.totals(), totals(1, 0, 0, 1));
        assert_eq!(report.features, Some([("iter/tcp".to_owned(), None)].into()));
        assert_eq!(report.programs[0].1, format!("{output}\n"));
        let text = report.to_string();
        assert!(text.starts_with("6.1.0-56-cloud-amd64 (6.1.192-2) "), "{text}");
        let expected = "  1 run, 1 not run, 0 failed, 11.3 s\n        not run: stuck: two: needs lsm";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn guests_that_end_early_have_failed() {
        let result = "test result: ok. 2 passed; 0 failed; 0 ignored";
        let running = [&ran(result)[..], &[Frame::Run("loss".into())]].concat();
        let troubles = |frames: &[Frame], trouble| report(frames, trouble).troubles;
        assert_eq!(troubles(&running, None), ["it crashed or was turned off while loss ran"]);
        assert_eq!(troubles(&running, Some("QEMU failed")), ["QEMU failed while loss ran"]);
        assert_eq!(report(&running, None).totals(), totals(2, 1, 0, 0));
        let complete = [&ran(result)[..], &[Frame::End]].concat();
        assert_eq!(troubles(&complete, Some("it had to be killed")), ["it had to be killed"]);
        assert_eq!(Report::new("", None, Duration::ZERO).troubles, ["it did not boot"]);
        let frames = booted(&complete);
        let torn = Report::new(&frames[..frames.len() - 3], None, Duration::ZERO);
        assert_eq!(torn.troubles, ["it crashed or was turned off"]);
    }

    #[test]
    fn a_guest_that_ran_no_test_has_failed() {
        let none = ran("test result: ok. 0 passed; 0 failed; 0 ignored");
        assert_eq!(report(&[Frame::End], None).troubles, ["no test ran"]);
        assert_eq!(report(&[&none[..], &[Frame::End]].concat(), None).troubles, ["no test ran"]);
        let trouble = [Frame::Trouble("no ip".into()), Frame::End];
        assert_eq!(report(&trouble, None).troubles, ["no ip"]);
    }
}
