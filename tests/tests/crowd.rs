//! Many sockets, many processes, and processes that come and go while they are being looked at: nobody is named who
//! did not hold it.

use std::collections::{HashMap, HashSet};

use tests::{Namespace, Puppet, Record, Sock, Tracer, feature, witness};

/// Processes, and how many connections each leaks.
const PROCESSES: usize = 20;
const LEAKS: usize = 25;

#[test]
fn each_of_five_hundred_leaks_in_twenty_processes_has_its_owner() {
    let namespace = Namespace::new();
    let tracer = Tracer::start(&["--stuck", "300ms"]);
    let mut pairs: Vec<(Puppet, Puppet)> =
        std::iter::repeat_with(|| (Puppet::new(), Puppet::new())).take(PROCESSES / 2).collect();
    let mut leaks: HashMap<_, (Sock, &str)> = HashMap::new();
    for (client, server) in &mut pairs {
        let listener = server.listen_with("127.0.0.1:0", 256, "");
        let connected = client.connect_many(listener.local, 2 * LEAKS);
        let accepted = server.accept_many(&listener, 2 * LEAKS);
        // One half is leaked by the server, the other by the client. Which is which goes by the ends.
        let (close, leak) = connected.split_at(LEAKS);
        let closed: HashSet<_> = close.iter().map(|socket| Some(socket.local)).collect();
        let (theirs, ours): (Vec<Sock>, Vec<Sock>) =
            accepted.iter().partition(|socket| closed.contains(&socket.remote));
        client.close_all(close);
        server.close_all(&ours);
        let by_client = leak.iter().map(|socket| (*socket, "connect"));
        let by_server = theirs.iter().map(|socket| (*socket, "accept"));
        leaks.extend(
            by_client.chain(by_server).map(|(socket, how)| ((socket.local, socket.remote), (socket, how))),
        );
    }
    assert_eq!(leaks.len(), PROCESSES * LEAKS);
    let netns = namespace.inode();
    let reports = tracer.await_records("all of them", |records| {
        let reports: Vec<_> =
            records.iter().filter(|record| record.is("stuck") && record.is_in(netns)).cloned().collect();
        (reports.len() >= PROCESSES * LEAKS).then_some(reports)
    });
    let run = tracer.stop();
    assert_eq!(run.of(netns).len(), PROCESSES * LEAKS, "each is reported once, and nothing else");
    let sees = [("connect", feature::STORAGE), ("accept", feature::ACCEPT)]
        .map(|(how, feature)| (how, feature::why_not(feature).is_none()));
    for stuck in &reports {
        let (socket, how) = leaks.remove(&(stuck.local(), Some(stuck.remote()))).expect("one of ours, once");
        assert_eq!((stuck.text("owner_how"), stuck.holders()), ("fd", vec![(socket.pid, socket.fd)]));
        let origin = stuck.get("origin");
        if sees.contains(&(how, true)) {
            assert_eq!((&origin["pid"], &origin["how"]), (&socket.pid.into(), &how.into()), "{stuck:?}");
        } else {
            assert!(origin.is_null(), "{stuck:?}");
        }
    }
    // And `ss` says the same of what is there.
    let seen: HashSet<_> = witness::all()
        .into_iter()
        .filter(|seen| seen.state == "CLOSE-WAIT")
        .map(|seen| (seen.local, seen.remote, seen.holders))
        .collect();
    let told: HashSet<_> =
        reports.iter().map(|stuck| (stuck.local(), Some(stuck.remote()), stuck.holders())).collect();
    assert_eq!(seen, told);
}

#[test]
fn processes_that_end_while_they_are_looked_at_are_never_taken_for_others() {
    const CHILDREN: usize = 240;
    const PAIRS: usize = 4;
    let namespace = Namespace::new();
    let tracer = Tracer::start(&["--stuck", "1ms", "--remind", "5ms"]);
    let mut puppets = [(); 2].map(|()| Puppet::new());
    // A kernel may give the same two ends again: whoever had them.
    let mut held: HashMap<_, Vec<(u32, u32)>> = HashMap::new();
    for round in 0..2 {
        for puppet in &mut puppets {
            for socket in puppet.generations(CHILDREN / 4, PAIRS, 40_000 << round) {
                held.entry((socket.local, socket.remote)).or_default().push((socket.pid, socket.fd));
            }
        }
    }
    let netns = namespace.inode();
    let is_ours = |record: &Record, event: &str| record.is(event) && record.is_in(netns);
    // All have ended; what was reported clears.
    tracer.await_records("all to clear", |records| {
        let of = |event: &str| -> HashSet<u64> {
            records.iter().filter(|record| is_ours(record, event)).map(Record::cookie).collect()
        };
        let stuck = of("stuck");
        (!stuck.is_empty() && stuck == of("cleared")).then_some(())
    });
    let run = tracer.stop();
    assert_eq!(run.count("lost"), 0, "{}", run.stderr);

    let (mut with_holder, mut without) = (0, 0);
    for stuck in run.records.iter().filter(|record| is_ours(record, "stuck")) {
        let had = held.get(&(stuck.local(), Some(stuck.remote())));
        let had = had.unwrap_or_else(|| panic!("nobody had {stuck:?}"));
        for owner in stuck.get("owners").as_array().expect("a list") {
            let (pid, fd) = (owner["pid"].as_u64(), owner["fd"].as_u64());
            let is_it = |(had_pid, had_fd): &(u32, u32)| {
                pid == Some((*had_pid).into()) && (fd.is_none() || fd == Some((*had_fd).into()))
            };
            assert!(had.iter().any(is_it), "{had:?} had it: {stuck:?}");
            assert!(owner["comm"].is_null() || owner["comm"] == "puppet", "{stuck:?}");
            let exe = owner["exe"].as_str();
            assert!(
                exe.is_none_or(|exe| exe.trim_end_matches(" (deleted)").ends_with("/puppet")),
                "{stuck:?}"
            );
        }
        let origin = stuck.get("origin");
        assert!(
            origin.is_null() || had.iter().any(|(pid, _)| origin["pid"] == *pid),
            "{had:?} had it: {stuck:?}"
        );
        *(if stuck.text("owner_how") == "fd" { &mut with_holder } else { &mut without }) += 1;
    }
    assert!(with_holder > 0, "none was looked at in time ({without} were not held any more)");
    for cleared in run.records.iter().filter(|record| is_ours(record, "cleared")) {
        let had = &held[&(cleared.local(), Some(cleared.remote()))];
        let by = cleared.get("by");
        assert!(had.iter().any(|(pid, _)| by["pid"] == *pid), "{had:?} had it: {cleared:?}");
        assert_eq!(cleared.text("how"), "exited", "{cleared:?}");
    }
}
