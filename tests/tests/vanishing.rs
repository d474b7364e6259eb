//! Processes that come and go while the tracer walks them: it names none that did not hold the
//! socket.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use tests::{Namespace, Puppet, Record, Tracer, feature, patience};

#[test]
fn processes_that_end_while_they_are_looked_at_are_never_taken_for_others() {
    if feature::is_missing(
        feature::TASK_FILE,
        "processes_that_end_while_they_are_looked_at_are_never_taken_for_others",
    ) {
        return;
    }
    /// The number of children in a round, and the least number of rounds.
    const CHILDREN: usize = 60;
    const ROUNDS: u32 = 4;
    /// Reports of sockets that were still held, at least.
    const REPORTS: usize = 20;
    const PAIRS: usize = 4;
    let namespace = Namespace::new();
    // The reminders of other tests' sockets would fill a guest's memory.
    let only_here = namespace.inode().to_string();
    let tracer = Tracer::start(&["--stuck", "1ms", "--remind", "50ms", "--netns", &only_here]);
    let mut puppets = [(); 2].map(|()| Puppet::new());
    // A kernel may give the same two ends again: whoever had them.
    let mut held: HashMap<_, Vec<(u32, u32)>> = HashMap::new();
    let netns = namespace.inode();
    let is_ours = |record: &Record, event: &str| record.is(event) && record.is_in(netns);
    let was_held = |record: &&Record| is_ours(record, "stuck") && record.text("owner_how") == "fd";
    let end = Instant::now() + patience();
    // They live longer from round to round, until the tracer, however slow, comes to see some of
    // them alive.
    for round in 0.. {
        let reports = tracer.records().iter().filter(was_held).count();
        if round >= ROUNDS && reports >= REPORTS {
            break;
        }
        assert!(Instant::now() < end, "{reports} reports in {round} rounds");
        for puppet in &mut puppets {
            for socket in puppet.generations(CHILDREN, PAIRS, 5_000 << round.min(8)) {
                held.entry((socket.local, socket.remote)).or_default().push((socket.pid, socket.fd));
            }
        }
    }
    // All have ended: whatever there is to say of their sockets has happened, and is told before
    // the end.
    let run = tracer.stop();
    // Where the kernel would not run the program, that is told, and who closed the socket is not
    // known.
    let lost = run.summary().int("lost");
    let cleared = || run.records.iter().filter(|record| is_ours(record, "cleared"));
    let unknown = cleared().filter(|record| record.text("how") == "unknown");
    // Nor is it where the process let go of a socket in the very moment in which the tracer had
    // hold of it.
    let (held_by_us, unseen): (Vec<_>, Vec<_>) =
        unknown.partition(|record| record.text("new_state") == "LAST_ACK");
    assert!(unseen.len() as u64 <= lost, "{lost} transitions were lost: {unseen:?}");
    assert!(held_by_us.len() as u64 <= lost + cleared().count() as u64 / 20, "{held_by_us:?}");
    let of = |event: &str| -> HashSet<u64> {
        run.records.iter().filter(|record| is_ours(record, event)).map(Record::cookie).collect()
    };
    let (stuck, cleared) = (of("stuck"), of("cleared"));
    let still =
        run.records.iter().filter(|record| record.is_in(netns) && !cleared.contains(&record.cookie()));
    assert_eq!(still.collect::<Vec<_>>(), Vec::<&Record>::new(), "these never cleared");
    assert_eq!(stuck, cleared, "these were never stuck");

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
    }
    for cleared in run.records.iter().filter(|record| is_ours(record, "cleared")) {
        let had = &held[&(cleared.local(), Some(cleared.remote()))];
        if cleared.text("how") == "unknown" {
            continue; // counted above
        }
        let by = cleared.get("by");
        assert!(had.iter().any(|(pid, _)| by["pid"] == *pid), "{had:?} had it: {cleared:?}");
        assert_eq!(cleared.text("how"), "exited", "{cleared:?}");
    }
}

#[test]
fn a_socket_that_is_accepted_while_all_are_looked_at_has_an_owner() {
    /// In the queue at a time, open at a time, and reports at least.
    const QUEUED: usize = 20;
    const OPEN: usize = 400;
    const REPORTS: usize = 1_000;
    let namespace = Namespace::new();
    let (mut client, mut server) = (Puppet::new(), Puppet::new());
    let listener = server.listen("127.0.0.1:0");
    let tracer = Tracer::start(&["--stuck", "1ms", "--remind", "1ms"]);
    let netns = namespace.inode();
    let is_ours = |record: &&Record| record.is("stuck") && record.is_in(netns);
    let end = Instant::now() + patience();
    let mut open = Vec::new();
    loop {
        let reports = tracer.records().iter().filter(is_ours).count();
        if reports >= REPORTS {
            break;
        }
        assert!(Instant::now() < end, "{reports} reports");
        let waiting = client.connect_many(listener.local, QUEUED);
        client.close_all(&waiting);
        open.extend((0..QUEUED).map(|_| server.accept(&listener)));
        if open.len() > OPEN {
            server.close_all(&open.drain(..QUEUED).collect::<Vec<_>>());
        }
    }
    let run = tracer.stop();
    for stuck in run.records.iter().filter(is_ours) {
        let pids: HashSet<u32> = stuck.holders().into_iter().map(|(pid, _)| pid).collect();
        assert_eq!(pids, HashSet::from([server.pid()]), "{stuck:?}");
        assert!(["fd", "listener"].contains(&stuck.text("owner_how")), "{stuck:?}");
    }
}
