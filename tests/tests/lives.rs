//! `--lives`: one record for each connection when it ends. Bytes are compared with what the test
//! wrote and read, times with its own clock. `life_endings.rs` tests how connections end.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "milliseconds of a test's run, as nanoseconds"
)]

use std::{collections::BTreeSet, net::SocketAddr};

use serde_json::Value;
use tests::{
    Record, Signal, Sock, Tracer, TracerCommand, feature, life, monotonic_ns, scene::Scene, schema::unix_ns,
    terminal, tracer::Finished,
};

#[test]
fn a_clean_close_tells_who_was_first_and_every_byte_both_ways() {
    if feature::is_missing(feature::TP_BTF, "a_clean_close_tells_who_was_first_and_every_byte_both_ways") {
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
        let [of_client, of_server] = [&client, &server].map(|socket| tracer.await_life(socket));
        let closed_ns = monotonic_ns();

        assert_eq!(
            life::end(&of_client),
            ("local_close", None, "close", Some(client.pid.into())),
            "{of_client:?}"
        );
        assert_eq!(
            life::end(&of_server),
            ("peer_close", None, "close", Some(server.pid.into())),
            "{of_server:?}"
        );
        assert_eq!((of_client.text("role"), of_server.text("role")), ("client", "server"));
        assert_eq!(life::bytes(&of_client), (sent as u64, answered as u64), "{of_client:?}");
        assert_eq!(life::bytes(&of_server), (answered as u64, sent as u64), "{of_server:?}");
        assert!(
            life::was_in(&of_client, &["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2"]),
            "{of_client:?}"
        );
        assert!(
            life::was_in(&of_server, &["SYN_RECV", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"]),
            "{of_server:?}"
        );
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
        assert_eq!(
            run.records_in(scene.netns()).len(),
            2,
            "two lives and nothing else: {:?}",
            run.records_in(scene.netns())
        );
        assert_eq!(run.summary().int("lives"), run.count("life"));
    }
}

#[test]
fn connections_from_before_the_start_have_no_beginning_and_all_the_rest() {
    if feature::is_missing(
        feature::TP_BTF,
        "connections_from_before_the_start_have_no_beginning_and_all_the_rest",
    ) {
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
    let [of_client, of_server] = [&client, &server].map(|socket| tracer.await_life(socket));
    for life in [&of_client, &of_server] {
        assert!(life.get("opened").is_null() && life.get("duration_ms").is_null(), "{life:?}");
    }
    assert_eq!((of_client.text("role"), of_server.text("role")), ("unknown", "server"));
    assert_eq!(
        life::end(&of_server),
        ("local_close", None, "close", Some(server.pid.into())),
        "{of_server:?}"
    );
    assert_eq!(
        life::end(&of_client),
        ("peer_close", None, "close", Some(client.pid.into())),
        "{of_client:?}"
    );
    assert_eq!((life::bytes(&of_client), life::bytes(&of_server)), ((3_000, 0), (0, 3_000)));
    assert!(life::was_in(&of_server, &["ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2"]), "{of_server:?}");
}

#[test]
fn without_btf_who_was_first_is_told_and_what_the_kernel_counts_is_not() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--lives", "--without", "btf"]);
    let (client, server) = scene.connection();
    scene.client.close(&client);
    scene.server.read_to_the_end(&server);
    scene.server.close(&server);
    let [of_client, of_server] = [&client, &server].map(|socket| tracer.await_life(socket));
    assert_eq!(
        life::end(&of_client),
        ("local_close", None, "close", Some(client.pid.into())),
        "{of_client:?}"
    );
    assert_eq!(
        life::end(&of_server),
        ("peer_close", None, "close", Some(server.pid.into())),
        "{of_server:?}"
    );
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
    // One whose beginning the kernel kept from the tracer, which it tells, is another case.
    let told = |tracer: &Tracer| tracer.records().iter().filter(|record| record.is("lost")).count();
    let mut seen_from_its_beginning = || loop {
        let before = told(&tracer);
        let connection = scene.connection();
        tracer.await_idle();
        if told(&tracer) == before {
            break connection;
        }
    };
    let (held, kept) = seen_from_its_beginning();
    let (closing, closed) = seen_from_its_beginning();
    // Nobody drains the ring: it is full before these are closed.
    let told_before = told(&tracer);
    tracer.signal(Signal::STOP);
    let listener = scene.server.listen("127.0.0.1:0");
    scene.server.churn(&listener, 100);
    scene.client.close(&closing);
    scene.server.read_to_the_end(&closed);
    scene.server.close(&closed);
    tracer.signal(Signal::CONT);
    tracer.await_records("the loss, and all put right", |records| {
        let last = |event: &str| records.iter().rposition(|record| record.is(event));
        (told_before < records.iter().filter(|record| record.is("lost")).count()
            && last("lost") < last("resync"))
        .then_some(())
    });
    let [of_closing, of_closed] = [&closing, &closed].map(|socket| tracer.await_life(socket));
    scene.client.reset(&held);
    for socket in [&held, &kept] {
        tracer.await_life(socket);
    }
    let run = tracer.stop();
    for life in [&of_closing, &of_closed] {
        assert_eq!(life.text("close_reason"), "unknown", "{life:?}");
        assert!(life.get("bytes_sent").is_null() && life.get("duration_ms").is_null(), "{life:?}");
        assert!(!life.get("opened").is_null(), "{life:?}");
    }
    let lives: Vec<_> =
        run.records_in(scene.netns()).into_iter().filter(|record| record.is("life")).collect();
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
    if feature::is_missing(feature::TP_BTF, "lives_are_filtered_by_process_and_by_port_and_counted") {
        return;
    }
    let mut scene = Scene::new();
    let pid = scene.server.pid().to_string();
    let port = scene.address().port().to_string();
    let (old_client, old_server) = scene.connection();
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
    // Nobody closed the server's end, and nobody saw it accepted: it is the server's because it
    // held it at the start.
    scene.client.reset(&old_client);
    all.push((old_client, old_server));
    // The last ACK of one may come after the end of the next.
    for (client, server) in &all {
        by_process.await_life(server);
        by_port.await_life(client);
    }
    type Ends = (SocketAddr, Option<SocketAddr>);
    let of = |run: &Finished| -> BTreeSet<Ends> {
        let lives = run.records.iter().filter(|record| record.is("life"));
        lives.map(|life| (life.local(), Some(life.remote()))).collect()
    };
    let ends = |pick: fn(&(Sock, Sock)) -> Sock| -> BTreeSet<Ends> {
        all.iter().map(pick).map(|socket| (socket.local, socket.remote)).collect()
    };
    let run = by_process.stop();
    assert_eq!(run.count("life"), 4);
    assert_eq!(of(&run), ends(|(_, server)| *server));
    assert!(run.summary().int("filtered") >= 3, "{:?}", run.summary());
    let run = by_port.stop();
    assert_eq!(run.count("life"), 4);
    assert_eq!(of(&run), ends(|(client, _)| *client));
    let run = counting.finish();
    assert_eq!((run.count("life"), run.summary().int("lives")), (2, 2));
}

#[test]
fn a_life_is_a_line_that_fits() {
    if feature::is_missing(feature::TP_BTF, "a_life_is_a_line_that_fits") {
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
        let is_heading = |line: &String| line.contains("TIME") && line.contains("ENDED");
        let place = |wanted: &dyn Fn(&String) -> bool| run.lines.iter().position(wanted);
        let (heading, first) = (place(&is_heading), place(&|line| *line == sent));
        assert!(heading.is_some() && heading < first, "{:?}", run.lines);
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
