//! Arguments in, a config or an error out.

use std::{collections::BTreeSet, os::unix::ffi::OsStringExt as _};

use clap::{CommandFactory as _, error::ErrorKind};
use proptest::prelude::*;

use super::*;

fn config(arguments: &str) -> Result<Config, clap::Error> {
    Cli::from_arguments(std::iter::once("tcptrace").chain(arguments.split_whitespace())).map(Cli::into_config)
}

fn refusal(arguments: &str) -> String {
    config(arguments).expect_err(arguments).to_string()
}

#[test]
fn no_view_is_all_transitions() {
    let config = config("").expect("valid");
    assert_eq!(config.views, Views { transitions: true, stuck: false, lives: false });
    assert_eq!((config.policy.followed, config.policy.watched), (state::ALL, 0));
}

#[test]
fn stuck_alone_follows_only_what_it_watches() {
    let config = config("--stuck 1h30m").expect("valid");
    assert_eq!(config.views, Views { transitions: false, stuck: true, lives: false });
    assert_eq!(config.policy.threshold_ns, 5_400_000_000_000);
    assert_eq!(config.policy.followed, state::bit(state::CLOSE_WAIT));
    assert_eq!(config.policy.watched, state::bit(state::CLOSE_WAIT));
}

#[test]
fn views_add_up() {
    let config =
        config("--stuck 500ms --transitions --state fin-wait-2,CLOSE_WAIT --remind 2m").expect("valid");
    assert_eq!(config.views, Views { transitions: true, stuck: true, lives: false });
    assert_eq!(config.policy.followed, state::ALL);
    assert_eq!(config.policy.watched, state::bit(state::CLOSE_WAIT) | state::bit(state::FIN_WAIT2));
    assert_eq!(config.policy.remind_ns, Some(120_000_000_000));
}

#[test]
fn lives_follow_every_state_and_add_up_with_what_is_stuck() {
    let config_of = |arguments| config(arguments).expect("valid");
    assert_eq!(config_of("--lives").views, Views { transitions: false, stuck: false, lives: true });
    let both = config_of("--lives --stuck 30s");
    assert_eq!(both.views, Views { transitions: false, stuck: true, lives: true });
    assert_eq!((both.policy.followed, both.policy.lives), (state::ALL, true));
    assert_eq!(both.policy.watched, state::bit(state::CLOSE_WAIT));
}

#[test]
fn once_is_a_way_to_look_at_what_is_stuck() {
    assert!(config("--stuck 30s --once --json --state fin-wait-2").expect("valid").once);
    assert!(!config("--stuck 30s").expect("valid").once);
}

#[test]
fn a_bare_number_is_no_duration_and_the_error_says_so() {
    assert!(refusal("--stuck 30").contains("needs a unit, for example `30s`"));
    assert!(refusal("--duration 1.5").contains("needs a unit"));
    assert!(refusal("--stuck 0").contains("needs a unit, for example `0s`"));
}

#[test]
fn wrong_usage_is_answered_with_what_was_probably_meant() {
    for (arguments, words) in [
        ("--stuck -5s", "did you mean 5s?"),
        ("--stuck -x", "a duration looks like 500ms, 30s, 2m or 1h30m"),
        ("--stuck --once", "a duration looks like 500ms, 30s, 2m or 1h30m"),
        ("--stuck", "for example `--stuck 30s`"),
        ("--stuck 30", "for example `30s`"),
        ("--stuck 30s --remind -1m", "did you mean 1m?"),
        ("--duration -5s", "did you mean 5s?"),
        ("--duration 0s", "longer than 0, for example 30s"),
        ("--count 0", "at least 1"),
        ("--count -1", "at least 1, for example 10"),
        ("--count x", "at least 1, for example 10"),
        ("--once", "add a threshold, for example `--stuck 30s`"),
        ("--state close-wait", "add a threshold, for example `--stuck 30s`"),
        ("--stuck 30s --state", "for example `--state close-wait,fin-wait-2`"),
        ("--stuck 30s --state foo", "close-wait, last-ack"),
        ("--pid", "for example `--pid 4242`"),
        ("30s", "`--stuck 30s`"),
        ("-p 42", "`--pid N` selects a process, `--port N` a port"),
        ("42", "`--pid 42` selects a process, `--port 42` a port"),
        ("10.0.0.5", "`--remote 10.0.0.5`"),
        ("fd00::/8", "`--remote fd00::/8`"),
        ("close-wait", "`--stuck 30s --state close-wait`"),
        ("recording.json", "`--replay recording.json`"),
        ("nginx", "`--comm nginx`"),
        ("-j", "`--json`"),
        ("-4 -6", "without either option both are shown"),
        ("--jsn", "'--json'"),
    ] {
        let error = config(arguments).expect_err(arguments);
        assert_eq!(error.exit_code(), 2, "{arguments}");
        assert!(error.to_string().contains(words), "{arguments}: {error}");
    }
}

#[test]
fn metrics_are_served_at_an_address_and_a_port() {
    for text in ["127.0.0.1:9777", "0.0.0.0:0", "[::1]:9777", "[fe80::1%2]:80"] {
        let config = config(&format!("--metrics {text}")).expect(text);
        assert_eq!(config.metrics.map(|at| at.to_string()).as_deref(), Some(text));
    }
    for text in ["9777", ":9777", "*:9777"] {
        assert!(refusal(&format!("--metrics {text}")).contains("for example 127.0.0.1:9777"), "{text}");
    }
    assert!(refusal("--metrics localhost:9777").contains("an address and a port"));
}

#[test]
fn wrong_arguments_are_refused() {
    for arguments in [
        "--stuck",
        "--stuck -5s",
        "--stuck 30x",
        "--stuck 30s --state time-wait",
        "--stuck 30s --state nonsense",
        "--state close-wait",
        "--remind 5s",
        "--stuck 30s --remind 0s",
        "--duration 0s",
        "--count 0",
        "--count -1",
        "--count 1e3",
        "--once",
        "--once --transitions",
        "--stuck 30s --once --transitions",
        "--stuck 30s --once --lives",
        "--stuck 30s --once --duration 5s",
        "--stuck 30s --once --remind 5s",
        "--stuck 99999999999999999999s",
        "--stuck 101years",
        "--ring-size 5000",
        "--ring-size 2048",
        "--queue-size 4095",
        "--queue-size 1073741825",
        "--queue-size 1k",
        "--replay",
        "--stuck 30s --once --replay x",
        "--replay x --duration 5s",
        "--port 0-65536",
        "--metrics",
        "--metrics 9777",
        "--metrics localhost:9777",
        "--metrics 127.0.0.1",
        "--metrics 127.0.0.1:65536",
        "--metrics ::1:x",
        "--stuck 30s --once --metrics 127.0.0.1:9777",
        "--replay x --metrics 127.0.0.1:9777",
        "--nonsense",
        "leftover",
    ] {
        let error = config(arguments).expect_err(arguments);
        assert_eq!(error.exit_code(), 2, "{arguments}");
    }
}

#[test]
fn what_waits_in_memory_is_bounded_as_asked_for() {
    let bounds = |arguments| {
        let config = config(arguments).expect("valid");
        (config.ring_bytes, config.queue_bytes)
    };
    assert_eq!(bounds(""), (4 << 20, 32 << 20));
    assert_eq!(bounds("--ring-size 8192 --queue-size 5000"), (8192, 5000));
}

#[test]
fn help_fits_80_columns() {
    let width_of = |line: &str| line.chars().count();
    assert_eq!(AFTER_HELP.lines().find(|line| width_of(line) > 80), None);
    let help = Cli::command().term_width(80).render_long_help().to_string();
    assert_eq!(help.lines().find(|line| width_of(line) > 80), None, "{help}");
    assert!(help.contains(AFTER_HELP), "a line of the examples is wrapped:\n{help}");
}

#[test]
fn help_and_version_are_no_errors() {
    for (argument, kind) in [("--help", ErrorKind::DisplayHelp), ("--version", ErrorKind::DisplayVersion)] {
        let answer = config(argument).expect_err(argument);
        assert_eq!((answer.kind(), answer.exit_code()), (kind, 0));
    }
}

#[test]
fn records_go_where_they_are_wanted_and_stderr_says_as_much_as_is_wanted() {
    let config_of = |arguments: &str| config(arguments).expect(arguments);
    let usual = config_of("");
    assert_eq!((usual.output, usual.color, usual.verbosity), (None, Color::Auto, 0));
    let file = config_of("--output /var/log/t.json --color never -q");
    assert_eq!((file.output, file.color, file.verbosity), (Some("/var/log/t.json".into()), Color::Never, -1));
    assert_eq!(config_of("--output - -v").output, None, "stdout");
    assert_eq!((config_of("-v").verbosity, config_of("-vv").verbosity), (1, 1));
    for arguments in ["-q -v", "--color", "--color sometimes", "--output"] {
        assert_eq!(config(arguments).expect_err(arguments).exit_code(), 2, "{arguments}");
    }
}

/// The command lines with `tcptrace` in a text, without what surrounds them.
fn commands(text: &str) -> Vec<Vec<&str>> {
    let code = text.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix("ExecStart=/usr/local/bin/").unwrap_or(line);
        let line = line
            .rsplit_once("| ")
            .filter(|(_, last)| last.starts_with("tcptrace "))
            .map_or(line, |pair| pair.1);
        let line = line.strip_prefix("$ ").unwrap_or(line);
        line.strip_prefix("sudo ").unwrap_or(line).strip_prefix("tcptrace ")
    });
    code.map(|line| line.split("  ").next().unwrap_or(line))
        .filter(|line| line.starts_with('-'))
        .map(|line| line.split(' ').take_while(|word| !matches!(*word, "|" | ">" | ">>")).collect())
        .collect()
}

#[test]
fn every_command_in_the_docs_is_understood() {
    let documents = [
        ("README.md", include_str!("../../../README.md")),
        ("docs/pipelines.md", include_str!("../../../docs/pipelines.md")),
        ("docs/requirements.md", include_str!("../../../docs/requirements.md")),
        ("--help", AFTER_HELP),
    ];
    for (name, text) in documents {
        let commands = commands(text);
        assert!(!commands.is_empty(), "{name}");
        for command in commands {
            let arguments = command.join(" ").replace("\"$PORT\"", "443").replace("\"$TRACE\"", "/tmp/trace");
            if let Err(error) = config(&arguments) {
                panic!("{name}: tcptrace {arguments}: {error}");
            }
        }
        // The shell opens such a file, before `sudo`.
        let opens = |line: &&str| line.contains("sudo ") && line.contains("> /") && !line.contains('`');
        assert_eq!(text.lines().find(opens), None, "{name}");
        // That is node_exporter's.
        assert!(!text.contains(":9100"), "{name}");
        // Raw strings, which can have escape sequences of a terminal in them.
        let is_raw = |line: &&str| {
            line.contains("jq -r ") || line.contains("jq -nr ") || line.contains("unbuffered -r")
        };
        assert_eq!(text.lines().find(is_raw), None, "{name}");
        assert_eq!(text.matches("[Service]").count(), text.matches("[Install]").count(), "{name}");
    }
}

/// Options as they are, their values, and what is neither.
fn argument() -> impl Strategy<Value = OsString> {
    let options: BTreeSet<String> = Cli::command()
        .get_arguments()
        .flat_map(|argument| {
            let long = argument.get_long().map(|name| format!("--{name}"));
            long.into_iter().chain(argument.get_short().map(|letter| format!("-{letter}")))
        })
        .collect();
    let values = ["30s", "-5s", "0", "1-2", "close-wait", "10.0.0.0/8", "::1", "/x", "auto", "-", "--", ""];
    prop_oneof![
        4 => prop::sample::select(options.into_iter().collect::<Vec<_>>()).prop_map(OsString::from),
        4 => prop::sample::select(values.to_vec()).prop_map(OsString::from),
        1 => "\\PC{0,12}".prop_map(OsString::from),
        1 => "--?[a-z-]{1,12}=?[0-9a-z]{0,5}".prop_map(OsString::from),
        1 => prop::collection::vec(any::<u8>(), 0..12).prop_map(OsString::from_vec),
    ]
}

proptest! {
    #[test]
    fn any_arguments_are_a_config_or_an_answer(arguments in prop::collection::vec(argument(), 0..7)) {
        let arguments = std::iter::once(OsString::from("tcptrace")).chain(arguments);
        match Cli::from_arguments(arguments) {
            Ok(cli) => {
                let config = cli.into_config();
                prop_assert!(config.views.transitions || config.views.stuck || config.views.lives);
                prop_assert!(u128::from(config.policy.threshold_ns) <= LONGEST.as_nanos());
                prop_assert_eq!(config.policy.watched & !config.policy.followed, 0);
                prop_assert!(!config.once || config.views.stuck);
            }
            Err(error) => {
                prop_assert!([0, 2].contains(&error.exit_code()));
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn any_duration_is_the_sum_of_its_parts(
        parts in prop::collection::vec((any::<u32>(), prop::sample::select(vec![
            ("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000_u64), ("h", 3_600_000_000_000)
        ])), 1..5)
    ) {
        let text: String = parts.iter().map(|(number, (unit, _))| format!("{number}{unit}")).collect();
        let ns: u128 = parts.iter().map(|(number, (_, ns))| u128::from(*number) * u128::from(*ns)).sum();
        match parse_duration(&text) {
            Ok(duration) => prop_assert_eq!(duration.as_nanos(), ns),
            Err(error) => prop_assert!(ns > LONGEST.as_nanos() && error.contains("100 years"), "{}: {}", text, error),
        }
    }

    #[test]
    fn any_text_is_a_duration_with_a_unit_or_an_error_with_a_right_one(
        text in "-?[0-9]{0,3}[.]?[0-9]{0,3}|-?([0-9]{0,20} ?(ms|s|m|h|year|x)?){0,3}|\\PC{0,12}"
    ) {
        match parse_duration(&text) {
            Ok(duration) => {
                prop_assert!(duration <= LONGEST);
                prop_assert!(text.trim().parse::<f64>().is_err(), "a bare number: {}", text);
            }
            Err(error) => {
                let shows_one = ["500ms", "a unit, for example", "did you mean", "100 years"].iter().any(|words| error.contains(words));
                prop_assert!(shows_one, "{}: {}", text, error);
            }
        }
    }
}
