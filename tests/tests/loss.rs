//! More transitions than the tracer or its reader can take: the stream says so, and is right again
//! afterwards.

use std::{
    collections::HashSet,
    io::{PipeReader, PipeWriter, Read as _, pipe},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tests::{
    Namespace, Puppet, Record, Signal, Sock, Tracer, TracerCommand, feature, monotonic_ns, patience,
    process::poll_until,
    record::{Stream, with_gaps},
    recording::Recording,
    scrape::scrape,
    tracer::Finished,
};

/// The servers' ends of connections that their clients have closed.
struct Burst {
    leaking: Vec<Sock>,
    closed: Vec<Sock>,
}

/// Makes connections of which the server leaks every other one.
fn burst(puppet: &mut Puppet, listener: &Sock, count: usize) -> Burst {
    let mut burst = Burst { leaking: vec![], closed: vec![] };
    for (at, (client, server)) in puppet.pairs(listener, count).iter().enumerate() {
        puppet.close(client);
        puppet.read_to_the_end(server);
        if at % 2 == 0 {
            burst.leaking.push(*server);
        } else {
            puppet.close(server);
            burst.closed.push(*server);
        }
    }
    burst
}

fn stuck_sockets(records: &[Record], netns: u64) -> HashSet<(u64, Vec<(u32, u32)>)> {
    let ours = records.iter().filter(|record| record.is("stuck") && record.is_in(netns));
    ours.map(|record| (u64::from(record.remote().port()), record.holders())).collect()
}

fn expected(burst: &Burst) -> HashSet<(u64, Vec<(u32, u32)>)> {
    let port = |socket: &Sock| u64::from(socket.remote.expect("connected").port());
    burst.leaking.iter().map(|socket| (port(socket), vec![(socket.pid, socket.fd)])).collect()
}

#[test]
fn after_a_full_ring_everything_stuck_is_reported_and_nothing_else() {
    const CONNECTIONS: usize = 120;
    let namespace = Namespace::new();
    let netns = namespace.inode();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    let tracer = Tracer::start(&["--stuck", "300ms", "--ring-size", "4096"]);
    // Known to the tracer before the loss: it leaves while nobody looks.
    let (client, server) = puppet.pairs(&listener, 1)[0];
    puppet.close(&client);
    let before = tracer.await_stuck(&server);
    assert_eq!(before.text("cause"), "eof_unread");

    tracer.signal(Signal::STOP);
    let burst = burst(&mut puppet, &listener, CONNECTIONS);
    puppet.close(&server);
    tracer.signal(Signal::CONT);

    tracer.await_cleared(&server);
    tracer.await_records("all leaks", |records| {
        (stuck_sockets(records, netns).len() > burst.leaking.len()).then_some(())
    });
    // Had any of the closed ones been taken for stuck, it would have been reported before this
    // later one.
    let marker = puppet.pairs(&listener, 1)[0];
    puppet.close(&marker.0);
    tracer.await_stuck(&marker.1);
    let run = tracer.stop();

    let mut reported = stuck_sockets(&run.records, netns);
    for known in [&server, &marker.1] {
        let port = known.remote.expect("connected").port().into();
        assert!(reported.remove(&(port, vec![(known.pid, known.fd)])), "{known:?}");
    }
    assert_eq!(reported, expected(&burst));
    let closed: Vec<_> = run
        .records
        .iter()
        .filter(|record| burst.closed.iter().any(|socket| record.is_about("stuck", socket)))
        .collect();
    assert!(closed.is_empty(), "{closed:?}");
    let cleared = run.records_in(netns).iter().filter(|record| record.is("cleared")).count();
    assert_eq!(cleared, 1, "only the one that was known before");

    let lost: Vec<&Record> = run.records.iter().filter(|record| record.is("lost")).collect();
    assert!(!lost.is_empty(), "a ring of 4096 bytes cannot have held all this");
    let total: u64 = lost.iter().map(|record| record.int("lost")).sum();
    let last_of = |reason: &str| {
        lost.iter().rfind(|record| record.text("reason") == reason).map(|record| record.int("lost_total"))
    };
    assert_eq!(total, last_of("ring_full").expect("told") + last_of("skipped").unwrap_or(0), "{lost:?}");
    assert_eq!(total, run.summary().int("lost"));
    let last_lost = run.records.iter().rposition(|record| record.is("lost")).expect("not empty");
    assert!(
        run.records[last_lost..].iter().any(|record| record.is("resync")),
        "no resync after the last loss"
    );
    assert_eq!(run.summary().int("resyncs"), run.count("resync"));
}

#[test]
fn a_recording_of_transitions_that_were_lost_tells_all_the_same_who_is_stuck() {
    // Without it, what was recorded tells no namespace, and a replay goes by that.
    if feature::is_missing(
        feature::TP_BTF,
        "a_recording_of_transitions_that_were_lost_tells_all_the_same_who_is_stuck",
    ) {
        return;
    }
    let namespace = Namespace::new();
    let netns = namespace.inode();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    let leak = |puppet: &mut Puppet| {
        let (client, server) = puppet.pairs(&listener, 1)[0];
        puppet.close(&client);
        puppet.read_to_the_end(&server);
        server
    };
    let [before, gone_at_once] = [leak(&mut puppet), leak(&mut puppet)];
    let recorder = Tracer::start(&["--ring-size", "4096"]);
    let live = Tracer::start(&["--stuck", "300ms"]);
    let [known, gone] = [leak(&mut puppet), leak(&mut puppet)];
    for socket in [&before, &gone_at_once, &known, &gone] {
        live.await_stuck(socket);
    }
    // Whoever reads the recording knows by this that those had been stuck before what is lost now.
    // (In so small a ring the sockets of other tests can have had its place: then it was found.)
    let last = leak(&mut puppet);
    live.await_stuck(&last);
    recorder.await_record("what is known before the loss", |record| {
        record.is_about("transition", &last) || record.is_about("found", &last)
    });

    recorder.signal(Signal::STOP);
    let burst = burst(&mut puppet, &listener, 120);
    puppet.close(&gone_at_once);
    puppet.close(&gone);
    recorder.signal(Signal::CONT);
    for socket in &burst.leaking {
        recorder.await_record(&format!("{socket:?} found"), |record| record.is_about("found", socket));
        live.await_stuck(socket);
    }
    // As long after the repair as it takes for all that was found to be stuck.
    let marker = leak(&mut puppet);
    live.await_stuck(&marker);
    let (recorded, live) = (recorder.stop(), live.stop());
    assert!(recorded.summary().int("lost") > 0, "a ring of 4096 bytes cannot have held all this");

    let recording = Recording::new("lost", &recorded.lines);
    let replayed = recording.replay(&["--stuck", "300ms", "--json"]);
    assert_eq!(replayed.status.code(), Some(0), "{}", replayed.stderr);
    let stuck = |run: &[Record]| {
        let ours = run.iter().filter(|record| record.is("stuck") && record.is_in(netns));
        ours.map(|record| record.remote().port()).collect::<HashSet<_>>()
    };
    let (is, was) = (stuck(&replayed.records), stuck(&live.records));
    assert!(is == was, "only live: {:?}; only replayed: {:?}", &was - &is, &is - &was);
    let cleared: HashSet<_> =
        replayed.records_in(netns).iter().filter(|record| record.is("cleared")).map(Record::cookie).collect();
    let expected = [&gone_at_once, &gone].map(|socket| {
        let is_it = |record: &&Record| record.is_about("stuck", socket);
        replayed.records.iter().find(is_it).expect("compared").cookie()
    });
    assert_eq!(cleared, HashSet::from(expected));
    for socket in &burst.leaking {
        let is_it = |record: &&Record| record.is_about("stuck", socket);
        let record = replayed.records.iter().find(is_it).expect("compared");
        assert_eq!(record.holders(), [(socket.pid, socket.fd)], "{record:?}");
    }
}

#[test]
fn transitions_seen_and_lost_add_up_to_what_happened() {
    let namespace = Namespace::new();
    let witness = Tracer::start(&["--transitions"]);
    let tracer = Tracer::start(&["--transitions", "--ring-size", "4096"]);
    let started_ns = tracer.records()[0].mono_ns();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    puppet.churn(&listener, 20);
    tracer.signal(Signal::STOP);
    puppet.churn(&listener, 40);
    tracer.signal(Signal::CONT);
    tracer.await_record("the loss", |record| record.is("lost"));
    puppet.churn(&listener, 20);
    let ended_ns = monotonic_ns();
    let run = tracer.stop();
    let all = witness.stop();

    let ours = all.records_in(namespace.inode()).iter().filter(|record| record.is("transition")).count();
    let missing = (80_usize * 10 + 1).checked_sub(ours);
    assert!(feature::are_told(missing, &all.records[0], all.summary()), "{missing:?}: {:?}", all.summary());
    if feature::has_skipped(&all, "transitions_seen_and_lost_add_up_to_what_happened") {
        return;
    }
    assert_eq!((all.summary().int("lost"), all.count("lost")), (0, 0), "the witness missed some itself");
    let summary = run.summary();
    assert_eq!(summary.int("transitions"), run.count("transition"));
    // Other processes of this host connect too. It was attached a little before its start, and
    // until a little after it was told to end.
    let all: Vec<&Record> = all.records.iter().filter(|record| record.is("transition")).collect();
    let surely =
        all.iter().filter(|record| (started_ns..=ended_ns).contains(&record.mono_ns())).count() as u64;
    let sum = summary.int("transitions") + summary.int("lost");
    assert!(summary.int("lost") > 0, "{summary:?}");
    assert!(
        (surely..=all.len() as u64).contains(&sum),
        "{sum} is not among {surely}..={}: {summary:?}",
        all.len()
    );
}

#[test]
fn a_reader_that_stops_does_not_stop_the_tracing_and_gets_every_stuck_socket_later() {
    // More than the pipe holds: some 330 bytes a record, ten records a connection.
    const CONNECTIONS: usize = 60;
    let namespace = Namespace::new();
    let netns = namespace.inode();
    let mut puppet = Puppet::new();
    let (listener, only_ours) = listen_alone(&mut puppet, "2001");
    // Judges the same sockets later, and is read. Once it has reported one, the tracer had time
    // to.
    let witness = Tracer::start(&["--stuck", "3s"]);
    let arguments = [&["--transitions", "--stuck", "200ms", "--json"], &only_ours[..]].concat();
    let tracer = TracerCommand::new(&arguments).held().start();
    tracer.await_record("the start", |record| record.is("start"));
    puppet.churn(&listener, CONNECTIONS);
    let burst = burst(&mut puppet, &listener, 60);
    let last = burst.leaking.last().expect("some leak");
    witness.await_stuck(last);
    let read_on_ns = monotonic_ns();
    tracer.read_on();
    tracer.await_records("all leaks", |records| {
        (stuck_sockets(records, netns).len() >= burst.leaking.len()).then_some(())
    });
    let run = tracer.stop();
    assert_eq!(stuck_sockets(&run.records, netns), expected(&burst));
    for record in run.records_in(netns).iter().filter(|record| record.is("stuck")) {
        assert!(record.mono_ns() < read_on_ns, "judged only when it was read on: {record:?}");
    }
    assert_every_transition_is_accounted_for(&run, CONNECTIONS, &burst);
    drop(namespace);
}

#[test]
fn what_a_slow_reader_costs_is_counted_and_stuck_is_never_among_it() {
    // Beyond the pipe and what may wait: some 330 bytes a record, ten records a connection.
    const CONNECTIONS: usize = 200;
    const MAY_WAIT: &str = "100000";
    let namespace = Namespace::new();
    let netns = namespace.inode();
    let mut puppet = Puppet::new();
    let (listener, only_ours) = listen_alone(&mut puppet, "2002");
    let witness = Tracer::start(&["--stuck", "3s"]);
    let arguments = ["--transitions", "--stuck", "200ms", "--queue-size", MAY_WAIT, "--json"];
    let tracer = TracerCommand::new(&[&arguments, &only_ours[..]].concat()).held().start();
    tracer.await_record("the start", |record| record.is("start"));
    puppet.churn(&listener, CONNECTIONS);
    tracer.await_idle();
    let burst = burst(&mut puppet, &listener, 40);
    witness.await_stuck(burst.leaking.last().expect("some leak"));
    tracer.read_on();
    tracer.await_records("all leaks", |records| {
        (stuck_sockets(records, netns).len() >= burst.leaking.len()).then_some(())
    });
    let run = tracer.stop();
    assert_eq!(stuck_sockets(&run.records, netns), expected(&burst));
    let summary = run.summary();
    assert!(summary.int("dropped") > 0, "{summary:?}");
    assert_every_transition_is_accounted_for(&run, CONNECTIONS, &burst);
    // What the kernel side loses in such a burst, if it does, is counted separately.
    let told = |is_it: &dyn Fn(&str) -> bool| -> u64 {
        let told = run.records.iter().filter(|record| record.is("lost") && is_it(record.text("reason")));
        told.map(|record| record.int("lost")).sum()
    };
    assert_eq!(told(&|reason| reason == "reader_slow"), summary.int("dropped"), "{summary:?}");
    assert_eq!(told(&|reason| reason != "reader_slow"), summary.int("lost"), "{summary:?}");
    drop(namespace);
}

/// Listens on a port that no other test uses, because it is none of those that the kernel assigns.
/// Also returns the filter for its connections, which keeps out the records of concurrent tests.
fn listen_alone<'a>(puppet: &mut Puppet, port: &'a str) -> (Sock, [&'a str; 2]) {
    (puppet.listen(&format!("127.0.0.1:{port}")), ["--port", port])
}

/// Asserts that each transition of these connections was printed or counted as dropped: those of
/// `churned` connections, which both ends closed, and of a burst.
fn assert_every_transition_is_accounted_for(run: &Finished, churned: usize, burst: &Burst) {
    // Five of each end. The server's end of a leak stays in CLOSE_WAIT, after three.
    let happened = 10 * (churned + burst.closed.len()) + 8 * burst.leaking.len();
    let summary = run.summary();
    // Resyncs after losses may be dropped too.
    let dropped = summary.int("dropped") - (summary.int("resyncs") - run.count("resync"));
    let told = usize::try_from(run.count("transition") + dropped).expect("a small number");
    let missing = happened.checked_sub(told);
    assert!(
        feature::are_told(missing, &run.records[0], summary),
        "{told} printed or dropped, of {happened}: {summary:?}"
    );
    // The summary also counts the transitions of other tests, which the filter keeps back.
    let told = told as u64;
    assert!((told..=told + summary.int("filtered")).contains(&summary.int("transitions")), "{summary:?}");
}

#[test]
fn behind_a_reader_that_has_stopped_reminders_take_no_memory_and_the_first_of_each_socket_arrives() {
    const CONNECTIONS: usize = 200;
    // 700 bytes each: 8.4 MB, had they been kept. Walks over other tests' sockets need some
    // memory.
    const DROPPED: f64 = 12_000.0;
    const MAY_GROW_KIB: u64 = 3 << 10;
    let namespace = Namespace::new();
    let netns = namespace.inode();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    let arguments = ["--stuck", "200ms", "--remind", "20ms", "--queue-size", "100000", "--json"];
    // Other tests' sockets have records too, of which the first may not be dropped.
    let only_here = netns.to_string();
    let arguments = [&arguments[..], &["--metrics", "127.0.0.1:0", "--netns", &only_here]].concat();
    let mut command = TracerCommand::new(&arguments).held();
    // What walks of other tests' sockets took goes back to the system at once (mallopt(3)).
    command.command.env("MALLOC_MMAP_THRESHOLD_", "131072");
    let tracer = command.start();
    tracer.await_record("the start", |record| record.is("start"));
    let at = tracer.await_metrics();
    let dropped = || scrape(at).value("tcptrace_dropped_records_total", &[]).expect("served");
    let burst = burst(&mut puppet, &listener, CONNECTIONS);
    poll_until("the queue to be full", || (dropped() > 0.0).then_some(()));
    let (kib, before) = (allocated_kib(tracer.pid()), dropped());
    poll_until("many reminders", || (dropped() >= before + DROPPED).then_some(()));
    // A walk that is under way has memory of its own; what is kept for the reader stays, and grows.
    poll_until("memory to be little more than before", || {
        (allocated_kib(tracer.pid()).saturating_sub(kib) < MAY_GROW_KIB).then_some(())
    });
    tracer.read_on();
    tracer.await_records("the first record of each", |records| {
        stuck_sockets(records, netns).is_superset(&expected(&burst)).then_some(())
    });
    let run = tracer.stop();
    let slow =
        run.records.iter().filter(|record| record.is("lost") && record.text("reason") == "reader_slow");
    assert_eq!(slow.map(|record| record.int("lost")).sum::<u64>(), run.summary().int("dropped"));
    drop(namespace);
}

/// Memory that a process has allocated, KiB: without its program and the mapped ring buffer.
///
/// Before Linux 6.2 each thread counts mapped pages on its own and adds them to the process's
/// after 64 page faults. The ring buffer has thousands of pages, mapped without a fault: `VmRSS`
/// grows by all of them at once, at any time. Of allocated memory each page is a fault.
fn allocated_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_reader_that_never_reads_again_does_not_keep_the_tracer_from_ending_nor_gets_half_a_line() {
    let _namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    let (mut reader, writer) = pipe().expect("a pipe");
    let tracer = into_pipe(writer);
    await_first_line(&reader);
    puppet.churn(&listener, 60);
    tracer.signal(Signal::TERM);
    let run = tracer.finish();
    assert_eq!(run.status.code(), Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("not written"), "it said nothing of what it left: {}", run.stderr);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("UTF-8");
    assert_whole(&text);
}

#[test]
fn a_reader_that_is_slow_and_goes_on_reading_gets_everything_also_at_the_end() {
    const CONNECTIONS: usize = 250;
    let namespace = Namespace::new();
    let mut puppet = Puppet::new();
    let listener = puppet.listen("127.0.0.1:0");
    let (mut reader, writer) = pipe().expect("a pipe");
    let tracer = into_pipe(writer);
    await_first_line(&reader);
    // All of it is there at once when the tracer ends.
    tracer.signal(Signal::STOP);
    puppet.churn(&listener, CONNECTIONS);
    tracer.signal(Signal::TERM);
    tracer.signal(Signal::CONT);
    let mut bytes = Vec::new();
    // Some 4 s of reading, longer than one who reads nothing is waited for.
    let mut chunk = vec![0; 16 << 10];
    loop {
        match reader.read(&mut chunk).expect("a pipe can be read") {
            0 => break,
            count => bytes.extend_from_slice(&chunk[..count]),
        }
        std::thread::sleep(Duration::from_millis(80)); // a slow reader is what this is about
    }
    let run = tracer.finish();
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""));
    let records = assert_whole(std::str::from_utf8(&bytes).expect("UTF-8"));
    assert!(records.last().is_some_and(|record| record.is("summary")));
    let came = records.iter().filter(|record| record.is_in(namespace.inode())).count();
    let not_whole = with_gaps(&records, namespace.inode());
    let missing = (CONNECTIONS * 10).checked_sub(came);
    assert!(
        feature::are_told(missing, &records[0], records.last().expect("a summary")),
        "{missing:?} missing; not whole: {not_whole:?}; {:?}",
        records.last()
    );
}

/// Runs `--transitions --json` into a pipe that the test itself reads.
fn into_pipe(writer: PipeWriter) -> Tracer {
    let mut command = TracerCommand::new(&["--transitions", "--json"]);
    command.command.stdout(writer);
    command.start()
}

/// Waits for the first record: before that the tracer may not be ready for a signal.
fn await_first_line(reader: &PipeReader) {
    let limit = Timespec { tv_sec: patience().as_secs().cast_signed(), tv_nsec: 0 };
    let came = poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&limit)).expect("a pipe can be polled");
    assert_eq!(came, 1, "no start record");
}

/// Asserts that every line is whole. Returns the records.
fn assert_whole(text: &str) -> Vec<Record> {
    let cut = &text[text.rfind('\n').map_or(0, |last| last + 1)..];
    assert_eq!(cut, "", "the last line is cut");
    let mut stream = Stream::default();
    let read = |line: &str| stream.record(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(read).collect()
}
