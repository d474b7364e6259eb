//! The command line: what is wrong usage, what ends a run, and with which exit status.

use std::io::PipeReader;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tests::{
    Namespace, Puppet, Signal, Tracer, TracerCommand, feature, process::poll_until, record::with_gaps,
    scene::Scene, witness,
};

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    for (arguments, words) in [
        (&["--stuck", "30"][..], "30s"),
        (&["--duration", "5"], "5s"),
        (&["--stuck", "30s", "--remind", "1.5"], "unit"),
        (&["--stuck", "30x"], "30s"),
        (&["--stuck"], "--stuck"),
        (&["--stuck", "30s", "--state", "time-wait"], "time-wait"),
        (&["--stuck", "30s", "--state", "nonsense"], "nonsense"),
        (&["--remind", "30s"], "--stuck"),
        (&["--once"], "--stuck"),
        (&["--stuck", "30s", "--once", "--transitions"], "--once"),
        (&["--stuck", "30s", "--once", "--remind", "5s"], "--once"),
        (&["--stuck", "30s", "--once", "--duration", "5s"], "--once"),
        (&["--count", "0"], "--count"),
        (&["--duration", "0s"], "--duration"),
        (&["--stuck", "-5s"], "did you mean 5s?"),
        (&["30s"], "--stuck 30s"),
        (&["-p", "42"], "--pid N"),
        (&["--pid", "abc"], "--comm"),
        (&["--comm", ""], "--comm nginx"),
        (&["--netns", "0"], "lsns -t net"),
        (&["--port", "0"], "1 to 65535"),
        (&["--port", "70000"], "1 to 65535"),
        (&["--port", "9-1"], "1-9"),
        (&["--remote", "10.0.0.0/33"], "32 bits"),
        (&["-4", "-6"], "without either option"),
        (&["--nonsense"], "--nonsense"),
        (&["leftover"], "leftover"),
    ] {
        let run = TracerCommand::new(arguments).run();
        assert_eq!(run.status.code(), Some(2), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{arguments:?} said nothing of {words}: {}", run.stderr);
        assert_eq!(run.lines, [""; 0], "{arguments:?} wrote to stdout");
    }
}

#[test]
fn a_bare_number_is_refused_with_the_unit_it_needs() {
    let run = TracerCommand::new(&["--stuck", "30"]).run();
    assert_eq!(run.status.code(), Some(2));
    for word in ["unit", "30s"] {
        assert!(run.stderr.contains(word), "no {word}: {}", run.stderr);
    }
}

#[test]
fn help_and_version_exit_with_0_and_go_to_stdout() {
    let help = TracerCommand::new(&["--help"]).run();
    assert_eq!((help.status.code(), help.stderr.as_str()), (Some(0), ""));
    for option in
        ["--transitions", "--stuck", "--state", "--remind", "--duration", "--count", "--json", "--metrics"]
    {
        assert!(help.lines.iter().any(|line| line.contains(option)), "no {option}: {:?}", help.lines);
    }
    let version = TracerCommand::new(&["--version"]).run();
    assert_eq!((version.status.code(), version.stderr.as_str()), (Some(0), ""));
    assert_eq!(version.lines.len(), 1);
    assert!(version.lines[0].starts_with("tcptrace "), "{:?}", version.lines);
}

#[test]
fn count_ends_the_run_after_so_many_records_of_the_views() {
    let tracer = Tracer::start(&["--transitions", "--count", "7"]);
    let namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    puppet.churn(&listener, 20);
    let run = tracer.finish();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    assert_eq!(run.count("transition"), 7);
    assert_eq!((run.count("start"), run.count("summary")), (1, 1));
    run.summary();
    drop(namespace);
}

#[test]
fn without_a_view_there_are_transitions() {
    let tracer = Tracer::start(&[]);
    let _namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    tracer.await_record("LISTEN", |record| {
        record.is("transition") && record.is_in(listener.netns) && record.states() == ("CLOSE", "LISTEN")
    });
    assert_eq!(tracer.stop().count("stuck"), 0);
}

#[test]
fn duration_ends_the_run_with_a_summary_that_adds_up() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--transitions", "--stuck", "100ms", "--duration", "30s"]);
    let leaks = [scene.leak(), scene.leak(), scene.leak()];
    for leak in &leaks[..2] {
        tracer.await_stuck(&leak.socket);
        scene.server.close(&leak.socket);
        tracer.await_cleared(&leak.socket);
    }
    tracer.await_stuck(&leaks[2].socket);
    let run = tracer.finish();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    let summary = run.summary();
    assert!(summary.number("duration_ms") >= 30_000.0, "{summary:?}");
    for (total, event) in
        [("transitions", "transition"), ("stuck", "stuck"), ("cleared", "cleared"), ("resyncs", "resync")]
    {
        assert_eq!(summary.int(total), run.count(event), "{event}: {summary:?}");
    }
    assert_eq!((summary.int("lost"), summary.int("dropped")), (0, 0), "{summary:?}");
    assert_eq!(run.count("lost"), 0);
    assert!(summary.int("stuck") >= 3 && summary.int("cleared") >= 2, "{summary:?}");
}

#[test]
fn ctrl_c_ends_the_run_and_nothing_that_was_seen_is_missing() {
    a_signal_ends_the_run(Signal::INT);
}

#[test]
fn sigterm_ends_the_run_and_nothing_that_was_seen_is_missing() {
    a_signal_ends_the_run(Signal::TERM);
}

#[test]
fn a_terminal_that_goes_away_ends_the_run_and_nothing_that_was_seen_is_missing() {
    a_signal_ends_the_run(Signal::HUP);
}

fn a_signal_ends_the_run(signal: Signal) {
    const CONNECTIONS: usize = 200;
    let namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let tracer = Tracer::start(&["--transitions"]);
    let listener = puppet.listen("127.0.0.1:0");
    puppet.churn(&listener, CONNECTIONS);
    puppet.close(&listener);
    // The last ACKs may still be under way.
    poll_until("all sockets to be closed", || {
        witness::all().iter().all(|seen| seen.state == "TIME-WAIT").then_some(())
    });
    tracer.signal(signal);
    let run = tracer.finish();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    let seen = run.records_in(namespace.inode());
    let told: Vec<_> = run.records.iter().filter(|record| record.is("lost")).collect();
    let missing = (CONNECTIONS * 10 + 2).checked_sub(seen.len());
    assert!(
        feature::are_told(missing, &run.records[0], run.summary()),
        "{missing:?} transitions before the signal; losses: {told:?}; not whole: {:?}",
        with_gaps(&run.records, namespace.inode())
    );
    assert_eq!(run.summary().int("transitions"), run.count("transition"));
}

#[test]
fn a_reader_that_is_gone_already_is_a_normal_end() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = TracerCommand::new(&["--transitions", "--json"]);
    command.command.stdout(writer);
    let run = command.run();
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_reader_that_goes_away_is_a_normal_end() {
    for arguments in [&["--transitions", "--json"][..], &["--transitions"]] {
        let _namespace = Namespace::new();
        let mut puppet = Puppet::new();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = TracerCommand::new(arguments);
        command.command.stdout(writer);
        let tracer = command.start();
        // Until it traces, nothing comes.
        let mut listener = puppet.listen("127.0.0.1:0");
        while !has_come(&reader) {
            listener = puppet.listen("127.0.0.1:0");
        }
        drop(reader);
        puppet.churn(&listener, 5);
        let run = tracer.finish();
        assert_eq!(run.status.code(), Some(0), "{arguments:?}: {}", run.stderr);
        for word in ["panic", "annot write", "roken pipe"] {
            assert!(!run.stderr.contains(word), "{}", run.stderr);
        }
    }
}

/// Returns whether there is something to read, or will be soon.
fn has_come(reader: &PipeReader) -> bool {
    let soon = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&soon)).expect("a pipe can be polled") > 0
}

#[test]
fn a_full_disk_is_a_failure_with_a_message() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = TracerCommand::new(&["--transitions", "--json"]);
    command.command.stdout(full);
    let run = command.run();
    assert_eq!(run.status.code(), Some(4), "{}", run.stderr);
    assert!(run.stderr.contains("stdout") && run.stderr.contains("No space left"), "{}", run.stderr);
}

#[test]
fn nothing_but_records_goes_to_stdout_and_nothing_to_stderr_with_json() {
    let run = TracerCommand::new(&["--stuck", "1h", "--duration", "100ms", "--json"]).run();
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
    assert_eq!(run.records.len(), run.lines.len());
}
