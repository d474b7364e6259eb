//! Tips for wrong usage: what the user probably meant, as an option to copy.
//!
//! clap says what is wrong. It cannot know that a bare `30s` is a threshold, or that users of `ss`
//! expect `-p`.

use std::{net::IpAddr, path::Path};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use ipnet::IpNet;

use crate::{cli::parse_duration, events::State};

/// An example for each option whose value is often forgotten.
const EXAMPLES: [&str; 16] = [
    "--stuck 30s",
    "--state close-wait,fin-wait-2",
    "--remind 5m",
    "--replay recording.json",
    "--duration 1m",
    "--count 10",
    "--pid 4242",
    "--comm nginx",
    "--uid 1000",
    "--port 443",
    "--local-port 8000-8999",
    "--remote-port 5432",
    "--local 10.0.0.0/8",
    "--remote 10.0.0.0/8",
    "--cgroup /system.slice/nginx.service",
    "--container 3f2a9c",
];

/// Short options that other tools have.
const LETTERS: [(&str, &str); 8] = [
    ("-p", "`--pid N` selects a process, `--port N` a port; the process of a socket is always shown"),
    ("-j", "`--json` writes one JSON object a line"),
    ("-s", "`--stuck DUR` shows the sockets that are stuck, for example `--stuck 30s`"),
    ("-c", "`--count N` ends the run after N records; `--comm NAME` selects processes by name"),
    ("-t", "every record is about TCP; `--transitions` shows every change of state"),
    ("-d", "`--duration DUR` ends the run, for example `--duration 1m`"),
    ("-L", "`--local-port N` selects sockets by their local port"),
    ("-D", "`--remote-port N` selects sockets by their remote port"),
];

/// Adds a tip to clap's error, if there is one.
pub(crate) fn add_tip(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        if error.kind() == ErrorKind::MissingRequiredArgument {
            insert_tip(&mut error, "add a threshold, for example `--stuck 30s`".to_owned());
        }
        return error;
    };
    let is_missing =
        matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty());
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => tip_for_unknown(argument),
        ErrorKind::InvalidValue if is_missing => {
            let option = argument.split(' ').next().unwrap_or(argument);
            let has_option = |example: &&&str| example.split(' ').next() == Some(option);
            EXAMPLES.iter().find(has_option).map(|example| format!("for example `{example}`"))
        }
        ErrorKind::ArgumentConflict if matches!(argument.as_str(), "-4" | "-6") => {
            Some("no socket is both IPv4 and IPv6; without either option both are shown".to_owned())
        }
        _ => None,
    };
    if let Some(tip) = tip {
        insert_tip(&mut error, tip);
    }
    error
}

fn insert_tip(error: &mut clap::Error, tip: String) {
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
}

/// Guesses what an unknown argument stands for.
fn tip_for_unknown(argument: &str) -> Option<String> {
    if argument.starts_with('-') {
        let known = LETTERS.iter().find(|(letter, _)| *letter == argument);
        return known.map(|(_, tip)| (*tip).to_owned());
    }
    let is_file = || {
        let path = Path::new(argument);
        path.extension()
            .is_some_and(|end| ["json", "jsonl", "ndjson", "gz", "zst"].iter().any(|known| end == *known))
            || argument.contains('/')
    };
    Some(if !argument.is_empty() && argument.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("`--pid {argument}` selects a process, `--port {argument}` a port")
    } else if parse_duration(argument).is_ok() {
        format!(
            "`--stuck {argument}` shows what is stuck for that long, `--duration {argument}` ends the run"
        )
    } else if argument.parse::<IpAddr>().is_ok() || argument.parse::<IpNet>().is_ok() {
        format!("`--remote {argument}` selects connections to it, `--local {argument}` those at it")
    } else if argument.parse::<State>().is_ok() {
        format!("`--stuck 30s --state {argument}` shows the sockets that are stuck in that state")
    } else if is_file() {
        format!("`--replay {argument}` reads a recording")
    } else {
        format!("filters are options: `--comm {argument}` selects processes of that name")
    })
}
