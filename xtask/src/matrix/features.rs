//! Tabulates the kernel features that the tracer uses in each guest, and compares
//! docs/requirements.md with it.
//!
//! Names and reasons come from the tracer, so a new feature needs no change here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The document for users that holds the table.
pub(super) const DOCUMENT: &str = "docs/requirements.md";
/// The marks around the table there.
const BEGIN: &str = "<!-- features: `cargo xtask test --kernels` compares this with what it measures -->";
const END: &str = "<!-- end of features -->";
/// Characters of a reason that are shown. The verifier can be verbose.
const LONGEST: usize = 140;

/// Why a feature is not in use, by name; none if it is in use.
pub(super) type Features = BTreeMap<String, Option<String>>;

/// Reads `sources` of a `start` record.
pub(super) fn parse_sources(sources: &Value) -> Option<Features> {
    let parse = |(name, source): (&String, &Value)| {
        let why_not = source["why_not"].as_str().unwrap_or("no reason given");
        Some((name.clone(), (!source["in_use"].as_bool()?).then(|| summarize(why_not))))
    };
    sources.as_object()?.iter().map(parse).collect()
}

/// The first line of a reason, without the characters that separate cells.
fn summarize(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default().replace('|', "/");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A row for each feature, a column for each guest, and below the table the reasons.
pub(super) fn features_table(guests: &[(&str, Features)]) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let line = |name: &str, cells: Vec<String>| format!("| {name} | {} |", cells.join(" | "));
    let labels = guests.iter().map(|(label, _)| (*label).to_owned()).collect();
    let mut lines = vec![line("in use", labels), line("---", vec!["---".to_owned(); guests.len()])];
    for name in guests.iter().flat_map(|(_, features)| features.keys()).collect::<BTreeSet<_>>() {
        let mut cells = Vec::new();
        for (_, features) in guests {
            cells.push(match features.get(name) {
                Some(None) => "yes".to_owned(),
                Some(Some(reason)) => {
                    let known = reasons.iter().position(|known| known == reason).unwrap_or(reasons.len());
                    if known == reasons.len() {
                        reasons.push(reason);
                    }
                    format!("no ({})", known + 1)
                }
                None => "-".to_owned(),
            });
        }
        lines.push(line(&format!("`{name}`"), cells));
    }
    let reasons = reasons.iter().enumerate().map(|(number, reason)| format!("\n{}. {reason}", number + 1));
    format!("{}\n{}", lines.join("\n"), reasons.collect::<Vec<_>>().concat()).trim_end().to_owned()
}

/// Says what the document should have; none if it has this very table.
pub(super) fn find_difference(document: &str, table: &str) -> Option<String> {
    let block = document.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    match block {
        Some((block, _)) if block.trim() == table => None,
        _ => Some(format!(
            "{DOCUMENT} differs from what was measured. It should have:\n\n{BEGIN}\n\n{table}\n\n{END}\n"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Features {
        let why_not = "unknown func | 46\nprocessed 9 insns";
        let sources = serde_json::json!({
            "iter/tcp": {"in_use": true, "why_not": null},
            "socket_cookie": {"in_use": false, "why_not": why_not},
        });
        parse_sources(&sources).unwrap_or_default()
    }

    #[test]
    fn sources_are_features_and_the_first_line_of_the_reason() {
        let expected = [("iter/tcp", None), ("socket_cookie", Some("unknown func / 46"))];
        let expected = expected.map(|(name, why)| (name.to_owned(), why.map(str::to_owned)));
        assert_eq!(features(), expected.into());
        assert_eq!(parse_sources(&serde_json::json!({"iter/tcp": {"in_use": 1}})), None);
        assert_eq!(summarize(&"ä".repeat(LONGEST + 1)), "ä".repeat(LONGEST) + "…");
    }

    #[test]
    fn the_table_has_a_column_for_each_guest_and_each_reason_once() {
        let new = Features::from([("iter/tcp".to_owned(), None), ("fentry".to_owned(), None)]);
        let expected = "\
            | in use | 5.10 | 6.1 | 7.x |\n\
            | --- | --- | --- | --- |\n\
            | `fentry` | - | - | yes |\n\
            | `iter/tcp` | yes | yes | yes |\n\
            | `socket_cookie` | no (1) | no (1) | - |\n\
            \n\
            1. unknown func / 46";
        assert_eq!(features_table(&[("5.10", features()), ("6.1", features()), ("7.x", new)]), expected);
    }

    #[test]
    fn a_document_that_differs_is_reported() {
        let table = features_table(&[("6.1", features())]);
        let document = |block: &str| format!("# R\n\n{BEGIN}\n\n{block}\n\n{END}\n\nmore\n");
        assert_eq!(find_difference(&document(&table), &table), None);
        let difference = find_difference(&document(&table.replace("yes", "no (2)")), &table);
        assert!(difference.is_some_and(|difference| difference.contains(&table)));
        assert!(find_difference("", &table).is_some());
    }
}
