//! What a guest's words mean: counts its tests, and finds out whether it did all that it should. A pure function of
//! what came over the serial line and how QEMU ended.

use std::{fmt, time::Duration};

use super::{
    features::{self, Features},
    frames::Frame,
    qemu::End,
};
use crate::results::{Results, Tally, Totals};

/// What became of a guest.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// `uname -r` and the version of the package, once it has booted.
    pub(crate) kernel: Option<(String, String)>,
    /// What the tracer finds there, once it has been started.
    pub(crate) features: Option<Features>,
    /// The programs that were started, in that order.
    pub(crate) programs: Vec<Program>,
    /// What went wrong beside failed tests. Each counts as one.
    pub(crate) troubles: Vec<String>,
    /// How long it took.
    pub(crate) time: Duration,
}

/// A test program in a guest.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// Its name.
    pub(crate) name: String,
    /// What became of its tests.
    pub(crate) results: Results,
    /// What it printed, on stdout and stderr.
    pub(crate) output: String,
    /// Those of its tests that failed after a loss, and passed when they were run again.
    pub(crate) again: Vec<String>,
    /// Whether this is such a run.
    is_again: bool,
}

impl Program {
    /// Takes what came of those of its tests that were run again.
    fn replace_by(&mut self, again: Self) {
        let Results { tests, failed, failed_by_loss, reported, .. } = again.results;
        self.output += &again.output;
        if !reported {
            return;
        }
        for test in std::mem::replace(&mut self.results.failed_by_loss, failed_by_loss) {
            let Some(not_run) = tests.get(&test).filter(|_| !failed.contains(&test)) else { continue };
            self.results.totals.failed = self.results.totals.failed.saturating_sub(1);
            match not_run {
                Some(reason) => {
                    self.results.totals.not_run += 1;
                    self.results.tests.insert(test, Some(reason.clone()));
                }
                None => {
                    self.results.totals.passed += 1;
                    self.again.push(test);
                }
            }
        }
    }
}

impl Report {
    /// Reads what a guest told.
    pub(crate) fn new(told: &str, end: &End, time: Duration) -> Self {
        let mut report = Self { time, ..Self::default() };
        let mut running: Option<(Program, Tally)> = None;
        let mut complete = false;
        for frame in told.lines().filter_map(Frame::parse) {
            match (frame, &mut running) {
                (Frame::Kernel(release, version), _) => {
                    report.kernel = Some((release, package_version(&version)))
                }
                (Frame::Features(json), _) => report.features = features::parse(&json),
                (Frame::Run(name), _) => {
                    running = Some((Program { name, ..Program::default() }, Tally::default()))
                }
                (Frame::Again(name), _) => {
                    running = Some((Program { name, is_again: true, ..Program::default() }, Tally::default()))
                }
                (Frame::Out(line) | Frame::Err(line), Some((program, tally))) => {
                    tally.line(&line);
                    program.output += &(line + "\n");
                }
                (Frame::Exit(status), running) => report.close(running.take(), &status),
                (Frame::Trouble(text), _) => report.troubles.push(text),
                (Frame::End, _) => complete = true,
                (Frame::Out(_) | Frame::Err(_), None) => {}
            }
        }
        let during = running.as_ref().map(|(program, _)| format!(" while {} ran", program.name));
        let during = during.unwrap_or_default();
        if let Some((mut program, tally)) = running {
            program.results = tally.finish();
            report.programs.push(program);
        }
        match end {
            End::Off if complete => {}
            End::Off if report.kernel.is_none() => report.troubles.push("it did not boot".to_owned()),
            End::Off => report.troubles.push(format!("it crashed or was turned off{during}")),
            End::TimeLimit => report.troubles.push(format!("it had to be killed at its time limit{during}")),
            End::Failed(why) => report.troubles.push(format!("QEMU failed{during}: {why}")),
        }
        if report.troubles.is_empty() && report.features.is_none() {
            report.troubles.push("the tracer did not say which features it uses".to_owned());
        }
        let totals = report.tests();
        if report.troubles.is_empty() && totals.passed + totals.failed + totals.not_run == 0 {
            report.troubles.push("no test ran".to_owned());
        }
        report
    }

    fn close(&mut self, program: Option<(Program, Tally)>, status: &str) {
        let Some((mut program, tally)) = program else {
            return;
        };
        program.results = tally.finish();
        if program.is_again {
            // It is the one before that has failed where this one does not end well.
            if let Some(first) = self.programs.last_mut() {
                first.replace_by(program);
            }
            return;
        }
        let results = &program.results;
        if !results.reported {
            self.troubles.push(format!("{} ended ({status}) without a line of results", program.name));
        } else if status != "0" && results.totals.failed == 0 {
            self.troubles.push(format!("{} failed ({status}) without reporting a failed test", program.name));
        }
        self.programs.push(program);
    }

    /// The tests as libtest counted them.
    fn tests(&self) -> Totals {
        let mut totals = Totals::default();
        self.programs.iter().for_each(|program| totals += program.results.totals);
        totals
    }

    /// The tests, and one more failure for each trouble.
    pub(crate) fn totals(&self) -> Totals {
        let troubles = u64::try_from(self.troubles.len()).unwrap_or(u64::MAX);
        let tests = self.tests();
        Totals { failed: tests.failed + troubles, ..tests }
    }
}

impl fmt::Display for Report {
    /// One line, and below it what did not run or went wrong.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self
            .kernel
            .as_ref()
            .map_or_else(|| "not booted".to_owned(), |(release, version)| format!("{release} ({version})"));
        let totals = self.totals();
        write!(
            formatter,
            "{name:52} {:3} run, {} not run, {} failed",
            totals.passed + self.tests().failed,
            totals.not_run,
            totals.failed
        )?;
        if totals.skipped > 0 {
            write!(formatter, ", {} skipped", totals.skipped)?;
        }
        write!(formatter, ", {:.1} s", self.time.as_secs_f64())?;
        for trouble in &self.troubles {
            write!(formatter, "\n        TROUBLE: {trouble}")?;
        }
        for program in &self.programs {
            for test in &program.again {
                let why = "passed when run again; transitions were lost, and told, before";
                write!(formatter, "\n        {}: {test}: {why}", program.name)?;
            }
            for (test, reason) in &program.results.tests {
                if let Some(reason) = reason {
                    write!(formatter, "\n        not run: {}: {test}: {reason}", program.name)?;
                }
            }
        }
        Ok(())
    }
}

/// Debian's version in `uname -v`: `#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-01)`.
fn package_version(version: &str) -> String {
    let package = version.split_once("Debian ").and_then(|(_, rest)| rest.split(' ').next());
    package.unwrap_or(version).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTED: &str = concat!(
        "kernel 6.1.0-56-cloud-amd64 #1 SMP Debian 6.1.192-2 (2026-11-01)\n",
        "features {\"iter/tcp\":{\"in_use\":true,\"why_not\":null}}\n",
    );
    const RESULT: &str = "1 test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";

    fn report(told: &str, end: &End) -> Report {
        Report::new(told, end, Duration::from_millis(11_300))
    }

    fn troubles(told: &str, end: &End) -> Vec<String> {
        report(told, end).troubles
    }

    #[test]
    fn a_guest_that_did_everything_is_summed_up_in_a_line() {
        let told = format!(
            "{BOOTED}run stuck\n1 test one ... ok\n2 @@NOTRUN two needs lsm\n1 test two ... ok\n{RESULT}exit 0\nend\n"
        );
        let report = report(&told, &End::Off);
        assert_eq!(report.totals(), Totals { passed: 1, not_run: 1, ..Totals::default() });
        let lines = report.to_string();
        assert!(lines.starts_with("6.1.0-56-cloud-amd64 (6.1.192-2) "), "{lines}");
        let expected = "  1 run, 1 not run, 0 failed, 11.3 s\n        not run: stuck: two: needs lsm";
        assert!(lines.ends_with(expected), "{lines}");
        assert_eq!(report.features, Some([("iter/tcp".to_owned(), None)].into()));
        assert!(report.programs[0].output.starts_with("test one ... ok\n@@NOTRUN two needs lsm\n"));
    }

    #[test]
    fn a_failed_test_is_no_trouble_besides() {
        let told = format!(
            "{BOOTED}run stuck\n1 test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\nexit 101\nend\n"
        );
        let report = report(&told, &End::Off);
        assert_eq!(report.totals(), Totals { passed: 1, failed: 1, ..Totals::default() });
    }

    #[test]
    fn a_test_that_failed_after_a_loss_may_pass_when_it_is_run_again() {
        let first = "1 test one ... FAILED\n2 @@LOST one\n1 test two ... FAILED\n2 @@LOST two\n\
                     1 test three ... FAILED\n1 test result: FAILED. 1 passed; 3 failed; 0 ignored\nexit 101\n";
        let again = "again stuck\n1 test one ... ok\n1 test two ... FAILED\n2 @@LOST two\n\
                     1 test result: FAILED. 1 passed; 1 failed; 0 ignored\nexit 101\n";
        let third = "again stuck\n2 @@NOTRUN two needs all\n1 test two ... ok\n\
                     1 test result: ok. 1 passed; 0 failed; 0 ignored\nexit 0\n";
        let told = |rest: &str| format!("{BOOTED}run stuck\n{first}{rest}end\n");
        let totals = |rest: &str| report(&told(rest), &End::Off).totals();
        assert_eq!(totals(""), Totals { passed: 1, failed: 3, ..Totals::default() });
        assert_eq!(totals(again), Totals { passed: 2, failed: 2, ..Totals::default() });
        let all = format!("{again}{third}");
        assert_eq!(totals(&all), Totals { passed: 2, failed: 1, not_run: 1, ..Totals::default() });
        let lines = report(&told(&all), &End::Off).to_string();
        assert!(lines.contains("stuck: one: passed when run again"), "{lines}");
        // It died instead of ending.
        let died = "again stuck\n1 test one ... ok\nexit signal 9\n";
        assert_eq!(totals(died).failed, 3);
    }

    #[test]
    fn guests_that_end_early_have_failed() {
        let running = format!("{BOOTED}run stuck\n{RESULT}exit 0\nrun loss\n1 running 1 te");
        assert_eq!(troubles("", &End::Off), ["it did not boot"]);
        assert_eq!(troubles(&running, &End::Off), ["it crashed or was turned off while loss ran"]);
        assert_eq!(
            troubles(&running, &End::TimeLimit),
            ["it had to be killed at its time limit while loss ran"]
        );
        let aborted = End::Failed("signal 6: bug".into());
        assert_eq!(troubles(&running, &aborted), ["QEMU failed while loss ran: signal 6: bug"]);
        assert_eq!(
            report(&running, &End::Off).totals(),
            Totals { passed: 2, failed: 1, ..Totals::default() }
        );
    }

    #[test]
    fn the_end_of_the_results_does_not_excuse_a_guest_that_stays() {
        let told = format!("{BOOTED}run stuck\n{RESULT}exit 0\nend\n");
        assert_eq!(troubles(&told, &End::TimeLimit).len(), 1);
    }

    #[test]
    fn a_guest_that_ran_no_test_has_failed() {
        let none = RESULT.replace('2', "0");
        assert_eq!(troubles(&format!("{BOOTED}end\n"), &End::Off), ["no test ran"]);
        assert_eq!(troubles(&format!("{BOOTED}run stuck\n{none}exit 0\nend\n"), &End::Off), ["no test ran"]);
        assert_eq!(troubles(&format!("{BOOTED}trouble no ip\nend\n"), &End::Off), ["no ip"]);
        let silent = BOOTED.replace("features {", "features ");
        let told = format!("{silent}run stuck\n{RESULT}exit 0\nend\n");
        assert_eq!(troubles(&told, &End::Off), ["the tracer did not say which features it uses"]);
    }

    #[test]
    fn programs_that_die_have_failed() {
        let end = |output: &str, status: &str| {
            troubles(&format!("{BOOTED}run stuck\n{output}exit {status}\nend\n"), &End::Off)
        };
        assert_eq!(end("", "signal 11"), ["stuck ended (signal 11) without a line of results"]);
        assert_eq!(end("", "0"), ["stuck ended (0) without a line of results"]);
        assert_eq!(end(RESULT, "signal 6"), ["stuck failed (signal 6) without reporting a failed test"]);
    }
}
