//! Where the tests ran: this machine, and the kernels of the matrix. Finds the tests that ran nowhere, which nobody
//! would miss otherwise.

use std::collections::{BTreeMap, BTreeSet};

/// A kernel, and what became of each test there.
#[derive(Debug, Default)]
pub(crate) struct Place {
    name: String,
    /// By "PROGRAM: TEST"; for a test that did not run, why.
    tests: BTreeMap<String, Option<String>>,
}

impl Place {
    /// `programs` has each program's name and [`crate::results::Results::tests`].
    pub(crate) fn new<'a>(
        name: &str,
        programs: impl Iterator<Item = (&'a str, &'a BTreeMap<String, Option<String>>)>,
    ) -> Self {
        let tests = programs.flat_map(|(program, tests)| {
            tests.iter().map(move |(test, reason)| (format!("{program}: {test}"), reason.clone()))
        });
        Self { name: name.to_owned(), tests: tests.collect() }
    }
}

/// A line for each test that said that it does not run, and ran in none of the places.
pub(crate) fn ran_nowhere(places: &[Place]) -> Vec<String> {
    let all: BTreeSet<_> = places.iter().flat_map(|place| place.tests.keys()).collect();
    let ran = |test: &String| places.iter().any(|place| matches!(place.tests.get(test), Some(None)));
    let lines = all.into_iter().filter(|test| !ran(test)).map(|test| {
        let reasons = places.iter().filter_map(|place| {
            let reason = place.tests.get(test)?.as_ref()?;
            Some(format!("{} ({reason})", place.name))
        });
        format!("{test}: {}", reasons.collect::<Vec<_>>().join(", "))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, tests: &[(&str, Option<&str>)]) -> Place {
        let tests: BTreeMap<_, _> =
            tests.iter().map(|(test, reason)| ((*test).to_owned(), reason.map(str::to_owned))).collect();
        Place::new(name, [("stuck", &tests)].into_iter())
    }

    #[test]
    fn a_test_that_ran_in_one_place_is_not_missed() {
        let host = place("here", &[("lsm", Some("needs lsm")), ("leak", None)]);
        let guest = place("6.1", &[("lsm", None), ("leak", None)]);
        assert_eq!(ran_nowhere(&[host, guest]), Vec::<String>::new());
    }

    #[test]
    fn a_test_that_ran_nowhere_is_listed_with_its_reasons() {
        let host = place("here", &[("lsm", Some("needs lsm")), ("leak", None)]);
        let guest = place("6.1", &[("lsm", Some("needs more"))]);
        assert_eq!(ran_nowhere(&[host, guest]), ["stuck: lsm: here (needs lsm), 6.1 (needs more)"]);
    }
}
