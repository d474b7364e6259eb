//! Environment variables of the tests, here and in guests.

use std::{collections::BTreeMap, ffi::OsString};

/// Says to the kernel tests where the program is that they test.
pub(crate) const BINARY_VARIABLE: &str = "TCPTRACE_BIN";
/// Names kernel features that the tracer under test does without (`tests/src/tracer.rs`).
pub(crate) const WITHOUT_VARIABLE: &str = "TCPTRACE_TEST_WITHOUT";
/// In how many threads libtest runs tests.
pub(crate) const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";
/// Without BTF transitions have no network namespace: concurrent tests would see each other's.
pub(crate) const ONE_THREAD: &str = "1";

/// Variables by name.
pub(crate) type Environment = BTreeMap<String, String>;

/// The part of our environment that the tests get; sudo passes nothing on by itself.
pub(crate) fn for_tests(ours: impl Iterator<Item = (OsString, OsString)>) -> Environment {
    let ours = ours.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let passed_on = ["TCPTRACE_", "RUST_TEST_", "RUST_BACKTRACE"];
    let is_wanted = |(name, _): &(String, String)| passed_on.iter().any(|prefix| name.starts_with(prefix));
    let mut environment: Environment = ours.filter(is_wanted).collect();
    if environment.get(WITHOUT_VARIABLE).is_some_and(|features| !features.is_empty()) {
        environment.entry(THREADS_VARIABLE.to_owned()).or_insert(ONE_THREAD.to_owned());
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_get_what_concerns_them() {
        let environment = |ours: &[(&str, &str)]| {
            let environment = for_tests(ours.iter().map(|(name, value)| (name.into(), value.into())));
            environment.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let ours = [("TCPTRACE_SLOW", "1"), ("RUST_BACKTRACE", "1"), ("HOME", "/root")];
        assert_eq!(environment(&ours), "RUST_BACKTRACE=1 TCPTRACE_SLOW=1");
        let without_btf = environment(&[("TCPTRACE_TEST_WITHOUT", "btf")]);
        assert_eq!(without_btf, "RUST_TEST_THREADS=1 TCPTRACE_TEST_WITHOUT=btf");
    }
}
