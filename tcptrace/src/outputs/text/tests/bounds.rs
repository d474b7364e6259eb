//! No record is longer than it may be, whatever the kernel, `/proc` or a recording puts into it.

use serde_json::Value;

use super::*;
use crate::{
    engine::{assemble::process::process_record, processes::ProcessRollup},
    events::{
        Cause, CloseReason, Ending, Family, Fields, KernelFeature, LISTED, LONGEST_RECORD, LifeRecord,
        Listener, Lost, LostReason, Resync, Role, SocketDetails, Start, Summary, TEXT_BYTES, TimeInState,
        Transition,
    },
    sources::recording::Recording,
};

/// Every byte of it takes six in JSON, which is the most that any takes.
fn long() -> String {
    "\u{1}".repeat(4096)
}

fn longest_owner() -> Owner {
    Owner {
        pid: u32::MAX,
        inner_pids: Some(vec![u32::MAX; 32].into()),
        fd: Some(u32::MAX),
        comm: Some(Name::from_bytes(&[1; 16])),
        program: Some(long().into()),
        unit: Some(long().into()),
        pod: Some(long().into()),
        exe: Some(long().into()),
        uid: Some(u32::MAX),
        cgroup: Some(long().into()),
        container: Some(long().into()),
        is_requested: false,
    }
}

const LONGEST_TIME: Instant = Instant { wall_ns: 1_795_967_132_104_233_918, mono_ns: u64::MAX };

fn longest_stuck(socket: SocketId, threshold_ms: Option<f64>) -> Box<Stuck> {
    let owners = vec![longest_owner(); LISTED];
    let origin = OriginRecord {
        pid: u32::MAX,
        tid: u32::MAX,
        comm: Name::from_bytes(&[1; 16]),
        how: OriginHow::Connect,
        time: LONGEST_TIME,
    };
    let listener = Listener {
        cookie: u64::MAX,
        local_addr: socket.local_addr,
        local_port: u16::MAX,
        backlog: u32::MAX,
        backlog_limit: u32::MAX,
    };
    let state = State(state::ESTABLISHED);
    let peer = Peer {
        cookie: u64::MAX,
        netns: Some(u32::MAX),
        state,
        owners: owners.clone(),
        owners_total: usize::MAX,
        owner_how: OwnerHow::Listener,
        gone: false,
    };
    Box::new(Stuck {
        socket,
        state,
        threshold_ms,
        age_ms: f64::MIN_POSITIVE,
        age_max_ms: Some(f64::MIN_POSITIVE),
        exact: false,
        since: LONGEST_TIME,
        details: SocketDetails {
            recv_queue: u32::MAX,
            send_queue: u32::MAX,
            cause: Cause::NotAccepted,
            owners,
            owners_total: usize::MAX,
            unlisted: vec![longest_owner(); 1_000],
            owner_how: OwnerHow::Listener,
            origin: Some(origin),
            listener: Some(listener),
            peer: Some(peer),
        },
        is_reminder: false,
    })
}

/// Each kind of record, with as much in it as there can be.
fn longest() -> Vec<Event> {
    let address: std::net::IpAddr = "abcd:abcd:abcd:abcd:abcd:abcd:abcd:abcd".parse().expect("an address");
    let socket = SocketId {
        interface: Some(u16::MAX),
        cookie: u64::MAX,
        netns: Some(u32::MAX),
        family: Family::Ipv6,
        local_addr: address,
        local_port: u16::MAX,
        remote_addr: address,
        remote_port: u16::MAX,
    };
    let (state, owner_how) = (State(state::ESTABLISHED), OwnerHow::Origin);
    let mut states = TimeInState::default();
    for number in 1..=11 {
        states.push(number, 1);
    }
    let source = |nth| KernelFeature {
        name: format!("fentry/security_sock_graft {nth}").into(),
        in_use: false,
        why_not: Some(long()),
    };
    vec![
        Event::Start(Start {
            version: "1.2.3".into(),
            kernel: long(),
            host: long(),
            boot_id: Some(long()),
            sockets: usize::MAX,
            // Twice as many as there are.
            sources: (0..18).map(source).collect(),
        }),
        Event::Transition(Transition {
            socket,
            old_state: state,
            new_state: state,
            stand_in: false,
            in_old_state_ms: Some(f64::MIN_POSITIVE),
            owner: Some(longest_owner()),
            owner_how,
            how: Some(Ending::Destroyed),
        }),
        Event::Stuck(longest_stuck(socket, Some(f64::MIN_POSITIVE))),
        Event::Found(longest_stuck(socket, None)),
        Event::Cleared(Cleared {
            socket,
            state,
            new_state: state,
            in_state_ms: f64::MIN_POSITIVE,
            by: Some(longest_owner()),
            how: Ending::Destroyed,
        }),
        Event::Life(LifeRecord {
            socket,
            opened: Some(LONGEST_TIME),
            duration_ms: Some(f64::MIN_POSITIVE),
            role: Role::Unknown,
            states,
            close_reason: CloseReason::ResetReceived,
            error: Some(long().into()),
            bytes_sent: Some(u64::MAX),
            bytes_received: Some(u64::MAX),
            retransmits: Some(u32::MAX),
            rtt_us: Some(u32::MAX),
            owner: Some(longest_owner()),
            owner_how,
            owned_ns: None,
        }),
        Event::Process(process_record(
            u32::MAX,
            &ProcessRollup { comm: Some(Name::from_bytes(&[1; 16]).0), ..ProcessRollup::default() },
        )),
        Event::Lost(Lost { lost: u64::MAX, lost_total: u64::MAX, reason: LostReason::ReaderSlow }),
        Event::Resync(Resync { sockets: usize::MAX, repaired: usize::MAX, found: Some(u64::MAX) }),
        Event::Summary(Summary::default()),
    ]
}

/// The strings of a value, wherever they are in it.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().flat_map(strings).collect(),
        Value::Object(fields) => fields.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_longest_record_is_bounded_and_read_back() {
    for event in longest() {
        let record = Record { at: LONGEST_TIME, event };
        let name = record.event.name();
        let (mut line, mut serde_form) = (Vec::new(), serde_json::to_vec(&record).expect("JSON"));
        Json::default().write_record(&record, &mut line);
        serde_form.push(b'\n');
        for written in [&line, &serde_form] {
            // A quarter of it is left for fields to come.
            assert!(written.len() <= LONGEST_RECORD / 4 * 3, "{name}: {} bytes", written.len());
            let value: Value = serde_json::from_slice(written).expect("JSON");
            for text in strings(&value) {
                assert!(text.len() <= TEXT_BYTES, "{name}: {} bytes: {text}", text.len());
            }
            let fields = Fields::split(written).expect("one object");
            let read = Event::from_fields(name, &fields).expect("a record");
            let event = read.unwrap_or_else(|| panic!("{name} is not read back"));
            let again = serde_json::to_value(Record { at: LONGEST_TIME, event }).expect("JSON");
            assert!(again == value, "{name} is read back otherwise");
        }
    }
}

#[test]
fn a_recording_without_bounds_is_brought_within_them() {
    let Event::Stuck(mut stuck) = longest().swap_remove(2) else { unreachable!("the third") };
    // As earlier builds wrote it: every owner, and no number of them.
    let line = |stuck: &Stuck| {
        let record = Record { at: LONGEST_TIME, event: Event::Stuck(Box::new(stuck.clone())) };
        let mut value = serde_json::to_value(record).expect("JSON");
        let peer = value["peer"].as_object_mut().expect("a peer");
        assert!(peer.remove("owners_total").is_some());
        let fields = value.as_object_mut().expect("an object");
        assert!(fields.remove("owners_total").is_some());
        format!("{value}\n")
    };
    stuck.details.owners = (0..40).flat_map(|pid| [(pid, 3), (pid, 4)]).map(descriptor).collect();
    let line = line(&stuck);
    let read = Recording::new(line.as_bytes()).next_line().expect("a record").expect("one");
    let Some(Event::Stuck(read)) = read.event else { panic!("{line}") };
    let peer = read.details.peer.expect("a peer");
    assert_eq!((read.details.owners_total, peer.owners_total, peer.owners.len()), (80, LISTED, LISTED));
    let firsts: Vec<_> = (0..16).map(|pid| descriptor((pid, 3))).collect();
    assert_eq!(read.details.owners, firsts);
}

fn descriptor((pid, fd): (u32, u32)) -> Owner {
    Owner { fd: Some(fd), ..Owner::once(pid) }
}

#[test]
fn text_counts_the_owners_that_a_record_does_not_list() {
    let Event::Stuck(stuck) = longest().swap_remove(2) else { unreachable!("the third") };
    let line = |owners: Vec<Owner>, unlisted: Vec<Owner>, owners_total| {
        let peer = None;
        let details = SocketDetails {
            owners,
            unlisted,
            owners_total,
            peer,
            origin: None,
            listener: None,
            ..stuck.details.clone()
        };
        let stuck = Stuck { details, ..*stuck.clone() };
        let record = Record { at: LONGEST_TIME, event: Event::Stuck(Box::new(stuck)) };
        lines(None, false, &[record]).pop().expect("a line")
    };
    let told = line((3..19).map(|fd| descriptor((7, fd))).collect(), Vec::new(), 19_001);
    assert!(told.contains(" 3+19000 "), "{told}");
    let first = || (0..16).map(|pid| descriptor((pid, 3))).collect::<Vec<_>>();
    let more = (16..21).map(|pid| descriptor((pid, 3))).collect();
    let told = line(first(), more, 21);
    assert!(told.contains("?/0+20 ") && told.contains("; also held by 20 ?"), "{told}");
    let told = line(first(), Vec::new(), 500);
    assert!(told.ends_with("; also held by 15 ?, by 500 descriptors in all"), "{told}");
}
