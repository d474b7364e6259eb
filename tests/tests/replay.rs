//! `--replay`: a recording gives what the live run would have given, to anybody.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "times of a test's run, as microseconds"
)]

use std::{collections::HashMap, fs, os::unix::process::CommandExt as _};

use tests::{
    Record, Tracer, TracerCommand, feature, monotonic_ns,
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

/// When a stuck socket entered its state, to the microsecond; its age is told to that.
fn entered_us(stuck: &Record) -> i64 {
    (stuck.mono_ns() / 1_000) as i64 - (stuck.number("age_ms") * 1_000.0).round() as i64
}

/// Holds what a replay says of the leaks, which go by their clients' ports in a namespace, against what was said live.
fn assert_same((netns, ports): &(u64, Vec<u16>), live: &Finished, replayed: &Finished, fields: &[&str]) {
    for event in ["stuck", "cleared"] {
        let of = |run: &Finished| {
            let mut records: Vec<_> = run.of(*netns).into_iter().filter(|record| record.is(event)).collect();
            records.retain(|record| ports.contains(&record.remote().port()));
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
            // Two tracers read the clock one after the other, and two walks a socket's stamps at two moments of a tick.
            let near = |was: i64, is: i64| (was - is).abs() <= 20_000;
            if event == "stuck" {
                assert!(near(entered_us(was), entered_us(is)), "{was:?}\n{is:?}");
            } else {
                let left_us = |record: &Record| (record.mono_ns() / 1_000) as i64;
                let for_us = |record: &Record| (record.number("in_state_ms") * 1_000.0) as i64;
                assert!(near(left_us(was), left_us(is)) && near(for_us(was), for_us(is)), "{was:?}\n{is:?}");
                assert_eq!(was.get("by")["pid"], is.get("by")["pid"], "{was:?}\n{is:?}");
            }
        }
    }
    let count = |event| replayed.of(*netns).iter().filter(|record| record.is(event)).count();
    assert!(count("stuck") >= 4 && count("cleared") >= 4, "nothing was compared");
}

/// What can be seen of leaks that begin, stay and end in several ways, after `before` the start of both tracers; and when
/// their server had read all (`CLOCK_MONOTONIC`).
fn record(arguments: &[&str], before: usize) -> (Finished, Finished, (u64, Vec<u16>), HashMap<u16, u64>) {
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
    scene.server.close(&leaks[0].socket);
    scene.server.shutdown(&leaks[1].socket);
    for leak in &leaks[..2] {
        live.await_cleared(&leak.socket);
    }
    let rest: Vec<_> = leaks[2..].iter().map(|leak| leak.socket).collect();
    let Scene { server, client: _client, namespace: _namespace, .. } = scene;
    server.kill();
    for socket in &rest {
        live.await_cleared(socket);
    }
    let port = |leak: &Leak| leak.socket.remote.expect("connected").port();
    let read_ns = leaks.iter().map(|leak| (port(leak), leak.not_after_ns)).collect();
    (recorder.stop(), live.stop(), (netns, leaks.iter().map(port).collect()), read_ns)
}

#[test]
fn transitions_alone_tell_who_was_stuck_since_when_and_what_ended_it() {
    if feature::is_missing(
        feature::COOKIE,
        "transitions_alone_tell_who_was_stuck_since_when_and_what_ended_it",
    ) {
        return;
    }
    const BEFORE: usize = 3;
    let (recorded, live, leaks, _) = record(&[], BEFORE);
    let recording = Recording::new("transitions", &recorded.lines);
    let replayed = recording.replay(&["--stuck", THRESHOLD, "--json"]);
    assert_eq!((replayed.status.code(), replayed.stderr.as_str()), (Some(0), ""));
    assert_same(&leaks, &live, &replayed, &["exact"]);
    // Of those from before the start the recording has all that could be seen.
    let before = (leaks.0, leaks.1[..BEFORE].to_owned());
    assert_same(&before, &live, &replayed, &["exact", "owners", "owner_how", "cause", "recv_queue", "peer"]);
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
    let (recorded, live, mut leaks, read_ns) = record(&["--transitions", "--stuck", "0s"], 3);
    // On a slow machine some that leaked after the start may have been seen stuck later than that, or before all was read.
    let is_seen_in_time = |record: &Record| {
        record.is("stuck")
            && (record.get("exact") == false || record.number("age_ms") <= 300.0)
            && record.mono_ns() >= read_ns[&record.remote().port()]
    };
    leaks.1.retain(|port| {
        let of_it = |record: &&Record| record.is_in(leaks.0) && record.remote().port() == *port;
        recorded.records.iter().filter(of_it).any(is_seen_in_time)
    });
    assert!(!leaks.1.is_empty(), "all of them were seen late: {:?}", recorded.of(leaks.0));
    let recording = Recording::new("stuck", &recorded.lines);
    let replayed = recording.replay(&["--stuck", THRESHOLD, "--json"]);
    assert_eq!(replayed.status.code(), Some(0), "{}", replayed.stderr);
    assert_same(
        &leaks,
        &live,
        &replayed,
        &["owners", "owner_how", "cause", "recv_queue", "send_queue", "listener"],
    );
    let pid = live.of(leaks.0).iter().find(|record| record.is("stuck")).expect("compared").holders()[0].0;
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
