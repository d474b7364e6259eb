//! Transitions for which the kernel skips BPF programs: those that matter are reported and
//! repaired, the others are not reported.

use std::{sync::Mutex, thread, time::Instant};

use tests::{Namespace, Puppet, Record, Sock, Tracer, feature, patience, skips};

/// How many processes connect at the same time: the packets of one interrupt the BPF programs of
/// the other.
const PROCESSES: usize = 2;

/// Connects in several processes at the same time, and closes the clients' ends, until
/// `is_enough`. Returns the processes, and the servers' ends, which stay open.
fn leak(is_enough: impl Fn(usize) -> bool + Sync) -> (Vec<Puppet>, Vec<Sock>) {
    const AT_ONCE: usize = 20;
    let mut puppets: Vec<_> = (0..PROCESSES).map(|_| Puppet::new()).collect();
    let leaked = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for puppet in &mut puppets {
            scope.spawn(|| {
                let listener = puppet.listen("127.0.0.1:0");
                let has_enough = || is_enough(leaked.lock().expect("nobody panics with it").len());
                while !has_enough() {
                    let (clients, servers): (Vec<_>, Vec<_>) =
                        puppet.pairs(&listener, AT_ONCE).into_iter().unzip();
                    puppet.close_all(&clients);
                    leaked.lock().expect("nobody panics with it").extend(servers);
                }
            });
        }
    });
    (puppets, leaked.into_inner().expect("nobody panics with it"))
}

/// Connects and closes in the same way.
fn churn(is_enough: impl Fn() -> bool + Sync) {
    thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                let mut puppet = Puppet::new();
                let listener = puppet.listen("127.0.0.1:0");
                while !is_enough() {
                    puppet.churn(&listener, 20);
                }
            });
        }
    });
}

/// Returns whether the test cannot run here, and reports that.
fn cannot_skip(test: &str) -> bool {
    if feature::is_missing(feature::TP_BTF, test) {
        return true;
    }
    let is_alone = thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2);
    if is_alone {
        feature::tell_not_run(test, "two CPUs", "no other one interrupts this one");
    }
    is_alone
}

fn losses(records: &[Record]) -> Vec<&Record> {
    records.iter().filter(|record| record.is("lost")).collect()
}

#[test]
fn what_the_kernel_skips_of_traffic_that_is_not_watched_is_not_told() {
    const TEST: &str = "what_the_kernel_skips_of_traffic_that_is_not_watched_is_not_told";
    /// So many are enough.
    const SKIPS: u64 = 20;
    if cannot_skip(TEST) {
        return;
    }
    let _namespace = Namespace::new();
    skips::spread_packets();
    // A state that none of these sockets comes to.
    let tracer = Tracer::start(&["--stuck", "1h", "--state", "closing"]);
    let skipped = || skips::count_skips(tracer.pid()).into_iter().max();
    if skipped().is_none() {
        return feature::tell_not_run(TEST, "recursion_misses", "this kernel does not count what it skips");
    }
    let end = Instant::now() + patience() / 2;
    churn(|| skipped() >= Some(SKIPS) || Instant::now() > end);
    let count = skipped().expect("as before");
    // The counters are read at the end at the latest.
    let run = tracer.stop();
    let (lost, resyncs) = (run.summary().int("lost"), run.summary().int("resyncs"));
    assert_eq!((losses(&run.records), lost, resyncs), (vec![], 0, 0), "{count} were skipped");
    if count == 0 {
        feature::tell_not_run(TEST, "skipped programs", "this kernel skipped none");
    }
}

#[test]
fn of_what_the_kernel_skips_that_is_told_which_makes_a_difference_and_every_stuck_socket_is_reported() {
    const TEST: &str =
        "of_what_the_kernel_skips_that_is_told_which_makes_a_difference_and_every_stuck_socket_is_reported";
    /// So many in a run at most.
    const LEAKS: usize = 400;
    if cannot_skip(TEST) {
        return;
    }
    let namespace = Namespace::new();
    skips::spread_packets();
    let end = Instant::now() + patience() / 2;
    let mut has_mattered = false;
    // Of a run only the first skips can matter: another program takes over the next ones. One in
    // five is of a peer's FIN.
    while !has_mattered && Instant::now() < end {
        let tracer = Tracer::start(&["--stuck", "100ms"]);
        let skipped = || skips::count_skips(tracer.pid()).iter().sum::<u64>();
        let (puppets, leaked) = leak(|count| skipped() > 0 || count >= LEAKS || Instant::now() > end);
        for socket in &leaked {
            tracer.await_stuck(socket);
        }
        let most = skipped();
        let run = tracer.stop();
        drop(puppets);
        let ours: Vec<_> = run.records.iter().filter(|record| record.is_in(namespace.inode())).collect();
        let stuck = ours.iter().filter(|record| record.is("stuck"));
        assert_eq!(stuck.clone().count(), leaked.len(), "each is reported once");
        // Only a look at all sockets can have found these.
        let unseen: Vec<_> = stuck.filter(|record| record.get("exact") == false).collect();
        let lost = losses(&run.records);
        assert!(lost.iter().all(|record| record.text("reason") == "skipped"), "{lost:?}");
        let total = run.summary().int("lost");
        assert_eq!(lost.last().map_or(0, |last| last.int("lost_total")), total, "{lost:?}");
        assert_eq!(run.summary().int("resyncs"), lost.len() as u64, "{lost:?}");
        assert!(total <= most, "{total} lost, {most} skipped");
        assert!(unseen.is_empty() || total > 0, "nothing was told of {unseen:?}");
        // It can have been another process's socket.
        let mut resyncs = run.records.iter().filter(|record| record.is("resync"));
        assert!(resyncs.all(|record| record.int("repaired") > 0), "{lost:?}");
        has_mattered = !unseen.is_empty();
    }
    if !has_mattered {
        feature::tell_not_run(TEST, "skipped programs", "this kernel skipped none that mattered");
    }
}
