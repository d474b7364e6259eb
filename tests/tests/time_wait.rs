//! Timewait sockets, which take a closed socket's place: reported as such if the kernel shows
//! them, else as CLOSE. In both cases a socket closes once.

use tests::{Record, Sock, Tracer, feature, process::poll_until, scene::Scene, witness};

/// Returns the transitions of a connection's client, its `life` records, and the state in which
/// `ss` shows what is left.
fn told(close: impl FnOnce(&mut Scene, &Sock, &Sock)) -> (Vec<Record>, Vec<Record>, witness::Seen) {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--transitions", "--lives"]);
    let (client, server) = scene.connection();
    close(&mut scene, &client, &server);
    tracer.await_record("its life", |record| record.is_about("life", &client));
    let left = poll_until("what is left", || witness::find(&client).filter(|seen| seen.holders.is_empty()));
    let run = tracer.stop();
    let of = |event| run.records.iter().filter(|record| record.is_about(event, &client)).cloned().collect();
    (of("transition"), of("life"), left)
}

/// Returns how the client's last transition is reported.
fn last(transitions: &[Record]) -> (&str, &str, bool) {
    let last = transitions.last().expect("it closed");
    (last.states().0, last.states().1, last.get("stand_in") == true)
}

fn assert_closed_once(transitions: &[Record], lives: &[Record]) {
    assert_eq!(transitions.iter().filter(|record| record.is_last()).count(), 1, "{transitions:?}");
    let [life] = lives else { panic!("not one life: {lives:?}") };
    assert_eq!(life.text("close_reason"), "local_close", "{life:?}");
    let last = transitions.last().expect("it closed");
    assert_eq!((life.cookie(), life.mono_ns()), (last.cookie(), last.mono_ns()));
}

#[test]
fn a_socket_that_both_have_closed_goes_to_time_wait() {
    let (transitions, lives, left) = told(|scene, client, server| {
        scene.client.shutdown(client);
        scene.server.read_to_the_end(server);
        witness::await_state(client, "FIN-WAIT-2");
        scene.server.close(server);
    });
    assert_eq!(left.state, "TIME-WAIT");
    let seen = feature::why_not(feature::TIME_WAIT).is_none();
    let expected = if seen { ("FIN_WAIT2", "TIME_WAIT", true) } else { ("FIN_WAIT2", "CLOSE", false) };
    assert_eq!(last(&transitions), expected);
    assert_closed_once(&transitions, &lives);
}

#[test]
fn a_socket_that_its_process_alone_has_closed_stays_in_fin_wait_2_with_nobody_holding_it() {
    let (transitions, lives, left) = told(|scene, client, server| {
        scene.client.shutdown(client);
        scene.server.read_to_the_end(server);
        witness::await_state(client, "FIN-WAIT-2");
        scene.client.close(client);
    });
    assert_eq!(left.state, "FIN-WAIT-2");
    let seen = feature::why_not(feature::TIME_WAIT).is_none();
    let expected = if seen { ("FIN_WAIT2", "FIN_WAIT2", true) } else { ("FIN_WAIT2", "CLOSE", false) };
    assert_eq!(last(&transitions), expected);
    assert_closed_once(&transitions, &lives);
}

#[test]
fn a_reset_leaves_nothing_behind_and_is_a_close() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--transitions"]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.read_to_the_end(&server);
    witness::await_state(&client, "FIN-WAIT-2");
    scene.client.reset(&client);
    let is_last = |record: &Record| record.is_about("transition", &client) && record.is_last();
    let closed = tracer.await_record("its last", is_last);
    assert_eq!(closed.states(), ("FIN_WAIT2", "CLOSE"), "{closed:?}");
    assert!(witness::find(&client).is_none());
}

#[test]
fn what_is_stuck_in_fin_wait_2_clears_when_its_process_closes_it() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", "100ms", "--state", "fin-wait-2"]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.read_to_the_end(&server);
    tracer.await_stuck(&client);
    scene.client.close(&client);
    let cleared = tracer.await_cleared(&client);
    assert_eq!((cleared.text("state"), cleared.text("new_state")), ("FIN_WAIT2", "CLOSE"), "{cleared:?}");
}
