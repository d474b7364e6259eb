//! A socket's origin: which thread connected or accepted it, and when. It stays with the socket,
//! whoever holds it later.

use tests::{
    Record, Tracer, feature, monotonic_ns, scene::Scene, schema::unix_ns, witness, witness::assert_held,
};

const THRESHOLD: &str = "200ms";

/// What a test knows about the origin of its socket.
#[derive(Debug)]
struct Made {
    pid: u32,
    tid: u32,
    comm: &'static str,
    how: &'static str,
    /// `CLOCK_MONOTONIC` before and after the call.
    not_before_ns: u64,
    not_after_ns: u64,
}

/// Asserts that a record has this origin. Two times of a record are as far apart as on
/// `CLOCK_MONOTONIC`.
fn assert_origin(stuck: &Record, made: &Made) {
    let origin = stuck.get("origin");
    assert!(origin.is_object(), "no origin, made as {made:?}: {stuck:?}");
    assert_eq!((&origin["pid"], &origin["tid"]), (&made.pid.into(), &made.tid.into()), "{stuck:?}");
    assert_eq!((&origin["comm"], &origin["how"]), (&made.comm.into(), &made.how.into()), "{stuck:?}");
    let time = origin["time"].as_str().expect("held against the contract");
    let age_ns = u64::try_from(unix_ns(stuck.text("time")) - unix_ns(time)).expect("it came before");
    let mono_ns = stuck.mono_ns() - age_ns;
    let brackets = made.not_before_ns..=made.not_after_ns;
    assert!(brackets.contains(&mono_ns), "{mono_ns} is not within {brackets:?}: {stuck:?}");
}

/// Has a thread of the client connect, and the server close the connection.
fn connect_in_a_thread(scene: &mut Scene) -> (tests::Sock, Made) {
    let not_before_ns = monotonic_ns();
    let (client, tid) = scene.client.in_thread("http-pool-7", format_args!("connect {}", scene.address()));
    let not_after_ns = monotonic_ns();
    let server = scene.server.accept(&scene.listener);
    scene.server.close(&server);
    assert_ne!(tid, client.pid);
    let made =
        Made { pid: client.pid, tid, comm: "http-pool-7", how: "connect", not_before_ns, not_after_ns };
    (client, made)
}

#[test]
fn a_connected_socket_tells_the_thread_that_connected_it() {
    if feature::is_missing(feature::STORAGE, "a_connected_socket_tells_the_thread_that_connected_it") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let (client, made) = connect_in_a_thread(&mut scene);
    let stuck = tracer.await_stuck(&client);
    assert_origin(&stuck, &made);
    assert_held(&stuck, &client, &[(client.pid, client.fd)]);
    assert_eq!(stuck.get("owners")[0]["comm"], "puppet", "of the process, not the thread");
}

#[test]
fn a_connected_socket_tells_it_from_its_transitions_too() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--transitions", "--without", "storage"]);
    let sources = tracer.records()[0].get("sources").clone();
    assert_eq!(sources[feature::STORAGE]["in_use"], false, "{sources}");
    let (client, made) = connect_in_a_thread(&mut scene);
    assert_origin(&tracer.await_stuck(&client), &made);
}

#[test]
fn the_origin_stays_when_the_socket_goes_to_another_process() {
    if feature::is_missing(feature::STORAGE, "the_origin_stays_when_the_socket_goes_to_another_process") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--remind", "200ms"]);
    let (client, made) = connect_in_a_thread(&mut scene);
    assert_origin(&tracer.await_stuck(&client), &made);

    // On its way, held by nobody: the origin is all that is left.
    scene.server.open_mailbox("box");
    scene.client.send(&client, "box");
    scene.client.close(&client);
    let on_its_way = tracer.await_record("it held by nobody", |record| {
        record.is_about("stuck", &client) && record.text("owner_how") == "origin"
    });
    assert_origin(&on_its_way, &made);
    let owners = on_its_way.get("owners").as_array().expect("a list");
    assert_eq!((owners.len(), &owners[0]["pid"]), (1, &client.pid.into()), "{on_its_way:?}");
    let known: Vec<_> = ["fd", "comm", "exe", "uid"].map(|field| owners[0][field].is_null()).into();
    assert_eq!(known, [true; 4], "its pid may be another's by now: {on_its_way:?}");
    assert_eq!(witness::find(&client).expect("it is there").holders, []);

    let received = scene.server.receive();
    let arrived = tracer.await_record("it held by another", |record| {
        record.is_about("stuck", &client)
            && record.text("owner_how") == "fd"
            && record.holders() == [(scene.server.pid(), received.fd)]
    });
    assert_origin(&arrived, &made);
    assert_held(&arrived, &client, &[(scene.server.pid(), received.fd)]);

    // Also when the process that it came from is gone.
    let Scene { client: gone, server: mut holder, namespace: _namespace, .. } = scene;
    gone.kill();
    let ended_ns = monotonic_ns();
    let orphan = tracer.await_record("a later one", |record| {
        record.is_about("stuck", &client) && record.mono_ns() > ended_ns
    });
    assert_origin(&orphan, &made);
    holder.close(&received);
    assert_eq!(tracer.await_cleared(&client).get("by")["pid"], holder.pid());
}

#[test]
fn an_accepted_socket_tells_the_thread_that_accepted_it() {
    if feature::is_missing(feature::ACCEPT, "an_accepted_socket_tells_the_thread_that_accepted_it") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let mut expected = Vec::new();
    for name in ["http-nio-exec-1", "http-nio-exec-2"] {
        let client = scene.client.connect(scene.address());
        let not_before_ns = monotonic_ns();
        let (server, tid) = scene.server.in_thread(name, format_args!("accept {}", scene.listener.fd));
        let not_after_ns = monotonic_ns();
        scene.client.close(&client);
        let made = Made { pid: server.pid, tid, comm: name, how: "accept", not_before_ns, not_after_ns };
        expected.push((server, made));
    }
    for (server, made) in &expected {
        let stuck = tracer.await_stuck(server);
        assert_origin(&stuck, made);
        assert_held(&stuck, server, &[(server.pid, server.fd)]);
        assert_eq!(stuck.get("owners")[0]["comm"], "puppet");
    }
}

#[test]
fn what_the_peer_does_to_an_accepted_socket_is_told_with_its_process() {
    let name = "what_the_peer_does_to_an_accepted_socket_is_told_with_its_process";
    if feature::is_missing(feature::ACCEPT, name) {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--transitions"]);
    let client = scene.client.connect(scene.address());
    let accept = format_args!("accept {}", scene.listener.fd);
    let (server, _) = scene.server.in_thread("http-nio-exec-1", accept);
    scene.client.close(&client);
    let left = tracer.await_record("the peer's FIN", |record| {
        record.is_about("transition", &server) && record.states() == ("ESTABLISHED", "CLOSE_WAIT")
    });
    let owner = left.get("owner");
    assert_eq!((&owner["pid"], &owner["uid"]), (&server.pid.into(), &0.into()), "{left:?}");
    assert_eq!(owner["comm"], "puppet", "the process's name, and not the thread's");
    assert_eq!((left.text("owner_how"), left.text("how")), ("origin", "peer"), "{left:?}");
    let run = tracer.stop();
    for record in run.life(left.cookie()) {
        let is_accepted = record.mono_ns() >= left.mono_ns();
        assert_eq!(record.get("owner").is_null(), !is_accepted, "nobody had it before: {record:?}");
    }
}

#[test]
fn a_socket_accepted_long_after_it_came_tells_who_accepted_it() {
    if feature::is_missing(feature::ACCEPT, "a_socket_accepted_long_after_it_came_tells_who_accepted_it") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--remind", "200ms"]);
    let client = scene.client.connect(scene.address());
    scene.client.close(&client);
    let waiting = tracer.await_record("a socket that waits", |record| {
        record.is("stuck") && record.is_in(scene.netns()) && record.text("cause") == "not_accepted"
    });
    assert!(waiting.get("origin").is_null(), "nobody has accepted it: {waiting:?}");
    let not_before_ns = monotonic_ns();
    let server = scene.server.accept(&scene.listener);
    let pid = server.pid;
    let made =
        Made { pid, tid: pid, comm: "puppet", how: "accept", not_before_ns, not_after_ns: monotonic_ns() };
    let stuck = tracer.await_record("it accepted", |record| {
        record.is_about("stuck", &server) && record.text("owner_how") == "fd"
    });
    assert_origin(&stuck, &made);
}

#[test]
fn a_socket_accepted_by_io_uring_tells_its_process() {
    let name = "a_socket_accepted_by_io_uring_tells_its_process";
    if feature::is_missing(feature::ACCEPT, name) {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let client = scene.client.connect(scene.address());
    let server = scene.server.accept_by_uring(&scene.listener);
    assert_eq!(server.remote, Some(client.local));
    scene.client.close(&client);
    let stuck = tracer.await_stuck(&server);
    let origin = stuck.get("origin");
    // By which of its threads, a worker of the kernel among them, is the ring's affair.
    assert_eq!((&origin["pid"], &origin["how"]), (&server.pid.into(), &"accept".into()), "{stuck:?}");
    assert_held(&stuck, &server, &[(server.pid, server.fd)]);
}

#[test]
fn nobody_is_made_up_for_an_accepted_socket_where_accept_is_not_seen() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--without", "accept"]);
    let sources = tracer.records()[0].get("sources").clone();
    assert_eq!(sources[feature::ACCEPT]["in_use"], false, "{sources}");
    let leak = scene.leak().socket;
    let stuck = tracer.await_stuck(&leak);
    assert!(stuck.get("origin").is_null(), "not the listener's, not the client's: {stuck:?}");
    assert_held(&stuck, &leak, &[(leak.pid, leak.fd)]);
}

#[test]
fn a_socket_from_before_the_start_has_no_origin_and_one_from_after_it_has() {
    let mut scene = Scene::new();
    let (before, _) = connect_in_a_thread(&mut scene);
    witness::await_state(&before, "CLOSE-WAIT");
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let (after, made) = connect_in_a_thread(&mut scene);
    let stuck = tracer.await_stuck(&before);
    assert!(stuck.get("origin").is_null(), "nobody can know: {stuck:?}");
    if feature::why_not(feature::STORAGE).is_none() {
        assert_origin(&tracer.await_stuck(&after), &made);
    }
}

#[test]
fn two_tracers_each_keep_their_own_origin() {
    if feature::is_missing(feature::STORAGE, "two_tracers_each_keep_their_own_origin") {
        return;
    }
    let mut scene = Scene::new();
    let first = Tracer::start(&["--stuck", THRESHOLD]);
    let (client, made) = connect_in_a_thread(&mut scene);
    let second = Tracer::start(&["--stuck", THRESHOLD]);
    assert!(second.await_stuck(&client).get("origin").is_null(), "it came later");
    assert_origin(&first.await_stuck(&client), &made);
    second.stop();
    // What the other one kept went with it, and nothing else.
    let (client, made) = connect_in_a_thread(&mut scene);
    assert_origin(&first.await_stuck(&client), &made);
}
