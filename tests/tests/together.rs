//! Several tracers, in turn and at the same time: they see the same, take nothing from each other,
//! lose nothing while they start, and leave nothing behind.

use std::collections::{BTreeMap, BTreeSet};

use tests::{
    Puppet, Record, Signal, Sock, Tracer, TracerCommand, bpf, feature, process::poll_until, scene::Scene,
    witness::assert_held,
};

const THRESHOLD: &str = "200ms";

/// Returns the ends and holders of the stuck sockets of a namespace, by cookie.
fn told(records: &[Record], netns: u64) -> BTreeMap<u64, (Ends, Vec<(u32, u32)>)> {
    let ours = records.iter().filter(|record| record.is("stuck") && record.is_in(netns));
    ours.map(|record| (record.cookie(), ((record.local(), record.remote()), record.holders()))).collect()
}

type Ends = (std::net::SocketAddr, std::net::SocketAddr);

fn ends(sockets: &[Sock]) -> BTreeSet<Ends> {
    sockets.iter().map(|socket| (socket.local, socket.remote.expect("connected"))).collect()
}

#[test]
fn two_tracers_at_once_tell_the_same() {
    let mut scene = Scene::new();
    let netns = scene.netns();
    let tracers = [(); 2].map(|()| Tracer::start(&["--stuck", THRESHOLD, "--transitions"]));
    let leaks = [(); 5].map(|()| scene.leak().socket);
    for tracer in &tracers {
        for leak in &leaks {
            let stuck = tracer.await_stuck(leak);
            assert_held(&stuck, leak, &[(leak.pid, leak.fd)]);
        }
    }
    for leak in &leaks {
        scene.server.close(leak);
    }
    for tracer in &tracers {
        leaks.iter().for_each(|leak| drop(tracer.await_cleared(leak)));
    }
    let runs = tracers.map(Tracer::stop);
    for run in &runs {
        let cleared = run.records.iter().filter(|record| record.is("cleared") && record.is_in(netns)).count();
        assert_eq!((told(&run.records, netns).len(), cleared), (leaks.len(), leaks.len()));
    }
    let lost: u64 = runs.iter().map(|run| run.summary().int("lost")).sum();
    if lost > 0 {
        // What else goes on on this host was too much for one of them, which it has told and
        // repaired.
        let why = format!("{lost} were lost");
        return feature::tell_not_run("two_tracers_at_once_tell_the_same", "every transition", &why);
    }
    let of = |run: &tests::tracer::Finished| {
        let transition = |record: &Record| {
            let [old, new] = ["old_state", "new_state"].map(|field| record.text(field).to_owned());
            (record.local(), record.remote(), old, new)
        };
        let ours = |record: &&Record| {
            record.is("transition") && leaks.iter().any(|leak| record.is_about("transition", leak))
        };
        run.records.iter().filter(ours).map(transition).collect::<Vec<_>>()
    };
    assert_eq!(of(&runs[0]), of(&runs[1]));
    assert!(of(&runs[0]).len() >= 3 * leaks.len());
}

#[test]
fn what_leaks_while_the_tracer_starts_is_reported_once_each() {
    const AT_A_TIME: usize = 5;
    /// Few enough for the descriptors that a process may have.
    const IN_A_PROCESS: usize = 500;
    let scene = Scene::new();
    let netns = scene.netns();
    let mut storm: Vec<(Puppet, Sock)> = Vec::new();
    let mut leaks: Vec<Sock> = Vec::new();
    let mut leak = |leaks: &mut Vec<Sock>| {
        if leaks.len().is_multiple_of(IN_A_PROCESS) {
            let mut puppet = Puppet::new();
            let listener = puppet.listen("127.0.0.1:0");
            storm.push((puppet, listener));
        }
        let (puppet, listener) = storm.last_mut().expect("one was made");
        for (client, server) in puppet.pairs(listener, AT_A_TIME) {
            puppet.close(&client);
            leaks.push(server);
        }
    };
    leak(&mut leaks);
    let tracer = TracerCommand::new(&["--stuck", "100ms", "--json"]).start();
    poll_until("its start", || {
        leak(&mut leaks);
        tracer.records().iter().any(|record| record.is("start")).then_some(())
    });
    leak(&mut leaks);
    tracer.await_records("all leaks", |records| (told(records, netns).len() >= leaks.len()).then_some(()));
    let run = tracer.stop();
    let told_of = told(&run.records, netns);
    let reports = run.records_in(netns).iter().filter(|record| record.is("stuck")).count();
    assert_eq!((reports, told_of.len()), (leaks.len(), leaks.len()), "once each");
    assert_eq!(told_of.values().map(|(ends, _)| *ends).collect::<BTreeSet<_>>(), ends(&leaks));
    for (ends, holders) in told_of.values() {
        let leaked = leaks.iter().find(|leak| (leak.local, leak.remote) == (ends.0, Some(ends.1)));
        let holder = leaked.map(|leak| (leak.pid, leak.fd)).expect("it leaked");
        assert_eq!(holders, &[holder], "{ends:?}");
    }
    assert_eq!(run.records_in(netns).iter().filter(|record| record.is("cleared")).count(), 0);
}

#[test]
fn after_a_tracer_was_killed_the_next_one_finds_all_that_is_stuck() {
    let mut scene = Scene::new();
    let netns = scene.netns();
    let before = scene.leak().socket;
    let killed = Tracer::start(&["--stuck", THRESHOLD, "--transitions"]);
    let seen_by_it = scene.leak().socket;
    killed.await_stuck(&seen_by_it);
    // In the middle of what it follows.
    let (client, server) = scene.connection();
    killed.signal(Signal::KILL);
    scene.client.close(&client);
    scene.server.read_to_the_end(&server);
    drop(killed);
    let meanwhile = scene.leak().socket;

    let next = Tracer::start(&["--stuck", THRESHOLD]);
    let after = scene.leak().socket;
    let all = [before, seen_by_it, server, meanwhile, after];
    for socket in &all {
        let stuck = next.await_stuck(socket);
        assert_held(&stuck, socket, &[(socket.pid, socket.fd)]);
        assert_eq!(stuck.get("exact"), *socket == after, "{stuck:?}");
    }
    let run = next.stop();
    assert_eq!(told(&run.records, netns).len(), all.len());
}

#[test]
fn nothing_of_it_is_left_in_the_kernel_when_it_has_ended() {
    for signal in [Signal::TERM, Signal::KILL] {
        let tracer = Tracer::start(&["--stuck", THRESHOLD, "--transitions"]);
        let held = bpf::held_by(tracer.pid());
        let count = |kind| held.iter().filter(|(of, _)| *of == kind).count();
        assert!(count(bpf::Kind::Program) >= 1 && count(bpf::Kind::Map) >= 3, "{held:?}");
        if feature::why_not(feature::TP_BTF).is_none() {
            assert!(count(bpf::Kind::Link) >= 1, "{held:?}");
        }
        for one in &held {
            assert!(bpf::is_there(*one), "{one:?} of a tracer that runs");
        }
        if signal == Signal::KILL {
            tracer.signal(signal);
            drop(tracer);
        } else {
            tracer.stop();
        }
        // The kernel frees them a little later, when no CPU can be running them.
        poll_until(&format!("{held:?} to be gone after {signal:?}"), || {
            held.iter().all(|one| !bpf::is_there(*one)).then_some(())
        });
    }
}
