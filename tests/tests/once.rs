//! `--once`: reports what is stuck now, with an exit status for a health check.

use tests::{
    Namespace, Puppet, Record, TracerCommand, feature, monotonic_ns, process::poll_until, scene::Leak,
    scene::Scene, tracer::Finished,
};

/// A threshold longer than anything can have been stuck here.
const NEVER: &str = "10000d";

/// Waits until a leak is provably older than 300 ms, also if a tick of the kernel's clock takes 10
/// ms.
fn await_age(leak: &Leak) {
    let ns = leak.not_after_ns + 400_000_000;
    poll_until("time to pass", || (monotonic_ns() >= ns).then_some(()));
}

fn assert_found(arguments: &[&str]) {
    let mut scene = Scene::new();
    let leak = scene.leak();
    await_age(&leak);
    let run = TracerCommand::new(&[&["--stuck", "300ms", "--once", "--json"], arguments].concat()).run();
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(1), ""));
    let mut stuck = run.records.iter().filter(|record| record.is_about("stuck", &leak.socket));
    let (found, more) = (stuck.next().expect("it is stuck"), stuck.next());
    assert_eq!(more, None, "once each");
    assert_eq!((found.get("exact"), found.text("cause")), (&false.into(), "not_closed"));
    assert_eq!(found.holders(), [(leak.socket.pid, leak.socket.fd)]);
    assert!(found.number("age_ms") <= (found.mono_ns() - leak.not_before_ns) as f64 / 1e6, "{found:?}");
    let pid = u64::from(leak.socket.pid);
    let rolled: Vec<_> =
        run.records.iter().filter(|record| record.is("process") && record.int("pid") == pid).collect();
    assert_eq!((rolled.len(), rolled[0].int("stuck")), (1, 1), "{rolled:?}");

    let order = |event: &str| match event {
        "start" => 0,
        "stuck" => 1,
        "process" => 2,
        "summary" => 3,
        other => panic!("{other} has no place here"),
    };
    let places: Vec<_> = run.records.iter().map(|record: &Record| order(record.event())).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert_eq!((run.count("start"), run.count("summary")), (1, 1));
    assert_eq!(run.summary().int("stuck"), run.count("stuck"));
    assert!(run.records[0].int("sockets") >= 2, "the listener and the leak at least");
    assert_eq!(run.records[0].get("sources")["tp_btf/inet_sock_set_state"]["in_use"], false);
}

#[test]
fn a_stuck_socket_is_reported_and_the_exit_status_is_1() {
    assert_found(&[]);
}

#[test]
fn a_stuck_socket_is_found_without_btf_too() {
    assert_found(&["--without", "btf"]);
}

#[test]
fn a_stuck_socket_is_found_without_the_cookie_helper_too() {
    assert_found(&["--without", "cookie"]);
}

#[test]
fn where_nothing_is_stuck_the_exit_status_is_0_and_stderr_tells_of_those_that_may_be() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    let run = TracerCommand::new(&["--stuck", NEVER, "--once"]).run();
    assert_eq!((run.status.code(), run.lines.as_slice()), (Some(0), &[][..]), "{}", run.stderr);
    let verdict = run.stderr.lines().last().expect("a verdict");
    assert!(verdict.starts_with("tcptrace: nothing stuck; "), "{}", run.stderr);
    assert!(verdict.contains(" more in CLOSE-WAIT, younger than "), "{}", run.stderr);
    assert!(verdict.ends_with(" or of unknown age"), "{}", run.stderr);
    assert!(!run.stderr.contains("without tp_btf"), "{}", run.stderr);
    assert_eq!(tests::witness::find(&leak.socket).map(|seen| seen.state).as_deref(), Some("CLOSE-WAIT"));

    let json = TracerCommand::new(&["--stuck", NEVER, "--once", "--json"]).run();
    assert_eq!((json.status.code(), json.stderr.as_str()), (Some(0), ""));
    assert_eq!((json.count("start"), json.count("summary"), json.records.len()), (1, 1, 2));
}

#[test]
fn a_stuck_socket_is_a_line_of_text_with_its_process_rolled_up() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    await_age(&leak);
    let run = TracerCommand::new(&["--stuck", "300ms", "--once"]).run();
    assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
    let (pid, local) = (leak.socket.pid, leak.socket.local.to_string());
    let place =
        |words: &[&str]| run.lines.iter().position(|line| words.iter().all(|words| line.contains(words)));
    let stuck = place(&[&format!(" puppet/{pid} "), &local, "not closed"]).expect("its line");
    let rolled = place(&[&format!("puppet/{pid}: 1 stuck, oldest "), " fds"]).expect("its process");
    assert!(stuck < rolled, "{:?}", run.lines);
    assert!(run.stderr.contains(" stuck"), "{}", run.stderr);
}

#[test]
fn a_reader_that_is_gone_changes_nothing_about_the_exit_status() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    await_age(&leak);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = TracerCommand::new(&["--stuck", "300ms", "--once", "--json"]);
    command.command.stdout(writer);
    assert_eq!(command.run().status.code(), Some(1));
}

#[test]
fn a_full_disk_is_a_failure_and_no_verdict() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    await_age(&leak);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = TracerCommand::new(&["--stuck", "300ms", "--once", "--json"]);
    command.command.stdout(full);
    let run = command.run();
    assert_eq!(run.status.code(), Some(4), "{}", run.stderr);
}

/// Asserts that there is no verdict on what is not there or must not be seen, and that stderr says
/// so.
fn assert_not_looked_at(run: &Finished, words: &[&str]) {
    assert_eq!(run.status.code(), Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("tcptrace: cannot tell whether anything is stuck: "), "{}", run.stderr);
    for words in [&["why:", "do:"], words].concat() {
        assert!(run.stderr.contains(words), "nothing of {words}: {}", run.stderr);
    }
}

#[test]
fn what_a_filter_names_and_is_not_there_is_no_verdict() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    await_age(&leak);
    scene.server.rename(b"worker3");
    let pid = leak.socket.pid;
    // Above all pids that there can be (PID_MAX_LIMIT).
    for (filter, words) in [
        (["--pid", "4194305"], "no process has the pid 4194305"),
        (["--pid", "4194305-4194399"], "no process has a pid in 4194305-4194399"),
        (["--comm", "worker"], "no process is named `worker`, but one is named `worker3`"),
        (["--uid", "3999999999"], "no process runs as user 3999999999"),
        (["--cgroup", "/tcptrace-no-such.slice"], "there is no cgroup /tcptrace-no-such.slice"),
        (["--container", "deadbeef"], "no process is in a container whose id begins with deadbeef"),
        (["--netns", "1"], "there is no network namespace 1"),
    ] {
        for form in [&[][..], &["--json"]] {
            let run =
                TracerCommand::new(&[&["--stuck", "300ms", "--once"], &filter[..], form].concat()).run();
            assert_not_looked_at(&run, &[words, "check the filter"]);
            assert!(run.lines.iter().all(|line| !line.contains("not_closed")), "{:?}", run.lines);
        }
        // It may come while one watches.
        let live =
            TracerCommand::new(&[&["--stuck", "300ms", "--duration", "1ms"], &filter[..]].concat()).run();
        assert_eq!(live.status.code(), Some(0), "{}", live.stderr);
        assert!(live.stderr.contains(words), "{}", live.stderr);
    }
    let port = scene.address().port().to_string();
    let run = |filter: &[&str]| {
        TracerCommand::new(&[&["--stuck", "300ms", "--once", "--json"], filter].concat()).run()
    };
    let together = run(&["--pid", &std::process::id().to_string(), "--comm", "worker3"]);
    assert_not_looked_at(&together, &["no process passes all of these filters"]);
    // What is stuck is told, and what is not there beside it.
    let both = run(&["--pid", &format!("{pid},4194305")]);
    assert_eq!((both.status.code(), both.count("stuck")), (Some(1), 1), "{}", both.stderr);
    assert!(
        both.stderr.contains("1 stuck; not all was looked at: no process has the pid 4194305"),
        "{}",
        both.stderr
    );
    // Addresses and ports name nothing that would have to be there.
    for filter in [["--port", "1"], ["--remote", "192.0.2.7"], ["--local-port", "1"]] {
        let run = run(&filter);
        assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""), "{filter:?}");
    }
    let netns = scene.netns().to_string();
    for filter in [["--pid", &pid.to_string()], ["--netns", &netns], ["--comm", "worker3"], ["--port", &port]]
    {
        let run = run(&filter);
        assert_eq!(
            (run.status.code(), run.count("stuck"), run.stderr.as_str()),
            (Some(1), 1, ""),
            "{filter:?}"
        );
    }
}

#[test]
fn namespaces_that_only_descriptors_hold_are_counted() {
    const TEST: &str = "namespaces_that_only_descriptors_hold_are_counted";
    const MANY: usize = 12;
    if feature::is_missing(feature::TASK_FILE, TEST) {
        return;
    }
    let puppets: Vec<_> = (0..MANY)
        .map(|_| {
            let _namespace = Namespace::new();
            let mut puppet = Puppet::new();
            let listener = puppet.listen("127.0.0.1:0");
            puppet.pairs(&listener, 1);
            // No process is in it any more.
            puppet.leave_namespace();
            puppet
        })
        .collect();
    let run = TracerCommand::new(&["--stuck", "1h", "--once"]).run();
    let words: Vec<&str> = run.stderr.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "namespaces").expect("how many it looked at");
    let count: usize = words[at - 1].parse().expect("a number");
    // The ones that they went to, too.
    assert!(count >= 2 * MANY, "{}", run.stderr);
    drop(puppets);
}
