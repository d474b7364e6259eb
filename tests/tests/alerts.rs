//! docs/tcptrace.rules.yml: the alert rules fire when they should (`promtool test rules`), and use
//! only metrics that exist.

use std::{collections::BTreeSet, path::Path};

use tests::pipeline::{Shop, has_no_tools};

const RULES: &str = include_str!("../../docs/tcptrace.rules.yml");
const RULES_TESTS: &str = include_str!("../../docs/tcptrace.rules.test.yml");
const METRICS: &str = include_str!("../../docs/metrics.md");
const README: &str = include_str!("../../README.md");

/// Returns the rest of each line that begins with a word.
fn values<'t>(text: &'t str, word: &str) -> Vec<&'t str> {
    text.lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(word))
        .map(str::trim)
        .collect()
}

/// Tests rules in a directory of their own. Returns whether all tests passed, and promtool's
/// output.
fn test(rules: &str) -> (bool, String) {
    let shop = Shop::new();
    for (name, text) in [("tcptrace.rules.yml", rules), ("tcptrace.rules.test.yml", RULES_TESTS)] {
        std::fs::write(shop.path(name), text).expect("room on the disk");
    }
    let test = shop.path("tcptrace.rules.test.yml");
    let run = |what: &str, file: &Path| {
        let output = shop.shell(&format!("promtool {what} rules '{}' 2>&1", file.display())).output();
        let output = output.expect("a shell");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_well_formed, said) = run("check", &shop.path("tcptrace.rules.yml"));
    assert!(is_well_formed, "{said}");
    run("test", &test)
}

#[test]
fn alerts_fire_before_an_outage_and_all_through_it_and_end_after_it() {
    if has_no_tools("alerts_fire_before_an_outage_and_all_through_it_and_end_after_it", "promtool") {
        return;
    }
    let (passed, said) = test(RULES);
    assert!(passed, "{said}");
    // Each of these is wrong, and some test says so.
    for (right, wrong) in [
        ("fds_full_seconds[1m]) < 600", "fds_full_seconds[1m]) < 30"),
        ("fds_full_seconds[1m]) == 0", "fds_full_seconds[1m]) < 0"),
        (
            "min_over_time(tcptrace_process_fds_full_seconds[1m]) == 0",
            "tcptrace_process_fds_full_seconds == 0",
        ),
        ("for: 10m", "for: 1m"),
        ("oldest_seconds > 3600", "oldest_seconds > 36000"),
        ("up{job=\"tcptrace\"} == 0", "up{job=\"tcptrace\"} == 2"),
        ("absent(up{job=\"tcptrace\"})", "absent(down{job=\"tcptrace\"})"),
    ] {
        assert!(RULES.contains(right), "no {right}");
        let (passed, said) = test(&RULES.replace(right, wrong));
        assert!(!passed, "{wrong} is not noticed: {said}");
    }
}

#[test]
fn each_alert_is_tested_to_fire_and_not_to_fire() {
    let alerts: BTreeSet<_> = values(RULES, "alert:").into_iter().collect();
    let tested = RULES_TESTS.split("- eval_time:").skip(1);
    let (fires, rests): (Vec<&str>, Vec<&str>) = tested.partition(|test| test.contains("exp_alerts:"));
    for (tests, what) in [(fires, "fires"), (rests, "does not fire")] {
        let named: BTreeSet<_> = tests.iter().flat_map(|test| values(test, "alertname:")).collect();
        assert_eq!(named, alerts, "no test that one {what}");
    }
}

#[test]
fn rules_ask_for_metrics_that_there_are_and_the_documents_name_the_rules() {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut asked = BTreeSet::new();
    for expression in values(RULES, "expr:") {
        asked.extend(expression.split(|c| !is_part(c)).filter(|word| word.starts_with("tcptrace_")));
    }
    assert!(!asked.is_empty());
    for name in asked {
        assert!(METRICS.contains(&format!("| `{name}` |")), "docs/metrics.md has no {name}");
    }
    assert!(README.contains("(docs/tcptrace.rules.yml)") && METRICS.contains("(tcptrace.rules.yml)"));
    for alert in values(RULES, "alert:") {
        assert!(METRICS.contains(&format!("| `{alert}` |")), "docs/metrics.md does not explain {alert}");
    }
    // There is one copy of them.
    assert!(!README.contains("alert:") && !METRICS.contains("alert:"));
}
