//! `--transitions`: every transition of each end of a connection, in order, with the cookie that
//! `ss` shows.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use tests::{
    Namespace, Puppet, Record, Sock, Tracer, feature, monotonic_ns,
    record::with_gaps,
    scene::Scene,
    tracer::Finished,
    witness::{self, Seen},
};

const CLIENT: [(&str, &str); 5] = [
    ("CLOSE", "SYN_SENT"),
    ("SYN_SENT", "ESTABLISHED"),
    ("ESTABLISHED", "FIN_WAIT1"),
    ("FIN_WAIT1", "FIN_WAIT2"),
    ("FIN_WAIT2", "CLOSE"),
];

const SERVER: [(&str, &str); 5] = [
    ("LISTEN", "SYN_RECV"),
    ("SYN_RECV", "ESTABLISHED"),
    ("ESTABLISHED", "CLOSE_WAIT"),
    ("CLOSE_WAIT", "LAST_ACK"),
    ("LAST_ACK", "CLOSE"),
];

const LISTENER: [(&str, &str); 2] = [("CLOSE", "LISTEN"), ("LISTEN", "CLOSE")];

/// Returns the cookie in a socket's records: the one that `ss` shows or, if the kernel gives BPF
/// programs none, that of the first record with these ends.
fn identity(tracer: &Tracer, socket: &Sock, seen: &Seen) -> u64 {
    if feature::why_not(feature::COOKIE).is_none() {
        return seen.cookie;
    }
    let listens = |record: &Record| {
        socket.remote.is_none() && record.get("new_state") == "LISTEN" && record.local() == socket.local
    };
    let is_its = |record: &Record| {
        record.is_about("transition", socket) || (record.is_in(socket.netns) && listens(record))
    };
    tracer.await_record("its first", |record| record.is("transition") && is_its(record)).cookie()
}

#[test]
fn both_ends_of_an_ipv4_connection_are_followed_from_first_to_last() {
    both_ends_are_followed("127.0.0.1:0", None, "ipv4");
}

#[test]
fn both_ends_of_an_ipv6_connection_are_followed_from_first_to_last() {
    both_ends_are_followed("[::1]:0", None, "ipv6");
}

#[test]
fn a_dual_stack_listener_reached_over_ipv4_is_reported_as_ipv4() {
    both_ends_are_followed("[::]:0", Some("127.0.0.1"), "ipv4");
}

#[test]
fn an_ipv6_socket_connected_to_a_mapped_address_is_reported_as_ipv4() {
    both_ends_are_followed("127.0.0.1:0", Some("[::ffff:127.0.0.1]"), "ipv4");
}

#[test]
fn a_dual_stack_listener_and_a_mapped_client_are_reported_as_ipv4() {
    both_ends_are_followed("[::]:0", Some("[::ffff:127.0.0.1]"), "ipv4");
}

/// Asserts all transitions of a connection that the client closes first, and of its listener.
fn both_ends_are_followed(listen: &str, connect: Option<&str>, family: &str) {
    let namespace = Namespace::new();
    let tracer = Tracer::start(&["--transitions"]);
    let (mut client_process, mut server_process) = (Puppet::new(), Puppet::new());
    let listener = server_process.listen(listen);
    let address = match connect {
        Some(host) => format!("{host}:{}", listener.local.port()).parse().expect("an address"),
        None => listener.local,
    };
    let client = client_process.connect(address);
    let server = server_process.accept(&listener);
    let [of_client, of_server, of_listener] =
        [&client, &server, &listener].map(|socket| match witness::find(socket) {
            Some(seen) => seen,
            None => panic!("ss does not show {socket:?} but {:?}", witness::all()),
        });
    assert_eq!([&of_client.state, &of_server.state, &of_listener.state], ["ESTAB", "ESTAB", "LISTEN"]);
    let cookies = [(&client, &of_client), (&server, &of_server), (&listener, &of_listener)]
        .map(|(socket, seen)| identity(&tracer, socket, seen));
    client_process.close(&client);
    server_process.read_to_the_end(&server);
    server_process.close(&server);
    server_process.close(&listener);
    for cookie in cookies {
        tracer.await_record("its CLOSE", |record| {
            record.is("transition") && record.cookie() == cookie && record.is_last()
        });
    }
    let run = tracer.stop();

    let lives = cookies.map(|cookie| run.life(cookie));
    let total = run.records_in(namespace.inode()).len();
    assert_eq!(total, lives.iter().map(Vec::len).sum::<usize>(), "{:?}", run.records_in(namespace.inode()));
    let [of_client, of_server, of_listener] = &lives;
    assert_life(&run, of_client, &CLIENT, &client, family);
    assert_life(&run, of_server, &SERVER, &server, family);
    let listening_family = if listener.local.is_ipv4() { "ipv4" } else { "ipv6" };
    assert_life(&run, of_listener, &LISTENER, &listener, listening_family);

    // Who did it is told where the task on the CPU is the one that acts, and never wrongly.
    for (record, how, pid) in [
        (&of_client[0], "origin", client.pid),
        (&of_client[1], "origin", client.pid),
        (&of_client[2], "close", client.pid),
        (&of_server[3], "close", server.pid),
        (&of_listener[0], "origin", listener.pid),
        (&of_listener[1], "close", listener.pid),
    ] {
        assert_eq!((record.text("owner_how"), &record.get("owner")["pid"]), (how, &pid.into()), "{record:?}");
        assert_eq!(record.get("owner")["uid"], 0);
        assert_eq!(record.get("owner")["comm"], "puppet", "{record:?}");
    }
    for (life, pid) in [(of_client, client.pid), (of_server, server.pid), (of_listener, listener.pid)] {
        for record in life.iter().filter(|record| !record.get("owner").is_null()) {
            assert_eq!(record.get("owner")["pid"], pid, "{record:?}");
        }
        for record in life {
            assert_eq!(record.get("owner").is_null(), record.text("owner_how") == "none", "{record:?}");
        }
    }
}

/// Returns the states of a transition from the socket's view: it is closed once a timewait socket
/// stands in for it. `time_wait.rs` tests the states of that.
fn step(record: &Record) -> (&str, &str) {
    let (old, new) = record.states();
    (old, if record.get("stand_in") == true { "CLOSE" } else { new })
}

/// Asserts that records are exactly these steps, in the order of their times, with the right ends.
fn assert_life(run: &Finished, life: &[Record], steps: &[(&str, &str)], socket: &Sock, family: &str) {
    assert_eq!(life.iter().map(step).collect::<Vec<_>>(), steps);
    let sees_stand_ins = run.records[0].get("sources")[feature::TIME_WAIT]["in_use"] == true;
    let is_replaced = steps.last() == CLIENT.last() && sees_stand_ins;
    assert_eq!(life.last().expect("steps").get("stand_in"), is_replaced, "{life:?}");
    assert!(life.is_sorted_by_key(Record::mono_ns), "{life:?}");
    let nowhere = SocketAddr::new(
        if family == "ipv4" {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        },
        0,
    );
    for record in life {
        assert!(record.is_in(socket.netns), "{record:?}");
        assert_eq!(record.text("family"), family, "{record:?}");
        match record.states() {
            // The kernel has yet to choose its port, and with it its address.
            ("CLOSE", "SYN_SENT") => assert_eq!(record.local().port(), 0, "{record:?}"),
            _ => assert_eq!(record.local(), socket.local, "{record:?}"),
        }
        match record.states() {
            // Before Linux 6.18 a listener's child does not know its peer yet.
            ("LISTEN", "SYN_RECV") if record.remote().port() == 0 => {}
            _ => assert_eq!(record.remote(), socket.remote.unwrap_or(nowhere), "{record:?}"),
        }
    }
    assert!(life[0].get("in_old_state_ms").is_null(), "{:?}", life[0]);
    for [before, after] in life.array_windows() {
        let ms = (after.mono_ns() - before.mono_ns()) as f64 / 1e6;
        assert!(
            (after.number("in_old_state_ms") - ms).abs() < 0.002,
            "{after:?} is {ms} ms after {before:?}"
        );
    }
}

#[test]
fn reused_kernel_addresses_never_mix_two_sockets() {
    let has_cookie = feature::why_not(feature::COOKIE).is_none();
    every_socket_is_one_of_its_own(
        "reused_kernel_addresses_never_mix_two_sockets",
        &["--transitions"],
        has_cookie,
    );
}

#[test]
fn reused_kernel_addresses_never_mix_two_sockets_without_the_cookie_helper() {
    every_socket_is_one_of_its_own(
        "reused_kernel_addresses_never_mix_two_sockets_without_the_cookie_helper",
        &["--transitions", "--without", "cookie"],
        false,
    );
}

/// Makes many connections, one after the other: the kernel reuses a closed socket's memory for the
/// next.
fn every_socket_is_one_of_its_own(test: &str, arguments: &[&str], has_cookie: bool) {
    const CONNECTIONS: usize = 300;
    let namespace = Namespace::new();
    let tracer = Tracer::start(arguments);
    let mut puppet = Puppet::new();
    let before_ns = monotonic_ns();
    let listener = puppet.listen("127.0.0.1:0");
    let connections = puppet.churn(&listener, CONNECTIONS);
    puppet.close(&listener);
    let netns = namespace.inode();
    let expected = CONNECTIONS * (CLIENT.len() + SERVER.len()) + LISTENER.len();
    let lost = |record: &Record| if record.is("lost") { record.int("lost") } else { 0 };
    tracer.await_records("all of them", |records| {
        let came = records.iter().filter(|record| record.is_in(netns)).count();
        (came as u64 + records.iter().map(lost).sum::<u64>() >= expected as u64).then_some(())
    });
    let run = tracer.stop();
    let missing = expected.checked_sub(run.records_in(netns).len());
    assert!(
        feature::are_told(missing, &run.records[0], run.summary()),
        "{missing:?} missing; not whole: {:?}; {:?}",
        with_gaps(&run.records, netns),
        run.summary()
    );
    if feature::has_skipped(&run, test) {
        return;
    }
    let took_ms = (monotonic_ns() - before_ns) as f64 / 1e6;

    assert_eq!(run.records[0].get("sources")["socket_cookie"]["in_use"], has_cookie);
    let records = run.records_in(netns);
    let not_whole = with_gaps(&run.records, netns);
    assert_eq!(records.len(), expected, "not whole: {not_whole:?}; {:?}", run.summary());
    let mut lives: HashMap<u64, Vec<Record>> = HashMap::new();
    for record in records {
        lives.entry(record.cookie()).or_default().push(record);
    }
    assert_eq!(lives.len(), 2 * CONNECTIONS + 1);
    // A kernel may give the same port again: the n-th connection between two ends is their n-th
    // life.
    let mut lives: Vec<&Vec<Record>> = lives.values().collect();
    lives.sort_unstable_by_key(|life| life[0].mono_ns());
    let mut by_ends: HashMap<_, VecDeque<_>> = HashMap::new();
    for life in lives {
        let last = life.last().expect("not empty");
        by_ends.entry((last.local(), last.remote())).or_default().push_back(life);
    }
    for (client, server) in &connections {
        for (socket, steps) in [(client, &CLIENT), (server, &SERVER)] {
            let ends = (socket.local, socket.remote.expect("connected"));
            let life = by_ends.get_mut(&ends).and_then(VecDeque::pop_front).expect("a life of these ends");
            assert_life(&run, life, steps, socket, "ipv4");
            let spent: f64 = life[1..].iter().map(|record| record.number("in_old_state_ms")).sum();
            assert!(spent <= took_ms, "{spent} ms in {took_ms} ms: {life:?}");
        }
    }
}

#[test]
fn no_record_lies_about_its_ends() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--transitions", "--lives"]);
    let mut last = Vec::new();
    // Closed by one and then by the other, reset, closed with data unread, refused, and never
    // accepted.
    let (client, server) = scene.connection();
    scene.client.close(&client);
    scene.server.read_to_the_end(&server);
    scene.server.close(&server);
    last.extend([client, server]);
    let (client, server) = scene.connection();
    scene.client.reset(&client);
    last.extend([client, server]);
    let (client, server) = scene.connection();
    scene.client.write(&client, 100);
    scene.server.close(&server);
    last.extend([client, server]);
    std::net::TcpStream::connect(nobody_at(&mut scene)).expect_err("nobody listens");
    let client = scene.client.connect(scene.address());
    let child = Sock { local: client.remote.expect("connected"), remote: Some(client.local), ..client };
    scene.client.shutdown(&client);
    let listener = scene.listener;
    scene.server.close(&listener);
    last.extend([client, child]);
    for socket in &last {
        tracer.await_record(&format!("the life of {socket:?}"), |record| record.is_about("life", socket));
    }
    let run = tracer.stop();
    let records = run.records_in(scene.netns());
    assert!(records.iter().any(|record| record.is("life") && record.text("role") == "client"));
    for record in records {
        let listens = record.is("transition") && [record.states().0, record.states().1].contains(&"LISTEN");
        let connects = record.is("transition") && record.states() == ("CLOSE", "SYN_SENT");
        let becomes_a_child = record.is("transition") && record.states() == ("LISTEN", "SYN_RECV");
        assert!(record.local().port() != 0 || connects, "{record:?}");
        assert_eq!(record.remote().port() == 0, listens && !becomes_a_child, "{record:?}");
    }
}

/// Returns an address of this namespace at which nobody listens.
fn nobody_at(scene: &mut Scene) -> SocketAddr {
    let listener = scene.server.listen("127.0.0.1:0");
    scene.server.close(&listener);
    listener.local
}
