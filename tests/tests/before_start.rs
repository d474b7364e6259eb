//! Sockets that were stuck before the tracer started: it finds them, and their age is a proven
//! lower bound.

use tests::{Puppet, Record, Sock, Tracer, feature, monotonic_ns, scene::Scene, witness};

/// Asserts that the age in a record fits the time at which the test knows the socket to have got
/// stuck.
fn assert_age_is_proven(stuck: &Record, not_before_ns: u64, not_after_ns: u64) {
    let ms_since = |ns: u64| (stuck.mono_ns() - ns) as f64 / 1e6;
    let (at_least, at_most) = (ms_since(not_after_ns), ms_since(not_before_ns));
    assert!(stuck.number("age_ms") <= at_most, "at most {at_most} ms: {stuck:?}");
    if let Some(bound) = stuck.get("age_max_ms").as_f64() {
        assert!(bound >= at_least, "at least {at_least} ms: {stuck:?}");
    }
}

fn wait_until(ns: u64) {
    while monotonic_ns() < ns {
        std::thread::sleep(std::time::Duration::from_millis(5)); // time itself has to pass
    }
}

fn ours(stuck: &Record, socket: &Sock) {
    assert_eq!(stuck.get("exact"), false, "{stuck:?}");
    assert_eq!(stuck.text("cause"), "not_closed");
    assert_eq!((stuck.text("owner_how"), stuck.holders()), ("fd", vec![(socket.pid, socket.fd)]));
    assert!(stuck.get("origin").is_null(), "nobody can know: {stuck:?}");
}

#[test]
fn sockets_stuck_before_the_start_are_reported_at_once_in_every_namespace() {
    let mut elsewhere = Scene::new();
    let leak_elsewhere = elsewhere.leak();
    let mut here = Scene::new();
    let leaks = [leak_elsewhere, here.leak()];
    wait_until(leaks[1].not_after_ns + 500_000_000);
    let started_ns = monotonic_ns();
    let tracer = Tracer::start(&["--stuck", "400ms"]);
    for leak in &leaks {
        let stuck = tracer.await_stuck(&leak.socket);
        ours(&stuck, &leak.socket);
        assert_age_is_proven(&stuck, leak.not_before_ns, leak.not_after_ns);
        // Judged by the socket's own clocks: its age is not counted from the start.
        let age_if_counted_from_start = (stuck.mono_ns() - started_ns) as f64 / 1e6;
        assert!(stuck.number("age_ms") > age_if_counted_from_start, "{stuck:?}");
    }
    // Both are cleared by their processes, also the one in the other namespace.
    elsewhere.server.close(&leaks[0].socket);
    here.server.close(&leaks[1].socket);
    for leak in &leaks {
        let cleared = tracer.await_cleared(&leak.socket);
        assert_eq!(cleared.get("by")["pid"], leak.socket.pid);
        assert!(cleared.number("in_state_ms") <= (cleared.mono_ns() - leak.not_before_ns) as f64 / 1e6);
    }
    drop((here, elsewhere));
}

#[test]
fn a_cookie_is_that_of_ss_also_for_a_socket_opened_before_the_start() {
    if feature::is_missing(
        feature::COOKIE,
        "a_cookie_is_that_of_ss_also_for_a_socket_opened_before_the_start",
    ) {
        return;
    }
    let mut scene = Scene::new();
    let leak = scene.leak();
    let seen = witness::find(&leak.socket).expect("it leaks");
    let tracer = Tracer::start(&["--stuck", "100ms"]);
    assert_eq!(tracer.await_stuck(&leak.socket).cookie(), seen.cookie);
}

#[test]
fn a_socket_not_yet_stuck_at_the_start_is_reported_when_its_time_has_come() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    let tracer = Tracer::start(&["--stuck", "1500ms"]);
    let stuck = tracer.await_stuck(&leak.socket);
    ours(&stuck, &leak.socket);
    assert_age_is_proven(&stuck, leak.not_before_ns, leak.not_after_ns);
    assert!(stuck.number("age_ms") >= 1500.0, "{stuck:?}");
}

#[test]
fn a_socket_opened_before_the_start_that_gets_stuck_after_it_has_an_exact_age() {
    let mut scene = Scene::new();
    let (client, server) = scene.connection();
    let tracer = Tracer::start(&["--stuck", "300ms", "--transitions"]);
    let before_ns = monotonic_ns();
    scene.client.close(&client);
    scene.server.read_to_the_end(&server);
    let after_ns = monotonic_ns();
    let stuck = tracer.await_stuck(&server);
    assert_eq!(stuck.get("exact"), true);
    assert_age_is_proven(&stuck, before_ns, after_ns);
    let entered = tracer.await_record("its transition", |record| {
        record.is_about("transition", &server) && record.get("new_state") == "CLOSE_WAIT"
    });
    // It was there before: how long it had been established is not known.
    assert!(entered.get("in_old_state_ms").is_null(), "{entered:?}");
    let age = (stuck.mono_ns() - entered.mono_ns()) as f64 / 1e6;
    assert!((stuck.number("age_ms") - age).abs() < 0.002, "{stuck:?} since {entered:?}");
}

#[test]
fn a_socket_stuck_before_the_start_in_a_namespace_without_processes_is_found_through_its_holder() {
    if feature::is_missing(
        feature::TASK_FILE,
        "a_socket_stuck_before_the_start_in_a_namespace_without_processes_is_found_through_its_holder",
    ) {
        return;
    }
    let mut scene = Scene::new();
    let leak = scene.leak();
    scene.server.leave_namespace();
    let Scene { client, server, namespace, .. } = scene;
    client.kill();
    drop(namespace);
    let tracer = Tracer::start(&["--stuck", "100ms"]);
    let stuck = tracer.await_stuck(&leak.socket);
    ours(&stuck, &leak.socket);
    assert_age_is_proven(&stuck, leak.not_before_ns, leak.not_after_ns);
    server.kill();
    assert_eq!(tracer.await_cleared(&leak.socket).get("by")["pid"], leak.socket.pid);
}

#[test]
fn the_start_record_counts_the_open_sockets() {
    let scene_before = Tracer::start(&["--stuck", "1h"]);
    let namespace = tests::Namespace::new();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    let pairs = puppet.pairs(&listener, 200);
    let tracer = Tracer::start(&["--stuck", "1h"]);
    let counted = tracer.records()[0].int("sockets");
    assert!(counted > 2 * pairs.len() as u64, "{counted} sockets, and we alone have opened 401");
    drop((scene_before, namespace));
}
