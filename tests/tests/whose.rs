//! Who holds a socket? Every way in which a process gets a descriptor, and the right holders for
//! each.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use tests::{
    Puppet, Record, Signal, Sock, Tracer, cgroup::Cgroup, feature, process::poll_until, scene::Scene,
    witness, witness::assert_held,
};

const THRESHOLD: &str = "200ms";
const REMINDING: [&str; 4] = ["--stuck", THRESHOLD, "--remind", "200ms"];

/// Waits for a report that names these pids and descriptors, and compares it with `ss` and
/// `/proc`.
fn await_held(tracer: &Tracer, socket: &Sock, by: &[(u32, u32)]) -> Record {
    let wanted = |record: &Record| record.is_about("stuck", socket) && record.holders() == by;
    let stuck = tracer.await_record(&format!("{socket:?} held by {by:?}"), wanted);
    assert_held(&stuck, socket, by);
    stuck
}

fn comm_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).expect("it lives").trim_end().to_owned()
}

fn exe_of(pid: u32) -> String {
    fs::read_link(format!("/proc/{pid}/exe")).expect("it lives").to_string_lossy().into_owned()
}

#[test]
fn after_a_fork_both_hold_it_until_the_parent_closes_it_and_then_the_child_alone() {
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    let child = scene.server.fork();
    let tracer = Tracer::start(&REMINDING);
    let mut both = [(leak.pid, leak.fd), (child, leak.fd)];
    both.sort_unstable();
    await_held(&tracer, &leak, &both);
    scene.server.close(&leak);
    await_held(&tracer, &leak, &[(child, leak.fd)]);
    let run = tracer.stop();
    assert_eq!(
        run.records_in(scene.netns()).iter().find(|record| record.is("cleared")),
        None,
        "the child has it"
    );
}

#[test]
fn a_daemon_holds_what_its_parent_left_it() {
    if feature::is_missing(feature::TP_BTF, "a_daemon_holds_what_its_parent_left_it") {
        return;
    }
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    let daemon = scene.server.fork_daemon();
    let Scene { server, client: _client, namespace: _namespace, .. } = scene;
    let children = server.kill_alone();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    assert_held(&stuck, &leak, &[(daemon, leak.fd)]);
    let cleared_by = {
        drop(children);
        tracer.await_cleared(&leak)
    };
    assert_eq!((cleared_by.text("how"), &cleared_by.get("by")["pid"]), ("exited", &daemon.into()));
}

#[test]
fn a_descriptor_sent_to_another_process_is_held_by_whom_it_was_sent_to() {
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    scene.client.open_mailbox("box");
    scene.server.send(&leak, "box");
    scene.server.close(&leak);
    let received = scene.client.receive();
    assert_eq!((received.local, received.remote), (leak.local, leak.remote));
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    assert_held(&stuck, &leak, &[(scene.client.pid(), received.fd)]);
}

#[test]
fn after_an_exec_the_same_process_holds_it_by_another_name() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&REMINDING);
    let leak = scene.leak().socket;
    let held = [(leak.pid, leak.fd)];
    let before = await_held(&tracer, &leak, &held);
    assert_eq!((&before.get("owners")[0]["comm"]), "puppet");
    scene.server.exec(true, "sh");
    let after = tracer.await_record("it by its new name", |record| {
        record.is_about("stuck", &leak) && record.get("owners")[0]["comm"] == "sh"
    });
    assert_held(&after, &leak, &held);
    assert_eq!(after.get("owners")[0]["exe"], exe_of(leak.pid), "{after:?}");
    assert_ne!(after.get("owners")[0]["exe"], before.get("owners")[0]["exe"]);
}

#[test]
fn a_connection_accepted_from_an_inherited_listener_is_the_services() {
    let namespace = tests::Namespace::new();
    let listener = OwnedFd::from(TcpListener::bind("127.0.0.1:0").expect("loopback is up"));
    let (mut service, mut client) = (Puppet::with_inherited(&listener), Puppet::new());
    let inherited = service.inherited();
    let ours = client.connect(inherited.local);
    let leak = service.accept(&inherited);
    client.close(&ours);
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    assert_held(&stuck, &leak, &[(service.pid(), leak.fd)]);
    assert_eq!(leak.netns, namespace.inode());
}

#[test]
fn an_inherited_connection_is_the_services_once_who_accepted_it_has_closed_it() {
    let _namespace = tests::Namespace::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback is up");
    let accepted = OwnedFd::from(listener.accept().expect("connected").0);
    let mut service = Puppet::with_inherited(&accepted);
    drop((accepted, client));
    let leak = service.inherited();
    // Other tests' children have a copy between their fork and their exec.
    poll_until("one holder", || witness::find(&leak).filter(|seen| seen.holders == [(service.pid(), 3)]));
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    assert_held(&stuck, &leak, &[(service.pid(), 3)]);
    assert_eq!(stuck.get("owners")[0]["comm"], "puppet");
}

#[test]
fn what_a_thread_holds_is_its_processs_by_the_processs_name() {
    let mut scene = Scene::new();
    scene.server.rename(b"the process");
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let client = scene.client.connect(scene.address());
    let (server, tid) = scene.server.in_thread("its-worker", format_args!("accept {}", scene.listener.fd));
    let pid = scene.server.pid();
    let thread = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).expect("it waits");
    assert_eq!((thread.trim_end(), tid == pid), ("its-worker", false));
    scene.client.close(&client);
    let stuck = tracer.await_stuck(&server);
    assert_held(&stuck, &server, &[(pid, server.fd)]);
    assert_eq!(stuck.get("owners")[0]["comm"], "the process");
    scene.server.tell(format_args!("in-thread its-closer close {}", server.fd));
    let cleared = tracer.await_cleared(&server);
    let by = cleared.get("by");
    // Without BTF nothing tells the name of the process that acts, only the thread's, which is not
    // asked for.
    let has_name = feature::why_not(feature::TP_BTF).is_none();
    let name = if has_name { "the process".into() } else { serde_json::Value::Null };
    assert_eq!((&by["pid"], &by["comm"]), (&pid.into(), &name), "{cleared:?}");
}

#[test]
fn what_only_one_thread_has_in_its_own_table_of_descriptors_is_its_processs_too() {
    let name = "what_only_one_thread_has_in_its_own_table_of_descriptors_is_its_processs_too";
    if feature::is_missing(feature::TASK_FILE, name) {
        return;
    }
    let mut scene = Scene::new();
    let shared = scene.leak().socket;
    let client = scene.client.connect(scene.address());
    let alone = scene.server.accept_apart(&scene.listener);
    scene.client.close(&client);
    assert!(!witness::socket_fds(alone.pid).contains(&alone.fd), "only that thread has it");
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    assert_eq!(tracer.await_stuck(&alone).holders(), [(alone.pid, alone.fd)]);
    // The thread has a copy of this one: the same process, the same number, once.
    let stuck = tracer.await_stuck(&shared);
    assert_held(&stuck, &shared, &[(shared.pid, shared.fd)]);
}

#[test]
fn a_holder_in_a_pid_namespace_has_the_pid_that_the_host_sees() {
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    let child = scene.server.fork_into_pid_namespace();
    scene.server.close(&leak);
    let status = fs::read_to_string(format!("/proc/{child}/status")).expect("it lives");
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("pid_namespaces(7)");
    let pids: Vec<&str> = pids.split_ascii_whitespace().collect();
    assert_eq!(pids, [&child.to_string(), "1"], "it is another namespace's first process");
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    assert_held(&stuck, &leak, &[(child, leak.fd)]);
    assert_eq!(stuck.get("owners")[0]["exe"], exe_of(child));
}

#[test]
fn a_stopped_process_holds_what_it_held() {
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    scene.server.signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", leak.pid);
    poll_until("it to stop", || fs::read_to_string(&stat).expect("it lives").contains(") T ").then_some(()));
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    assert_held(&stuck, &leak, &[(leak.pid, leak.fd)]);
    let owner = &stuck.get("owners")[0];
    assert_eq!((&owner["comm"], &owner["exe"]), (&comm_of(leak.pid).into(), &exe_of(leak.pid).into()));
    scene.server.signal(Signal::CONT);
    scene.server.close(&leak);
    assert_eq!(tracer.await_cleared(&leak).get("by")["pid"], leak.pid);
}

#[test]
fn the_owner_has_its_real_user_and_not_its_effective_one() {
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    scene.server.tell("real-user 4711");
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    assert_held(&stuck, &leak, &[(leak.pid, leak.fd)]);
    assert_eq!(stuck.get("owners")[0]["uid"], 4711, "{stuck:?}");
}

#[test]
fn the_container_of_the_owner_is_told() {
    let id = "4b1f6e0c9d2a7f5e8c3b6a1d0e9f8c7b6a5d4e3f2c1b0a9f8e7d6c5b4a3f2e1d";
    let path = format!("/tcptrace-test-{}.slice/docker-{id}.scope", std::process::id());
    let cgroup = match Cgroup::new(&path) {
        Ok(cgroup) => cgroup,
        Err(why) => return feature::tell_not_run("the_container_of_the_owner_is_told", "a cgroup", &why),
    };
    let mut scene = Scene::new();
    cgroup.admit(scene.server.pid());
    let in_container = scene.leak().socket;
    let Scene { mut client, mut server, namespace: _namespace, .. } = scene;
    let listener = client.listen("127.0.0.1:0");
    let ours = server.connect(listener.local);
    let outside = client.accept(&listener);
    server.close(&ours);
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&in_container);
    assert_held(&stuck, &in_container, &[(server.pid(), in_container.fd)]);
    let owner = &stuck.get("owners")[0];
    assert_eq!((&owner["container"], &owner["cgroup"]), (&id.into(), &cgroup.path().into()), "{stuck:?}");
    let stuck = tracer.await_stuck(&outside);
    let owner = &stuck.get("owners")[0];
    assert!(owner["container"].is_null(), "{stuck:?}");
    assert_ne!(owner["cgroup"], cgroup.path());
    drop((client, server)); // before the group
}
