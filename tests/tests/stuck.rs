//! `--stuck`: which sockets are stuck, since when, who holds them, why, and when they clear.

use tests::{
    Puppet, Record, Sock, Tracer, feature, monotonic_ns, patience, scene::Scene, witness,
    witness::assert_held,
};

const THRESHOLD: &str = "300ms";
const THRESHOLD_MS: f64 = 300.0;

const BOTH_VIEWS: [&str; 3] = ["--transitions", "--stuck", THRESHOLD];

/// Returns the transition of a socket from one state to another in a run.
fn step(records: &[Record], cookie: u64, states: (&str, &str)) -> Record {
    let wanted =
        |record: &&Record| record.is("transition") && record.cookie() == cookie && record.states() == states;
    records.iter().find(wanted).unwrap_or_else(|| panic!("no {states:?} of {cookie:x}")).clone()
}

fn ms_between(from: &Record, to: &Record) -> f64 {
    (to.mono_ns() - from.mono_ns()) as f64 / 1e6
}

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.002
}

#[test]
fn a_leak_is_reported_after_the_threshold_with_its_holder_and_age_and_cleared_by_who_closes_it() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&BOTH_VIEWS);
    let leak = scene.leak();
    let stuck = tracer.await_stuck(&leak.socket);
    assert_held(&stuck, &leak.socket, &[(leak.socket.pid, leak.socket.fd)]);
    assert_eq!((stuck.text("state"), stuck.text("cause")), ("CLOSE_WAIT", "not_closed"));
    assert_eq!((stuck.int("recv_queue"), stuck.int("send_queue")), (0, 0));
    let owner = &stuck.get("owners")[0];
    assert_eq!((&owner["comm"], &owner["uid"]), (&"puppet".into(), &0.into()));
    let exe = std::fs::read_link(format!("/proc/{}/exe", leak.socket.pid)).expect("it lives");
    assert_eq!(owner["exe"].as_str(), exe.to_str());

    scene.server.close(&leak.socket);
    let cleared = tracer.await_cleared(&leak.socket);
    let run = tracer.stop();
    let entered = step(&run.records, stuck.cookie(), ("ESTABLISHED", "CLOSE_WAIT"));
    let left = step(&run.records, stuck.cookie(), ("CLOSE_WAIT", "LAST_ACK"));
    assert!((leak.not_before_ns..=leak.not_after_ns).contains(&entered.mono_ns()), "{entered:?} {leak:?}");

    assert!(is_close(stuck.number("threshold_ms"), THRESHOLD_MS), "{stuck:?}");
    assert!(stuck.number("age_ms") >= THRESHOLD_MS, "reported too early: {stuck:?}");
    assert!(is_close(stuck.number("age_ms"), ms_between(&entered, &stuck)), "{stuck:?} since {entered:?}");
    assert_eq!(stuck.get("exact"), true);
    assert_eq!(stuck.get("age_max_ms"), stuck.get("age_ms"));
    // Either end of this comparison is a time on the wall clock, which may be adjusted in between.
    let since_ns = tests::schema::unix_ns(stuck.text("since"));
    let entered_ns = tests::schema::unix_ns(entered.text("time"));
    assert!((since_ns - entered_ns).abs() < 50_000_000, "{stuck:?} since {entered:?}");

    assert_eq!((cleared.text("state"), cleared.text("new_state")), ("CLOSE_WAIT", "LAST_ACK"));
    assert_eq!((cleared.cookie(), cleared.mono_ns()), (stuck.cookie(), left.mono_ns()));
    assert!(is_close(cleared.number("in_state_ms"), ms_between(&entered, &left)), "{cleared:?}");
    assert_eq!(cleared.get("by")["pid"], leak.socket.pid);
    let netns = scene.netns();
    let count = |event: &str| run.records_in(netns).iter().filter(|record| record.is(event)).count();
    assert_eq!((count("stuck"), count("cleared")), (1, 1), "once each: {:?}", run.records_in(netns));
}

#[test]
fn a_leak_that_its_process_ends_with_is_cleared() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let leak = scene.leak();
    tracer.await_stuck(&leak.socket);
    let Scene { server, .. } = scene;
    server.kill();
    let cleared = tracer.await_cleared(&leak.socket);
    assert_eq!(cleared.get("by")["pid"], leak.socket.pid, "{cleared:?}");
}

#[test]
fn unread_data_is_told_from_an_unread_end_of_stream() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let (client, with_data) = scene.connection();
    assert_eq!(scene.client.write(&client, 12_345), 12_345);
    scene.client.close(&client);
    let (client, with_end) = scene.connection();
    scene.client.close(&client);

    let stuck = tracer.await_stuck(&with_data);
    assert_eq!((stuck.text("cause"), stuck.int("recv_queue")), ("data_unread", 12_345), "{stuck:?}");
    assert_held(&stuck, &with_data, &[(with_data.pid, with_data.fd)]);
    let seen = witness::find(&with_data).expect("it is still there");
    assert_eq!(seen.recv_queue, 12_346, "ss counts the FIN for a byte");

    let stuck = tracer.await_stuck(&with_end);
    assert_eq!((stuck.text("cause"), stuck.int("recv_queue")), ("eof_unread", 0), "{stuck:?}");
    assert_held(&stuck, &with_end, &[(with_end.pid, with_end.fd)]);
}

#[test]
fn a_process_that_cannot_send_to_a_peer_that_does_not_read_is_sending() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.read_to_the_end(&server);
    let written = scene.server.write(&server, 64 << 20);
    assert!(written < 64 << 20, "the kernel took everything");
    let stuck = tracer.await_stuck(&server);
    assert_eq!((stuck.text("cause"), stuck.int("recv_queue")), ("sending", 0), "{stuck:?}");
    let unsent = stuck.int("send_queue");
    assert!(unsent > 0 && unsent <= written, "{unsent} of {written} bytes");
    assert_held(&stuck, &server, &[(server.pid, server.fd)]);
}

#[test]
fn a_connection_that_nobody_accepts_has_no_holder_but_those_of_its_listener() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let client = scene.client.connect(scene.address());
    scene.client.close(&client);
    let server = Sock {
        pid: 0,
        fd: 0,
        local: client.remote.expect("connected"),
        remote: Some(client.local),
        netns: scene.netns(),
    };
    let stuck = tracer.await_stuck(&server);
    assert_eq!(stuck.text("cause"), "not_accepted", "{stuck:?}");
    assert_eq!(
        (stuck.text("owner_how"), stuck.holders()),
        ("listener", vec![(scene.server.pid(), scene.listener.fd)])
    );
    assert_eq!(witness::find(&server).expect("it is still there").holders, []);

    // Accepted and closed: no longer stuck, and by whom.
    let accepted = scene.server.accept(&scene.listener);
    assert_eq!(accepted.remote, Some(client.local));
    scene.server.close(&accepted);
    assert_eq!(tracer.await_cleared(&server).get("by")["pid"], scene.server.pid());
}

#[test]
fn every_descriptor_of_a_shared_socket_is_named() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    let copy = scene.server.dup(&leak.socket);
    let child = scene.server.fork();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak.socket);
    let mut holders = vec![
        (leak.socket.pid, leak.socket.fd),
        (leak.socket.pid, copy.fd),
        (child, leak.socket.fd),
        (child, copy.fd),
    ];
    holders.sort_unstable();
    assert_held(&stuck, &leak.socket, &holders);
}

#[test]
fn holders_are_the_same_without_the_file_iterator() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    let copy = scene.server.dup(&leak.socket);
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--without", "task-file"]);
    assert_eq!(tracer.records()[0].get("sources")["iter/task_file"]["in_use"], false);
    let stuck = tracer.await_stuck(&leak.socket);
    assert_held(&stuck, &leak.socket, &[(leak.socket.pid, leak.socket.fd), (leak.socket.pid, copy.fd)]);
}

#[test]
fn a_leak_is_reported_without_the_cookie_helper() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--transitions", "--without", "cookie"]);
    let leak = scene.leak();
    let stuck = tracer.await_stuck(&leak.socket);
    assert_eq!(stuck.holders(), [(leak.socket.pid, leak.socket.fd)]);
    scene.server.close(&leak.socket);
    let cleared = tracer.await_cleared(&leak.socket);
    let run = tracer.stop();
    let entered = step(&run.records, stuck.cookie(), ("ESTABLISHED", "CLOSE_WAIT"));
    assert!(is_close(stuck.number("age_ms"), ms_between(&entered, &stuck)), "{stuck:?} since {entered:?}");
    assert_eq!(cleared.cookie(), stuck.cookie());
}

#[test]
fn a_leak_in_a_namespace_that_all_processes_have_left_is_found_with_its_holder() {
    if feature::is_missing(
        feature::TASK_FILE,
        "a_leak_in_a_namespace_that_all_processes_have_left_is_found_with_its_holder",
    ) {
        return;
    }
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let mut scene = Scene::new();
    let leak = scene.leak();
    scene.server.leave_namespace();
    let Scene { client, mut server, namespace, .. } = scene;
    client.kill();
    drop(namespace); // this thread leaves too
    let stuck = tracer.await_stuck(&leak.socket);
    assert_eq!(stuck.holders(), [(leak.socket.pid, leak.socket.fd)]);
    assert_eq!((stuck.text("cause"), stuck.get("exact")), ("not_closed", &true.into()), "{stuck:?}");
    server.close(&leak.socket);
    assert_eq!(tracer.await_cleared(&leak.socket).get("by")["pid"], leak.socket.pid);
}

#[test]
fn a_socket_closed_just_before_the_threshold_is_never_reported() {
    const CLOSE_AFTER_MS: u64 = 600;
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", "1s", "--transitions"]);
    let end = std::time::Instant::now() + patience();
    loop {
        let closed_in_time = scene.leak();
        let marker = scene.leak();
        let close_at_ns = closed_in_time.not_before_ns + CLOSE_AFTER_MS * 1_000_000;
        while monotonic_ns() < close_at_ns {
            std::thread::sleep(std::time::Duration::from_millis(1)); // time itself has to pass
        }
        scene.server.close(&closed_in_time.socket);
        let left = tracer.await_record("it closed", |record| {
            record.is_about("transition", &closed_in_time.socket) && record.get("old_state") == "CLOSE_WAIT"
        });
        tracer.await_stuck(&marker.socket);
        let records = tracer.records();
        if left.number("in_old_state_ms") < 1_000.0 {
            let reported = records.iter().find(|record| record.is_about("stuck", &closed_in_time.socket));
            assert_eq!(reported, None, "it had been closed: {left:?}");
            return;
        }
        assert!(std::time::Instant::now() < end, "this machine is too busy to close a socket in time");
    }
}

#[test]
fn a_socket_that_is_still_stuck_is_repeated_at_the_interval_asked_for() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--remind", "200ms"]);
    let leak = scene.leak();
    let about_it = |records: &[Record]| -> Vec<Record> {
        records.iter().filter(|record| record.is_about("stuck", &leak.socket)).cloned().collect()
    };
    let reports = tracer.await_records("four reports", |records| {
        let reports = about_it(records);
        (reports.len() >= 4).then_some(reports)
    });
    for [before, after] in reports.array_windows() {
        assert!(ms_between(before, after) >= 200.0, "too early: {before:?} {after:?}");
        assert!(is_close(after.number("age_ms") - before.number("age_ms"), ms_between(before, after)));
        assert_eq!(before.get("since").as_str().map(str::len), after.get("since").as_str().map(str::len));
    }
    scene.server.close(&leak.socket);
    tracer.await_cleared(&leak.socket);
    let marker = scene.leak();
    tracer.await_record("a reminder of a later one", |record| {
        record.is_about("stuck", &marker.socket) && record.number("age_ms") >= THRESHOLD_MS + 200.0
    });
    let run = tracer.stop();
    let cleared = run.records.iter().position(|record| record.is_about("cleared", &leak.socket));
    let after = &run.records[cleared.expect("awaited")..];
    assert_eq!(about_it(after), [], "it was repeated after it had cleared");
}

#[test]
fn without_remind_a_stuck_socket_is_reported_once() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let leak = scene.leak();
    tracer.await_stuck(&leak.socket);
    let marker = scene.leak();
    tracer.await_stuck(&marker.socket);
    let run = tracer.stop();
    assert_eq!(run.records.iter().filter(|record| record.is_about("stuck", &leak.socket)).count(), 1);
}

#[test]
fn other_states_can_be_watched_and_then_close_wait_is_not() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--state", "fin-wait-2"]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.read_to_the_end(&server);
    witness::await_state(&client, "FIN-WAIT-2");
    let stuck = tracer.await_stuck(&client);
    assert_eq!((stuck.text("state"), stuck.text("cause")), ("FIN_WAIT2", "peer"));
    assert_eq!(stuck.holders(), [(client.pid, client.fd)]);
    scene.server.close(&server);
    let left_for = if feature::why_not(feature::TIME_WAIT).is_none() { "TIME_WAIT" } else { "CLOSE" };
    assert_eq!(tracer.await_cleared(&client).text("new_state"), left_for);
    let run = tracer.stop();
    let elsewhere = |record: &&Record| record.is("stuck") && record.get("state") != "FIN_WAIT2";
    assert_eq!(run.records.iter().find(elsewhere), None);
}

#[test]
fn the_same_ends_in_two_namespaces_are_two_sockets() {
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let mut leaks = Vec::new();
    for _ in 0..2 {
        let namespace = tests::Namespace::new();
        let mut puppet = Puppet::new();
        let listener = puppet.listen("127.0.0.1:9666");
        let (client, server) = puppet.pairs(&listener, 1)[0];
        puppet.close(&client);
        puppet.read_to_the_end(&server);
        leaks.push((server, puppet, namespace));
    }
    let records = [0, 1].map(|at: usize| tracer.await_stuck(&leaks[at].0));
    assert_ne!(records[0].cookie(), records[1].cookie());
    for (record, (server, ..)) in records.iter().zip(&leaks) {
        assert_eq!((record.local().port(), record.holders()), (9666, vec![(server.pid, server.fd)]));
    }
    // The later one first: each namespace leads back to where the thread was before.
    while let Some(last) = leaks.pop() {
        drop(last);
    }
}
