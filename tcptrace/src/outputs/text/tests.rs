//! Findings in, lines out.

use bytemuck::Zeroable as _;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tcptrace_common::{AF_INET, AF_INET6, SocketRow, Tuple, state, v4_mapped};

use super::*;
use crate::{
    clock::WallClock,
    engine::{
        Engine,
        input::{Input, Purpose},
        process_info::ProcessDetails,
        state_change::{Actor, StateChange},
        tracker::finding::Finding,
        walk::{Holder, Walk},
    },
    events::{
        Cleared, Ending, Family, Instant, Lost, LostReason, Name, OriginHow, OriginRecord, Owner, OwnerHow,
        Peer, ProcessRecord, Resync, SocketId, State, Stuck, Summary, Transition, Views,
    },
    outputs::json::Json,
    testing::{Collected, OneProcess, event_of, settings},
};

mod bounds;
mod lines;
mod lives;
mod together;
mod widths;

const SECOND: u64 = 1_000_000_000;
/// 2026-11-22T15:45:00Z at 1000 s of uptime.
const WALL: WallClock = WallClock::with_offset_ns(1_795_362_300_000_000_000 - 1_000 * 1_000_000_000);

fn v4_tuple() -> Tuple {
    Tuple {
        local_addr: v4_mapped([10, 0, 0, 5]),
        remote_addr: v4_mapped([10, 0, 0, 9]),
        local_port: 9666,
        remote_port: 40112,
        family: AF_INET,
        interface: 0,
    }
}

fn comm(name: &[u8]) -> [u8; 16] {
    Name::from_bytes(name).0
}

/// A socket of `tuple`, 30.0004 s in CLOSE_WAIT, held by one process of that name, as its records.
fn records(tuple: Tuple, name: &[u8]) -> Vec<Record> {
    records_by(tuple, name, |_| WALL)
}

/// The same, with what the wall clock was when each was made.
fn records_by(tuple: Tuple, name: &[u8], wall: impl Fn(usize) -> WallClock) -> Vec<Record> {
    let entered = 1_002 * SECOND;
    let process = OneProcess(ProcessDetails {
        comm: Some(name.to_vec()),
        exe: Some("/usr/bin/java".into()),
        uid: Some(1000),
        program: Some("java -jar app.jar".into()),
        cgroup: Some("/app.slice/app.service".into()),
        unit: Some("app.service".into()),
        ..ProcessDetails::default()
    });
    let views = Views { transitions: true, stuck: true, lives: false };
    let settings = settings(views, state::bit(state::CLOSE_WAIT), 30 * SECOND);
    let mut engine = Engine::new(settings, 0, process);
    let transition = |at_ns, old_state, new_state| StateChange {
        netns: 4_026_531_840,
        ..StateChange::new(at_ns, 14893, tuple, old_state, new_state)
    };
    let seen = SocketRow {
        ktime_ns: entered + 30 * SECOND + 400_000,
        cookie: 14893,
        netns: 4_026_531_840,
        state: state::CLOSE_WAIT,
        tuple,
        ..SocketRow::zeroed()
    };
    let holders = [57, 58].map(|fd| Holder { cookie: 14893, pid: 4242, fd, process: None });
    let walk = Walk {
        started_ns: entered + 30 * SECOND,
        sockets: vec![seen],
        holders: holders.to_vec(),
        ..Walk::default()
    };
    let (comm, thread_comm) = (Some(comm(name)), comm(b"worker"));
    let leave = StateChange {
        actor: Some(Actor { pid: 4242, tid: 4310, uid: 1000, comm, thread_comm }),
        ending: Ending::Closed,
        ..transition(entered + 60 * SECOND, state::CLOSE_WAIT, state::LAST_ACK)
    };
    let mut events = Collected::default();
    for (nth, input) in [
        Input::Transition(&transition(entered - SECOND, state::SYN_RECV, state::ESTABLISHED)),
        Input::Transition(&transition(entered, state::ESTABLISHED, state::CLOSE_WAIT)),
        Input::WalkBegan(&walk, Purpose::Judge),
        Input::Socket(&seen),
        Input::WalkEnded(&walk, Purpose::Judge),
        Input::Transition(&leave),
    ]
    .into_iter()
    .enumerate()
    {
        engine.set_wall_clock(&wall(nth));
        engine.apply(input, &mut events);
    }
    events.0
}

fn lines(width: Option<u16>, colour: bool, records: &[Record]) -> Vec<String> {
    let mut text = TextRenderer::new(width, colour, TimeZone::UTC);
    let mut out = Vec::new();
    for record in records {
        text.add_record(record.clone(), &mut out);
        text.flush_due(u64::MAX, &mut out);
    }
    String::from_utf8(out).expect("UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn on_a_terminal_a_heading_comes_again_before_it_is_out_of_sight() {
    let transition =
        records(v4_tuple(), b"java").into_iter().find(|record| record.event.name() == "transition");
    let transition = transition.expect("one of them is");
    let heads = |rows: Option<u16>| {
        let (mut text, mut out) = (TextRenderer::new(Some(80), false, TimeZone::UTC), Vec::new());
        rows.into_iter().for_each(|rows| text.resize(80, rows));
        (0..60).for_each(|_| text.add_record(transition.clone(), &mut out));
        let out = String::from_utf8(out).expect("UTF-8");
        let heads = out.lines().enumerate().filter(|(_, line)| line.starts_with("TIME"));
        heads.map(|(at, _)| at).collect::<Vec<_>>()
    };
    assert_eq!(heads(None), [0]);
    assert_eq!(heads(Some(24)), [0, 22, 44]);
    assert_eq!(heads(Some(0)), [0], "a terminal that does not know its size");
}

fn parsed(record: &Record) -> Value {
    let mut out = Vec::new();
    Json::default().write_record(record, &mut out);
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    serde_json::from_slice(&out).expect("JSON")
}

fn stuck(records: &[Record]) -> &Record {
    records.iter().find(|record| matches!(record.event, Event::Stuck(_))).expect("a stuck record")
}

#[test]
fn a_wall_clock_that_jumps_changes_no_age() {
    // Back by an hour before each record, then far ahead.
    let jumps = |nth: usize| [0, -3_600, -7_200, 86_400, 60, -60][nth % 6];
    let jumping =
        |nth| WallClock::with_offset_ns(WALL.wall_ns_at(0) + i128::from(jumps(nth)) * i128::from(SECOND));
    let (steady, jumped) = (records(v4_tuple(), b"java"), records_by(v4_tuple(), b"java", jumping));
    assert_eq!(steady.len(), jumped.len());
    let mut different = 0;
    for (steady, jumped) in steady.iter().map(parsed).zip(jumped.iter().map(parsed)) {
        different += usize::from(steady["time"] != jumped["time"]);
        for field in ["mono_ns", "age_ms", "age_max_ms", "exact", "in_old_state_ms", "in_state_ms"] {
            assert_eq!(steady[field], jumped[field], "{field}: {jumped}");
        }
    }
    assert!(different >= 2, "the clock did jump");
}

#[test]
fn a_stuck_record_is_what_the_contract_shows() {
    let owner = |fd| {
        json!({"pid": 4242, "fd": fd, "comm": "java", "program": "java -jar app.jar", "exe": "/usr/bin/java",
            "uid": 1000, "cgroup": "/app.slice/app.service", "unit": "app.service", "container": null, "pod": null})
    };
    assert_eq!(
        parsed(stuck(&records(v4_tuple(), b"java"))),
        json!({"v": 1, "event": "stuck", "time": "2026-11-22T15:45:32.000400000Z",
            "mono_ns": 1_032_000_400_000_u64, "cookie": 14893, "netns": 4_026_531_840_u32, "family": "ipv4",
            "local_addr": "10.0.0.5", "local_port": 9666, "remote_addr": "10.0.0.9", "remote_port": 40112,
            "state": "CLOSE_WAIT", "threshold_ms": 30000.0, "age_ms": 30000.4, "age_max_ms": 30000.4,
            "exact": true, "since": "2026-11-22T15:45:02.000000000Z", "recv_queue": 0, "send_queue": 0,
            "cause": "not_closed", "owners": [owner(57), owner(58)], "owners_total": 2, "owner_how": "fd", "origin": null,
            "listener": null, "peer": null})
    );
}

#[test]
fn a_cleared_record_tells_how_long_and_by_whom() {
    let records = records(v4_tuple(), b"java");
    let cleared = parsed(records.iter().rfind(|r| matches!(r.event, Event::Cleared(_))).expect("cleared"));
    assert_eq!(cleared["in_state_ms"], json!(60000.0));
    assert_eq!((&cleared["state"], &cleared["new_state"]), (&json!("CLOSE_WAIT"), &json!("LAST_ACK")));
    assert_eq!((&cleared["by"]["pid"], &cleared["by"]["comm"]), (&json!(4242), &json!("java")));
}

#[test]
fn a_transition_says_who_acted_and_how_long_it_took() {
    let records = records(v4_tuple(), b"java");
    let transitions: Vec<_> =
        records.iter().filter(|r| matches!(r.event, Event::Transition(_))).map(parsed).collect();
    assert_eq!(transitions.len(), 3);
    assert_eq!(transitions[0]["in_old_state_ms"], Value::Null);
    assert_eq!((&transitions[0]["owner"], &transitions[0]["owner_how"]), (&Value::Null, &json!("none")));
    assert_eq!(transitions[1]["in_old_state_ms"], json!(1000.0));
    assert_eq!(transitions[2]["owner"]["uid"], json!(1000));
    assert_eq!(transitions[2]["owner_how"], json!("close"));
}

#[test]
fn text_fits_a_terminal_of_80_columns() {
    let lines = lines(Some(80), false, &records(v4_tuple(), b"a-very-long-name"));
    assert_eq!(
        lines,
        [
            "TIME     LPORT REMOTE                OLD        NEW         AFTER PROCESS/PID",
            "15:45:01  9666 10.0.0.9:40112        SYN-RECV   ESTAB           - -",
            "15:45:02  9666 10.0.0.9:40112        ESTAB      CLOSE-WAIT   1.0s -",
            "TIME     AGE      PROCESS/PID        FD LPORT REMOTE                WHY",
            "15:45:32 30.0s    a-very-lon/4242  57+1  9666 10.0.0.9:40112        not closed",
            "15:46:02  9666 10.0.0.9:40112        CLOSE-WAIT LAST-ACK    1m00s a-very-lo/4242",
            "15:46:02 cleared  a-very-lon/4242     -  9666 10.0.0.9:40112        after 1m00s",
        ]
    );
    assert!(lines.iter().all(|line| line.len() <= 80));
}

#[test]
fn without_a_terminal_nothing_is_left_out() {
    let lines = lines(None, false, &records(v4_tuple(), b"java"));
    assert!(lines[4].contains("10.0.0.5:9666"), "{}", lines[4]);
    assert!(lines[4].ends_with("not closed: all read, nothing to send"), "{}", lines[4]);
}

#[test]
fn colour_is_there_only_where_it_is_wanted() {
    let records = records(v4_tuple(), b"java");
    assert!(lines(Some(80), false, &records).iter().all(|line| !line.contains('\x1b')));
    assert!(lines(Some(80), true, &records).iter().any(|line| line.contains("\x1b[31m30.0s")));
}

#[test]
fn a_process_name_can_forge_nothing() {
    for name in
        [&b"\x1b[2J\x1b[H"[..], b"a\nb", b"\xff\xfe\x80", "\u{202e}cba".as_bytes(), b"\"q\\'\"", b"\x07\r\t"]
    {
        let records = records(v4_tuple(), name);
        let lines = lines(None, false, &records);
        assert_eq!(lines.len(), 7, "{lines:?}");
        let forging = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!lines.iter().any(|line| line.contains(forging)), "{lines:?}");
        for record in &records {
            parsed(record);
        }
    }
}

#[test]
fn a_mapped_address_is_ipv4_and_an_unset_end_follows_the_other() {
    let dual = Tuple { family: AF_INET6, ..v4_tuple() };
    let id = SocketId::new(1, 2, &dual);
    assert_eq!((id.family, id.local_addr.to_string()), (Family::Ipv4, "10.0.0.5".to_owned()));

    let half = Tuple { local_addr: [0; 16], local_port: 0, ..dual };
    let id = SocketId::new(1, 2, &half);
    assert_eq!((id.family, id.local_addr.to_string()), (Family::Ipv4, "0.0.0.0".to_owned()));

    let mut loopback = [0; 16];
    loopback[15] = 1;
    let v6 = Tuple { local_addr: loopback, remote_addr: [0; 16], family: AF_INET6, ..v4_tuple() };
    let id = SocketId::new(1, 2, &v6);
    assert_eq!((id.family, id.local_addr.to_string()), (Family::Ipv6, "::1".to_owned()));
}

#[test]
fn every_record_says_what_it_is_and_when() {
    let at = Instant { wall_ns: 1_795_362_300_000_000_001, mono_ns: 7 };
    let resync = Resync { sockets: 10, repaired: 2, found: None };
    for event in [
        Event::Lost(Lost { lost: 3, lost_total: 3, reason: LostReason::RingFull }),
        Event::Resync(resync),
        Event::Summary(Summary { skipped: 5, ..Summary::default() }),
    ] {
        let record = Record { at, event };
        let value = parsed(&record);
        assert_eq!(value["v"], json!(1));
        assert_eq!(value["event"], json!(record.event.name()));
        assert_eq!(
            (&value["time"], &value["mono_ns"]),
            (&json!("2026-11-22T15:45:00.000000001Z"), &json!(7))
        );
        assert!(value.get("skipped").is_none());
    }
}

#[test]
fn an_actor_that_is_no_utf8_is_still_json() {
    let actor = Actor { pid: 1, tid: 1, uid: 0, comm: Some([0xff; 16]), thread_comm: [0xff; 16] };
    let finding = Finding::Transition {
        change: StateChange {
            actor: Some(actor),
            ..StateChange::new(0, 0, v4_tuple(), state::CLOSE, state::SYN_SENT)
        },
        in_old_state_ns: None,
    };
    let views = Views { transitions: true, stuck: false, lives: false };
    let record = event_of(views, &finding, &WALL).expect("wanted");
    assert_eq!(parsed(&record)["owner"]["comm"], json!("\u{fffd}".repeat(16)));
    assert_eq!(parsed(&record)["new_state"], json!(State(state::SYN_SENT).kernel_name()));
}

#[test]
fn a_stuck_line_tells_the_thread_and_the_other_end_where_there_is_room() {
    let all = records(v4_tuple(), b"java");
    let record = stuck(&all).clone();
    let with = |origin: Option<(u32, &[u8], OriginHow)>, peer: Option<Peer>| {
        let mut record = record.clone();
        let at = record.at;
        if let Event::Stuck(stuck) = &mut record.event {
            stuck.details.origin = origin.map(|(pid, name, how)| OriginRecord {
                pid,
                tid: 4310,
                comm: Name(comm(name)),
                how,
                time: at,
            });
            stuck.details.peer = peer;
        }
        record
    };
    let line = |width, record: Record| lines(width, false, &[record]).pop().expect("a line");
    let pool = Some((4242, &b"http-nio\x1b[2J"[..], OriginHow::Accept));
    let told = line(None, with(pool, None));
    assert!(told.ends_with("; accepted by thread http-nio\\u{1b}[2J"), "{told}");
    let told = line(None, with(Some((7, b"inetd", OriginHow::Connect)), None));
    assert!(told.ends_with("; connected by inetd/7"), "{told}");
    let told = line(None, with(Some((4242, b"java", OriginHow::Accept)), None));
    assert!(told.ends_with("nothing to send"), "the holder's own main thread is no news: {told}");
    let peer = |owners: Vec<Owner>, how, gone| Peer {
        cookie: 9,
        netns: None,
        state: State(state::FIN_WAIT2),
        owners_total: owners.len(),
        owner_how: if owners.is_empty() { OwnerHow::None } else { how },
        gone,
        owners,
    };
    let told = line(None, with(None, Some(peer(vec![], OwnerHow::None, true))));
    assert!(told.ends_with("; peer gone, FIN-WAIT-2"), "{told}");
    let holder = Owner { fd: Some(5), comm: Some(Name(comm(b"client"))), ..Owner::once(4243) };
    let told = line(None, with(None, Some(peer(vec![holder.clone()], OwnerHow::Fd, false))));
    assert!(told.ends_with("; peer client/4243 fd 5 in FIN-WAIT-2"), "{told}");
    let told = line(None, with(None, Some(peer(vec![holder], OwnerHow::Listener, false))));
    assert!(told.ends_with("; peer in FIN-WAIT-2, not accepted by client/4243"), "{told}");
    let told = line(None, with(None, Some(peer(vec![], OwnerHow::None, false))));
    assert!(told.ends_with("; peer in FIN-WAIT-2, no descriptor holds it"), "{told}");
    let narrow = line(Some(80), with(pool, None));
    assert!(narrow.len() <= 80 && !narrow.contains("accepted"), "{narrow}");
}
