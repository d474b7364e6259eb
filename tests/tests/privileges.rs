//! Privileges: a few capabilities suffice to see everything, with fewer the tracer says what it
//! cannot see, and once it runs it keeps only what it needs.

use std::io;

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::{Resource, Rlimit, setrlimit},
};
use tests::{
    Record, Tracer, TracerCommand, bpf, feature, monotonic_ns,
    process::poll_until,
    scene::Scene,
    scrape::scrape,
    tracer::Finished,
    user::{self, CapabilitySet, Copied},
    witness,
};

const THRESHOLD: &str = "200ms";
const SET_NS: &str = "setns";
const PROC: &str = "/proc/PID";

/// The capabilities that a run keeps (docs/requirements.md).
const KEPT: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// All capabilities that it needs. Before Linux 5.11 maps count as locked memory.
fn documented() -> CapabilitySet {
    KEPT | CapabilitySet::PERFMON | (CapabilitySet::SYS_RESOURCE & user::ours())
}

fn started(copied: &Copied, held: CapabilitySet, arguments: &[&str]) -> (Tracer, Record) {
    let command = TracerCommand::new(&[arguments, &["--json"]].concat());
    let tracer = copied.run_by_user(command, held).start();
    let start = tracer.await_record("the start", |record| record.is("start"));
    (tracer, start)
}

/// Asserts that a source is in use, or that its reason has this word.
fn assert_source(start: &Record, name: &str, why_not: Option<&str>) {
    let source = &start.get("sources")[name];
    assert_eq!(source["in_use"], why_not.is_none(), "{name}: {source}");
    if let Some(word) = why_not {
        assert!(source["why_not"].as_str().is_some_and(|why| why.contains(word)), "{name}: {source}");
    }
}

/// Asserts for a while that no thread may do more than it should.
fn assert_given_up(tracer: &Tracer, main: CapabilitySet) {
    const LOOKS: u32 = 50;
    let mut looks = 0;
    poll_until("some looks at its threads", || {
        let threads = user::privileges(tracer.pid());
        assert!(threads.values().any(|thread| thread.name == "tcptrace-out"), "{threads:?}");
        for (tid, thread) in &threads {
            let (none, sets) = (CapabilitySet::empty(), &thread.sets);
            let expected = if thread.name == "tcptrace-out" { none } else { main };
            let of = |name: &str| sets[name];
            assert_eq!((of("CapPrm"), of("CapEff")), (expected, expected), "{tid}: {thread:?}");
            assert_eq!((of("CapInh"), of("CapAmb")), (none, none), "{tid}: {thread:?}");
            assert!(thread.no_new, "{tid}: {thread:?}");
        }
        looks += 1;
        (looks == LOOKS).then_some(())
    });
}

#[test]
fn a_user_with_the_documented_capabilities_sees_all_and_keeps_no_more_than_that_takes() {
    let copied = Copied::new();
    // In one namespace a socket of root's, in another one that nobody has accepted: no descriptor
    // leads to it.
    let mut elsewhere = Scene::new();
    let unaccepted = elsewhere.client.connect(elsewhere.address());
    elsewhere.client.close(&unaccepted);
    let elsewhere_netns = elsewhere.netns();
    let mut scene = Scene::new();
    let before = scene.leak().socket;
    let arguments = ["--stuck", THRESHOLD, "--remind", "50ms", "--metrics", "127.0.0.1:0"];
    let (tracer, start) = started(&copied, documented(), &arguments);
    assert_source(&start, SET_NS, None);
    assert_source(&start, PROC, None);
    assert_given_up(&tracer, KEPT);

    // All this is seen after it has given up the rest.
    let after = scene.leak().socket;
    for leak in [&before, &after] {
        let stuck = tracer.await_stuck(leak);
        witness::assert_held(&stuck, leak, &[(leak.pid, leak.fd)]);
        let owner = &stuck.get("owners")[0];
        let exe = std::fs::read_link(format!("/proc/{}/exe", leak.pid)).expect("it lives");
        assert_eq!((owner["exe"].as_str(), &owner["uid"]), (exe.to_str(), &0.into()), "{stuck:?}");
    }
    let waiting = tracer.await_record("a socket that waits elsewhere", |record| {
        record.is("stuck") && record.is_in(elsewhere_netns) && record.text("cause") == "not_accepted"
    });
    assert_eq!(waiting.text("owner_how"), "listener", "{waiting:?}");
    let at = tracer.await_metrics();
    let page = scrape(at);
    for (name, expected) in [("stuck_sockets", 2.0), ("open_fds", witness::open_fds(before.pid) as f64)] {
        assert_eq!(page.of_process(name, before.pid), Some(expected), "{name}");
    }
    scene.server.close(&before);
    assert_eq!(tracer.await_cleared(&before).get("by")["pid"], before.pid);
    let run = tracer.stop();
    assert_eq!(run.stderr, format!("tcptrace: metrics at http://{at}/metrics\n"), "nothing to complain of");

    let once = TracerCommand::new(&["--stuck", THRESHOLD, "--once", "--json"]);
    let run = copied.run_by_user(once, documented()).run();
    assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
    let stuck = run.records.iter().find(|record| record.is_about("stuck", &after)).expect("still stuck");
    assert_eq!(stuck.holders(), [(after.pid, after.fd)], "{stuck:?}");
    drop((scene, elsewhere));
}

#[test]
fn a_file_with_the_documented_capabilities_does_for_a_user_what_root_does() {
    let name = "a_file_with_the_documented_capabilities_does_for_a_user_what_root_does";
    let copied = Copied::new();
    let command = TracerCommand::new(&["--stuck", THRESHOLD, "--transitions", "--json"]);
    let command = match copied.run_with_file_capabilities(command, documented()) {
        Ok(command) => command,
        Err(error) => return feature::tell_not_run(name, "capabilities of files", &error.to_string()),
    };
    let mut elsewhere = Scene::new();
    let leak = elsewhere.leak().socket;
    let _scene = Scene::new();
    let tracer = command.start();
    let stuck = tracer.await_stuck(&leak);
    let owner = &stuck.get("owners")[0];
    assert!(stuck.holders() == [(leak.pid, leak.fd)] && owner["exe"].is_string(), "{stuck:?}");
    // As much is loaded as for root: also what is found out in the /proc of a process that may not
    // be dumped.
    let by_root = Tracer::start(&["--stuck", THRESHOLD, "--transitions"]);
    let kinds = |tracer: &Tracer| -> Vec<_> {
        bpf::held_by(tracer.pid()).into_iter().map(|(kind, _)| kind).collect()
    };
    assert_eq!(kinds(&tracer), kinds(&by_root));
    assert_eq!(tracer.records()[0].get("sources"), by_root.records()[0].get("sources"));
    elsewhere.server.close(&leak);
    tracer.await_cleared(&leak);
    tracer.stop();
}

#[test]
fn root_too_gives_up_what_is_no_longer_needed() {
    let mut elsewhere = Scene::new();
    let leak = elsewhere.leak().socket;
    let _scene = Scene::new();
    let tracer = Tracer::start(&["--stuck", THRESHOLD, "--remind", "50ms"]);
    assert_given_up(&tracer, KEPT & user::ours());
    for (tid, thread) in user::privileges(tracer.pid()) {
        // Only root can, and what root executed would have all of it.
        assert_eq!(thread.sets["CapBnd"], CapabilitySet::empty(), "{tid}: {thread:?}");
    }
    let stuck = tracer.await_stuck(&leak);
    assert_eq!(stuck.holders(), [(leak.pid, leak.fd)], "{stuck:?}");
    elsewhere.server.close(&leak);
    tracer.await_cleared(&leak);
    tracer.stop();
}

#[test]
fn without_a_capability_that_loading_takes_the_refusal_names_it() {
    let copied = Copied::new();
    let names = [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")];
    for (missing, name) in names {
        // CAP_SYS_ADMIN would stand for either.
        let held = documented() - CapabilitySet::SYS_ADMIN - missing;
        let run = copied.run_by_user(TracerCommand::new(&["--stuck", THRESHOLD]), held).run();
        assert_refused(&run, &format!("{name} missing"));
    }
}

#[test]
fn where_maps_are_locked_memory_and_none_is_allowed_the_refusal_says_what_allows_it() {
    let copied = Copied::new();
    let no_locked_memory = || {
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        Ok(setrlimit(Resource::Memlock, none)?)
    };
    let arguments = ["--stuck", THRESHOLD, "--duration", "1ms"];
    let held = documented() - CapabilitySet::SYS_RESOURCE;
    let run = copied.run_by_user_after(TracerCommand::new(&arguments), held, no_locked_memory).run();
    // `bpf_map_charge_memlock` went with Linux 5.11.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut version = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    if (version.next(), version.next()) < (Some(5), Some(11)) {
        assert_refused(&run, "CAP_SYS_RESOURCE");
    } else {
        assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    }
}

fn assert_refused(run: &Finished, words: &str) {
    assert_eq!(run.status.code(), Some(3), "{}", run.stderr);
    assert!(run.stderr.contains(words) && run.lines.is_empty(), "nothing of {words}: {}", run.stderr);
}

#[test]
fn without_the_capability_to_enter_namespaces_sockets_are_found_through_their_holders_and_the_start_says_so()
{
    let name = "without_the_capability_to_enter_namespaces_sockets_are_found_through_their_holders_and_the_start_says_so";
    if feature::is_missing(feature::TASK_FILE, name) {
        return;
    }
    let copied = Copied::new();
    let mut elsewhere = Scene::new();
    let leak = elsewhere.leak().socket;
    let _scene = Scene::new();
    let held = documented() - CapabilitySet::SYS_ADMIN;
    let (tracer, start) = started(&copied, held, &["--stuck", THRESHOLD]);
    assert_source(&start, SET_NS, Some("CAP_SYS_ADMIN"));
    assert_source(&start, PROC, None);
    assert_eq!(tracer.await_stuck(&leak).holders(), [(leak.pid, leak.fd)]);
    tracer.stop();
}

#[test]
fn without_the_capability_to_look_at_processes_holders_have_no_executable_and_the_start_says_so() {
    let name = "without_the_capability_to_look_at_processes_holders_have_no_executable_and_the_start_says_so";
    if feature::is_missing(feature::TASK_FILE, name) {
        return;
    }
    let copied = Copied::new();
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    let held = documented() - CapabilitySet::SYS_PTRACE;
    let (tracer, start) = started(&copied, held, &["--stuck", THRESHOLD]);
    assert_source(&start, SET_NS, None);
    assert_source(&start, PROC, Some("CAP_SYS_PTRACE"));
    let stuck = tracer.await_stuck(&leak);
    assert_eq!(stuck.holders(), [(leak.pid, leak.fd)], "{stuck:?}");
    let owner = &stuck.get("owners")[0];
    assert!(owner["exe"].is_null() && owner["comm"] == "puppet", "{stuck:?}");
    tracer.stop();
}

#[test]
fn without_the_capability_to_read_folders_holders_are_not_found_in_proc_and_the_start_says_so() {
    let copied = Copied::new();
    let mut scene = Scene::new();
    let leak = scene.leak().socket;
    let held = documented() - CapabilitySet::DAC_READ_SEARCH;
    if feature::why_not(feature::TP_BTF).is_some() {
        // tracefs is root's: there is nothing to read the transitions from.
        let run = copied.run_by_user(TracerCommand::new(&["--stuck", THRESHOLD]), held).run();
        return assert_refused(&run, "CAP_DAC_READ_SEARCH");
    }
    let (tracer, start) = started(&copied, held, &["--stuck", THRESHOLD, "--without", "task-file"]);
    assert_source(&start, PROC, Some("CAP_DAC_READ_SEARCH"));
    let stuck = tracer.await_stuck(&leak);
    assert_eq!((stuck.text("owner_how"), stuck.holders()), ("none", vec![]), "{stuck:?}");
    tracer.stop();
    // It cannot be told whether that one is this process's; whose it is does not matter to a look
    // at all.
    let pid = leak.pid.to_string();
    let run = look(&copied, held, &["--without", "task-file", "--pid", &pid]);
    assert_not_looked_at(
        &run,
        &[&format!("the descriptors of 1 process ({pid}) may not be read"), "CAP_DAC_READ_SEARCH"],
    );
    let run = look(&copied, held, &["--without", "task-file"]);
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
}

/// Runs `--once` as a user with these capabilities. Returns the exit status and the output.
fn look(copied: &Copied, held: CapabilitySet, filter: &[&str]) -> Finished {
    let once = TracerCommand::new(&[&["--stuck", "10000d", "--once", "--json"], filter].concat());
    copied.run_by_user(once, held).run()
}

fn assert_not_looked_at(run: &Finished, words: &[&str]) {
    assert_eq!((run.status.code(), run.count("stuck")), (Some(3), 0), "{}", run.stderr);
    for words in [&["cannot tell whether anything is stuck", "why:", "do:"], words].concat() {
        assert!(run.stderr.contains(words), "nothing of {words}: {}", run.stderr);
    }
}

#[test]
fn a_look_that_may_not_enter_namespaces_says_so_unless_what_was_asked_about_was_seen() {
    let copied = Copied::new();
    let elsewhere = Scene::new();
    let here = Scene::new();
    let held = documented() - CapabilitySet::SYS_ADMIN;
    let there = elsewhere.netns().to_string();
    let run = look(&copied, held, &[]);
    assert_not_looked_at(&run, &["could not be entered", "CAP_SYS_ADMIN"]);
    let run = look(&copied, held, &["--netns", &there]);
    assert_not_looked_at(&run, &[&format!("1 network namespace ({there}) could not be entered")]);
    let run = look(&copied, held, &["--pid", &elsewhere.server.pid().to_string()]);
    assert_not_looked_at(&run, &[&there]);
    // The rest of the host does not matter to these.
    for filter in [["--netns", &here.netns().to_string()], ["--pid", &here.server.pid().to_string()]] {
        let run = look(&copied, held, &filter);
        assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""), "{filter:?}");
    }
    // With all of them, nothing is missing.
    let run = look(&copied, documented(), &[]);
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn what_is_found_stuck_by_a_look_that_may_not_enter_namespaces_is_told_with_what_was_not_seen() {
    let name = "what_is_found_stuck_by_a_look_that_may_not_enter_namespaces_is_told_with_what_was_not_seen";
    if feature::is_missing(feature::TASK_FILE, name) {
        return;
    }
    let copied = Copied::new();
    let mut elsewhere = Scene::new();
    let leak = elsewhere.leak();
    let due_ns = leak.not_after_ns + 400_000_000;
    poll_until("time to pass", || (monotonic_ns() >= due_ns).then_some(()));
    let _here = Scene::new();
    let once = TracerCommand::new(&["--stuck", THRESHOLD, "--once", "--json"]);
    let run = copied.run_by_user(once, documented() - CapabilitySet::SYS_ADMIN).run();
    assert_eq!(run.status.code(), Some(1), "{}", run.stderr);
    assert!(run.records.iter().any(|record| record.is_about("stuck", &leak.socket)), "{:?}", run.records);
    assert!(run.stderr.contains("not all was looked at: "), "{}", run.stderr);
    assert!(
        run.stderr.contains(&elsewhere.netns().to_string()) || run.stderr.contains('…'),
        "{}",
        run.stderr
    );
}

#[test]
fn a_look_that_may_not_look_at_processes_says_so_unless_what_was_asked_about_was_seen() {
    let name = "a_look_that_may_not_look_at_processes_says_so_unless_what_was_asked_about_was_seen";
    if feature::is_missing(feature::TASK_FILE, name) {
        return;
    }
    let copied = Copied::new();
    let here = Scene::new();
    let held = documented() - CapabilitySet::SYS_PTRACE;
    let run = look(&copied, held, &[]);
    assert_not_looked_at(&run, &["other users' processes may not be looked at", "CAP_SYS_PTRACE"]);
    // Where root's process lives is not to be seen.
    let run = look(&copied, held, &["--pid", &here.server.pid().to_string()]);
    assert_not_looked_at(&run, &["CAP_SYS_PTRACE"]);
    let netns = here.netns().to_string();
    let run = look(&copied, held, &["--netns", &netns]);
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
    // Where hidepid hides processes, one with that name may be among them.
    let hide = || {
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        Ok(mount(c"proc", c"/proc", c"proc", MountFlags::empty(), c"hidepid=2")?)
    };
    let hidden = |filter: &[&str]| {
        let once = TracerCommand::new(&[&["--stuck", "10000d", "--once", "--json"], filter].concat());
        let in_private = move || {
            // SAFETY: unshare(2) with this flag changes nothing but which mounts this process
            // sees.
            match unsafe { libc::unshare(libc::CLONE_NEWNS) } {
                0 => hide(),
                _ => Err(io::Error::last_os_error()),
            }
        };
        copied.run_by_user_after(once, held, in_private).run()
    };
    assert_not_looked_at(&hidden(&["--netns", &netns, "--comm", "puppet"]), &["CAP_SYS_PTRACE"]);
    let run = hidden(&["--netns", &netns]);
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
}
