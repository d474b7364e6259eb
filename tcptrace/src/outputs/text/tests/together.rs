//! Many records together, and what they come to in a process.

use super::*;
use crate::engine::{
    assemble::process::{add_owner, process_record},
    processes::ProcessRollup,
};

/// The record of a socket of process 4242 in CLOSE_WAIT, so many seconds old.
fn leak(seconds: u64, local_port: u16, remote: &str, how: Option<OriginHow>) -> Record {
    let mut record = stuck(&records(v4_tuple(), b"java")).clone();
    let remote: std::net::SocketAddr = remote.parse().expect("an address");
    if let Event::Stuck(stuck) = &mut record.event {
        stuck.age_ms = seconds as f64 * 1_000.0;
        (stuck.socket.local_port, stuck.socket.remote_addr) = (local_port, remote.ip());
        stuck.socket.remote_port = remote.port();
        let (pid, tid, time) = (4242, 4310, record.at);
        stuck.details.origin =
            how.map(|how| OriginRecord { pid, tid, comm: Name(comm(b"worker")), how, time });
    }
    record
}

/// The lines of records that came together.
fn together(width: Option<u16>, records: impl IntoIterator<Item = Record>) -> Vec<String> {
    let mut text = TextRenderer::new(width, false, TimeZone::UTC);
    let mut out = Vec::new();
    records.into_iter().for_each(|record| text.add_record(record, &mut out));
    assert_eq!(out, b"", "they wait for each other");
    text.flush_due(1_100 * SECOND, &mut out);
    String::from_utf8(out).expect("UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn many_of_a_kind_are_one_line_with_the_oldest_and_the_youngest() {
    let clients = (0..412).map(|n| leak(31 + n, 9666, &format!("10.0.0.9:{}", 40_000 + n), None));
    let many_hosts = (0..12_000).map(|n| leak(30, 80, &format!("10.0.{}.9:{}", n % 3, 50_000), None));
    let pooled = (0..500).map(|n| leak(62 + n, 20_000 + n as u16, "10.9.9.9:5432", None));
    let lines = together(Some(80), clients.chain(many_hosts).chain(pooled));
    assert_eq!(
        lines,
        [
            "TIME     AGE      PROCESS/PID        FD LPORT REMOTE                WHY",
            "15:45:32 9m21s    java/4242        ×500     * 10.9.9.9:5432         not closed",
            "15:45:32 7m22s    java/4242        ×412  9666 10.0.0.9:*            not closed",
            "15:45:32 30.0s    java/4242        ×12k    80 3 hosts               not closed",
        ]
    );
    let clients = (0..4).map(|n| leak(31 + n, 9666, &format!("10.0.0.9:{}", 40_000 + n), None));
    let lines = together(None, clients);
    assert!(lines[1].contains(" ×4 10.0.0.5:9666         10.0.0.9:*            not closed"), "{}", lines[1]);
    assert!(lines[1].ends_with("not closed, youngest 31.0s"), "{}", lines[1]);
}

#[test]
fn the_oldest_of_a_process_comes_first() {
    let of = |pid: u32, seconds, fd| {
        let mut record = leak(seconds, 9666, &format!("10.0.0.9:{}", 1000 * pid + fd), None);
        if let Event::Stuck(stuck) = &mut record.event {
            stuck.details.owners.truncate(1);
            stuck.details.owners_total = 1;
            (stuck.details.owners[0].pid, stuck.details.owners[0].fd) = (pid, Some(fd));
        }
        record
    };
    let lines = together(Some(80), [of(2, 31, 9), of(2, 31, 8), of(1, 30, 7), of(2, 90, 4), of(1, 30, 6)]);
    let order: Vec<Vec<_>> =
        lines[1..].iter().map(|line| line.split_ascii_whitespace().skip(2).take(2).collect()).collect();
    assert_eq!(order, [["java/1", "6"], ["java/1", "7"], ["java/2", "4"], ["java/2", "8"], ["java/2", "9"]]);
}

#[test]
fn up_to_three_of_a_kind_are_shown_one_by_one() {
    let three = || (0..3).map(|n| leak(30, 9666, &format!("10.0.0.9:{}", 40_000 + n), None));
    assert_eq!(together(Some(80), three()).len(), 4);
    assert_eq!(together(Some(80), three().chain([leak(30, 9666, "10.0.0.7:1", None)])).len(), 2);
}

#[test]
fn the_side_that_a_socket_is_known_to_be_on_decides_what_it_is_put_together_by() {
    // All with both ends the same but for one: without an origin, that could be either.
    let with = |how| (0..5).map(move |n| leak(30, 9666, &format!("10.0.0.9:{}", 40_000 + n), how));
    assert_eq!(together(Some(80), with(Some(OriginHow::Accept))).len(), 2);
    assert_eq!(
        together(Some(80), with(Some(OriginHow::Connect))).len(),
        1 + 5,
        "five services of which it is a client"
    );
    assert_eq!(together(Some(80), with(Some(OriginHow::Accept)).chain(with(None))).len(), 2);
}

#[test]
fn what_differs_in_what_matters_is_never_put_together() {
    let four = |change: fn(&mut Stuck)| {
        (0..4).map(move |n| {
            let mut record = leak(30, 9666, &format!("10.0.0.9:{}", 40_000 + n), None);
            if let Event::Stuck(stuck) = &mut record.event {
                change(stuck);
            }
            record
        })
    };
    let lines = together(
        Some(80),
        four(|_| {})
            .chain(four(|stuck| stuck.details.cause = crate::events::Cause::DataUnread))
            .chain(four(|stuck| stuck.state = State(state::FIN_WAIT2)))
            .chain(four(|stuck| stuck.details.owners.clear()))
            .chain(four(|stuck| stuck.socket.netns = Some(1)))
            .chain(four(|stuck| stuck.details.owners[0].pid = 1)),
    );
    let begins = |line: &&String| line.starts_with("15:45:32 ");
    assert_eq!(lines.iter().filter(begins).count(), 6, "{lines:?}");
    let at = lines.iter().position(|line| line.ends_with("  FIN-WAIT-2")).expect("its state");
    assert_eq!(lines[at + 1], "         not closed", "what has no room goes on below");
}

#[test]
fn many_that_clear_together_are_one_line() {
    let records = records(v4_tuple(), b"java");
    let cleared = records.iter().rfind(|r| matches!(r.event, Event::Cleared(_))).expect("cleared");
    let many = (0..12_000_u32).map(|n| {
        let mut record = cleared.clone();
        if let Event::Cleared(cleared) = &mut record.event {
            cleared.socket.remote_port = (n % 60_000) as u16;
            cleared.in_state_ms = f64::from(n);
        }
        record
    });
    assert_eq!(
        together(Some(80), many)[1],
        "15:46:02 cleared  java/4242        ×12k  9666 10.0.0.9:*            in ≤11.9s"
    );
}

#[test]
fn a_flood_is_written_now_and_then_and_a_single_one_soon() {
    let mut text = TextRenderer::new(Some(80), false, TimeZone::UTC);
    let mut lines = |now_ns: Option<u64>, record: Option<Record>| {
        let mut out = Vec::new();
        record.into_iter().for_each(|record| text.add_record(record, &mut out));
        now_ns.into_iter().for_each(|now| text.flush_due(now, &mut out));
        (out.iter().filter(|byte| **byte == b'\n').count(), text.next_flush_ns())
    };
    let one = || Some(leak(30, 9666, "10.0.0.9:40000", None));
    // They were seen 400 µs after this.
    let seen = 1_032 * SECOND;
    assert_eq!(lines(Some(seen), one()), (0, Some(seen + 100_400_000)));
    assert_eq!(lines(Some(seen + 100_400_000), None), (2, None), "with the heading");
    assert_eq!(lines(Some(seen + SECOND), one()), (0, Some(seen + SECOND + 100_400_000)));
    assert_eq!(lines(Some(seen + SECOND + 100_400_000), one()), (2, None));
}

fn process_line(width: Option<u16>, colour: bool, name: &[u8], rolled: &ProcessRollup) -> String {
    let rolled = ProcessRollup { comm: Some(comm(name)), ..*rolled };
    let event = Event::Process(process_record(4242, &rolled));
    let record = Record { at: Instant { wall_ns: 1_795_362_300_000_000_000, mono_ns: 0 }, event };
    lines(width, colour, &[record])[0].clone()
}

const ROLLED: ProcessRollup = ProcessRollup {
    comm: None,
    ended: false,
    stopped: false,
    stuck: 412,
    shared: 0,
    oldest_ns: Some(302 * SECOND),
    growth_per_min: Some(50.0),
    fds_open: Some(3012),
    fds_limit: Some(4096),
    fds_growth_per_min: Some(60.0),
    fds_full_in_s: Some(1300.8),
    busy: None,
};

#[test]
fn a_process_is_rolled_up_in_a_line() {
    assert_eq!(
        process_line(None, false, b"java", &ROLLED),
        "15:45:00 java/4242: 412 stuck, oldest 5m02s, +50/min, 3012 of 4096 fds, full in 21m40s"
    );
    let quiet = ProcessRollup { growth_per_min: Some(0.0), fds_full_in_s: None, ..ROLLED };
    assert_eq!(
        process_line(Some(80), false, b"java", &quiet),
        "15:45:00 java/4242: 412 stuck, oldest 5m02s, not growing, 3012 of 4096 fds"
    );
    let new = ProcessRollup { growth_per_min: None, fds_open: None, ..quiet };
    assert_eq!(process_line(Some(80), false, b"java", &new), "15:45:00 java/4242: 412 stuck, oldest 5m02s");
    let stopped = ProcessRollup { stopped: true, ..new };
    assert!(process_line(Some(80), false, b"java", &stopped).contains("java/4242: stopped, 412 stuck"));
    let busy = ProcessRollup { busy: Some(0.984), growth_per_min: Some(-0.5), ..new };
    let line = process_line(None, false, b"java", &busy);
    assert!(line.contains("java/4242: busy: 98% CPU, 412 stuck, oldest 5m02s, -0.5/min"), "{line}");
    let ended = ProcessRollup { ended: true, ..ProcessRollup::default() };
    assert_eq!(process_line(Some(80), false, b"java", &ended), "15:45:00 java/4242: ended, 0 stuck");
}

#[test]
fn a_process_is_told_by_its_program_and_its_place_where_there_is_room() {
    let at = Instant { wall_ns: 1_795_362_300_000_000_000, mono_ns: 0 };
    let record = |pid, shared_with, owner: &Owner| {
        let mut record =
            process_record(pid, &ProcessRollup { comm: Some(comm(b"java")), stuck: 2, ..ROLLED });
        add_owner(&mut record, owner);
        Record { at, event: Event::Process(ProcessRecord { shared_with, ..record }) }
    };
    let line = |width, owner: &Owner| lines(width, false, &[record(4242, None, owner)])[0].clone();
    let plain = Owner { program: Some("java -jar app.jar".into()), ..Owner::once(4242) };
    let unit = |unit: &str| Owner { unit: Some(unit.into()), ..plain.clone() };
    let container = Owner { container: Some("0123456789abcdef".into()), ..unit("docker-0123.scope") };
    let pod = Owner { pod: Some("3f6e0c9d-2a7f-5e8c".into()), ..container.clone() };
    for (owner, place) in [
        (plain.clone(), "java -jar app.jar"),
        (unit("app.service"), "java -jar app.jar, app.service"),
        (unit("session-3.scope"), "java -jar app.jar"),
        (unit("user@1000.service"), "java -jar app.jar"),
        (container, "java -jar app.jar, container 0123456789ab"),
        (pod.clone(), "java -jar app.jar, pod 3f6e0c9d-2a7"),
        (Owner { program: Some("java".into()), ..unit("app.service") }, "app.service"),
        (Owner { program: Some("a\u{1b}[2Jb".into()), ..plain.clone() }, "a\\u{1b}[2Jb"),
    ] {
        let line = line(None, &owner);
        assert!(line.starts_with(&format!("15:45:00 java/4242 ({place}): 2 stuck, ")), "{line}");
    }
    assert!(line(Some(80), &pod).starts_with("15:45:00 java/4242: 2 stuck, "), "there is no room");
    assert!(line(None, &Owner::once(4242)).starts_with("15:45:00 java/4242: 2 stuck, "), "nothing is known");
    let both = [record(4242, Some(4242), &pod), record(4243, Some(4242), &plain)];
    let line = together(None, both)[0].clone();
    assert!(line.starts_with("15:45:00 java/4242 and 1 more: 2 stuck, "), "{line}");
}

#[test]
fn the_roll_up_fits_80_columns_and_keeps_when_descriptors_run_out() {
    let much = ProcessRollup {
        stopped: true,
        busy: Some(12.5),
        stuck: 123_456,
        growth_per_min: Some(12_345.0),
        fds_open: Some(123_456),
        fds_limit: Some(1_048_576),
        ..ROLLED
    };
    for (name, rolled) in [(&b"java"[..], ROLLED), (b"fifteen-letters", ROLLED), (b"fifteen-letters", much)] {
        let line = process_line(Some(80), false, name, &rolled);
        assert!(line.chars().count() <= 80 && line.ends_with("full in 21m40s"), "{line}");
        for words in ["/4242: ", " stuck", "/min"] {
            assert!(line.contains(words), "no {words}: {line}");
        }
    }
}

/// The lines of roll-ups that come together: of the first `shared` the sockets are the same.
fn process_lines(
    width: Option<u16>,
    shared: usize,
    all: impl IntoIterator<Item = ProcessRollup>,
) -> Vec<String> {
    let at = Instant { wall_ns: 1_795_362_300_000_000_000, mono_ns: 0 };
    let record = |(nth, rolled): (usize, ProcessRollup)| {
        let rolled = ProcessRollup { comm: Some(comm(b"python3")), ..rolled };
        let shared_with = (nth < shared).then_some(100);
        let record = ProcessRecord { shared_with, ..process_record(100 + nth as u32, &rolled) };
        Record { at, event: Event::Process(record) }
    };
    together(width, all.into_iter().enumerate().map(record))
}

#[test]
fn processes_that_hold_the_same_sockets_are_one_line_that_counts_them_once() {
    let worker = ProcessRollup { stuck: 3, shared: 3, growth_per_min: None, fds_full_in_s: None, ..ROLLED };
    let fuller = ProcessRollup { fds_open: Some(4000), fds_full_in_s: Some(1000.0), ..worker };
    let own = ProcessRollup { stuck: 7, shared: 2, ..worker };
    assert_eq!(
        process_lines(Some(80), 21, [worker; 20].into_iter().chain([fuller, own])),
        [
            "15:45:00 python3/100 and 20 more: 3 stuck, shared, 4000/4096 fds, full in 16m40s",
            "15:45:00 python3/121: 7 stuck, 2 shared, oldest 5m02s, 3012 of 4096 fds",
        ]
    );
    assert_eq!(
        process_lines(None, 2, [worker; 2]),
        ["15:45:00 python3/100 and 1 more: 3 stuck, shared, oldest 5m02s, 3012 of 4096 fds"]
    );
    let stopped = ProcessRollup { stopped: true, ..worker };
    assert!(process_lines(None, 2, [stopped; 2])[0].contains(" and 1 more: stopped, 3 stuck"));
    assert!(process_lines(None, 2, [stopped, worker])[0].contains(" and 1 more: 3 stuck"), "not all are");
}

#[test]
fn processes_of_a_name_that_end_together_are_one_line() {
    let ended = ProcessRollup { ended: true, ..ProcessRollup::default() };
    assert_eq!(process_lines(Some(80), 0, [ended; 21]), ["15:45:00 python3/100 and 20 more: ended, 0 stuck"]);
}

#[test]
fn of_many_processes_the_lines_that_matter_most_are_shown() {
    let one =
        |nth: u32| ProcessRollup { stuck: nth as usize, fds_full_in_s: (nth == 7).then_some(30.0), ..ROLLED };
    let lines = process_lines(Some(80), 0, (1..=10).map(one));
    assert_eq!(lines.len(), 10, "{lines:?}");
    let lines = process_lines(Some(80), 0, (1..=40).map(one));
    assert_eq!(lines.len(), 10);
    assert!(lines[0].contains("/106: 7 stuck") && lines[0].ends_with("full in 30.0s"), "{lines:?}");
    assert!(lines[1].contains("/139: 40 stuck"), "{lines:?}");
    assert_eq!(lines[9], "15:45:00 and 31 more processes");
}

#[test]
fn descriptors_that_run_out_soon_are_red() {
    let line = |seconds| {
        let rolled = ProcessRollup { fds_full_in_s: Some(seconds), ..ROLLED };
        process_line(Some(80), true, b"java", &rolled)
    };
    assert!(line(599.0).contains("\x1b[31mfull in 9m59s"), "{}", line(599.0));
    assert!(line(601.0).contains("\x1b[33mfull in 10m01s"), "{}", line(601.0));
    assert!(line(100_000.0).ends_with(", full in 1d03h"), "{}", line(100_000.0));
    assert!(line(0.0).contains("\x1b[31mFULL\x1b[0m"), "{}", line(0.0));
}

#[test]
fn a_process_record_has_the_fields_of_the_contract_and_no_others() {
    let record = Record {
        at: Instant { wall_ns: 1_795_362_300_000_000_000, mono_ns: 7 },
        event: Event::Process(process_record(
            4242,
            &ProcessRollup { comm: Some(comm(b"java")), shared: 3, ..ROLLED },
        )),
    };
    assert_eq!(
        parsed(&record),
        json!({"v": 1, "event": "process", "time": "2026-11-22T15:45:00.000000000Z", "mono_ns": 7,
            "pid": 4242, "comm": "java", "program": null, "unit": null, "container": null, "pod": null, "stuck": 412, "shared": 3, "oldest_ms": 302_000.0, "growth_per_min": 50.0,
            "fds_open": 3012, "fds_limit": 4096, "fds_growth_per_min": 60.0, "fds_full_in_s": 1300.8})
    );
    let ended = ProcessRollup { ended: true, growth_per_min: Some(-0.000_01), ..ProcessRollup::default() };
    let record = Record { event: Event::Process(process_record(1, &ended)), ..record };
    let line = parsed(&record);
    assert_eq!(line["growth_per_min"].to_string(), "0.0");
    for field in
        ["comm", "program", "oldest_ms", "fds_open", "fds_limit", "fds_growth_per_min", "fds_full_in_s"]
    {
        assert_eq!(line[field], Value::Null, "{field}");
    }
}

#[test]
fn another_process_is_told_from_another_descriptor_of_the_same() {
    let held = |owners: &[(u32, u32, &[u8])]| {
        let mut record = leak(30, 9666, "10.0.0.9:40000", None);
        if let Event::Stuck(stuck) = &mut record.event {
            let owner = |(pid, fd, name): &(u32, u32, &[u8])| Owner {
                fd: Some(*fd),
                comm: Some(Name(comm(name))),
                ..Owner::once(*pid)
            };
            stuck.details.owners = owners.iter().map(owner).collect();
            stuck.details.owners_total = stuck.details.owners.len();
        }
        let [narrow, wide] =
            [Some(80), None].map(|width| together(width, [record.clone()]).pop().expect("a line"));
        // Columns: TIME, AGE, PROCESS/PID, FD.
        let shown: Vec<_> = narrow.split_ascii_whitespace().skip(2).take(2).map(str::to_owned).collect();
        (shown.join(" "), wide.split_once("; also held by ").map(|(_, others)| others.to_owned()))
    };
    let others = |text: &str| Some(text.to_owned());
    assert_eq!(held(&[(1, 7, b"java")]), ("java/1 7".to_owned(), None));
    assert_eq!(held(&[(1, 7, b"java"), (1, 8, b"java")]), ("java/1 7+1".to_owned(), None));
    assert_eq!(
        held(&[(1, 7, b"python3"), (2, 7, b"sleep")]),
        ("python3/1+1 7".to_owned(), others("sleep/2 fd 7"))
    );
    assert_eq!(
        held(&[(1, 7, b"java"), (1, 8, b"java"), (2, 7, b"sh"), (2, 9, b"sh"), (3, 4, b"sh")]),
        ("java/1+2 7+1".to_owned(), others("sh/2 fd 7+1, sh/3 fd 4"))
    );
    let workers: Vec<_> =
        (1..=21).map(|pid| (pid, 7, if pid == 5 { &b"sh"[..] } else { b"python3" })).collect();
    assert_eq!(held(&workers), ("python3/1+20 7".to_owned(), others("19 python3, 1 sh")));
    let names: [&[u8]; 6] = [b"a", b"b", b"c", b"c", b"d", b"e"];
    let workers: Vec<_> = (1..=6).zip(names).map(|(pid, name)| (pid, 7, name)).collect();
    assert_eq!(held(&workers), ("a/1+5 7".to_owned(), others("2 c, 1 b, 1 d, 1 more")));
}

#[test]
fn the_holder_that_was_asked_for_is_named() {
    let shown = |listed: std::ops::Range<u32>, unlisted: std::ops::Range<u32>, wanted: u32| {
        let mut record = leak(30, 9666, "10.0.0.9:40000", None);
        if let Event::Stuck(stuck) = &mut record.event {
            let owner = |pid| Owner {
                pid,
                fd: Some(pid),
                is_requested: pid == wanted,
                ..stuck.details.owners[0].clone()
            };
            let [listed, unlisted] = [listed, unlisted].map(|pids| pids.map(owner).collect::<Vec<_>>());
            stuck.details.owners_total = listed.len() + unlisted.len();
            (stuck.details.owners, stuck.details.unlisted) = (listed, unlisted);
        }
        let line = together(Some(80), [record]).pop().expect("a line");
        line.split_ascii_whitespace().skip(2).take(2).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(1..4, 0..0, 1), "java/1+2 1");
    assert_eq!(shown(1..4, 0..0, 3), "java/3+2 3");
    assert_eq!(shown(1..17, 17..22, 20), "java/20+20 20", "one that the record has no room for");
    assert_eq!(shown(1..4, 0..0, 9), "java/1+2 1", "nobody is");
}

#[test]
fn sockets_with_other_holders_are_never_put_together() {
    let four = |pids: std::ops::Range<u32>| {
        (0..4).map(move |n| {
            let mut record = leak(30, 9666, &format!("10.0.0.9:{}", 40_000 + n), None);
            if let Event::Stuck(stuck) = &mut record.event {
                stuck.details.owners = pids
                    .clone()
                    .map(|_| Owner { fd: Some(n as u32), ..stuck.details.owners[0].clone() })
                    .collect();
                stuck.details.owners.iter_mut().zip(pids.clone()).for_each(|(owner, pid)| owner.pid = pid);
            }
            record
        })
    };
    let lines = together(Some(80), four(1..2).chain(four(1..4)).chain(four(1..3)));
    let shown: Vec<_> =
        lines[1..].iter().map(|line| line.split_ascii_whitespace().nth(2).expect("who")).collect();
    assert_eq!(shown, ["java/1", "java/1+2", "java/1+1"]);
}
