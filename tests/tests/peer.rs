//! The peer of a stuck socket, if it is on this host. Connections in other namespaces may have the
//! same addresses and ports; their ends are not taken for it.

use std::{fs, net::SocketAddr, process::Command};

use tests::{
    Namespace, Puppet, Record, Sock, Tracer, feature, process::poll_until, scene::Scene, witness,
    witness::assert_held,
};

const THRESHOLD: &str = "200ms";

/// Asserts what a record says about the peer: its state, namespace, holders and, as `ss` has it,
/// its cookie.
fn assert_peer(stuck: &Record, state: &str, peer: &Sock, holders: &[(u32, u32)]) {
    let told = stuck.get("peer");
    assert_eq!((&told["state"], &told["netns"]), (&state.into(), &peer.netns.into()), "{stuck:?}");
    let how = if holders.is_empty() { ("none", true) } else { ("fd", false) };
    assert_eq!((&told["owner_how"], &told["gone"]), (&how.0.into(), &how.1.into()), "{stuck:?}");
    let owners = told["owners"].as_array().unwrap_or_else(|| panic!("no peer: {stuck:?}"));
    let named: Vec<_> = owners.iter().map(|owner| (owner["pid"].as_u64(), owner["fd"].as_u64())).collect();
    let holders: Vec<_> =
        holders.iter().map(|(pid, fd)| (Some(u64::from(*pid)), Some(u64::from(*fd)))).collect();
    assert_eq!(named, holders, "{stuck:?}");
    let seen = witness::find(peer).unwrap_or_else(|| panic!("ss does not show {peer:?}"));
    if feature::why_not(feature::COOKIE).is_none() {
        assert_eq!(told["cookie"], seen.cookie, "{stuck:?}");
    }
}

#[test]
fn a_peer_that_has_shut_down_its_side_and_waits_is_told_with_its_holders() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    let copy = scene.client.dup(&client);
    let stuck = tracer.await_stuck(&server);
    assert_eq!(witness::find(&client).expect("it waits").state, "FIN-WAIT-2");
    assert_peer(&stuck, "FIN_WAIT2", &client, &[(client.pid, client.fd), (client.pid, copy.fd)]);
    assert_eq!(stuck.get("peer")["owners"][0]["comm"], "puppet");
    assert_held(&stuck, &server, &[(server.pid, server.fd)]);
}

#[test]
fn both_ends_in_one_process_are_told_apart() {
    let _namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    let (client, server) = puppet.pairs(&listener, 1)[0];
    puppet.shutdown(&client);
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&server);
    assert_peer(&stuck, "FIN_WAIT2", &client, &[(client.pid, client.fd)]);
    assert_held(&stuck, &server, &[(server.pid, server.fd)]);
}

#[test]
fn the_peer_of_a_connection_that_nobody_accepted_is_told_too() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let client = scene.client.connect(scene.address());
    scene.client.shutdown(&client);
    let server = Sock { local: client.remote.expect("connected"), remote: Some(client.local), ..client };
    let stuck = tracer.await_stuck(&server);
    assert_eq!(stuck.text("cause"), "not_accepted");
    assert_peer(&stuck, "FIN_WAIT2", &client, &[(client.pid, client.fd)]);
}

#[test]
fn the_peer_in_close_wait_of_a_socket_that_waits_for_it_is_told() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--state", "fin-wait-2"]);
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.read_to_the_end(&server);
    let stuck = tracer.await_stuck(&client);
    assert_peer(&stuck, "CLOSE_WAIT", &server, &[(server.pid, server.fd)]);
}

#[test]
fn a_peer_that_has_closed_is_there_without_a_holder() {
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    // The kernel keeps a stand-in for it for a minute: `ss` shows it too.
    let other = Sock { local: leak.remote.expect("connected"), remote: Some(leak.local), ..leak };
    let seen = witness::find(&other).expect("it is still there");
    assert_eq!((seen.state.as_str(), seen.holders.as_slice()), ("FIN-WAIT-2", &[][..]));
    assert_peer(&stuck, "FIN_WAIT2", &other, &[]);
}

const HERE: &str = "127.0.0.1:9888";
const THERE: &str = "127.0.0.1:40888";

/// A connection in a namespace of its own. All of them have the same addresses and ports.
struct Twin {
    client: Sock,
    server: Sock,
    puppets: (Puppet, Puppet),
    namespace: Namespace,
}

impl Twin {
    fn new() -> Self {
        let namespace = Namespace::new();
        let (mut connecting, mut listening) = (Puppet::new(), Puppet::new());
        let listener = listening.listen(HERE);
        let from: SocketAddr = THERE.parse().expect("an address");
        let client = connecting.connect_from(from, listener.local);
        let server = listening.accept(&listener);
        assert_eq!(
            (server.local.to_string(), server.remote),
            (HERE.to_owned(), Some(from)),
            "the same four numbers"
        );
        Self { client, server, puppets: (connecting, listening), namespace }
    }
}

/// Drops the later one first: a namespace moves the thread back to where it was before.
fn drop_in_order(mut twins: Vec<Twin>) {
    while let Some(last) = twins.pop() {
        drop(last);
    }
}

#[test]
fn the_same_four_numbers_in_two_namespaces_are_two_connections() {
    if feature::is_missing(feature::TP_BTF, "the_same_four_numbers_in_two_namespaces_are_two_connections") {
        return;
    }
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let mut twins = vec![Twin::new(), Twin::new()];
    for twin in &mut twins {
        twin.puppets.0.shutdown(&twin.client);
    }
    let records: Vec<_> = twins.iter().map(|twin| tracer.await_stuck(&twin.server)).collect();
    assert_ne!(records[0].cookie(), records[1].cookie());
    for (stuck, twin) in records.iter().zip(&twins) {
        twin.namespace.enter();
        assert_eq!(stuck.int("netns"), twin.namespace.inode());
        assert_held(stuck, &twin.server, &[(twin.server.pid, twin.server.fd)]);
        assert_peer(stuck, "FIN_WAIT2", &twin.client, &[(twin.client.pid, twin.client.fd)]);
        let origin = stuck.get("origin");
        assert!(origin.is_null() || origin["pid"] == twin.server.pid, "{stuck:?}");
    }
    for twin in &mut twins {
        twin.puppets.1.close(&twin.server);
        let cleared = tracer.await_cleared(&twin.server);
        assert_eq!(cleared.get("by")["pid"], twin.server.pid, "{cleared:?}");
    }
    drop_in_order(twins);
}

#[test]
fn a_loopback_connection_has_its_peer_in_its_own_namespace() {
    let mut twins = vec![Twin::new(), Twin::new()];
    let [gone, waits] = &mut twins[..] else { unreachable!("two") };
    gone.puppets.0.close(&gone.client);
    waits.puppets.0.shutdown(&waits.client);
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&waits.server);
    assert_peer(&stuck, "FIN_WAIT2", &waits.client, &[(waits.client.pid, waits.client.fd)]);
    let stuck = tracer.await_stuck(&gone.server);
    gone.namespace.enter();
    assert_peer(&stuck, "FIN_WAIT2", &gone.client, &[]);
    waits.namespace.enter();
    drop_in_order(twins);
}

/// Joins two namespaces: the calling thread's has 10.9.8.1, the other has 10.9.8.2.
fn cable(to: u32) -> Result<(), String> {
    let ip = |line: &str, fails_for_want_of_it: bool| {
        let output = Command::new("ip").args(line.split(' ')).output().expect("ip (iproute2) is there");
        let words = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        assert!(output.status.success() || fails_for_want_of_it, "ip {line}: {words}");
        if output.status.success() { Ok(()) } else { Err(words) }
    };
    ip(&format!("link add name here type veth peer name there netns {to}"), true)?;
    ip("address add 10.9.8.1/24 dev here", false)?;
    ip("link set here up", false)
}

#[test]
fn a_peer_in_another_namespace_is_told_with_that() {
    // Without BTF there are no sequence numbers.
    if feature::is_missing(feature::TP_BTF, "a_peer_in_another_namespace_is_told_with_that") {
        return;
    }
    let first = Namespace::new();
    let mut server = Puppet::new();
    let second = Namespace::new();
    let mut client = Puppet::new();
    first.enter();
    if let Err(why) = cable(client.pid()) {
        return feature::tell_not_run("a_peer_in_another_namespace_is_told_with_that", "veth", &why);
    }
    second.enter();
    for line in ["address add 10.9.8.2/24 dev there", "link set there up"] {
        let status = Command::new("ip").args(line.split(' ')).status().expect("ip (iproute2) is there");
        assert!(status.success(), "ip {line}");
    }
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let listener = server.listen("10.9.8.1:0");
    let theirs = client.connect(listener.local);
    let ours = server.accept(&listener);
    client.shutdown(&theirs);
    let stuck = tracer.await_stuck(&ours);
    assert_eq!((stuck.int("netns"), ours.netns), (first.inode(), first.inode()));
    assert_eq!(theirs.netns, second.inode());
    assert_peer(&stuck, "FIN_WAIT2", &theirs, &[(theirs.pid, theirs.fd)]);
    assert_eq!(stuck.holders(), [(ours.pid, ours.fd)]);
    // The later one first.
    drop(second);
    drop(first);
}

/// Two addresses that are not the loopback interface's.
const OURS: &str = "10.77.0.1:5000";
const THEIRS: &str = "10.77.0.2:6000";

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("ip (iproute2) is there");
    assert!(status.success(), "ip {line}");
}

/// A connection between these addresses, in a namespace of its own. Its client has shut down its
/// side.
struct Pair {
    client: Sock,
    server: Sock,
    client_process: Puppet,
    _server_process: Puppet,
    _namespace: Namespace,
}

impl Pair {
    fn new() -> Self {
        let namespace = Namespace::new();
        for address in [OURS, THEIRS] {
            let address: SocketAddr = address.parse().expect("an address");
            ip(&format!("address add {}/32 dev lo", address.ip()));
        }
        let (mut connecting, mut listening) = (Puppet::new(), Puppet::new());
        let listener = listening.listen(OURS);
        let client = connecting.connect_from(THEIRS.parse().expect("an address"), listener.local);
        let server = listening.accept(&listener);
        connecting.shutdown(&client);
        witness::await_state(&client, "FIN-WAIT-2");
        Self { client, server, client_process: connecting, _server_process: listening, _namespace: namespace }
    }
}

#[test]
fn a_strangers_socket_with_the_same_two_ends_is_not_the_peer() {
    let mut ours = Pair::new();
    // What a closed socket leaves stays for a second here.
    fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "1").expect("it is this namespace's");
    ours.client_process.close(&ours.client);
    poll_until("the end of the stand-in", || witness::find(&ours.client).is_none().then_some(()));
    let stranger = Pair::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&ours.server);
    assert!(stuck.get("peer").is_null(), "{stuck:?}");
    // The stranger's own is found all the same.
    let stuck = tracer.await_stuck(&stranger.server);
    assert_peer(&stuck, "FIN_WAIT2", &stranger.client, &[(stranger.client.pid, stranger.client.fd)]);
    // The later one first.
    drop(stranger);
}

#[test]
fn a_peer_on_its_way_to_another_process_is_not_gone() {
    let mut scene = Scene::new();
    let (client, server) = scene.connection();
    scene.client.shutdown(&client);
    scene.server.open_mailbox("peer-box");
    scene.client.send(&client, "peer-box");
    scene.client.close(&client);
    assert_eq!(witness::find(&client).expect("it is in the mailbox").holders, []);
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--remind", THRESHOLD]);
    let stuck = tracer.await_stuck(&server);
    let peer = stuck.get("peer");
    assert_eq!((&peer["state"], &peer["owners_total"]), (&"FIN_WAIT2".into(), &0.into()), "{stuck:?}");
    assert_eq!((&peer["owner_how"], &peer["gone"]), (&"none".into(), &false.into()), "{stuck:?}");
    let received = scene.server.receive();
    let stuck = tracer.await_record("its new holder", |record| {
        record.is_about("stuck", &server) && record.get("peer")["owner_how"] == "fd"
    });
    assert_peer(&stuck, "FIN_WAIT2", &client, &[(received.pid, received.fd)]);
}

#[test]
fn a_peer_that_is_not_accepted_names_who_holds_its_listener() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--state", "fin-wait-2"]);
    let client = scene.client.connect(scene.address());
    scene.client.shutdown(&client);
    let stuck = tracer.await_stuck(&client);
    let peer = stuck.get("peer");
    assert_eq!((&peer["state"], &peer["owner_how"]), (&"CLOSE_WAIT".into(), &"listener".into()), "{stuck:?}");
    let owner = &peer["owners"][0];
    let listener = scene.listener;
    assert_eq!((&owner["pid"], &owner["fd"]), (&listener.pid.into(), &listener.fd.into()), "{stuck:?}");
    assert_eq!((&peer["owners_total"], &peer["gone"]), (&1.into(), &false.into()), "{stuck:?}");
}
