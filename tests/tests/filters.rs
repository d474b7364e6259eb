//! Filters: what they keep back is not reported, and still tracked.

use std::collections::HashMap;

use serde_json::Value;
use tests::{
    Namespace, Puppet, Record, Sock, Tracer, TracerCommand, cgroup::Cgroup, feature, monotonic_ns,
    process::poll_until, scene::Scene,
};

/// The address of a listener, and the one that its client connects from.
const V4: (&str, &str) = ("127.0.0.1:4001", "127.0.0.1:5001");
const V6: (&str, &str) = ("[::1]:4002", "[::1]:5002");

/// Two leaks that differ in everything that a filter can select.
struct Two {
    /// The leak of a process of root, over IPv4.
    first: Sock,
    /// The leak of another user's process, over IPv6 and in another network namespace, the first
    /// process of a pid namespace.
    second: Sock,
    server: Puppet,
    first_held: (Puppet, Puppet, Namespace),
    second_held: (Puppet, Namespace),
}

fn leak((at, from): (&str, &str)) -> (Sock, Puppet, Puppet, Namespace) {
    let namespace = Namespace::new();
    let (mut client, mut server) = (Puppet::new(), Puppet::new());
    let listener = server.listen(at);
    let connected = client.connect_from(from.parse().expect("an address"), listener.local);
    let leak = server.accept(&listener);
    client.close(&connected);
    server.read_to_the_end(&leak);
    (leak, client, server, namespace)
}

impl Two {
    fn new() -> Self {
        let (first, client, server, namespace) = leak(V4);
        let first_held = (client, server, namespace);
        let (theirs, client, mut server, namespace) = leak(V6);
        server.rename(b"other");
        server.tell("real-user 4711");
        let child = server.fork_into_pid_namespace();
        server.close(&theirs);
        let now_ns = monotonic_ns();
        poll_until("time to pass", || (monotonic_ns() >= now_ns + 400_000_000).then_some(()));
        Self {
            first,
            second: Sock { pid: child, ..theirs },
            server,
            first_held,
            second_held: (client, namespace),
        }
    }

    /// Returns which of the two are reported with this filter; asserts that each has a roll-up of
    /// its process.
    fn reported(&self, filter: &str) -> [bool; 2] {
        let filter: Vec<&str> = filter.split_ascii_whitespace().collect();
        let run =
            TracerCommand::new(&[&["--stuck", "300ms", "--once", "--json"], &filter[..]].concat()).run();
        let found = [&self.first, &self.second].map(|socket| {
            let stuck = run.records.iter().filter(|record| record.is_about("stuck", socket)).count();
            let rolled =
                |record: &&Record| record.is("process") && record.int("pid") == u64::from(socket.pid);
            let rolled = run.records.iter().filter(rolled).count();
            assert_eq!(stuck, rolled, "{filter:?}: {:?}", run.records);
            stuck == 1
        });
        // A filter that names what is not there is answered by no verdict.
        let code = match (run.count("stuck"), run.stderr.contains("cannot tell whether")) {
            (0, false) => 0,
            (0, true) => 3,
            _ => 1,
        };
        assert_eq!((run.status.code(), run.summary().int("stuck")), (Some(code), run.count("stuck")));
        found
    }
}

#[test]
fn each_filter_reports_what_it_admits_and_keeps_back_the_rest() {
    let two = Two::new();
    let (first, second) = (two.first, two.second);
    for (onlyfirst_held, onlysecond_held) in [
        (format!("--pid {}", first.pid), format!("--pid {}", second.pid)),
        // As it sees itself.
        (format!("--pid 2,{}", first.pid), "--pid 1".to_owned()),
        ("--comm puppet".to_owned(), "--comm other,another".to_owned()),
        ("--uid 0".to_owned(), "--uid 4000-5000".to_owned()),
        ("--port 4001".to_owned(), "--port 5002".to_owned()),
        ("--local-port 4001".to_owned(), "--local-port 4002-5001".to_owned()),
        ("--remote-port 4002-5001".to_owned(), "--remote-port 5002".to_owned()),
        ("--local 127.0.0.0/8".to_owned(), "--local ::1".to_owned()),
        ("--remote 127.0.0.1".to_owned(), "--remote ::/0".to_owned()),
        (format!("--netns {}", first.netns), format!("--netns net:[{}]", second.netns)),
        ("-4".to_owned(), "-6".to_owned()),
        (format!("-4 --pid {}", first.pid), format!("--comm other --netns {}", second.netns)),
    ] {
        assert_eq!(two.reported(&onlyfirst_held), [true, false], "{onlyfirst_held}");
        assert_eq!(two.reported(&onlysecond_held), [false, true], "{onlysecond_held}");
    }
    assert_eq!(two.reported(""), [true, true]);
    assert_eq!(two.reported(&format!("-6 --pid {}", first.pid)), [false, false]);
    let run = TracerCommand::new(&["--stuck", "10000d", "--once", "--port", "4003"]).run();
    let verdict = run.stderr.lines().last();
    assert_eq!((run.status.code(), verdict), (Some(0), Some("tcptrace: nothing stuck")), "{}", run.stderr);
}

#[test]
fn a_container_and_its_cgroup_are_filters_too() {
    let test = "a_container_and_its_cgroup_are_filters_too";
    let id = "9c1f6e0c9d2a7f5e8c3b6a1d0e9f8c7b6a5d4e3f2c1b0a9f8e7d6c5b4a3f2e1d";
    let slice = format!("/tcptrace-filter-{}.slice", std::process::id());
    let cgroup = match Cgroup::new(&format!("{slice}/docker-{id}.scope")) {
        Ok(cgroup) => cgroup,
        Err(why) => return feature::tell_not_run(test, "a cgroup", &why),
    };
    let two = Two::new();
    cgroup.admit(two.second.pid);
    for admitting in
        [format!("--container {}", &id[..12]), format!("--cgroup {slice}"), "--cgroup /".to_owned()]
    {
        let [first, second] = two.reported(&admitting);
        assert!(second && first == (admitting == "--cgroup /"), "{admitting}");
    }
    for keeping_back in ["--container 9c1e", "--cgroup /tcptrace-filter"] {
        assert!(!two.reported(keeping_back)[1], "{keeping_back}");
    }
    let Two { server, first_held, second_held, .. } = two;
    drop((server, first_held, second_held)); // before the group
}

#[test]
fn what_is_kept_back_is_known_when_something_is_reported() {
    let mut scene = Scene::new();
    let pid = scene.server.pid().to_string();
    let tracer = Tracer::start(&["--transitions", "--stuck", "300ms", "--pid", &pid]);
    let leak = scene.leak().socket;
    // Nobody knows whose it is until it is looked at; what led there has been seen all the same.
    assert_eq!(tracer.await_stuck(&leak).get("exact"), true);
    scene.server.close(&leak);
    tracer.await_cleared(&leak);
    let closed =
        |record: &Record| record.is_about("transition", &leak) && record.states() == ("LAST_ACK", "CLOSE");
    tracer.await_record("its end", closed);
    let run = tracer.stop();
    let records = &run.records;
    let closes = |record: &&Record| {
        record.is_about("transition", &leak) && record.states() == ("CLOSE_WAIT", "LAST_ACK")
    };
    let closes = records.iter().find(closes).expect("what its process did");
    assert!(closes.number("in_old_state_ms") > 0.0, "{closes:?}");
    let owners: Vec<_> = records.iter().filter(|record| record.is("transition")).map(owner_pid).collect();
    assert!(owners.iter().flatten().all(|owner| owner.to_string() == pid), "{records:?}");
    let told = run.count("transition") + run.summary().int("filtered");
    assert!(told >= run.summary().int("transitions"), "reported or kept back: {:?}", run.summary());
}

fn owner_pid(record: &Record) -> Option<u64> {
    record.get("owner")["pid"].as_u64()
}

#[test]
fn a_connection_from_before_the_start_is_known_to_be_its_processs() {
    let mut scene = Scene::new();
    let (theirs, ours) = scene.connection();
    let pid = scene.server.pid().to_string();
    let tracer = Tracer::start(&["--pid", &pid]);
    scene.client.close(&theirs);
    let wanted = |record: &Record| {
        record.is_about("transition", &ours) && record.states() == ("ESTABLISHED", "CLOSE_WAIT")
    };
    tracer.await_record("what the peer did to it", wanted);
    scene.server.close(&ours);
    let wanted = |record: &Record| record.is_about("transition", &ours) && record.states().1 == "CLOSE";
    tracer.await_record("its end", wanted);
    let run = tracer.stop();
    let of_client = run.records.iter().find(|record| record.is_about("transition", &theirs));
    assert_eq!(of_client, None, "it is another process's");
}

#[test]
fn what_was_reported_stuck_is_reported_cleared_whoever_closes_it() {
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    let pid = scene.server.pid().to_string();
    let tracer = Tracer::start(&["--stuck", "300ms", "--pid", &pid]);
    tracer.await_stuck(&leak);
    let child = scene.server.fork();
    scene.server.close(&leak);
    let Scene { server, client: _client, namespace: _namespace, .. } = scene;
    server.kill();
    let cleared = tracer.await_cleared(&leak);
    assert_eq!(cleared.get("by")["pid"], child, "{cleared:?}");
}

/// Returns the socket and event of a record, and its content. Two tracers read the clock at
/// different moments, so of times it has only whether they are there.
fn content(record: &Record) -> Option<(String, Vec<Value>)> {
    let (fields, times): (&[&str], &[&str]) = match record.event() {
        "transition" => (&["owner", "owner_how", "how", "stand_in"], &["in_old_state_ms"]),
        "stuck" => (
            &[
                "state",
                "recv_queue",
                "send_queue",
                "cause",
                "exact",
                "owners",
                "owner_how",
                "listener",
                "peer",
            ],
            &["age_max_ms", "origin"],
        ),
        "cleared" => (&["state", "new_state", "by", "how"], &[]),
        "life" => (
            &[
                "role",
                "close_reason",
                "error",
                "bytes_sent",
                "bytes_received",
                "retransmits",
                "owner",
                "owner_how",
            ],
            &["opened", "duration_ms"],
        ),
        _ => return None,
    };
    let states = if record.is("transition") { record.states() } else { ("", "") };
    let which = format!("{} {} {states:?}", record.event(), record.cookie());
    let fields = fields.iter().map(|field| record.get(field).clone());
    let times = times.iter().map(|time| record.get(time).is_null().into());
    Some((which, fields.chain(times).collect()))
}

#[test]
fn what_a_record_holds_does_not_depend_on_the_filters() {
    let id = "5d2a6e0c9d2a7f5e8c3b6a1d0e9f8c7b6a5d4e3f2c1b0a9f8e7d6c5b4a3f2e1d";
    let cgroup = Cgroup::new(&format!("/tcptrace-content-{}.slice/docker-{id}.scope", std::process::id()));
    let mut scene = Scene::new();
    let port = scene.address().port().to_string();
    let pids = format!("{},{}", scene.client.pid(), scene.server.pid());
    let netns = scene.netns().to_string();
    let mut filters = vec![
        ["--pid", &pids],
        ["--comm", "puppet"],
        ["--uid", "0"],
        ["--cgroup", "/"],
        ["--port", &port],
        ["--local-port", &port],
        ["--remote", "127.0.0.0/8"],
    ];
    if let Ok(cgroup) = &cgroup {
        cgroup.admit(scene.server.pid());
        filters.push(["--container", &id[..12]]);
    }
    // Without BTF transitions tell no namespace.
    if feature::why_not(feature::TP_BTF).is_none() {
        filters.push(["--netns", &netns]);
    }
    let views = ["--transitions", "--lives", "--stuck", "300ms"];
    let all = Tracer::start(&views);
    let filtered: Vec<_> =
        filters.iter().map(|filter| (filter, Tracer::start(&[&views[..], filter].concat()))).collect();
    let leak = scene.leak().socket;
    let tracers = || filtered.iter().map(|(_, tracer)| tracer).chain([&all]);
    tracers().for_each(|tracer| drop(tracer.await_stuck(&leak)));
    scene.server.close(&leak);
    tracers().for_each(|tracer| drop((tracer.await_cleared(&leak), tracer.await_life(&leak))));

    let all = all.stop();
    let unfiltered: HashMap<_, _> = all.records.iter().filter_map(content).collect();
    for (filter, tracer) in filtered {
        let run = tracer.stop();
        for event in ["transition", "stuck", "cleared", "life"] {
            let about = run.records.iter().filter(|record| record.is_about(event, &leak)).filter_map(content);
            let about: Vec<_> = about.collect();
            assert!(!about.is_empty(), "no {event} with {filter:?}: {:?}", run.records);
            for (which, content) in about {
                assert_eq!(unfiltered.get(&which), Some(&content), "{which} with {filter:?}");
            }
        }
    }
    let exe = std::fs::read_link(format!("/proc/{}/exe", scene.server.pid())).expect("it lives");
    let closes = |record: &&Record| {
        record.is_about("transition", &leak) && record.states() == ("CLOSE_WAIT", "LAST_ACK")
    };
    let owner = all.records.iter().find(closes).expect("its process has closed it").get("owner");
    assert_eq!((owner["exe"].as_str(), owner["cgroup"].is_string()), (exe.to_str(), true), "{owner}");
    assert_eq!(owner["container"].as_str(), cgroup.is_ok().then_some(id), "{owner}");
}

#[test]
fn text_names_the_holder_that_the_filter_asks_for() {
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    let child = scene.server.fork();
    for pid in [leak.pid, child] {
        let arguments = ["--stuck", "300ms", "--pid", &pid.to_string()];
        let tracer = TracerCommand::new(&arguments).start();
        let line = tracer.await_line("the socket", |line| line.contains(&format!(" {} ", leak.fd)));
        assert!(line.contains(&format!("puppet/{pid}+1 ")), "{line}");
        tracer.stop();
        // A record lists both in the same order, whatever is asked for.
        let tracer = Tracer::start(&arguments);
        let mut both = [(leak.pid, leak.fd), (child, leak.fd)];
        both.sort_unstable();
        assert_eq!(tracer.await_stuck(&leak).holders(), both);
        tracer.stop();
    }
}
