//! Every way in which a connection can end, and what its `life` says about it. Round-trip times
//! and retransmits are compared with `ss`.

use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
};

use tests::{Sock, Tracer, feature, life, monotonic_ns, process::poll_until, scene::Scene, witness};

#[test]
fn a_reset_is_told_by_both_ends_with_round_trip_and_retransmits_as_ss_shows_them() {
    if feature::is_missing(
        feature::TP_BTF,
        "a_reset_is_told_by_both_ends_with_round_trip_and_retransmits_as_ss_shows_them",
    ) {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, server) = scene.connection();
    scene.client.write(&client, 5_000);
    scene.server.read(&server, 5_000);
    // The last acknowledgement may be on its way still.
    let [shown, _] = [&client, &server].map(|socket| {
        poll_until("all acknowledged", || {
            witness::find(socket).filter(|seen| seen.send_queue == 0).map(|_| witness::counters(socket))
        })
    });
    scene.client.reset(&client);
    let [of_client, of_server] = [&client, &server].map(|socket| tracer.await_life(socket));
    assert_eq!(
        life::end(&of_client),
        ("reset_sent", None, "close", Some(client.pid.into())),
        "{of_client:?}"
    );
    let (reason, error, ..) = life::end(&of_server);
    assert_eq!((reason, error), ("reset_received", Some("ECONNRESET")), "{of_server:?}");
    let told = (of_client.int("rtt_us"), of_client.int("retransmits"));
    assert_eq!(told, (shown.rtt_us, shown.retransmits), "{of_client:?}");
    assert_eq!((life::bytes(&of_client), life::bytes(&of_server)), ((5_000, 0), (0, 5_000)));
}

#[test]
fn a_close_with_data_unread_is_a_reset_from_here() {
    if feature::is_missing(feature::TP_BTF, "a_close_with_data_unread_is_a_reset_from_here") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, server) = scene.connection();
    scene.client.write(&client, 100);
    poll_until("the data", || witness::find(&server).filter(|seen| seen.recv_queue == 100));
    scene.server.close(&server);
    let [of_client, of_server] = [&client, &server].map(|socket| tracer.await_life(socket));
    assert_eq!(
        life::end(&of_server),
        ("reset_sent", None, "close", Some(server.pid.into())),
        "{of_server:?}"
    );
    let expected = ("reset_received", Some("ECONNRESET"), "origin", Some(client.pid.into()));
    assert_eq!(life::end(&of_client), expected, "{of_client:?}");
    assert_eq!((life::bytes(&of_client), life::bytes(&of_server)), ((100, 0), (0, 100)));
}

#[test]
fn a_reset_of_what_the_peer_alone_has_closed_is_received() {
    if feature::is_missing(feature::TP_BTF, "a_reset_of_what_the_peer_alone_has_closed_is_received") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.read_to_the_end(&server);
    scene.client.reset(&client);
    let [of_client, of_server] = [&client, &server].map(|socket| tracer.await_life(socket));
    assert_eq!(
        life::end(&of_client),
        ("reset_sent", None, "close", Some(client.pid.into())),
        "{of_client:?}"
    );
    let (reason, error, ..) = life::end(&of_server);
    assert_eq!((reason, error), ("reset_received", Some("EPIPE")), "{of_server:?}");
    assert!(life::was_in(&of_server, &["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT"]), "{of_server:?}");
}

/// Returns a port of this namespace at which nobody listens.
fn nobody_at(scene: &mut Scene) -> SocketAddr {
    let listener = scene.server.listen("127.0.0.1:0");
    scene.server.close(&listener);
    listener.local
}

#[test]
fn a_connection_that_is_refused_has_a_life_too() {
    if feature::is_missing(feature::TP_BTF, "a_connection_that_is_refused_has_a_life_too") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let nobody = nobody_at(&mut scene);
    let before_ns = monotonic_ns();
    TcpStream::connect(nobody).expect_err("nobody listens");
    let after_ns = monotonic_ns();
    let refused = tracer.await_record("its life", |record| {
        record.is("life") && record.is_in(scene.netns()) && record.remote() == nobody
    });
    let expected = ("refused", Some("ECONNREFUSED"), "origin", Some(std::process::id().into()));
    assert_eq!(life::end(&refused), expected, "{refused:?}");
    assert!(refused.text("role") == "client" && life::was_in(&refused, &["SYN_SENT"]), "{refused:?}");
    assert_ne!(refused.local().port(), 0, "{refused:?}");
    assert!(refused.get("rtt_us").is_null(), "it never had one: {refused:?}");
    assert!((before_ns..=after_ns).contains(&refused.mono_ns()), "{refused:?}");
}

#[test]
fn a_connection_given_up_while_it_is_being_made_is_closed_here_and_its_retransmits_are_told() {
    if feature::is_missing(
        feature::TP_BTF,
        "a_connection_given_up_while_it_is_being_made_is_closed_here_and_its_retransmits_are_told",
    ) {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    // One waits, and there is no room for more: the kernel does not answer.
    let full = scene.server.listen_with("127.0.0.1:0", 0, "");
    scene.client.connect(full.local);
    let second = scene.client.connect_in_the_background(full.local);
    let shown = poll_until("a SYN sent again", || {
        Some(witness::counters(&second)).filter(|shown| shown.retransmits > 0)
    });
    scene.client.close(&second);
    let given_up = tracer.await_life(&second);
    assert_eq!(life::end(&given_up), ("local_close", None, "close", Some(second.pid.into())), "{given_up:?}");
    assert!(given_up.text("role") == "client" && life::was_in(&given_up, &["SYN_SENT"]), "{given_up:?}");
    assert!(
        (shown.retransmits..=shown.retransmits + 1).contains(&given_up.int("retransmits")),
        "{given_up:?}"
    );
}

#[test]
fn a_peer_that_is_awaited_in_vain_is_a_timeout() {
    if feature::is_missing(feature::TP_BTF, "a_peer_that_is_awaited_in_vain_is_a_timeout") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (_, server) = scene.connection();
    let written = scene.server.write(&server, 64 << 20);
    assert!(written < 64 << 20, "the kernel took everything");
    scene.server.set_user_timeout(&server, 300);
    let timed_out = tracer.await_life(&server);
    let (reason, error, ..) = life::end(&timed_out);
    assert_eq!((reason, error), ("timeout", Some("ETIMEDOUT")), "{timed_out:?}");
    assert!(timed_out.int("bytes_sent") < written, "not all went out: {timed_out:?}");
}

#[test]
fn the_exit_of_its_process_is_what_ended_it() {
    if feature::is_missing(feature::TP_BTF, "the_exit_of_its_process_is_what_ended_it") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, open) = scene.connection();
    let (other, leaked) = scene.connection();
    scene.client.close(&other);
    scene.server.read_to_the_end(&leaked);
    let (talker, unread) = scene.connection();
    scene.client.write(&talker, 100);
    poll_until("the data", || witness::find(&unread).filter(|seen| seen.recv_queue == 100));
    let Scene { client: mut peer, server, namespace: _namespace, .. } = scene;
    server.exit();
    peer.read_to_the_end(&client);
    peer.close(&client);
    for socket in [open, leaked, unread] {
        let ended = tracer.await_life(&socket);
        assert_eq!(life::end(&ended), ("exit", None, "close", Some(socket.pid.into())), "{ended:?}");
        assert_eq!((&ended.get("owner")["comm"], ended.text("role")), (&"puppet".into(), "server"));
    }
    let of_peer = tracer.await_life(&client);
    assert_eq!(life::end(&of_peer), ("peer_close", None, "close", Some(client.pid.into())), "{of_peer:?}");
    assert_eq!(tracer.await_life(&other).text("close_reason"), "local_close");
    assert_eq!(tracer.await_life(&talker).text("close_reason"), "reset_received");
}

#[test]
fn a_connection_that_an_administrator_destroys() {
    if feature::is_missing(feature::TP_BTF, "a_connection_that_an_administrator_destroys") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, server) = scene.connection();
    let port = |socket: &Sock| format!("= :{}", socket.local.port());
    let mut kill = Command::new("ss");
    kill.args(["-tnKH", "sport", &port(&server), "dport", &port(&client)]);
    let output = kill.output().expect("ss (iproute2) is needed by these tests");
    assert!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    if witness::find(&server).is_some() {
        let why = "this kernel is built without CONFIG_INET_DIAG_DESTROY";
        return feature::tell_not_run("a_connection_that_an_administrator_destroys", "ss --kill", why);
    }
    let destroyed = tracer.await_life(&server);
    let (reason, error, ..) = life::end(&destroyed);
    assert_eq!((reason, error), ("destroyed", Some("ECONNABORTED")), "{destroyed:?}");
    assert_eq!(tracer.await_life(&client).text("close_reason"), "reset_received");
}

#[test]
fn what_nobody_accepted_is_reset_by_who_closes_the_listener_which_itself_has_no_life() {
    if feature::is_missing(
        feature::TP_BTF,
        "what_nobody_accepted_is_reset_by_who_closes_the_listener_which_itself_has_no_life",
    ) {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let client = scene.client.connect(scene.address());
    let child = Sock { local: client.remote.expect("connected"), remote: Some(client.local), ..client };
    poll_until("it in the queue", || witness::find(&child));
    let listener = scene.listener;
    scene.server.close(&listener);
    let of_child = tracer.await_life(&child);
    assert_eq!(
        life::end(&of_child),
        ("reset_sent", None, "close", Some(listener.pid.into())),
        "{of_child:?}"
    );
    assert_eq!(of_child.text("role"), "server");
    assert_eq!(tracer.await_life(&client).text("close_reason"), "reset_received");
    let run = tracer.stop();
    let remote_ports: Vec<_> =
        run.records_in(scene.netns()).iter().map(|record| record.remote().port()).collect();
    assert!(remote_ports.len() == 2 && !remote_ports.contains(&0), "{remote_ports:?}");
}

#[test]
fn who_accepted_it_is_the_owner_where_nobody_here_closed_it() {
    if feature::is_missing(feature::ACCEPT, "who_accepted_it_is_the_owner_where_nobody_here_closed_it") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, server) = scene.connection();
    scene.client.reset(&client);
    let of_server = tracer.await_life(&server);
    let expected = ("reset_received", Some("ECONNRESET"), "origin", Some(server.pid.into()));
    assert_eq!(life::end(&of_server), expected, "{of_server:?}");
    assert_eq!(of_server.get("owner")["comm"], "puppet");
}

#[test]
fn who_holds_it_at_the_end_closed_it_also_after_a_fork() {
    if feature::is_missing(feature::TP_BTF, "who_holds_it_at_the_end_closed_it_also_after_a_fork") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, server) = scene.connection();
    let child = scene.server.fork();
    scene.server.close(&server);
    assert_eq!(witness::find(&server).expect("the child has it").state, "ESTAB");
    let Scene { client: mut peer, server: parent, namespace: _namespace, .. } = scene;
    parent.exit();
    poll_until("the child to end", || {
        witness::find(&server).is_none_or(|seen| seen.state != "ESTAB").then_some(())
    });
    peer.close(&client);
    let of_server = tracer.await_life(&server);
    assert_eq!(life::end(&of_server), ("exit", None, "close", Some(child.into())), "{of_server:?}");
}
