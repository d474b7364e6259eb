//! Hosts that change or hide something while the tracer walks: namespaces that come and go, or
//! that no process lives in, and a `/proc` that does not show everything.

use std::{collections::HashMap, ffi::CString, fs, io, net::SocketAddr, path::PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use tests::{
    Puppet, Record, Tracer, TracerCommand, feature, monotonic_ns,
    process::poll_until,
    scene::Scene,
    user::{self, CapabilitySet, Copied},
};

const THRESHOLD: &str = "200ms";

#[test]
fn namespaces_that_come_and_go_while_they_are_walked_do_no_harm() {
    const AT_A_TIME: usize = 10;
    const NAMESPACES: usize = 100;
    /// Of connections in namespaces that went, at least.
    const REPORTS: usize = 5;
    let mut scene = Scene::new();
    let netns = scene.netns();
    let tracer = Tracer::start(&["--stuck", "1ms", "--remind", "20ms"]);
    let mut passing = Puppet::new();
    let (mut passed, mut namespaces, mut us) = (Passed::new(), 0, 1_000);
    poll_until("reports from namespaces that went meanwhile", || {
        for leak in passing.pass_through_namespaces(AT_A_TIME, us) {
            passed.insert((leak.netns, leak.local, leak.remote), (leak.pid, leak.fd));
            namespaces += 1;
        }
        // They last longer from round to round, until the tracer, however slow, comes to see some
        // of them.
        us = (us * 3 / 2).min(200_000);
        let seen = tracer.records().iter().filter(|record| holder(record, &passed).is_some()).count();
        (seen >= REPORTS && namespaces >= NAMESPACES).then_some(())
    });
    // The tracer is as it was.
    let leak = scene.leak().socket;
    assert_eq!(tracer.await_stuck(&leak).holders(), [(leak.pid, leak.fd)]);
    let run = tracer.stop();
    assert_eq!(run.stderr, "");
    // What it says of those that went is true: its process had it, and it has cleared.
    for stuck in &run.records {
        let Some(had) = holder(stuck, &passed) else { continue };
        assert!(stuck.holders().iter().all(|holder| *holder == had), "{had:?}: {stuck:?}");
        let is_its_end = |record: &&Record| record.is("cleared") && record.cookie() == stuck.cookie();
        assert!(run.records.iter().any(|record| is_its_end(&record)), "never cleared: {stuck:?}");
    }
    assert!(run.records_in(netns).iter().any(|record| record.is("stuck")));
}

/// The holders of sockets, by namespace and both ends. The kernel may reuse the number of a
/// namespace.
type Passed = HashMap<(u64, SocketAddr, Option<SocketAddr>), (u32, u32)>;

/// Returns the holder of a record's stuck socket, if it is one of these.
fn holder(record: &Record, passed: &Passed) -> Option<(u32, u32)> {
    if !record.is("stuck") {
        return None;
    }
    passed.get(&(record.int("netns"), record.local(), Some(record.remote()))).copied()
}

/// The name of a network namespace, as ip-netns(8) gives it. Dropping it removes the name.
struct Named(PathBuf);

impl Named {
    /// Names the calling thread's network namespace.
    fn new() -> Self {
        let folder = PathBuf::from("/run/netns");
        fs::create_dir_all(&folder).expect("root may");
        let path = folder.join(format!("tcptrace-test-{}", std::process::id()));
        fs::write(&path, "").expect("root may");
        mount_bind("/proc/thread-self/ns/net", &path).expect("a namespace can be mounted");
        Self(path)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _left_behind = unmount(&self.0, UnmountFlags::DETACH);
        let _left_behind = fs::remove_file(&self.0);
    }
}

#[test]
fn a_socket_that_nobody_has_accepted_is_found_in_a_namespace_that_only_a_name_keeps() {
    let Scene { mut client, mut server, listener, namespace } = Scene::new();
    let name = Named::new();
    let netns = namespace.inode();
    let unaccepted = client.connect(listener.local);
    client.close(&unaccepted);
    let not_after_ns = monotonic_ns();
    // Now no process lives in it: the client ends, the server goes, and so do we.
    server.leave_namespace();
    client.kill();
    drop(namespace);
    let old_enough_ns = not_after_ns + 400_000_000;
    poll_until("it to be stuck", || (monotonic_ns() >= old_enough_ns).then_some(()));
    let tracer = Tracer::start(&["--stuck", THRESHOLD]);
    let stuck = tracer.await_record("the socket that waits", |record| {
        record.is("stuck") && record.is_in(netns) && record.text("cause") == "not_accepted"
    });
    assert_eq!(stuck.remote(), unaccepted.local, "{stuck:?}");
    assert_eq!((stuck.text("owner_how"), stuck.holders()), ("listener", vec![(server.pid(), listener.fd)]));
    drop(name);
    // Its listener still holds it; it is found no more when that ends, and is told to have
    // cleared.
    drop(server);
    tracer.await_record("its end", |record| record.is("cleared") && record.cookie() == stuck.cookie());
    tracer.stop();
}

/// Starts the tracer as a user to whom `/proc` shows only that user's processes (proc(5),
/// hidepid=2).
fn where_proc_hides(copied: &Copied, held: CapabilitySet) -> Tracer {
    let mut command = TracerCommand::new(&["--stuck", THRESHOLD, "--json"]);
    let options = CString::new("hidepid=2").expect("no NUL");
    // Mounting is for root: before he becomes another.
    let hide = move || {
        // SAFETY: unshare(2) with this flag changes nothing but which mounts this process sees.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        Ok(mount(c"proc", c"/proc", c"proc", MountFlags::empty(), options.as_c_str())?)
    };
    command = copied.run_by_user_after(command, held, hide);
    command.start()
}

#[test]
fn where_proc_hides_others_a_user_who_may_look_sees_them_and_one_who_may_not_is_told() {
    let name = "where_proc_hides_others_a_user_who_may_look_sees_them_and_one_who_may_not_is_told";
    if feature::is_missing(feature::TASK_FILE, name) {
        return;
    }
    let copied = Copied::new();
    let mut elsewhere = Scene::new();
    let leak = elsewhere.leak().socket;
    let _scene = Scene::new();
    for may_look in [true, false] {
        let hidden = if may_look { CapabilitySet::empty() } else { CapabilitySet::SYS_PTRACE };
        let tracer = where_proc_hides(&copied, user::ours() - hidden);
        let stuck = tracer.await_stuck(&leak);
        let source = tracer.records()[0].get("sources")["/proc/PID"].clone();
        assert_eq!(source["in_use"], may_look, "{source}");
        let owner = &stuck.get("owners")[0];
        assert_eq!(
            (stuck.holders(), &owner["comm"]),
            (vec![(leak.pid, leak.fd)], &"puppet".into()),
            "{stuck:?}"
        );
        assert_eq!((owner["exe"].is_null(), owner["cgroup"].is_null()), (!may_look, !may_look), "{stuck:?}");
        let rolled_up = tracer.await_record("its roll-up", |record| {
            record.is("process") && record.get("pid") == leak.pid && record.int("stuck") == 1
        });
        assert_eq!(
            (rolled_up.get("comm").is_null(), rolled_up.get("fds_open").is_null()),
            (!may_look, !may_look),
            "{rolled_up:?}"
        );
        if !may_look {
            assert!(source["why_not"].as_str().is_some_and(|why| why.contains("CAP_SYS_PTRACE")), "{source}");
        }
        tracer.stop();
    }
}
