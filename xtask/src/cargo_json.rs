//! Reads what cargo prints with `--message-format=json`, as far as we need it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A program that cargo made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The name of its target.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Whether it has libtest's main function.
    pub(crate) is_test: bool,
}

/// The programs in cargo's output, fresh ones included, in the order of their names.
pub(crate) fn executables(output: &str) -> Result<Vec<Executable>> {
    let mut found = Vec::new();
    // Build scripts and wrappers may write lines of their own in between.
    for line in output.lines().filter(|line| line.starts_with('{')) {
        let message: Value =
            serde_json::from_str(line).with_context(|| format!("cargo wrote invalid JSON: {line}"))?;
        let Some(path) = message["executable"].as_str() else {
            continue;
        };
        found.push(Executable {
            name: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            path: path.into(),
            is_test: message["profile"]["test"] == true,
        });
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_libraries() -> Result<()> {
        let output = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"log"},"profile":{"test":false},"executable":null}"#,
            "\nnot JSON\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"stuck"},"profile":{"test":true},"executable":"/t/debug/deps/stuck-1f"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"holder"},"profile":{"test":false},"executable":"/t/debug/holder"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let holder = Executable { name: "holder".into(), path: "/t/debug/holder".into(), is_test: false };
        let stuck = Executable { name: "stuck".into(), path: "/t/debug/deps/stuck-1f".into(), is_test: true };
        assert_eq!(executables(output)?, [holder, stuck]);
        Ok(())
    }

    #[test]
    fn a_torn_message_is_an_error() {
        assert!(executables("{\"reason\":").is_err());
    }
}
