//! Namespaces with another clock or other cgroups, in which the tracer is right all the same.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "milliseconds of a test's run, as nanoseconds"
)]

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    time::{SystemTime, UNIX_EPOCH},
};

use tests::{
    Record, TracerCommand,
    cgroup::Cgroup,
    container::{self, contain},
    feature, monotonic_ns,
    process::poll_until,
    scene::Scene,
    schema, witness,
};

/// A new time namespace (`time_namespaces(7)`); libc lacks this flag.
const CLONE_NEWTIME: i32 = 0x80;

/// Sets the tracer's clocks a little more than a day ahead.
fn in_another_time(command: &mut TracerCommand) {
    let offsets = || {
        container::write(c"/proc/self/timens_offsets", b"monotonic 86400 5000000\nboottime 90000 1000000\n")
    };
    contain(command, CLONE_NEWTIME, offsets, || Ok(()));
}

fn wall_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos().cast_signed()
}

fn has_no_time_namespaces(test: &str) -> bool {
    let missing = fs::metadata("/proc/self/ns/time").err();
    if let Some(error) = &missing {
        feature::tell_not_run(test, "time namespaces", &error.to_string());
    }
    missing.is_some()
}

#[test]
fn in_another_time_namespace_a_look_tells_the_hosts_times_and_whole_processes() {
    if has_no_time_namespaces("in_another_time_namespace_a_look_tells_the_hosts_times_and_whole_processes") {
        return;
    }
    let mut scene = Scene::new();
    let leak = scene.leak();
    let due_ns = leak.not_after_ns + 400_000_000;
    poll_until("time to pass", || (monotonic_ns() >= due_ns).then_some(()));
    let mut command = TracerCommand::new(&["--stuck", "300ms", "--once", "--json"]);
    in_another_time(&mut command);
    let began = (monotonic_ns(), wall_ns());
    let run = command.run();
    let ended = (monotonic_ns(), wall_ns());
    assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
    let stuck =
        run.records.iter().find(|record| record.is_about("stuck", &leak.socket)).expect("it is stuck");
    witness::assert_held(stuck, &leak.socket, &[(leak.socket.pid, leak.socket.fd)]);
    assert!((began.0..=ended.0).contains(&stuck.mono_ns()), "{began:?} {stuck:?} {ended:?}");
    assert!(
        (began.1..=ended.1).contains(&schema::unix_ns(stuck.text("time"))),
        "{began:?} {stuck:?} {ended:?}"
    );
    assert!(stuck.number("age_ms") <= (ended.0 - leak.not_before_ns) as f64 / 1e6, "{stuck:?}");
    // Told apart from others by their start, which /proc gives on the clock of the reader's
    // namespace.
    assert!(stuck.get("owners")[0]["exe"].is_string(), "{stuck:?}");
    let is_rolled =
        |record: &&Record| record.is("process") && record.int("pid") == u64::from(leak.socket.pid);
    let rolled = run.records.iter().find(is_rolled).expect("its process");
    assert_eq!(rolled.int("fds_open"), witness::open_fds(leak.socket.pid), "{rolled:?}");
}

#[test]
fn in_another_time_namespace_ages_are_exact_from_the_start_on() {
    if has_no_time_namespaces("in_another_time_namespace_ages_are_exact_from_the_start_on") {
        return;
    }
    let mut scene = Scene::new();
    let pid = scene.server.pid().to_string();
    let mut command = TracerCommand::new(&["--stuck", "300ms", "--pid", &pid, "--count", "2", "--json"]);
    in_another_time(&mut command);
    let tracer = command.start();
    tracer.await_record("the start", |record| record.is("start"));
    let leak = scene.leak();
    let stuck = tracer.await_stuck(&leak.socket);
    assert_eq!(stuck.get("exact"), true, "{stuck:?}");
    assert!(
        (leak.not_before_ns..).contains(&(stuck.mono_ns() - (stuck.number("age_ms") * 1e6) as u64 + 1_000))
    );
    assert!(stuck.mono_ns() <= monotonic_ns(), "{stuck:?}");
    scene.server.close(&leak.socket);
    let cleared = tracer.await_cleared(&leak.socket);
    let by = cleared.get("by");
    assert!(by["pid"] == scene.server.pid() && by["exe"].is_string(), "{cleared:?}");
    assert_eq!(tracer.finish().status.code(), Some(0));
}

#[test]
fn in_another_cgroup_namespace_cgroups_have_the_hosts_paths() {
    let test = "in_another_cgroup_namespace_cgroups_have_the_hosts_paths";
    let ours = match Cgroup::new(&format!("/tcptrace-ours-{}", std::process::id())) {
        Ok(cgroup) => cgroup,
        Err(why) => return feature::tell_not_run(test, "a cgroup", &why),
    };
    let theirs = Cgroup::new(&format!("/tcptrace-theirs-{}", std::process::id())).expect("as the other one");
    let mut scene = Scene::new();
    theirs.admit(scene.server.pid());
    let leak = scene.leak();
    let due_ns = leak.not_after_ns + 400_000_000;
    poll_until("time to pass", || (monotonic_ns() >= due_ns).then_some(()));
    let mut command =
        TracerCommand::new(&["--stuck", "300ms", "--once", "--json", "--cgroup", theirs.path()]);
    let procs = CString::new(ours.procs().as_os_str().as_bytes()).expect("no NUL in it");
    let enter = move || -> io::Result<()> {
        container::write(&procs, b"0")?;
        // SAFETY: it concerns this process, which is about to become the tracer.
        match unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    contain(&mut command, 0, || Ok(()), enter);
    let run = command.run();
    assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
    let stuck =
        run.records.iter().find(|record| record.is_about("stuck", &leak.socket)).expect("it is stuck");
    assert_eq!(stuck.get("owners")[0]["cgroup"].as_str(), Some(theirs.path()), "{stuck:?}");
}
