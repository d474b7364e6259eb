//! The record `process`: how many stuck sockets a process holds, how fast they grow, and when its
//! descriptors run out.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tests::{
    Puppet, Record, Signal, Sock, Tracer, TracerCommand, feature, monotonic_ns, process::poll_until,
    scene::Scene, witness::open_fds,
};

const THRESHOLD: &str = "300ms";

fn limit_fds(pid: u32, soft: u64) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: Some(soft), maximum: Some(soft * 2) };
    prlimit(pid, Resource::Nofile, limit).expect("root may limit a process");
}

fn of(pid: u32) -> impl Fn(&Record) -> bool {
    move |record| record.is("process") && record.int("pid") == u64::from(pid)
}

fn wait_until(ns: u64) {
    poll_until("time to pass", || (monotonic_ns() >= ns).then_some(()));
}

#[test]
fn a_process_is_rolled_up_after_its_sockets_and_at_the_end() {
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    limit_fds(pid, 321);
    let leaks = [scene.leak(), scene.leak(), scene.leak(), scene.leak(), scene.leak()];
    // Two descriptors of the same socket, and one socket in two processes.
    scene.server.dup(&leaks[0].socket);
    let child = scene.server.fork();
    wait_until(leaks[4].not_after_ns + 400_000_000);
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);

    let first = tracer.await_record("its roll-up", of(pid));
    assert_eq!((first.int("stuck"), first.text("comm")), (5, "puppet"), "{first:?}");
    assert_eq!(first.int("shared"), 5, "its child holds them too: {first:?}");
    assert_eq!((first.int("fds_open"), first.int("fds_limit")), (open_fds(pid), 321), "{first:?}");
    assert!(first.get("fds_full_in_s").is_null() && first.number("growth_per_min") == 0.0, "{first:?}");
    let known_ns = first.mono_ns() - leaks[0].not_before_ns;
    assert!(first.number("oldest_ms") <= known_ns as f64 / 1e6, "{first:?}");
    assert!(first.number("oldest_ms") >= 300.0, "{first:?}");
    assert_eq!(tracer.await_record("its child's", of(child)).int("stuck"), 5);
    let records = tracer.records();
    let place = |wanted: &dyn Fn(&Record) -> bool| records.iter().position(wanted).expect("it is there");
    for leak in &leaks {
        assert!(place(&|record| record.is_about("stuck", &leak.socket)) < place(&|record| of(pid)(record)));
    }

    let run = tracer.stop();
    let last = run.records.iter().rfind(|record| of(pid)(record)).expect("one at the end");
    assert_eq!((last.int("stuck"), last.int("fds_open")), (5, open_fds(pid)), "{last:?}");
    let after = run.records.iter().rposition(|record| of(pid)(record)).expect("found just now");
    let rest = &run.records[after + 1..];
    assert!(rest.iter().all(|record| record.is("process") || record.is("summary")), "{rest:?}");
    assert_eq!(run.records.iter().filter(|record| of(pid)(record)).count(), 2, "nothing had changed");
}

#[test]
fn a_leak_is_told_with_its_growth_before_it_fills_the_descriptors_and_when_it_has() {
    const EVERY_NS: u64 = 200_000_000;
    const LOOKS_BACK_NS: u64 = 20_000_000_000;
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    // Full after some 45 seconds: growth is told after 30.
    let limit = open_fds(pid) + 225;
    limit_fds(pid, limit);
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--pid", &pid.to_string()]);
    let (mut leaks, mut next_ns) = (Vec::new(), monotonic_ns());
    while open_fds(pid) < limit {
        wait_until(next_ns);
        next_ns = next_ns.max(monotonic_ns().saturating_sub(EVERY_NS)) + EVERY_NS;
        leaks.push(scene.leak());
    }
    let full_ns = monotonic_ns();
    let full = |record: &Record| of(pid)(record) && record.get("fds_full_in_s").as_f64() == Some(0.0);
    let told_full = tracer.await_record("that it is full", full);
    assert_eq!((told_full.int("fds_open"), told_full.int("fds_limit")), (limit, limit), "{told_full:?}");

    let rolled: Vec<Record> = tracer.records().into_iter().filter(|record| of(pid)(record)).collect();
    for two in rolled.windows(2) {
        assert!(two[1].mono_ns() - two[0].mono_ns() >= 10_000_000_000, "too early: {two:?}");
    }
    let per_min = |from: usize| {
        let over_ns = leaks[leaks.len() - 1].not_after_ns - leaks[from].not_after_ns;
        (leaks.len() - 1 - from) as f64 * 60e9 / over_ns as f64
    };
    // How many leaked a second in that time.
    let rate = |from_ns: u64, to_ns: u64| {
        let then = leaks.iter().filter(|leak| (from_ns..to_ns).contains(&leak.not_after_ns));
        then.count() as f64 * 1e9 / (to_ns - from_ns) as f64
    };
    let told = rolled.iter().filter(|record| record.get("fds_full_in_s").as_f64() > Some(0.0));
    let told: Vec<_> = told
        .inspect(|record| {
            let told_s = record.number("fds_full_in_s");
            let free = (limit - record.int("fds_open")) as f64;
            let before = rate(record.mono_ns() - LOOKS_BACK_NS, record.mono_ns());
            let left_s = free / before;
            assert!((told_s - left_s).abs() <= (left_s * 0.25).max(5.0), "{told_s} for {left_s}: {record:?}");
            // Where the leak has kept its rate, as it does unless the machine is busy, it came
            // true.
            if (rate(record.mono_ns(), full_ns) / before - 1.0).abs() < 0.1 {
                let left_s = (full_ns as f64 - record.mono_ns() as f64) / 1e9;
                assert!(
                    (told_s - left_s).abs() <= (left_s * 0.15).max(5.0),
                    "{told_s} for {left_s}: {record:?}"
                );
            }
            for growth in ["growth_per_min", "fds_growth_per_min"] {
                let (told, true_one) = (record.number(growth), per_min(0));
                assert!((told / true_one - 1.0).abs() < 0.25, "{growth} {told} for {true_one}: {record:?}");
            }
        })
        .collect();
    assert!(!told.is_empty(), "no forecast: {rolled:?}");

    // Two are freed and used again: it is still full. When all are closed it is not.
    for leak in &leaks {
        scene.server.close(&leak.socket);
        tracer.await_cleared(&leak.socket);
    }
    let run = tracer.stop();
    let last = run.records.iter().rfind(|record| of(pid)(record)).expect("one at the end");
    assert_eq!((last.int("stuck"), last.get("oldest_ms").is_null()), (0, true), "{last:?}");
    assert_eq!(
        (last.int("fds_open"), last.get("fds_full_in_s").is_null()),
        (open_fds(pid), true),
        "{last:?}"
    );
}

#[test]
fn the_first_roll_up_counts_every_socket_that_was_told_before_it() {
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    let connections: Vec<_> = (0..30).map(|_| scene.connection()).collect();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--pid", &pid.to_string()]);
    // Soon after each other, on a slow machine too.
    connections.iter().for_each(|(client, _)| scene.client.close(client));
    connections.iter().for_each(|(_, server)| drop(tracer.await_stuck(server)));
    tracer.await_record("its roll-up", of(pid));
    let records = tracer.records();
    let first = records.iter().position(of(pid)).expect("found just now");
    let before = records[..first].iter().filter(|record| record.is("stuck")).count();
    assert_eq!(records[first].int("stuck"), before as u64, "{:?}", records[first]);
    assert!(before > 1, "it waits for more than the first");
    tracer.stop();
}

#[test]
fn as_text_a_roll_up_comes_after_the_lines_of_all_that_it_counts() {
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    let words = format!("puppet/{pid}:");
    let tracer = TracerCommand::new(&["--stuck", THRESHOLD, "--pid", &pid.to_string()]).start();
    for _ in 0..20 {
        scene.leak();
    }
    tracer.await_line("its roll-up", |line| line.contains(&words));
    let lines = tracer.lines();
    let rolled = lines.iter().position(|line| line.contains(&words)).expect("found just now");
    // A line tells one socket, or as many as it says: `×12`.
    let sockets: usize = lines[..rolled]
        .iter()
        .filter(|line| line.contains(&format!("/{pid} ")))
        .map(|line| {
            let times = line.split_whitespace().find_map(|word| word.strip_prefix('×'));
            times.map_or(1, |times| times.parse().expect("a number"))
        })
        .sum();
    assert!(lines[rolled].contains(&format!(" {sockets} stuck")), "{lines:#?}");
    tracer.stop();
}

#[test]
fn the_descriptors_of_a_process_whose_first_thread_has_exited_are_counted() {
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    limit_fds(pid, 321);
    let leak = scene.leak().socket;
    let open = open_fds(pid);
    scene.server.exit_first_thread();
    poll_until("the first thread to be a zombie", || (open_fds_or_none(pid) == 0).then_some(()));
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_stuck(&leak);
    assert!(stuck.get("owners")[0]["exe"].is_string(), "another thread tells it: {stuck:?}");
    let rolled = tracer.await_record("its roll-up", of(pid));
    assert_eq!(
        (rolled.int("stuck"), rolled.int("fds_open"), rolled.int("fds_limit")),
        (1, open, 321),
        "{rolled:?}"
    );
    tracer.stop();
}

/// Counts the entries of `/proc/PID/fd`; 0 if it cannot be read.
fn open_fds_or_none(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |fds| fds.flatten().count())
}

#[test]
fn sockets_that_several_processes_hold_are_counted_once_for_the_host() {
    const WORKERS: usize = 20;
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    let own = scene.leak();
    let shared = [scene.leak(), scene.leak()];
    let workers: Vec<u32> = (0..WORKERS).map(|_| scene.server.fork()).collect();
    // The first one is the server's alone, with the workers it has from now on none.
    let only = scene.leak();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--remind", "300ms", "--pid", &pid.to_string()]);
    let rolled = tracer.await_record("all", |record| of(pid)(record) && record.int("stuck") == 4);
    assert_eq!(rolled.int("shared"), 3, "{rolled:?}");
    let again = |leak: &tests::scene::Leak| {
        tracer.await_records("reminders", |records| {
            let told = records.iter().filter(|record| record.is_about("stuck", &leak.socket));
            (told.count() >= 3).then_some(())
        });
    };
    shared.iter().chain([&own, &only]).for_each(again);
    let run = tracer.stop();
    assert_eq!(run.summary().int("stuck"), 4, "each once, however often it was told");
    for worker in workers {
        assert!(!run.records.iter().any(of(worker)), "it was not asked for");
    }
}

#[test]
fn a_process_that_has_ended_has_a_last_record() {
    let mut scene = Scene::new();
    let leak = scene.leak();
    let pid = scene.server.pid();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    tracer.await_record("its roll-up", |record| of(pid)(record) && record.int("stuck") == 1);
    let Scene { server, .. } = scene;
    server.kill();
    tracer.await_cleared(&leak.socket);
    let run = tracer.stop();
    let last = run.records.iter().rfind(|record| of(pid)(record)).expect("one at the end");
    assert_eq!((last.int("stuck"), last.text("comm")), (0, "puppet"), "{last:?}");
    for field in ["oldest_ms", "fds_open", "fds_limit", "fds_growth_per_min", "fds_full_in_s"] {
        assert!(last.get(field).is_null(), "{field}: {last:?}");
    }
}

#[test]
fn without_the_stuck_view_no_process_is_rolled_up() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--transitions"]);
    let leak = scene.leak();
    tracer.await_record("its transition", |record| record.is_about("transition", &leak.socket));
    assert_eq!(tracer.stop().count("process"), 0);
}

#[test]
fn what_nobody_has_accepted_is_charged_to_who_holds_the_listener() {
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    let clients = scene.client.connect_many(scene.address(), 3);
    scene.client.close_all(&clients);
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let rolled = tracer.await_record("its roll-up", |record| of(pid)(record) && record.int("stuck") == 3);
    assert_eq!((rolled.int("fds_open"), rolled.get("fds_full_in_s").is_null()), (open_fds(pid), true));
    // Accepted and closed, they are nobody's.
    let accepted = scene.server.accept_many(&scene.listener, 3);
    scene.server.close_all(&accepted);
    for socket in &accepted {
        tracer.await_cleared(&Sock { pid: 0, fd: 0, ..*socket });
    }
    let run = tracer.stop();
    let last = run.records.iter().rfind(|record| of(pid)(record)).expect("one at the end");
    assert_eq!((last.int("stuck"), last.text("comm")), (0, "puppet"), "{last:?}");
}

#[test]
fn a_pid_used_again_is_another_process() {
    let mut scene = Scene::new();
    let mut other = Puppet::new();
    other.rename(b"second");
    let first = scene.leak().socket;
    let pid = scene.server.pid();
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    tracer.await_record("its roll-up", |record| of(pid)(record) && record.int("stuck") == 1);
    let Scene { server, client: _client, namespace: _namespace, .. } = scene;
    server.kill();
    tracer.await_cleared(&first);

    let second = other.leak_as(pid);
    assert_eq!(second.pid, pid);
    let stuck = tracer.await_stuck(&second);
    let owner = &stuck.get("owners")[0];
    assert_eq!((&owner["pid"], &owner["comm"]), (&pid.into(), &"second".into()), "{stuck:?}");
    // It is told at once: the ten seconds between two records of a process are another's.
    let rolled = tracer.await_record("its own roll-up", |record| {
        of(pid)(record) && record.text("comm") == "second" && record.int("stuck") == 1
    });
    assert!(
        rolled.number("oldest_ms")
            < (rolled.mono_ns() - stuck.mono_ns()) as f64 / 1e6 + stuck.number("age_max_ms") + 1.0
    );
    let run = tracer.stop();
    let of_first: Vec<_> =
        run.records.iter().filter(|record| of(pid)(record) && record.text("comm") == "puppet").collect();
    let last = of_first.last().expect("its last one");
    assert_eq!((last.int("stuck"), last.get("fds_open").is_null()), (0, true), "{of_first:?}");
}

#[test]
fn a_process_that_is_stopped_is_told_so_in_text() {
    let mut scene = Scene::new();
    let words = format!("puppet/{}:", scene.server.pid());
    let leak = scene.leak().socket;
    scene.server.signal(Signal::STOP);
    let tracer = TracerCommand::new(&["--stuck", THRESHOLD]).start();
    tracer.await_line("a stopped process", |line| line.contains(&words) && line.contains(" stopped, "));
    scene.server.signal(Signal::CONT);
    scene.server.close(&leak);
}

#[test]
fn a_process_that_is_busy_is_told_so_in_text() {
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() < 2) {
        // It would have to share the only one with this test.
        return feature::tell_not_run(
            "a_process_that_is_busy_is_told_so_in_text",
            "two processors",
            "there is one",
        );
    }
    let mut scene = Scene::new();
    let words = format!("puppet/{}:", scene.server.pid());
    let tracer = TracerCommand::new(&["--stuck", THRESHOLD]).start();
    scene.leak();
    let line = tracer.await_line("its roll-up", |line| line.contains(&words));
    assert!(!line.contains("stopped") && !line.contains("busy"), "{line}");
    scene.server.spin();
    let rolled = || tracer.lines().into_iter().filter(|line| line.contains(&words)).collect::<Vec<_>>();
    poll_until("a busy process", || {
        // One more, so that there is something to tell; how busy it is, is over the time since it
        // was last told.
        let told = rolled().len();
        scene.leak();
        poll_until("another roll-up", || (rolled().len() > told).then_some(()));
        rolled().last().is_some_and(|line| line.contains(" busy: ")).then_some(())
    });
}
