//! Many sockets in many processes: each socket's record names its own holder.

use std::collections::{HashMap, HashSet};

use tests::{Namespace, Puppet, Sock, Tracer, feature, witness};

/// The number of processes, and of the connections that each leaks.
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
        // One half is leaked by the server, the other by the client. Which is which goes by the
        // ends.
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
    assert_eq!(run.records_in(netns).len(), PROCESSES * LEAKS, "each is reported once, and nothing else");
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
