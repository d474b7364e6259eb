//! Which kernel features the tracer finds in each guest, as a table; and whether docs/requirements.md says the same.
//!
//! Features and reasons are the tracer's own words, so a new feature needs no word here. Pure functions of text.

use std::collections::BTreeMap;

use serde_json::Value;

/// The file for users that holds the table.
pub(super) const DOCUMENT: &str = "docs/requirements.md";
/// What is around the table there.
const BEGIN: &str = "<!-- features: `cargo xtask test --kernels` compares this with what it measures -->";
const END: &str = "<!-- end of features -->";
/// Where a reason is cut. A kernel can have much to say.
const LONGEST: usize = 140;

/// By name, why a feature is not in use; nothing where it is.
pub(crate) type Features = BTreeMap<String, Option<String>>;

/// Reads `sources` of a `start` record.
pub(crate) fn parse(json: &str) -> Option<Features> {
    let sources: Value = serde_json::from_str(json).ok()?;
    let source = |(name, source): (&String, &Value)| {
        let why_not = if source["in_use"].as_bool()? {
            None
        } else {
            Some(few_words(source["why_not"].as_str().unwrap_or("no reason given")))
        };
        Some((name.clone(), why_not))
    };
    sources.as_object()?.iter().map(source).collect()
}

/// The first line of a reason, without what a table takes for its own.
fn few_words(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default().replace('|', "/");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A row for each feature, a column for each guest, and below the table the reasons.
pub(super) fn table(guests: &[(&str, &Features)]) -> String {
    let mut names: Vec<_> = guests.iter().flat_map(|(_, features)| features.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut reasons: Vec<&str> = Vec::new();
    let mut rows = Vec::new();
    for name in names {
        let mut row = format!("| `{name}` |");
        for (_, features) in guests {
            let cell = match features.get(name) {
                Some(None) => "yes".to_owned(),
                Some(Some(reason)) => {
                    let known = reasons.iter().position(|known| known == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("no ({})", number + 1)
                }
                None => "-".to_owned(),
            };
            row += &format!(" {cell} |");
        }
        rows.push(row);
    }
    let labels: String = guests.iter().map(|(label, _)| format!(" {label} |")).collect();
    let head = [format!("| in use |{labels}"), format!("|{}", " --- |".repeat(guests.len() + 1))];
    let reasons = reasons.iter().enumerate().map(|(number, reason)| format!("{}. {reason}", number + 1));
    let blank = if reasons.len() > 0 { vec![String::new()] } else { vec![] };
    let lines: Vec<_> = head.into_iter().chain(rows).chain(blank).chain(reasons).collect();
    lines.join("\n")
}

/// What is wrong with the document, in words that say what to put there; nothing where it has this very table.
pub(super) fn complain(document: &str, table: &str) -> Option<String> {
    let block = document.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    match block {
        Some((block, _)) if block.trim() == table => None,
        _ => Some(format!(
            "{DOCUMENT} does not say what was measured. It should have:\n\n{BEGIN}\n\n{table}\n\n{END}\n"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: &str = r#"{
        "iter/tcp": {"in_use": true, "why_not": null},
        "socket_cookie": {"in_use": false, "why_not": "unknown func | 46\nprocessed 9 insns"}
    }"#;

    fn features() -> Features {
        parse(SOURCES).expect("sources")
    }

    #[test]
    fn sources_are_features_and_the_first_line_of_the_reason() {
        let expected = [("iter/tcp", None), ("socket_cookie", Some("unknown func / 46"))];
        let expected = expected.map(|(name, why)| (name.to_owned(), why.map(str::to_owned)));
        assert_eq!(features(), expected.into());
        assert_eq!(few_words(&"ä".repeat(LONGEST + 1)), "ä".repeat(LONGEST) + "…");
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for json in ["", "[]", "7", r#"{"iter/tcp":{}}"#, r#"{"iter/tcp":{"in_use":1}}"#] {
            assert_eq!(parse(json), None, "{json}");
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_guest_and_each_reason_once() {
        let old = features();
        let new = Features::from([("iter/tcp".to_owned(), None), ("fentry".to_owned(), None)]);
        let expected = "\
            | in use | 5.10 | 6.1 | 7.x |\n\
            | --- | --- | --- | --- |\n\
            | `fentry` | - | - | yes |\n\
            | `iter/tcp` | yes | yes | yes |\n\
            | `socket_cookie` | no (1) | no (1) | - |\n\
            \n\
            1. unknown func / 46";
        assert_eq!(table(&[("5.10", &old), ("6.1", &old), ("7.x", &new)]), expected);
    }

    #[test]
    fn a_document_that_says_otherwise_is_complained_of() {
        let features = features();
        let table = table(&[("6.1", &features)]);
        let document = |block: &str| format!("# R\n\n{BEGIN}\n\n{block}\n\n{END}\n\nmore\n");
        assert_eq!(complain(&document(&table), &table), None);
        let complaint = complain(&document(&table.replace("yes", "no (2)")), &table);
        assert!(complaint.is_some_and(|complaint| complaint.contains(&table)));
        assert!(complain("", &table).is_some());
    }
}
