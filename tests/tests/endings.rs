//! How a stuck socket clears: which process closed it, or what else ended it. An incoming packet
//! is never attributed to the process that happens to be on the CPU.

use std::process::Command;

use tests::{Puppet, Record, Sock, Tracer, feature, process::poll_until, scene::Scene, witness};

const ARGUMENTS: [&str; 2] = ["--stuck", "100ms"];

/// Makes a connection whose server's end is in CLOSE_WAIT and reported, and whose client's end is
/// in FIN_WAIT2 and held. Returns the client's and the server's end.
fn half_closed(scene: &mut Scene, tracer: &Tracer) -> (Sock, Sock) {
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    tracer.await_stuck(&server);
    (client, server)
}

/// Returns how a stuck socket cleared: `how`, its new state, and the pid of the process that did
/// it.
fn ending(cleared: &Record) -> (&str, &str, Option<u64>) {
    (cleared.text("how"), cleared.text("new_state"), cleared.get("by")["pid"].as_u64())
}

#[test]
fn a_close_by_its_process() {
    if feature::is_missing(feature::TP_BTF, "a_close_by_its_process") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (_, server) = half_closed(&mut scene, &tracer);
    scene.server.read_to_the_end(&server);
    scene.server.close(&server);
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("closed", "LAST_ACK", Some(server.pid.into())), "{cleared:?}");
    assert_eq!(cleared.get("by")["comm"], "puppet");
}

#[test]
fn a_close_by_a_process_that_calls_itself_as_the_tracers_own_threads_are_called() {
    if feature::is_missing(
        feature::TP_BTF,
        "a_close_by_a_process_that_calls_itself_as_the_tracers_own_threads_are_called",
    ) {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    for name in ["tcptrace-walk", "tcptrace-walk-2", "other"] {
        let (_, server) = half_closed(&mut scene, &tracer);
        scene.server.rename(name.as_bytes());
        scene.server.close(&server);
        let cleared = tracer.await_cleared(&server);
        assert_eq!(ending(&cleared), ("closed", "LAST_ACK", Some(server.pid.into())), "{name}: {cleared:?}");
        assert_eq!(cleared.get("by")["comm"], name);
    }
}

#[test]
fn a_shutdown_of_its_own_side() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (_, server) = half_closed(&mut scene, &tracer);
    scene.server.shutdown(&server);
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("closed", "LAST_ACK", Some(server.pid.into())), "{cleared:?}");
    assert!(witness::socket_fds(server.pid).contains(&server.fd), "the descriptor is still open");
}

#[test]
fn a_close_with_data_unread_is_a_close_and_no_reset() {
    if feature::is_missing(feature::TP_BTF, "a_close_with_data_unread_is_a_close_and_no_reset") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (client, server) = scene.connection();
    scene.client.write(&client, 100);
    scene.client.shutdown(&client);
    assert_eq!(tracer.await_stuck(&server).text("cause"), "data_unread");
    scene.server.close(&server);
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("closed", "CLOSE", Some(server.pid.into())), "{cleared:?}");
}

#[test]
fn a_close_that_resets_the_connection_is_a_close_and_no_reset() {
    if feature::is_missing(feature::TP_BTF, "a_close_that_resets_the_connection_is_a_close_and_no_reset") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (_, server) = half_closed(&mut scene, &tracer);
    scene.server.reset(&server);
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("closed", "CLOSE", Some(server.pid.into())), "{cleared:?}");
}

#[test]
fn an_exec_that_closes_it_is_a_close() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (_, server) = half_closed(&mut scene, &tracer);
    scene.server.read_to_the_end(&server);
    scene.server.exec(false, "sh");
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("closed", "LAST_ACK", Some(server.pid.into())), "{cleared:?}");
}

#[test]
fn the_exit_of_its_process() {
    if feature::is_missing(feature::TP_BTF, "the_exit_of_its_process") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (_, server) = half_closed(&mut scene, &tracer);
    scene.server.read_to_the_end(&server);
    scene.server.exit();
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("exited", "LAST_ACK", Some(server.pid.into())), "{cleared:?}");
    assert_eq!(cleared.get("by")["comm"], "puppet");
}

#[test]
fn the_killing_of_its_process_with_and_without_data_unread() {
    if feature::is_missing(feature::TP_BTF, "the_killing_of_its_process_with_and_without_data_unread") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (_, server) = half_closed(&mut scene, &tracer);
    scene.server.read_to_the_end(&server);
    let (client, unread) = scene.connection();
    scene.client.write(&client, 100);
    scene.client.shutdown(&client);
    tracer.await_stuck(&unread);
    scene.server.kill();
    for (socket, state) in [(server, "LAST_ACK"), (unread, "CLOSE")] {
        let cleared = tracer.await_cleared(&socket);
        assert_eq!(ending(&cleared), ("exited", state, Some(socket.pid.into())), "{cleared:?}");
    }
}

#[test]
fn the_exit_of_the_last_of_its_holders_alone() {
    if feature::is_missing(feature::TP_BTF, "the_exit_of_the_last_of_its_holders_alone") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (_, server) = half_closed(&mut scene, &tracer);
    scene.server.read_to_the_end(&server);
    let child = scene.server.fork();
    let Scene { mut client, server: parent, listener, namespace } = scene;
    let children = parent.kill_alone();
    // The child holds the listener too.
    let marker = client.connect(listener.local);
    client.shutdown(&marker);
    let marker = Sock { local: marker.remote.expect("connected"), remote: Some(marker.local), ..marker };
    assert_eq!(tracer.await_stuck(&marker).holders(), [(child, listener.fd)]);
    let is_cleared = |record: &Record| record.is_about("cleared", &server);
    assert_eq!(tracer.records().into_iter().find(is_cleared), None, "the child has it");
    drop(children);
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("exited", "LAST_ACK", Some(child.into())), "{cleared:?}");
    drop((client, namespace));
}

#[test]
fn a_reset_by_the_peer_is_nobodys_doing_here() {
    if feature::is_missing(feature::TP_BTF, "a_reset_by_the_peer_is_nobodys_doing_here") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (client, server) = half_closed(&mut scene, &tracer);
    scene.client.reset(&client);
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("reset", "CLOSE", None), "{cleared:?}");
}

#[test]
fn a_reset_in_answer_to_what_we_sent_is_not_taken_for_a_close() {
    if feature::is_missing(feature::TP_BTF, "a_reset_in_answer_to_what_we_sent_is_not_taken_for_a_close") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (client, server) = half_closed(&mut scene, &tracer);
    scene.client.close(&client);
    // To an end that is no more. The answer comes in while we are still in send(2).
    scene.server.write(&server, 100);
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("reset", "CLOSE", None), "{cleared:?}");
    assert!(witness::socket_fds(server.pid).contains(&server.fd), "the descriptor is still open");
}

#[test]
fn a_peer_that_is_awaited_in_vain_is_a_timeout() {
    if feature::is_missing(feature::TP_BTF, "a_peer_that_is_awaited_in_vain_is_a_timeout") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (_, server) = half_closed(&mut scene, &tracer);
    // More than the client, which does not read, has room for.
    let written = scene.server.write(&server, 64 << 20);
    assert!(written < 64 << 20, "the kernel took everything");
    scene.server.set_user_timeout(&server, 300);
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("timed_out", "CLOSE", None), "{cleared:?}");
}

#[test]
fn a_socket_that_an_administrator_destroys() {
    if feature::is_missing(feature::TP_BTF, "a_socket_that_an_administrator_destroys") {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&ARGUMENTS);
    let (client, server) = half_closed(&mut scene, &tracer);
    let port = |socket: &Sock| format!("= :{}", socket.local.port());
    let mut kill = Command::new("ss");
    kill.args(["-tnKH", "state", "close-wait", "sport", &port(&server), "dport", &port(&client)]);
    let output = kill.output().expect("ss (iproute2) is needed by these tests");
    assert!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
    if witness::find(&server).is_some() {
        let why = "this kernel is built without CONFIG_INET_DIAG_DESTROY";
        return feature::tell_not_run("a_socket_that_an_administrator_destroys", "ss --kill", why);
    }
    let cleared = tracer.await_cleared(&server);
    assert_eq!(ending(&cleared), ("destroyed", "CLOSE", None), "{cleared:?}");
}

/// An action on a closing socket of the client.
#[derive(Clone, Copy, Debug)]
enum Doing {
    /// The process closes it.
    Close,
    /// The process closes it with data unread.
    CloseUnread,
    /// The process closes it with SO_LINGER 0.
    Abort,
    /// The process exits.
    Exit,
    /// The process is killed, with data unread.
    KillUnread,
    /// The peer reads everything, and closes.
    PeerCloses,
    /// The peer resets it.
    PeerResets,
    /// The peer does not answer until it times out.
    TimeOut,
    /// An administrator destroys it.
    Destroy,
}

use Doing::{Abort, Close, CloseUnread, Destroy, Exit, KillUnread, PeerCloses, PeerResets, TimeOut};

/// More bytes than a peer that does not read has room for.
const TOO_MUCH: usize = 64 << 20;

/// The states of a socket that is closing and has a process.
const CLOSING_STATES: &str = "fin-wait-1,fin-wait-2,last-ack";

/// Brings a socket of the client into one of these states, and holds it. Returns the client's and
/// the server's end.
fn closing(scene: &mut Scene, state: &str, doing: Doing) -> (Sock, Sock) {
    let (client, server) = scene.connection();
    if matches!(doing, CloseUnread | KillUnread) {
        scene.server.write(&server, 100);
        poll_until("the data", || witness::find(&client).filter(|seen| seen.recv_queue == 100));
    }
    if state == "LAST_ACK" {
        scene.server.shutdown(&server);
        poll_until("the end", || witness::find(&client).filter(|seen| seen.state == "CLOSE-WAIT"));
    }
    if state != "FIN_WAIT2" {
        // Our FIN waits behind it.
        assert!(scene.client.write(&client, TOO_MUCH) < TOO_MUCH as u64, "the kernel took everything");
    }
    scene.client.shutdown(&client);
    if state == "FIN_WAIT2" {
        scene.server.read_to_the_end(&server);
    }
    (client, server)
}

/// Does an action. Returns whether this kernel can do it.
fn perform(scene: &mut Scene, doing: Doing, (client, server): (Sock, Sock), state: &str) -> bool {
    match doing {
        Close | CloseUnread => scene.client.close(&client),
        Abort => scene.client.reset(&client),
        Exit => std::mem::replace(&mut scene.client, Puppet::new()).exit(),
        KillUnread => std::mem::replace(&mut scene.client, Puppet::new()).kill(),
        PeerCloses => {
            if state != "FIN_WAIT2" {
                scene.server.read_to_the_end(&server);
            }
            scene.server.close(&server);
        }
        PeerResets => scene.server.reset(&server),
        TimeOut => scene.client.set_user_timeout(&client, 300),
        Destroy => {
            let port = |socket: &Sock| format!("= :{}", socket.local.port());
            let mut kill = Command::new("ss");
            kill.args(["-tnKH", "sport", &port(&client), "dport", &port(&server)]);
            let output = kill.output().expect("ss (iproute2) is needed by these tests");
            assert!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
            return witness::find(&client).is_none();
        }
    }
    true
}

/// All that can happen to a socket in one of these states: the action, the `how` of `cleared`,
/// whether its process did it, and why its life ended.
type Ends = [(Doing, &'static str, bool, &'static str)];

fn assert_ends(test: &str, state: &str, ends: &Ends) {
    if feature::is_missing(feature::TP_BTF, test) {
        return;
    }
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", "50ms", "--state", CLOSING_STATES, "--lives"]);
    for &(doing, how, by_its_process, reason) in ends {
        let pair = closing(&mut scene, state, doing);
        let (client, _) = pair;
        assert_eq!(tracer.await_stuck(&client).text("state"), state, "{doing:?}");
        if !perform(&mut scene, doing, pair, state) {
            feature::tell_not_run(test, "ss --kill", "this kernel is built without CONFIG_INET_DIAG_DESTROY");
            continue;
        }
        let cleared = tracer.await_cleared(&client);
        let by = by_its_process.then_some(u64::from(client.pid));
        let ended = (cleared.text("state"), cleared.text("how"), cleared.get("by")["pid"].as_u64());
        assert_eq!(ended, (state, how, by), "{doing:?}: {cleared:?}");
        let life = tracer.await_life(&client);
        assert_eq!(life.text("close_reason"), reason, "{doing:?}: {life:?}");
    }
}

#[test]
fn whatever_can_become_of_a_socket_in_fin_wait_2() {
    assert_ends(
        "whatever_can_become_of_a_socket_in_fin_wait_2",
        "FIN_WAIT2",
        &[
            (Close, "closed", true, "local_close"),
            (CloseUnread, "closed", true, "reset_sent"),
            (Abort, "closed", true, "reset_sent"),
            (Exit, "exited", true, "exit"),
            (KillUnread, "exited", true, "exit"),
            (PeerCloses, "peer", false, "local_close"),
            (PeerResets, "reset", false, "local_close"),
            (Destroy, "destroyed", false, "destroyed"),
        ],
    );
}

#[test]
fn whatever_can_become_of_a_socket_in_fin_wait_1() {
    assert_ends(
        "whatever_can_become_of_a_socket_in_fin_wait_1",
        "FIN_WAIT1",
        &[
            (CloseUnread, "closed", true, "reset_sent"),
            (Abort, "closed", true, "reset_sent"),
            (KillUnread, "exited", true, "exit"),
            (PeerCloses, "peer", false, "local_close"),
            (PeerResets, "reset", false, "local_close"),
            (TimeOut, "timed_out", false, "timeout"),
            (Destroy, "destroyed", false, "destroyed"),
        ],
    );
}

#[test]
fn whatever_can_become_of_a_socket_in_last_ack() {
    assert_ends(
        "whatever_can_become_of_a_socket_in_last_ack",
        "LAST_ACK",
        &[
            (CloseUnread, "closed", true, "reset_sent"),
            (Abort, "closed", true, "reset_sent"),
            (KillUnread, "exited", true, "exit"),
            (PeerCloses, "peer", false, "peer_close"),
            (PeerResets, "reset", false, "peer_close"),
            (TimeOut, "timed_out", false, "timeout"),
            (Destroy, "destroyed", false, "destroyed"),
        ],
    );
}

#[test]
fn without_btf_nobody_is_said_to_have_ended_a_socket_in_fin_wait_2() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", "50ms", "--state", "fin-wait-2", "--without", "btf"]);
    for doing in [Close, CloseUnread, Abort, KillUnread, PeerCloses, PeerResets] {
        let pair = closing(&mut scene, "FIN_WAIT2", doing);
        tracer.await_stuck(&pair.0);
        assert!(perform(&mut scene, doing, pair, "FIN_WAIT2"));
        let cleared = tracer.await_cleared(&pair.0);
        assert_eq!(ending(&cleared), ("unknown", "CLOSE", None), "{doing:?}: {cleared:?}");
    }
}

#[test]
fn a_state_that_the_peer_ends_is_the_peers_doing() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", "100ms", "--state", "fin-wait-2"]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.read_to_the_end(&server);
    tracer.await_stuck(&client);
    scene.server.close(&server);
    let cleared = tracer.await_cleared(&client);
    let left_for = if feature::why_not(feature::TIME_WAIT).is_none() { "TIME_WAIT" } else { "CLOSE" };
    let how = if feature::why_not(feature::TP_BTF).is_none() { "peer" } else { "unknown" };
    assert_eq!(ending(&cleared), (how, left_for, None), "{cleared:?}");
}
