//! Connections that wait in an accept queue: who holds the listener, and how full the queue is.

use std::net::SocketAddr;

use tests::{Namespace, Puppet, Record, Sock, Tracer, feature, process::poll_until, witness, witness::Seen};

const THRESHOLD: &str = "200ms";

/// Makes a connection that its client has closed and nobody has accepted. Returns the server's
/// end.
fn leave_waiting(client: &mut Puppet, to: SocketAddr) -> Sock {
    let ours = client.connect(to);
    client.close(&ours);
    let remote = Some(ours.local);
    let waiting = Sock { pid: 0, fd: 0, local: ours.remote.expect("connected"), remote, netns: ours.netns };
    let seen = witness::await_state(&waiting, "CLOSE-WAIT");
    assert_eq!(seen.holders, []);
    waiting
}

/// Returns the listener as `ss` shows it.
fn seen_listening(listener: &Sock) -> Seen {
    let is_it = |seen: &Seen| {
        seen.state == "LISTEN"
            && seen.local == listener.local
            && seen.holders.contains(&(listener.pid, listener.fd))
    };
    witness::all().into_iter().find(is_it).unwrap_or_else(|| panic!("ss does not show {listener:?}"))
}

/// Asserts that a record says of the listener and its holders what `ss` says.
fn assert_waits_for(stuck: &Record, listener: &Sock, holders: &[(u32, u32)]) {
    assert_eq!((stuck.text("cause"), stuck.text("owner_how")), ("not_accepted", "listener"), "{stuck:?}");
    assert_eq!(stuck.holders(), holders, "{stuck:?}");
    assert!(stuck.get("origin").is_null(), "nobody has accepted it: {stuck:?}");
    let seen = seen_listening(listener);
    let told = stuck.get("listener");
    assert_eq!(told["local_addr"], listener.local.ip().to_string(), "{stuck:?}");
    assert_eq!(told["local_port"], listener.local.port(), "{stuck:?}");
    assert_eq!(
        (&told["backlog"], &told["backlog_limit"]),
        (&seen.recv_queue.into(), &seen.send_queue.into())
    );
    if feature::why_not(feature::COOKIE).is_none() {
        assert_eq!(told["cookie"], seen.cookie, "{stuck:?}");
    }
}

#[test]
fn the_listener_is_told_with_the_depth_and_the_limit_of_its_queue() {
    let _namespace = Namespace::new();
    let (mut client, mut server) = (Puppet::new(), Puppet::new());
    let listener = server.listen_with("127.0.0.1:0", 5, "");
    let waiting = [0; 3].map(|_| leave_waiting(&mut client, listener.local));
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--remind", "200ms"]);
    for socket in &waiting {
        let stuck = tracer.await_stuck(socket);
        assert_waits_for(&stuck, &listener, &[(server.pid(), listener.fd)]);
        let told = stuck.get("listener");
        assert_eq!((&told["backlog"], &told["backlog_limit"]), (&3.into(), &5.into()), "{stuck:?}");
    }
    // Accepted: the process's own, and one less in the queue.
    let accepted = server.accept(&listener);
    assert_eq!((accepted.local, accepted.remote), (waiting[0].local, waiting[0].remote), "first come");
    let stuck = tracer.await_record("it as the server's", |record| {
        record.is_about("stuck", &accepted) && record.text("owner_how") == "fd"
    });
    assert_eq!((stuck.text("cause"), stuck.holders()), ("eof_unread", vec![(server.pid(), accepted.fd)]));
    assert!(stuck.get("listener").is_null(), "{stuck:?}");
    let stuck = tracer.await_record("a shorter queue", |record| {
        record.is_about("stuck", &waiting[2]) && record.get("listener")["backlog"] == 2
    });
    assert_waits_for(&stuck, &listener, &[(server.pid(), listener.fd)]);
}

#[test]
fn all_who_hold_the_listener_are_named() {
    let _namespace = Namespace::new();
    let (mut client, mut server) = (Puppet::new(), Puppet::new());
    let listener = server.listen("127.0.0.1:0");
    let worker = server.fork();
    let waiting = leave_waiting(&mut client, listener.local);
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let mut holders = [(server.pid(), listener.fd), (worker, listener.fd)];
    holders.sort_unstable();
    let stuck = tracer.await_stuck(&waiting);
    assert_waits_for(&stuck, &listener, &holders);
    assert_eq!(seen_listening(&listener).holders, holders);
}

#[test]
fn of_the_listeners_that_share_a_port_the_one_with_the_queue_is_named() {
    let _namespace = Namespace::new();
    let mut client = Puppet::new();
    let mut servers = [(); 4].map(|()| Puppet::new());
    let first = servers[0].listen_with("127.0.0.1:0", 16, "reuseport");
    let address = first.local.to_string();
    let listeners: Vec<Sock> = std::iter::once(first)
        .chain(servers[1..].iter_mut().map(|server| server.listen_with(&address, 16, "reuseport")))
        .collect();
    let waiting = leave_waiting(&mut client, first.local);
    let chosen: Vec<&Sock> =
        listeners.iter().filter(|listener| seen_listening(listener).recv_queue == 1).collect();
    let [chosen] = chosen[..] else { panic!("in one queue: {chosen:?}") };
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&waiting);
    assert_waits_for(&stuck, chosen, &[(chosen.pid, chosen.fd)]);
}

#[test]
fn of_the_listeners_that_share_a_port_all_with_a_queue_are_named() {
    let _namespace = Namespace::new();
    let mut client = Puppet::new();
    let mut servers = [(); 2].map(|()| Puppet::new());
    let first = servers[0].listen_with("127.0.0.1:0", 64, "reuseport");
    let second = servers[1].listen_with(&first.local.to_string(), 64, "reuseport");
    let mut waiting = Vec::new();
    poll_until("a queue in both", || {
        waiting.push(leave_waiting(&mut client, first.local));
        let queued = [&first, &second].map(|listener| seen_listening(listener).recv_queue);
        queued.iter().all(|queued| *queued > 0).then_some(())
    });
    let mut holders = [(first.pid, first.fd), (second.pid, second.fd)];
    holders.sort_unstable();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    for socket in &waiting {
        // Which of the two cannot be told from outside.
        let stuck = tracer.await_stuck(socket);
        let mut named = stuck.holders();
        named.sort_unstable();
        assert_eq!((stuck.text("owner_how"), &named[..]), ("listener", &holders[..]), "{stuck:?}");
    }
}

#[test]
fn a_dual_stack_listener_is_told_for_a_client_of_either_family() {
    let _namespace = Namespace::new();
    let (mut client, mut server) = (Puppet::new(), Puppet::new());
    let listener = server.listen("[::]:0");
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let waiting = ["127.0.0.1", "[::1]"].map(|host| {
        let to = format!("{host}:{}", listener.local.port()).parse().expect("an address");
        leave_waiting(&mut client, to)
    });
    for (socket, family) in waiting.iter().zip(["ipv4", "ipv6"]) {
        let stuck = tracer.await_stuck(socket);
        assert_eq!(stuck.text("family"), family);
        let told = stuck.get("listener");
        assert_eq!((stuck.text("owner_how"), &told["local_addr"]), ("listener", &"::".into()), "{stuck:?}");
        assert_eq!(stuck.holders(), [(server.pid(), listener.fd)]);
    }
}

#[test]
fn listeners_of_either_family_at_one_port_each_have_their_own() {
    let _namespace = Namespace::new();
    let mut client = Puppet::new();
    let (mut v4, mut v6) = (Puppet::new(), Puppet::new());
    let of_v4 = v4.listen("0.0.0.0:0");
    let of_v6 = v6.listen_with(&format!("[::]:{}", of_v4.local.port()), 7, "v6only");
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    for (host, listener) in [("127.0.0.1", &of_v4), ("[::1]", &of_v6)] {
        let to = format!("{host}:{}", listener.local.port()).parse().expect("an address");
        let stuck = tracer.await_stuck(&leave_waiting(&mut client, to));
        assert_waits_for(&stuck, listener, &[(listener.pid, listener.fd)]);
    }
}

#[test]
fn a_listener_at_the_address_is_told_from_one_at_all_addresses() {
    let _namespace = Namespace::new();
    let mut client = Puppet::new();
    let (mut all, mut one) = (Puppet::new(), Puppet::new());
    let at_all = all.listen_with("0.0.0.0:0", 6, "reuseport");
    let at_one = one.listen_with(&format!("127.0.0.2:{}", at_all.local.port()), 7, "reuseport");
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    for (host, listener) in [("127.0.0.1", &at_all), ("127.0.0.2", &at_one)] {
        let to = SocketAddr::new(host.parse().expect("an address"), at_all.local.port());
        let stuck = tracer.await_stuck(&leave_waiting(&mut client, to));
        assert_waits_for(&stuck, listener, &[(listener.pid, listener.fd)]);
    }
}

#[test]
fn the_same_port_in_two_namespaces_is_two_listeners() {
    if feature::is_missing(feature::TP_BTF, "the_same_port_in_two_namespaces_is_two_listeners") {
        return;
    }
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let mut scenes = Vec::new();
    for limit in [5, 6] {
        let namespace = Namespace::new();
        let (mut client, mut server) = (Puppet::new(), Puppet::new());
        let listener = server.listen_with("127.0.0.1:9777", limit, "");
        let waiting = leave_waiting(&mut client, listener.local);
        scenes.push((waiting, listener, client, server, namespace));
    }
    for (waiting, listener, .., namespace) in &scenes {
        namespace.enter();
        let stuck = tracer.await_stuck(waiting);
        assert_waits_for(&stuck, listener, &[(listener.pid, listener.fd)]);
    }
    // The later one first: each namespace leads back to where the thread was before.
    while let Some(last) = scenes.pop() {
        drop(last);
    }
}
