//! The record `process`: how many stuck sockets a process holds, how fast they grow, and when its descriptors run out.

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
fn a_leak_that_goes_on_is_rolled_up_every_ten_seconds_with_its_growth() {
    let mut scene = Scene::new();
    let pid = scene.server.pid();
    limit_fds(pid, 5_000);
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let mut leaks = Vec::new();
    let two = poll_until("two roll-ups", || {
        let leak = scene.leak();
        tracer.await_stuck(&leak.socket);
        leaks.push(leak);
        let rolled: Vec<Record> = tracer.records().into_iter().filter(|record| of(pid)(record)).collect();
        <[Record; 2]>::try_from(rolled).ok()
    });
    let [first, second] = &two;
    assert!(second.mono_ns() - first.mono_ns() >= 10_000_000_000, "too early: {two:?}");
    assert!(second.int("stuck") > first.int("stuck"), "{two:?}");
    assert!(second.number("growth_per_min") > 0.0, "{two:?}");
    let free = second.int("fds_limit") - second.int("fds_open");
    let seconds = free as f64 / (second.number("growth_per_min") / 60.0);
    let told = second.number("fds_full_in_s");
    assert!((told - seconds).abs() < seconds * 0.01, "{told} is not {seconds}: {second:?}");
    // No faster than they were leaked.
    let leaked_per_min = leaks.len() as f64 * 60.0 / 5.0;
    assert!(second.number("growth_per_min") < leaked_per_min, "{} leaks: {second:?}", leaks.len());

    for leak in &leaks {
        scene.server.close(&leak.socket);
        tracer.await_cleared(&leak.socket);
    }
    let run = tracer.stop();
    let last = run.records.iter().rfind(|record| of(pid)(record)).expect("one at the end");
    assert_eq!((last.int("stuck"), last.get("oldest_ms").is_null()), (0, true), "{last:?}");
    assert_eq!(last.int("fds_open"), open_fds(pid));
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
    for field in ["oldest_ms", "fds_open", "fds_limit", "fds_full_in_s"] {
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
        // One more, so that there is something to tell; how busy it is, is over the time since it was last told.
        let told = rolled().len();
        scene.leak();
        poll_until("another roll-up", || (rolled().len() > told).then_some(()));
        rolled().last().is_some_and(|line| line.contains(" busy: ")).then_some(())
    });
}
