//! `--replay`: from a recording every user gets what a live run reports.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "times of a test's run, as microseconds"
)]

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    ops::RangeInclusive,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::Path,
};

use tests::{
    Record, Signal, Tracer, TracerCommand, feature, monotonic_ns,
    process::poll_until,
    recording::Recording,
    scene::{Leak, Scene},
    tracer::Finished,
};

const THRESHOLD: &str = "300ms";

fn wait_for_age(leak: &Leak) {
    let ns = leak.not_after_ns + 400_000_000;
    poll_until("time to pass", || (monotonic_ns() >= ns).then_some(()));
}

/// A span of `CLOCK_MONOTONIC`, nanoseconds.
type Span = RangeInclusive<u64>;

/// What the test itself knows of a leak.
#[derive(Debug)]
struct Seen {
    /// The time in which it entered `CLOSE_WAIT`, if the tracers had started by then.
    entered: Option<Span>,
    /// When all was read.
    read_ns: u64,
    /// The time in which it left `CLOSE_WAIT`.
    left: Span,
}

/// The leaks of a scene, by the ports of their clients.
#[derive(Debug)]
struct Leaks {
    netns: u64,
    seen: HashMap<u16, Seen>,
}

/// When a stuck socket entered its state, to the microsecond; its age is told to that.
fn entered_us(stuck: &Record) -> i64 {
    (stuck.mono_ns() / 1_000) as i64 - (stuck.number("age_ms") * 1_000.0).round() as i64
}

/// When a socket that is no longer stuck had entered its state, to the microsecond.
fn had_entered_us(cleared: &Record) -> i64 {
    (cleared.mono_ns() / 1_000) as i64 - (cleared.number("in_state_ms") * 1_000.0).round() as i64
}

/// Asserts that two records of different tracers tell the same times.
///
/// Both tracers read the clock at each transition, one after the other. Any time can pass between
/// that on a busy machine, but both do while the test makes the transition.
fn assert_same_times(was: &Record, is: &Record, seen: &Seen) {
    let entered_us = if was.is("stuck") { entered_us } else { had_entered_us };
    let both_us = [was, is].map(entered_us);
    match &seen.entered {
        Some(span) => {
            // Times are rounded, or cut off.
            let span_us = (span.start() / 1_000) as i64 - 2..=(span.end() / 1_000) as i64 + 2;
            assert!(both_us.iter().all(|us| span_us.contains(us)), "not in {span_us:?}:\n{was:?}\n{is:?}");
        }
        // Two walks read a socket's stamps at two moments of a tick.
        None => assert!((both_us[0] - both_us[1]).abs() <= 20_000, "{was:?}\n{is:?}"),
    }
    if was.is("cleared") {
        let left = [was, is].map(Record::mono_ns);
        assert!(left.iter().all(|ns| seen.left.contains(ns)), "not in {:?}:\n{was:?}\n{is:?}", seen.left);
    }
}

/// Asserts that a replay tells of the leaks what was told live.
fn assert_same(leaks: &Leaks, live: &Finished, replayed: &Finished, fields: &[&str]) {
    let Leaks { netns, seen } = leaks;
    for event in ["stuck", "cleared"] {
        let of = |run: &Finished| {
            let mut records: Vec<_> =
                run.records_in(*netns).into_iter().filter(|record| record.is(event)).collect();
            records.retain(|record| seen.contains_key(&record.remote().port()));
            records.sort_by_key(Record::cookie);
            records
        };
        let (live, replayed) = (of(live), of(replayed));
        let cookies = |records: &[Record]| records.iter().map(Record::cookie).collect::<Vec<_>>();
        assert_eq!(cookies(&live), cookies(&replayed), "{event}:\n{live:?}\n{replayed:?}");
        for (was, is) in live.iter().zip(&replayed) {
            let same: &[&str] = if event == "stuck" { fields } else { &["new_state", "how"] };
            for field in
                [&["netns", "local_addr", "local_port", "remote_addr", "remote_port", "state"], same].concat()
            {
                assert_eq!(was.get(field), is.get(field), "{event}, {field}:\n{was:?}\n{is:?}");
            }
            assert_same_times(was, is, &seen[&was.remote().port()]);
            if event == "cleared" {
                assert_eq!(was.get("by")["pid"], is.get("by")["pid"], "{was:?}\n{is:?}");
            }
        }
    }
    let count = |event| replayed.records_in(*netns).iter().filter(|record| record.is(event)).count();
    assert!(count("stuck") >= 4 && count("cleared") >= 4, "nothing was compared");
}

/// Runs a tracer with these arguments, and one that reports what is stuck, on leaks that begin,
/// stay and end in several ways, `before` of them from before the start of both tracers.
fn record(arguments: &[&str], before: usize) -> (Finished, Finished, Leaks) {
    let mut scene = Scene::new();
    let netns = scene.netns();
    let mut leaks: Vec<_> = std::iter::repeat_with(|| scene.leak()).take(before).collect();
    if let Some(last) = leaks.last() {
        wait_for_age(last);
    }
    let recorder = Tracer::start(arguments);
    let live = Tracer::start(&["--stuck", THRESHOLD]);
    leaks.extend(std::iter::repeat_with(|| scene.leak()).take(4));
    // One that is closed at once, which on a slow machine may take as long as the threshold.
    let early = scene.leak();
    scene.server.close(&early.socket);
    for leak in &leaks {
        live.await_stuck(&leak.socket);
    }
    let mut ends = Vec::new();
    let mut span_of = |end: &mut dyn FnMut()| {
        let began_ns = monotonic_ns();
        end();
        ends.push(began_ns..=monotonic_ns());
    };
    span_of(&mut || scene.server.close(&leaks[0].socket));
    span_of(&mut || scene.server.shutdown(&leaks[1].socket));
    for leak in &leaks[..2] {
        live.await_cleared(&leak.socket);
    }
    let Scene { server, client: _client, namespace: _namespace, .. } = scene;
    let mut server = Some(server);
    span_of(&mut || drop(server.take()));
    for leak in &leaks[2..] {
        live.await_cleared(&leak.socket);
    }
    let seen = leaks.iter().enumerate().map(|(at, leak)| {
        let Leak { socket, not_before_ns, not_after_ns } = *leak;
        let entered = (at >= before).then_some(not_before_ns..=not_after_ns);
        let left = ends[at.min(2)].clone();
        (socket.remote.expect("connected").port(), Seen { entered, read_ns: not_after_ns, left })
    });
    (recorder.stop(), live.stop(), Leaks { netns, seen: seen.collect() })
}

#[test]
fn transitions_alone_tell_who_was_stuck_since_when_and_what_ended_it() {
    if feature::is_missing(
        feature::COOKIE,
        "transitions_alone_tell_who_was_stuck_since_when_and_what_ended_it",
    ) {
        return;
    }
    let (recorded, live, mut leaks) = record(&[], 3);
    let recording = Recording::new("transitions", &recorded.lines);
    let replayed = recording.replay(&["--stuck", THRESHOLD, "--json"]);
    assert_eq!((replayed.status.code(), replayed.stderr.as_str()), (Some(0), ""));
    assert_same(&leaks, &live, &replayed, &["exact"]);
    // Of those from before the start the recording has all that could be seen.
    leaks.seen.retain(|_, seen| seen.entered.is_none());
    assert_same(&leaks, &live, &replayed, &["exact", "owners", "owner_how", "cause", "recv_queue", "peer"]);
    assert_eq!(replayed.lines[0], recorded.lines[0], "the start is what it was");
    let [was, is] = [&recorded, &replayed].map(|run| run.summary().int("transitions"));
    assert_eq!(was, is);

    // Replayed as it is, it is what it was.
    let again = recording.replay(&["--json"]);
    let of = |run: &Finished| {
        let told = ["transition", "found"].map(|event| format!("\"event\":\"{event}\""));
        let is_told = |line: &&String| told.iter().any(|event| line.contains(event));
        run.lines.iter().filter(is_told).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of(&again), of(&recorded));
    let longer = recording.replay(&["--stuck", "1h", "--json"]);
    assert_eq!((longer.count("stuck"), longer.count("cleared")), (0, 0));
}

#[test]
fn with_stuck_sockets_recorded_the_rest_is_told_as_it_was_seen() {
    if feature::is_missing(feature::COOKIE, "with_stuck_sockets_recorded_the_rest_is_told_as_it_was_seen") {
        return;
    }
    let (recorded, live, mut leaks) = record(&["--transitions", "--stuck", "0s"], 3);
    // On a slow machine some that leaked after the start may have been seen stuck later than that,
    // or before all was read.
    leaks.seen.retain(|port, seen| {
        let is_in_time = |record: &&Record| {
            (record.get("exact") == false || record.number("age_ms") <= 300.0)
                && record.mono_ns() >= seen.read_ns
        };
        let of_it = |record: &&Record| record.is("stuck") && record.remote().port() == *port;
        recorded.records_in(leaks.netns).iter().filter(of_it).any(|record| is_in_time(&record))
    });
    assert!(!leaks.seen.is_empty(), "all of them were seen late: {:?}", recorded.records_in(leaks.netns));
    let recording = Recording::new("stuck", &recorded.lines);
    let replayed = recording.replay(&["--stuck", THRESHOLD, "--json"]);
    assert_eq!(replayed.status.code(), Some(0), "{}", replayed.stderr);
    assert_same(
        &leaks,
        &live,
        &replayed,
        &["owners", "owner_how", "cause", "recv_queue", "send_queue", "listener"],
    );
    let pid =
        live.records_in(leaks.netns).iter().find(|record| record.is("stuck")).expect("compared").holders()[0]
            .0;
    let rolled = |run: &Finished| {
        let its = |record: &&Record| record.is("process") && record.int("pid") == u64::from(pid);
        run.records.iter().rfind(its).cloned().expect("a roll-up")
    };
    let (was, is) = (rolled(&live), rolled(&replayed));
    assert_eq!((was.get("comm"), was.get("stuck")), (is.get("comm"), is.get("stuck")));
    assert!(is.get("fds_open").is_null(), "nobody recorded that: {is:?}");
}

#[test]
fn a_recording_is_text_too_and_filtered_and_read_by_anybody_from_stdin() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&[]);
    let leak = scene.leak();
    scene.server.close(&leak.socket);
    let closed =
        |record: &Record| record.is_about("transition", &leak.socket) && record.states().1 == "CLOSE";
    tracer.await_record("its end", closed);
    let recorded = tracer.stop();
    let recording = Recording::new("text", &recorded.lines);
    let text = recording.replay(&[]);
    assert_eq!(text.status.code(), Some(0), "{}", text.stderr);
    assert!(text.stderr.contains("replaying what tcptrace ") && text.stderr.contains(" transitions seen"));
    let told: u64 = ["transition", "lost", "resync"].iter().map(|event| recorded.count(event)).sum();
    assert_eq!(text.lines.len() as u64, 1 + told, "a heading, and a line each");

    let port = leak.socket.local.port().to_string();
    let mut command = TracerCommand::exactly(&["--replay", "-", "--json", "--local-port", &port]);
    // A copy, since others may not go where the program is.
    let program = std::env::temp_dir().join(format!("tcptrace-replay-{}", std::process::id()));
    fs::copy(command.command.get_program(), &program).expect("room on the disk");
    let mut plain = std::process::Command::new(&program);
    plain.args(command.command.get_args()).uid(65_534).gid(65_534);
    plain.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command.command = plain;
    command.command.stdin(fs::File::open(recording.path()).expect("it was just written"));
    let filtered = command.run();
    fs::remove_file(program).expect("it is there");
    assert_eq!((filtered.status.code(), filtered.stderr.as_str()), (Some(0), ""));
    let wanted = |record: &&Record| record.is("transition") && record.local().port().to_string() == port;
    let expected = recorded.records.iter().filter(wanted).count() as u64;
    assert!(expected > 0 && filtered.count("transition") == expected);
    assert_eq!(filtered.summary().int("filtered"), recorded.count("transition") - expected);
}

#[test]
fn an_interrupted_replay_sums_up() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let leak = scene.leak().socket;
    tracer.await_stuck(&leak);
    let recorded = tracer.stop();
    let stuck = |record: &&Record| record.is_about("stuck", &leak);
    let stuck = recorded.records.iter().position(|record| stuck(&record)).expect("it was reported");
    let lines = format!("{}\n{}\n", recorded.lines[0], recorded.lines[stuck]);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        // A part of the next line has come, and the rest never does.
        write!(writer, "{lines}{{\"v\":1,").expect("a pipe has room");
        let mut command = TracerCommand::exactly(&["--replay", "-", "--json", "--stuck", THRESHOLD]);
        command.command.stdin(OwnedFd::from(reader));
        let replay = command.start();
        replay.await_record("a record", |record| record.is("start"));
        replay.signal(signal);
        let replay = replay.finish();
        assert_eq!((replay.status.code(), replay.stderr.as_str()), (Some(0), ""), "{signal:?}");
        assert_eq!(replay.summary().int("stuck"), 1, "what came before is judged");
    }
}

#[test]
fn a_replay_opens_its_file_again() {
    let recorded = Tracer::start(&["--stuck", THRESHOLD]).stop();
    let folder = tempfile::tempdir().expect("a folder");
    let [file, moved] = ["records", "records.1"].map(|name| folder.path().join(name));
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let path = file.to_str().expect("UTF-8");
    let mut command = TracerCommand::exactly(&["--replay", "-", "--json", "--output", path]);
    command.command.stdin(OwnedFd::from(reader));
    let replay = command.start();
    let start = &recorded.lines[0];
    writeln!(writer, "{start}").expect("a pipe has room");
    let has = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == start));
    poll_until("the first record", || has(&file).then_some(()));
    fs::rename(&file, &moved).expect("the folder is ours");
    replay.signal(Signal::HUP);
    // What comes after the signal is written to the new file.
    writeln!(writer, "{start}").expect("a pipe has room");
    poll_until("a record in the new file", || has(&file).then_some(()));
    drop(writer);
    assert_eq!(replay.finish().status.code(), Some(0));
}

#[test]
fn what_is_no_recording_is_refused_with_its_line_after_what_came_before() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&[]);
    scene.leak();
    let mut lines = tracer.stop().lines;
    lines.retain(|line| [r#""event":"start""#, r#""event":"transition""#].iter().any(|it| line.contains(it)));
    lines.truncate(4);
    lines.push("{\"v\":1,\"event\":\"transition\"".to_owned());
    lines.push(lines[1].clone());
    let run = Recording::new("bad", &lines).replay(&["--json"]);
    assert_eq!(run.status.code(), Some(4));
    assert!(run.stderr.starts_with("tcptrace: line 5 of the recording: is no record: "), "{}", run.stderr);
    assert_eq!(run.count("transition"), 3, "{:?}", run.lines);

    let missing = TracerCommand::exactly(&["--replay", "/nowhere", "--json"]).run();
    assert_eq!(missing.status.code(), Some(2));
    assert!(missing.stderr.starts_with("tcptrace: cannot open /nowhere: "), "{}", missing.stderr);
}
