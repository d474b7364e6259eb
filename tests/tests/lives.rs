//! `--lives`: one record for each connection when it is over. Bytes are held against what the test wrote and read,
//! times against its own clock, round trips and retransmits against what `ss` shows.

use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
};

use serde_json::Value;
use tests::{
    Record, Signal, Sock, Tracer, TracerCommand, feature, monotonic_ns, process::poll_until, scene::Scene,
    schema::unix_ns, terminal, witness,
};

fn life(tracer: &Tracer, socket: &Sock) -> Record {
    tracer.await_record(&format!("the life of {socket:?}"), |record| record.is_about("life", socket))
}

/// (why it ended, with which error, how its owner is known, which process that is)
fn end(life: &Record) -> (&str, Option<&str>, &str, Option<u64>) {
    let error = life.get("error").as_str();
    (life.text("close_reason"), error, life.text("owner_how"), life.get("owner")["pid"].as_u64())
}

/// Whether it was in these states and no others.
fn was_in(life: &Record, states: &[&str]) -> bool {
    let told = life.get("states").as_object().expect("held against the contract");
    told.len() == states.len() && states.iter().all(|state| told.contains_key(*state))
}

/// (sent, received)
fn bytes(life: &Record) -> (u64, u64) {
    (life.int("bytes_sent"), life.int("bytes_received"))
}

/// Whether a test that needs errors, counters and names has none of them: without BTF.
fn lacks_btf(test: &str) -> bool {
    feature::is_missing(feature::TP_BTF, test)
}

#[test]
fn a_clean_close_tells_who_was_first_and_every_byte_both_ways() {
    if lacks_btf("a_clean_close_tells_who_was_first_and_every_byte_both_ways") {
        return;
    }
    for (sent, answered) in [(0, 0), (1, 0), (0, 1), (100_000, 12_345)] {
        let mut scene = Scene::new();
        let tracer = Tracer::start(&["--lives"]);
        let opening_ns = monotonic_ns();
        let (client, server) = scene.connection();
        let opened_ns = monotonic_ns();
        assert_eq!(scene.client.write(&client, sent), sent as u64);
        assert_eq!(scene.server.read(&server, sent), sent as u64);
        assert_eq!(scene.server.write(&server, answered), answered as u64);
        assert_eq!(scene.client.read(&client, answered), answered as u64);
        let closing_ns = monotonic_ns();
        scene.client.close(&client);
        scene.server.read_to_the_end(&server);
        scene.server.close(&server);
        let [of_client, of_server] = [&client, &server].map(|socket| life(&tracer, socket));
        let closed_ns = monotonic_ns();

        assert_eq!(end(&of_client), ("local_close", None, "close", Some(client.pid.into())), "{of_client:?}");
        assert_eq!(end(&of_server), ("peer_close", None, "close", Some(server.pid.into())), "{of_server:?}");
        assert_eq!((of_client.text("role"), of_server.text("role")), ("client", "server"));
        assert_eq!(bytes(&of_client), (sent as u64, answered as u64), "{of_client:?}");
        assert_eq!(bytes(&of_server), (answered as u64, sent as u64), "{of_server:?}");
        assert!(was_in(&of_client, &["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2"]), "{of_client:?}");
        assert!(was_in(&of_server, &["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"]), "{of_server:?}");
        for (life, pid) in [(&of_client, client.pid), (&of_server, server.pid)] {
            assert_eq!(life.get("owner")["comm"], "puppet", "{life:?}");
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
            assert_eq!(life.get("owner")["exe"].as_str(), exe.to_str(), "{life:?}");
            // Since the wall clock may be set, the times are compared on the monotonic one.
            let lasted_ns = (life.number("duration_ms") * 1e6) as u64;
            // A duration is cut at a microsecond.
            let began_ns = life.mono_ns() - lasted_ns;
            assert!((opening_ns..=opened_ns + 1_000).contains(&began_ns), "{life:?}");
            assert!((closing_ns..=closed_ns).contains(&life.mono_ns()), "{life:?}");
            let opened = unix_ns(life.text("opened"));
            let lasted = unix_ns(life.text("time")) - opened;
            assert!((lasted - i128::from(lasted_ns)).abs() <= 1_000, "{life:?}");
            let states = life.get("states").as_object().expect("an object");
            let spent: f64 = states.values().filter_map(Value::as_f64).sum();
            assert!((life.number("duration_ms") - spent).abs() < 0.006, "{life:?}");
            let established_ms = states["ESTABLISHED"].as_f64().expect("a number");
            assert!(established_ms >= (closing_ns.saturating_sub(opened_ns)) as f64 / 1e6, "{life:?}");
        }
        let run = tracer.stop();
        assert_eq!(run.of(scene.netns()).len(), 2, "two lives and nothing else: {:?}", run.of(scene.netns()));
        assert_eq!(run.summary().int("lives"), run.count("life"));
    }
}

#[test]
fn a_reset_is_told_by_both_ends_with_round_trip_and_retransmits_as_ss_shows_them() {
    if lacks_btf("a_reset_is_told_by_both_ends_with_round_trip_and_retransmits_as_ss_shows_them") {
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
    let [of_client, of_server] = [&client, &server].map(|socket| life(&tracer, socket));
    assert_eq!(end(&of_client), ("reset_sent", None, "close", Some(client.pid.into())), "{of_client:?}");
    let (reason, error, ..) = end(&of_server);
    assert_eq!((reason, error), ("reset_received", Some("ECONNRESET")), "{of_server:?}");
    let told = (of_client.int("rtt_us"), of_client.int("retransmits"));
    assert_eq!(told, (shown.rtt_us, shown.retransmits), "{of_client:?}");
    assert_eq!((bytes(&of_client), bytes(&of_server)), ((5_000, 0), (0, 5_000)));
}

#[test]
fn a_close_with_data_unread_is_a_reset_from_here() {
    if lacks_btf("a_close_with_data_unread_is_a_reset_from_here") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, server) = scene.connection();
    scene.client.write(&client, 100);
    poll_until("the data", || witness::find(&server).filter(|seen| seen.recv_queue == 100));
    scene.server.close(&server);
    let [of_client, of_server] = [&client, &server].map(|socket| life(&tracer, socket));
    assert_eq!(end(&of_server), ("reset_sent", None, "close", Some(server.pid.into())), "{of_server:?}");
    let expected = ("reset_received", Some("ECONNRESET"), "origin", Some(client.pid.into()));
    assert_eq!(end(&of_client), expected, "{of_client:?}");
    assert_eq!((bytes(&of_client), bytes(&of_server)), ((100, 0), (0, 100)));
}

#[test]
fn a_reset_of_what_the_peer_alone_has_closed_is_received() {
    if lacks_btf("a_reset_of_what_the_peer_alone_has_closed_is_received") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.read_to_the_end(&server);
    scene.client.reset(&client);
    let [of_client, of_server] = [&client, &server].map(|socket| life(&tracer, socket));
    assert_eq!(end(&of_client), ("local_close", None, "close", Some(client.pid.into())), "{of_client:?}");
    let (reason, error, ..) = end(&of_server);
    assert_eq!((reason, error), ("reset_received", Some("EPIPE")), "{of_server:?}");
    assert!(was_in(&of_server, &["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT"]), "{of_server:?}");
}

/// A port of this namespace at which nobody listens.
fn nobody_at(scene: &mut Scene) -> SocketAddr {
    let listener = scene.server.listen("127.0.0.1:0");
    scene.server.close(&listener);
    listener.local
}

#[test]
fn a_connection_that_is_refused_has_a_life_too() {
    if lacks_btf("a_connection_that_is_refused_has_a_life_too") {
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
    assert_eq!(end(&refused), expected, "{refused:?}");
    assert!(refused.text("role") == "client" && was_in(&refused, &["SYN_SENT"]), "{refused:?}");
    assert_ne!(refused.local().port(), 0, "{refused:?}");
    assert!(refused.get("rtt_us").is_null(), "it never had one: {refused:?}");
    assert!((before_ns..=after_ns).contains(&refused.mono_ns()), "{refused:?}");
}

#[test]
fn a_connection_given_up_while_it_is_being_made_is_closed_here_and_its_retransmits_are_told() {
    if lacks_btf("a_connection_given_up_while_it_is_being_made_is_closed_here_and_its_retransmits_are_told") {
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
    let given_up = life(&tracer, &second);
    assert_eq!(end(&given_up), ("local_close", None, "close", Some(second.pid.into())), "{given_up:?}");
    assert!(given_up.text("role") == "client" && was_in(&given_up, &["SYN_SENT"]), "{given_up:?}");
    assert!(
        (shown.retransmits..=shown.retransmits + 1).contains(&given_up.int("retransmits")),
        "{given_up:?}"
    );
}

#[test]
fn a_peer_that_is_awaited_in_vain_is_a_timeout() {
    if lacks_btf("a_peer_that_is_awaited_in_vain_is_a_timeout") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let (_, server) = scene.connection();
    let written = scene.server.write(&server, 64 << 20);
    assert!(written < 64 << 20, "the kernel took everything");
    scene.server.set_user_timeout(&server, 300);
    let timed_out = life(&tracer, &server);
    let (reason, error, ..) = end(&timed_out);
    assert_eq!((reason, error), ("timeout", Some("ETIMEDOUT")), "{timed_out:?}");
    assert!(timed_out.int("bytes_sent") < written, "not all went out: {timed_out:?}");
}

#[test]
fn the_exit_of_its_process_is_what_ended_it() {
    if lacks_btf("the_exit_of_its_process_is_what_ended_it") {
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
        let ended = life(&tracer, &socket);
        assert_eq!(end(&ended), ("exit", None, "close", Some(socket.pid.into())), "{ended:?}");
        assert_eq!((&ended.get("owner")["comm"], ended.text("role")), (&"puppet".into(), "server"));
    }
    let of_peer = life(&tracer, &client);
    assert_eq!(end(&of_peer), ("peer_close", None, "close", Some(client.pid.into())), "{of_peer:?}");
    assert_eq!(life(&tracer, &other).text("close_reason"), "local_close");
    assert_eq!(life(&tracer, &talker).text("close_reason"), "reset_received");
}

#[test]
fn a_connection_that_an_administrator_destroys() {
    if lacks_btf("a_connection_that_an_administrator_destroys") {
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
    let destroyed = life(&tracer, &server);
    let (reason, error, ..) = end(&destroyed);
    assert_eq!((reason, error), ("destroyed", Some("ECONNABORTED")), "{destroyed:?}");
    assert_eq!(life(&tracer, &client).text("close_reason"), "reset_received");
}

#[test]
fn what_nobody_accepted_is_reset_by_who_closes_the_listener_which_itself_has_no_life() {
    if lacks_btf("what_nobody_accepted_is_reset_by_who_closes_the_listener_which_itself_has_no_life") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives"]);
    let client = scene.client.connect(scene.address());
    let child = Sock { local: client.remote.expect("connected"), remote: Some(client.local), ..client };
    poll_until("it in the queue", || witness::find(&child));
    let listener = scene.listener;
    scene.server.close(&listener);
    let of_child = life(&tracer, &child);
    assert_eq!(end(&of_child), ("reset_sent", None, "close", Some(listener.pid.into())), "{of_child:?}");
    assert_eq!(of_child.text("role"), "server");
    assert_eq!(life(&tracer, &client).text("close_reason"), "reset_received");
    let run = tracer.stop();
    let remote_ports: Vec<_> = run.of(scene.netns()).iter().map(|record| record.remote().port()).collect();
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
    let of_server = life(&tracer, &server);
    let expected = ("reset_received", Some("ECONNRESET"), "origin", Some(server.pid.into()));
    assert_eq!(end(&of_server), expected, "{of_server:?}");
    assert_eq!(of_server.get("owner")["comm"], "puppet");
}

#[test]
fn who_holds_it_at_the_end_closed_it_also_after_a_fork() {
    if lacks_btf("who_holds_it_at_the_end_closed_it_also_after_a_fork") {
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
    let of_server = life(&tracer, &server);
    assert_eq!(end(&of_server), ("exit", None, "close", Some(child.into())), "{of_server:?}");
}

#[test]
fn connections_from_before_the_start_have_no_beginning_and_all_the_rest() {
    if lacks_btf("connections_from_before_the_start_have_no_beginning_and_all_the_rest") {
        return;
    }
    let mut scene = Scene::new();
    let (client, server) = scene.connection();
    scene.client.write(&client, 3_000);
    scene.server.read(&server, 3_000);
    let tracer = Tracer::start(&["--lives"]);
    scene.server.close(&server);
    scene.client.read_to_the_end(&client);
    scene.client.close(&client);
    let [of_client, of_server] = [&client, &server].map(|socket| life(&tracer, socket));
    for life in [&of_client, &of_server] {
        assert!(life.get("opened").is_null() && life.get("duration_ms").is_null(), "{life:?}");
    }
    assert_eq!((of_client.text("role"), of_server.text("role")), ("unknown", "server"));
    assert_eq!(end(&of_server), ("local_close", None, "close", Some(server.pid.into())), "{of_server:?}");
    assert_eq!(end(&of_client), ("peer_close", None, "close", Some(client.pid.into())), "{of_client:?}");
    assert_eq!((bytes(&of_client), bytes(&of_server)), ((3_000, 0), (0, 3_000)));
    assert!(was_in(&of_server, &["ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2"]), "{of_server:?}");
}

#[test]
fn without_btf_who_was_first_is_told_and_what_the_kernel_counts_is_not() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives", "--without", "btf"]);
    let (client, server) = scene.connection();
    scene.client.close(&client);
    scene.server.read_to_the_end(&server);
    scene.server.close(&server);
    let [of_client, of_server] = [&client, &server].map(|socket| life(&tracer, socket));
    assert_eq!(end(&of_client), ("local_close", None, "close", Some(client.pid.into())), "{of_client:?}");
    assert_eq!(end(&of_server), ("peer_close", None, "close", Some(server.pid.into())), "{of_server:?}");
    for life in [&of_client, &of_server] {
        for field in ["bytes_sent", "bytes_received", "retransmits", "rtt_us"] {
            assert!(life.get(field).is_null(), "{field}: {life:?}");
        }
    }
}

#[test]
fn a_loss_makes_no_life_that_was_none_and_tells_those_whose_end_was_lost() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives", "--ring-size", "4096"]);
    let (held, kept) = scene.connection();
    let (closing, closed) = scene.connection();
    tracer.await_idle();
    // Nobody drains the ring: it is full before these are closed.
    tracer.signal(Signal::STOP);
    let listener = scene.server.listen("127.0.0.1:0");
    scene.server.churn(&listener, 100);
    scene.client.close(&closing);
    scene.server.read_to_the_end(&closed);
    scene.server.close(&closed);
    tracer.signal(Signal::CONT);
    tracer.await_record("the loss", |record| record.is("lost"));
    tracer.await_record("all put right", |record| record.is("resync"));
    let [of_closing, of_closed] = [&closing, &closed].map(|socket| life(&tracer, socket));
    scene.client.reset(&held);
    for socket in [&held, &kept] {
        life(&tracer, socket);
    }
    let run = tracer.stop();
    for life in [&of_closing, &of_closed] {
        assert_eq!(life.text("close_reason"), "unknown", "{life:?}");
        assert!(life.get("bytes_sent").is_null() && life.get("duration_ms").is_null(), "{life:?}");
        assert!(!life.get("opened").is_null(), "{life:?}");
    }
    let lives: Vec<_> = run.of(scene.netns()).into_iter().filter(|record| record.is("life")).collect();
    let mut cookies: Vec<u64> = lives.iter().map(Record::cookie).collect();
    cookies.sort_unstable();
    cookies.dedup();
    assert_eq!(cookies.len(), lives.len(), "a life told twice");
    assert!(lives.len() <= 2 * 100 + 4, "{} lives", lives.len());
    for socket in [&held, &kept] {
        assert_eq!(lives.iter().filter(|record| record.is_about("life", socket)).count(), 1, "{socket:?}");
    }
}

#[test]
fn lives_are_filtered_by_process_and_by_port_and_counted() {
    if lacks_btf("lives_are_filtered_by_process_and_by_port_and_counted") {
        return;
    }
    let mut scene = Scene::new();
    let pid = scene.server.pid().to_string();
    let port = scene.address().port().to_string();
    let by_process = Tracer::start(&["--lives", "--pid", &pid]);
    let by_port = Tracer::start(&["--lives", "--remote-port", &port]);
    let counting = Tracer::start(&["--lives", "--local-port", &port, "--count", "2"]);
    let mut all = Vec::new();
    for _ in 0..3 {
        let (client, server) = scene.connection();
        scene.client.close(&client);
        scene.server.read_to_the_end(&server);
        scene.server.close(&server);
        all.push((client, server));
    }
    let (last_client, last_server) = all[2];
    life(&by_process, &last_server);
    life(&by_port, &last_client);
    let of = |run: &tests::tracer::Finished| -> Vec<SocketAddr> {
        run.records.iter().filter(|record| record.is("life")).map(Record::local).collect()
    };
    let ends = |pick: fn(&(Sock, Sock)) -> Sock| all.iter().map(|pair| pick(pair).local).collect::<Vec<_>>();
    let run = by_process.stop();
    assert_eq!(of(&run), ends(|(_, server)| *server));
    assert!(run.summary().int("filtered") >= 3, "{:?}", run.summary());
    assert_eq!(of(&by_port.stop()), ends(|(client, _)| *client));
    let run = counting.finish();
    assert_eq!((run.count("life"), run.summary().int("lives")), (2, 2));
}

#[test]
fn a_life_is_a_line_that_fits() {
    if lacks_btf("a_life_is_a_line_that_fits") {
        return;
    }
    for columns in [80, 110] {
        let mut scene = Scene::new();
        let (theirs, ours) = terminal::open(columns);
        let tracer = TracerCommand::new(&["--lives"]).stdout(theirs, ours).start();
        tracer.await_stderr("watching");
        let (client, server) = scene.connection();
        scene.client.write(&client, 5_000);
        scene.server.read(&server, 5_000);
        scene.server.reset(&server);
        let (ours, theirs) = (server.remote.expect("connected").to_string(), server.local.port().to_string());
        let is_its =
            |line: &str, reason| line.contains(&ours) && line.contains(&theirs) && line.contains(reason);
        let sent = tracer.await_line("the server's", |line| is_its(line, "sent RST"));
        let run = tracer.stop();
        assert!(run.lines[0].contains("TIME") && run.lines[0].contains("ENDED"), "{:?}", run.lines);
        for word in [&format!("puppet/{}", server.pid), "0B", "4.9K"] {
            assert!(sent.split_ascii_whitespace().any(|shown| shown == word), "no {word}: {sent}");
        }
        for line in &run.lines {
            let (mut shown, mut in_colour) = (0, false);
            for c in line.trim_end().chars() {
                in_colour = if in_colour { c != 'm' } else { c == '\x1b' };
                shown += usize::from(!in_colour && c != 'm');
            }
            assert!(shown <= usize::from(columns), "{shown} columns of {columns}: {line}");
        }
    }
}
