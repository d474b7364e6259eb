//! Walks that are interrupted, incomplete or impossible: nothing is reported late, forgotten or
//! cleared because of that.

use std::{
    collections::HashSet,
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tests::{
    Namespace, Puppet, Record, Signal, Sock, Tracer, TracerCommand, cgroup::Cgroup, feature, patience,
    scene::Scene,
};

/// Returns whether a process has a thread that walks.
fn is_walking(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    threads.into_iter().any(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.starts_with("tcptrace-walk"))
    })
}

#[test]
fn a_walk_that_was_stopped_holds_back_no_report() {
    const STOPPED: Duration = Duration::from_secs(4);
    let mut scene = Scene::new();
    // Reminders, so that there are walks to stop it in.
    let tracer = Tracer::start(&["--stuck", "300ms", "--remind", "60ms"]);
    let before = scene.leak().socket;
    tracer.await_stuck(&before);
    let end = Instant::now() + patience();
    loop {
        tracer.signal(Signal::STOP);
        thread::sleep(Duration::from_millis(2)); // it takes effect on all threads
        if is_walking(tracer.pid()) {
            break;
        }
        tracer.signal(Signal::CONT);
        thread::sleep(Duration::from_millis(3)); // let it walk
        assert!(Instant::now() < end, "it was never seen walking");
    }
    thread::sleep(STOPPED); // what it is about
    tracer.signal(Signal::CONT);
    let leak = scene.leak();
    let stuck = tracer.await_stuck(&leak.socket);
    // Within a second on a machine with nothing else to do; a pause by the walk's length would be
    // 16 s.
    let late_ms = stuck.number("age_ms") - 300.0;
    assert!(late_ms < STOPPED.as_millis() as f64, "{late_ms} ms late: {stuck:?}");
}

#[test]
fn a_namespace_that_ends_during_a_loss_leaves_nothing_stuck() {
    let tracer = Tracer::start(&["--stuck", "300ms", "--ring-size", "4096"]);
    let mut scene = Scene::new();
    let netns = scene.netns();
    let leaks: Vec<Sock> = (0..5).map(|_| scene.leak().socket).collect();
    for leak in &leaks {
        tracer.await_stuck(leak);
    }
    tracer.signal(Signal::STOP);
    {
        // What fills the ring, so that nobody hears how the others end.
        let _other = Namespace::new();
        let mut puppet = Puppet::new();
        let listener = puppet.listen("127.0.0.1:0");
        puppet.churn(&listener, 100);
    }
    let Scene { client, server, namespace, .. } = scene;
    client.kill();
    server.kill();
    drop(namespace);
    tracer.signal(Signal::CONT);
    for leak in &leaks {
        tracer.await_cleared(leak);
    }
    let run = tracer.stop();
    assert!(run.summary().int("lost") > 0, "a ring of 4096 bytes cannot have held all this");
    let cleared: HashSet<u64> =
        run.records_in(netns).iter().filter(|record| record.is("cleared")).map(Record::cookie).collect();
    assert_eq!(cleared.len(), leaks.len());
}

/// Returns the lowest unused pids below this one: a search looks at them first, long before it
/// enters a namespace.
fn free_pids_below(pid: u32) -> Vec<u32> {
    let is_free = |pid: &u32| !Path::new("/proc").join(pid.to_string()).exists();
    (2..pid).filter(is_free).take(40).collect()
}

/// Forks a child with this pid, which lives for a while in the calling thread's namespace.
fn live_for_a_moment(pid: u32, moment: Duration) -> io::Result<()> {
    let pid = pid.cast_signed();
    // SAFETY: plain data, valid when all zero.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = &raw const pid as u64;
    arguments.set_tid_size = 1;
    // SAFETY: without CLONE_VM the child has memory of its own; it makes two system calls and
    // ends.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) } {
        0 => unsafe {
            // SAFETY: both are system calls with integers.
            libc::usleep(u32::try_from(moment.as_micros()).unwrap_or(u32::MAX));
            libc::_exit(0);
        },
        -1 => Err(io::Error::last_os_error()),
        child => {
            // SAFETY: the status is not asked for.
            unsafe { libc::waitpid(child.try_into().expect("a pid"), std::ptr::null_mut(), 0) };
            Ok(())
        }
    }
}

#[test]
fn a_namespace_whose_first_process_is_always_ending_is_walked_by_another_way() {
    const TEST: &str = "a_namespace_whose_first_process_is_always_ending_is_walked_by_another_way";
    const SOCKETS: usize = 5;
    /// As many processes are always ending.
    const THREADS: usize = 4;
    // Outside: its own namespace is always walked.
    let tracer = Tracer::start(&["--stuck", "200ms", "--remind", "50ms"]);
    let mut scene = Scene::new();
    let free = free_pids_below(scene.client.pid().min(scene.server.pid()));
    if let Some(Err(error)) = free.first().map(|pid| live_for_a_moment(*pid, Duration::ZERO)) {
        return feature::tell_not_run(
            TEST,
            "children with a chosen pid (clone3, Linux 5.5)",
            &error.to_string(),
        );
    }
    if free.len() < THREADS {
        return feature::tell_not_run(TEST, "free pids below the others", "all are taken");
    }
    // Not accepted: no descriptor leads to them.
    for _ in 0..SOCKETS {
        let client = scene.client.connect(scene.address());
        scene.client.close(&client);
    }
    let netns = scene.netns();
    let enough = |records: &[Record]| {
        let ours = records.iter().filter(|record| record.is("stuck") && record.is_in(netns));
        (ours.count() >= 60 * SOCKETS).then_some(())
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for pids in free.chunks(free.len().div_ceil(THREADS)) {
            let (namespace, is_over) = (&scene.namespace, &is_over);
            scope.spawn(move || {
                namespace.enter();
                for pid in pids.iter().cycle() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // Somebody else may have it by now.
                    let _taken = live_for_a_moment(*pid, Duration::from_millis(1));
                }
            });
        }
        // Whatever is found, the other threads are to end.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&is_over);
        tracer.await_records("reminders", enough);
    });
    let run = tracer.stop();
    let of = |event: &str| -> Vec<Record> {
        run.records_in(netns).into_iter().filter(|record| record.is(event)).collect()
    };
    let stuck: HashSet<u64> = of("stuck").iter().map(Record::cookie).collect();
    assert_eq!((stuck.len(), of("cleared")), (SOCKETS, vec![]), "they never moved");
}

fn pid_of(tracer: &Tracer) -> Pid {
    i32::try_from(tracer.pid()).ok().and_then(Pid::from_raw).expect("a child has a pid")
}

/// Asserts that stderr says once that walks fail, with the remedy, and once that they work again.
fn assert_told_once(stderr: &str, errno: &str, remedy: &str) {
    assert_eq!(stderr.matches(errno).count(), 1, "{stderr}");
    assert_eq!(stderr.matches("sockets again").count(), 1, "{stderr}");
    let has_remedy = |line: &str| line.trim_start().starts_with("do:") && line.contains(remedy);
    assert!(stderr.lines().any(has_remedy), "{stderr}");
}

#[test]
fn without_descriptors_walks_are_made_later_and_nothing_is_forgotten() {
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", "200ms"]);
    let known = scene.leak().socket;
    tracer.await_stuck(&known);
    let limit = |current| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        prlimit(Some(pid_of(&tracer)), Resource::Nofile, Rlimit { current, maximum })
            .expect("root may limit a process")
    };
    let before = limit(Some(3)).current;
    let leak = scene.leak();
    tracer.await_stderr("EMFILE");
    scene.server.close(&known);
    tracer.await_cleared(&known);
    limit(before);
    let stuck = tracer.await_stuck(&leak.socket);
    assert_eq!(stuck.get("exact").as_bool(), Some(true), "{stuck:?}");
    assert_eq!(stuck.holders(), [(leak.socket.pid, leak.socket.fd)]);
    let run = tracer.stop();
    assert_told_once(&run.stderr, "EMFILE", "ulimit -n");
}

#[test]
fn without_threads_walks_are_made_later_and_nothing_is_forgotten() {
    const TEST: &str = "without_threads_walks_are_made_later_and_nothing_is_forgotten";
    let name = format!("/tcptrace-test-{}-walks", std::process::id());
    let cgroup = match Cgroup::controlled_by("pids", &name) {
        Ok(cgroup) => cgroup,
        Err(why) => return feature::tell_not_run(TEST, "a cgroup with a limit of threads", &why),
    };
    let mut scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", "200ms"]);
    cgroup.admit(tracer.pid());
    cgroup.set("pids.max", "1");
    let leak = scene.leak();
    tracer.await_stderr("EAGAIN");
    cgroup.set("pids.max", "max");
    let stuck = tracer.await_stuck(&leak.socket);
    assert_eq!(stuck.holders(), [(leak.socket.pid, leak.socket.fd)]);
    let run = tracer.stop();
    assert_told_once(&run.stderr, "EAGAIN", "pids.max");
}

#[test]
fn a_look_without_threads_has_not_looked_and_says_what_is_missing() {
    const TEST: &str = "a_look_without_threads_has_not_looked_and_says_what_is_missing";
    let name = format!("/tcptrace-test-{}-look", std::process::id());
    let cgroup = match Cgroup::controlled_by("pids", &name) {
        Ok(cgroup) => cgroup,
        Err(why) => return feature::tell_not_run(TEST, "a cgroup with a limit of threads", &why),
    };
    cgroup.set("pids.max", "1");
    let mut command = TracerCommand::new(&["--once", "--stuck", "1h"]);
    let mut admission = fs::File::options().write(true).open(cgroup.procs()).expect("root may");
    // SAFETY: it writes to an open file, and touches no memory that another thread may have
    // locked.
    unsafe { command.command.pre_exec(move || admission.write_all(b"0")) };
    let run = command.run();
    assert_eq!(run.status.code(), Some(3), "{}", run.stderr);
    for words in ["EAGAIN", "pids.max", "\n  do:"] {
        assert!(run.stderr.contains(words), "nothing of {words}: {}", run.stderr);
    }
}

/// Runs the tracer with this soft and hard limit of open files.
fn with_open_files(arguments: &[&str], soft: u64, hard: u64) -> TracerCommand {
    let mut command = TracerCommand::new(arguments);
    let limit = Rlimit { current: Some(soft), maximum: Some(hard) };
    // SAFETY: a system call with integers.
    unsafe { command.command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?)) };
    command
}

#[test]
fn a_start_without_descriptors_is_refused_with_the_errno_and_what_to_do() {
    let mut refused = 0;
    for arguments in [&["--once", "--stuck", "1h"][..], &["--stuck", "1h", "--duration", "1ms"]] {
        for files in 5..60 {
            let run = with_open_files(arguments, files, files).run();
            if run.status.code() == Some(0) {
                assert!(!run.stderr.contains("EMFILE"), "with {files}: {}", run.stderr);
                continue;
            }
            refused += 1;
            assert_eq!(run.status.code(), Some(3), "with {files}: {}", run.stderr);
            for words in ["EMFILE", "ulimit -n", "\n  do:"] {
                assert!(run.stderr.contains(words), "with {files}, nothing of {words}: {}", run.stderr);
            }
            for words in ["report this", "panicked"] {
                assert!(!run.stderr.contains(words), "with {files}: {}", run.stderr);
            }
        }
    }
    assert!(refused > 10, "only {refused}: these limits are too high to show anything");
}

#[test]
fn a_soft_limit_of_open_files_is_raised() {
    let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(4096);
    let run = with_open_files(&["--once", "--stuck", "1h"], 10, hard).run();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
}

#[test]
fn more_than_is_read_at_a_time_is_read_all_the_same() {
    /// Ten transitions each, more than are taken out of the ring at a time.
    const CONNECTIONS: usize = 900;
    let namespace = Namespace::new();
    let tracer = Tracer::start(&["--transitions"]);
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    tracer.signal(Signal::STOP);
    puppet.churn(&listener, CONNECTIONS);
    tracer.signal(Signal::CONT);
    let netns = namespace.inode();
    // Nothing happens any more that could wake it: what it has not read it must know of.
    tracer.await_records("all", |records| {
        let ours = records.iter().filter(|record| record.is("transition") && record.is_in(netns)).count();
        let lost: u64 =
            records.iter().filter(|record| record.is("lost")).map(|record| record.int("lost")).sum();
        (ours as u64 + lost > 10 * CONNECTIONS as u64).then_some(())
    });
    tracer.stop();
}
