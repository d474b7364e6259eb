//! The longest that each column can hold, in terminals of many widths: no line is wider than the
//! terminal, columns stay below their headings, and both ends of every socket are there in full.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use unicode_width::UnicodeWidthChar as _;

use super::*;
use crate::{
    engine::{assemble::process::process_record, processes::ProcessRollup},
    events::{Cause, CloseReason, LifeRecord, Lost, TimeInState},
};

const WIDTHS: [Option<u16>; 12] = [
    Some(40),
    Some(60),
    Some(79),
    Some(80),
    Some(100),
    Some(106),
    Some(110),
    Some(120),
    Some(161),
    Some(162),
    Some(200),
    None,
];

const ENDS: [(&str, &str); 5] = [
    ("255.255.255.255:65535", "127.127.127.127:65535"),
    ("[2001:db8::1]:443", "[2001:db8::2]:51234"),
    ("[2a02:8071:b87:2f00::1234]:65535", "[2a02:8071:b87:2f00::4321]:443"),
    ("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535", "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"),
    ("0.0.0.0:22", "0.0.0.0:0"),
];

const NAMES: [&[u8]; 5] = [
    b"fifteen-letters",
    b"\x1b[31m\x1b[2J\x1b[H\n\r",
    "\u{65e5}\u{672c}\u{8a9e}\u{65e5}\u{672c}".as_bytes(),
    "e\u{301}\u{202e}\u{5d0}\u{200b}".as_bytes(),
    b"tmux: server",
];

const AGES: [(f64, Option<f64>, bool); 6] = [
    (30_000.0, Some(30_000.0), true),
    (10_600.0, Some(10_900.0), false),
    (5_100.0, None, false),
    (8.6e9, Some(8.63e9), false), // 99d12h-99d21h
    (8.64e9, Some(8.64e9), true), // 100d
    (8.7e10, Some(8.7e11), false),
];

fn socket((local, remote): (&str, &str)) -> SocketId {
    let [local, remote] = [local, remote].map(|end| end.parse().expect("an address"));
    socket_between(local, remote)
}

fn socket_between(local: SocketAddr, remote: SocketAddr) -> SocketId {
    let family = if local.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    SocketId {
        cookie: 1,
        netns: Some(u32::MAX),
        family,
        local_addr: local.ip(),
        local_port: local.port(),
        remote_addr: remote.ip(),
        remote_port: remote.port(),
        interface: None,
    }
}

fn owner(pid: u32, fd: u32, name: &[u8]) -> Owner {
    Owner { fd: Some(fd), comm: Some(Name(comm(name))), ..Owner::once(pid) }
}

/// Who may hold a socket.
fn owners(name: &[u8]) -> Vec<Vec<Owner>> {
    let pid = 4_194_304;
    vec![
        vec![],
        vec![owner(7, 3, name)],
        (0..30).map(|fd| owner(pid, 1_048_500 + fd, name)).collect(),
        (0..300).map(|n| owner(pid - 300 + n, 1_048_575, name)).collect(),
    ]
}

/// The stuck view's records, each many times over where `many`.
fn stuck_view(many: usize) -> Vec<Record> {
    let all = records(v4_tuple(), b"java");
    let template = stuck(&all).clone();
    let cleared = all.iter().rfind(|r| matches!(r.event, Event::Cleared(_))).expect("cleared");
    let mut out = Vec::new();
    for ends in ENDS {
        for (at, name) in NAMES.into_iter().enumerate() {
            for owners in owners(name) {
                let ages = if owners.len() > 1 { &AGES[5..] } else { &AGES };
                for (age_ms, age_max_ms, exact) in ages.iter().copied() {
                    let (state, cause) = [
                        (state::CLOSE_WAIT, Cause::NotAccepted),
                        (state::CLOSE_WAIT, Cause::DataUnread),
                        (state::FIN_WAIT2, Cause::Unknown),
                        (state::ESTABLISHED, Cause::DataUnread),
                        (state::SYN_SENT, Cause::Peer),
                    ][at];
                    let mut record = template.clone();
                    if let Event::Stuck(stuck) = &mut record.event {
                        (stuck.socket, stuck.details.owners) = (socket(ends), owners.clone());
                        stuck.details.owners_total = owners.len();
                        (stuck.age_ms, stuck.age_max_ms, stuck.exact) = (age_ms, age_max_ms, exact);
                        (stuck.state, stuck.details.cause) = (State(state), cause);
                    }
                    out.extend(std::iter::repeat_n(record, many));
                    let mut record = cleared.clone();
                    if let Event::Cleared(cleared) = &mut record.event {
                        (cleared.socket, cleared.by) = (socket(ends), owners.first().cloned());
                        cleared.in_state_ms = age_ms;
                    }
                    out.extend(std::iter::repeat_n(record, many));
                }
            }
        }
    }
    out
}

fn transitions() -> Vec<Record> {
    let all = records(v4_tuple(), b"java");
    let template = all.into_iter().find(|r| matches!(r.event, Event::Transition(_))).expect("one");
    let mut out = Vec::new();
    for ends in ENDS {
        for name in NAMES {
            for (in_old_state_ms, _, _) in AGES {
                let mut record = template.clone();
                if let Event::Transition(transition) = &mut record.event {
                    transition.socket = socket(ends);
                    (transition.old_state, transition.new_state) =
                        (State(state::FIN_WAIT1), State(state::CLOSE_WAIT));
                    transition.in_old_state_ms = Some(in_old_state_ms);
                    transition.owner = Some(owner(4_194_304, 1, name));
                }
                out.push(record);
            }
        }
    }
    out
}

fn lives() -> Vec<Record> {
    let reasons = [
        CloseReason::Destroyed,
        CloseReason::Timeout,
        CloseReason::ResetSent,
        CloseReason::ResetReceived,
        CloseReason::LocalClose,
    ];
    let mut out = Vec::new();
    for ends in ENDS {
        for (name, close_reason) in NAMES.into_iter().zip(reasons) {
            for (bytes, count) in [(None, None), (Some(1023 << 50), Some(u32::MAX)), (Some(0), Some(9_999))] {
                out.push(Record {
                    at: WALL_AT,
                    event: Event::Life(LifeRecord {
                        socket: socket(ends),
                        opened: None,
                        duration_ms: Some(8.64e9),
                        role: crate::events::Role::Unknown,
                        states: TimeInState::default(),
                        close_reason,
                        error: Some("EADDRNOTAVAIL".into()),
                        bytes_sent: bytes,
                        bytes_received: bytes,
                        retransmits: count,
                        rtt_us: count,
                        owner: Some(owner(4_194_304, 1, name)),
                        owner_how: OwnerHow::Close,
                        owned_ns: None,
                    }),
                });
            }
        }
    }
    out
}

const WALL_AT: Instant = Instant { wall_ns: 1_795_362_300_000_000_000, mono_ns: 0 };

fn processes_and_notices() -> Vec<Record> {
    let rolled = |name: &[u8]| ProcessRollup {
        comm: Some(comm(name)),
        stopped: true,
        stuck: 123_456,
        oldest_ns: Some(8_640_000 * SECOND),
        growth_per_min: Some(-123_456.0),
        fds_open: Some(1_048_576),
        fds_limit: Some(1_073_741_816),
        fds_full_in_s: Some(8.6e6),
        busy: Some(128.0),
        ..ProcessRollup::default()
    };
    let process = |name: &[u8]| Event::Process(process_record(4_194_304, &rolled(name)));
    let mut events: Vec<_> = NAMES.into_iter().map(process).collect();
    let (lost, lost_total) = (u64::MAX, u64::MAX);
    for reason in [LostReason::RingFull, LostReason::ReaderSlow] {
        events.push(Event::Lost(Lost { lost, lost_total, reason }));
    }
    events.push(Event::Resync(Resync { sockets: 1_000_000, repaired: 1_000_000, found: None }));
    events.into_iter().map(|event| Record { at: WALL_AT, event }).collect()
}

/// Everything as lines, with what waits written at once if it is to be put together.
fn written(width: Option<u16>, colour: bool, records: &[Record], together: bool) -> Vec<String> {
    if !together {
        return lines(width, colour, records);
    }
    let mut text = TextRenderer::new(width, colour, TimeZone::UTC);
    let mut out = Vec::new();
    records.iter().for_each(|record| text.add_record(record.clone(), &mut out));
    text.flush_due(u64::MAX, &mut out);
    String::from_utf8(out).expect("UTF-8").lines().map(str::to_owned).collect()
}

/// A line as its columns, a character in each; the second column of a wide one has nothing.
fn cells(line: &str) -> Vec<char> {
    let mut cells = Vec::new();
    let mut in_colour = false;
    for c in line.chars() {
        match (in_colour, c) {
            (false, '\x1b') => in_colour = true,
            (true, 'm') => in_colour = false,
            (true, _) => {}
            (false, c) => {
                cells.push(c);
                cells.extend(std::iter::repeat_n('\0', c.width().expect("it has a column") - 1));
            }
        }
    }
    cells
}

/// That each column of a line is where its heading is: left or right of it there is a blank.
fn assert_aligned(heading: &[char], line: &str) {
    let cells = cells(line);
    let mut at = 0;
    while let Some(begin) = (at..heading.len()).find(|at| heading[*at] != ' ') {
        let end = (begin..heading.len()).find(|at| heading[*at] == ' ').unwrap_or(heading.len());
        let is_blank = |at: usize| cells.get(at).is_none_or(|c| *c == ' ');
        let is_left = begin == 0 || is_blank(begin - 1);
        let word: String = heading[begin..end].iter().collect();
        let heading: String = heading.iter().collect();
        assert!(is_left || is_blank(end), "{word}:\n{heading}\n{line}");
        assert!(!is_blank(begin) || !is_blank(end - 1), "nothing below {word}:\n{heading}\n{line}");
        at = end;
    }
}

fn is_a_record(line: &str) -> bool {
    line.starts_with("15:4")
}

#[test]
fn every_column_holds_its_longest_in_every_width() {
    for width in WIDTHS {
        for (what, records, together) in [
            ("stuck, one by one", stuck_view(1), false),
            ("stuck, together", stuck_view(4), true),
            ("transitions", transitions(), false),
            ("lives", lives(), false),
        ] {
            let what = format!("{what} at {width:?}");
            let lines = written(width, false, &records, together);
            let mut heading = Vec::new();
            for line in &lines {
                let cells = cells(line);
                assert!(width.is_none_or(|width| cells.len() <= width.into()), "{what}: too wide:\n{line}");
                if line.starts_with("TIME") {
                    heading = cells;
                } else if is_a_record(line) && width.is_none_or(|width| width >= 60) {
                    assert_aligned(&heading, line);
                }
            }
            // What has been broken in two is in one piece again without what the second line is
            // indented by.
            let whole = lines.iter().fold(String::new(), |text, line| text + line.trim_start());
            if !together {
                for (local, remote) in ENDS {
                    let port = local.rsplit(':').next().expect("a port");
                    let remote = remote.replace("0.0.0.0:0", "*");
                    assert!(whole.contains(&remote), "{what}: no {remote}");
                    assert!(whole.contains(port), "{what}: no {port}");
                }
            }
            if width.is_none() {
                let shown = lines.iter().filter(|line| is_a_record(line)).count();
                let headings = lines.iter().filter(|line| line.starts_with("TIME")).count();
                assert_eq!(shown + headings, lines.len(), "{what}: a record is a line");
                assert!(headings <= 4, "{what}: {headings} headings");
            }
        }
        for colour in [false, true] {
            for line in written(width, colour, &processes_and_notices(), true) {
                let columns = cells(&line).len();
                assert!(width.is_none_or(|width| columns <= width.into()), "{width:?}: too wide:\n{line}");
            }
        }
    }
}

/// The lines of one stuck socket with these ends.
fn lines_of(width: Option<u16>, ends: (&str, &str)) -> Vec<String> {
    let mut record = stuck(&records(v4_tuple(), b"java")).clone();
    if let Event::Stuck(stuck) = &mut record.event {
        stuck.socket = socket(ends);
        stuck.details.owners.truncate(1);
        stuck.details.owners_total = 1;
    }
    lines(width, false, &[record])
}

#[test]
fn a_global_ipv6_address_is_never_cut_without_a_word() {
    assert_eq!(
        lines_of(Some(80), ENDS[3]),
        [
            "TIME     AGE      PROCESS/PID        FD LPORT REMOTE                WHY",
            "15:45:32 30.0s    java/4242          57 65535 […]:65535             not closed",
            "         :65535->[2001:db8:1111:2222:3333:4444:5555:6666]:65535",
        ]
    );
    assert_eq!(
        lines_of(Some(60), ENDS[3]),
        [
            "TIME     AGE      PROCESS/PID        FD WHY",
            "  LPORT->REMOTE",
            "15:45:32 30.0s    java/4242          57 not closed",
            "  :65535->[2001:db8:1111:2222:3333:4444:5555:6666]:65535",
        ]
    );
    assert_eq!(
        lines_of(Some(120), ENDS[3])[1],
        "15:45:32 30.0s           java/4242               57 65535 \
         [2001:db8:1111:2222:3333:4444:5555:6666]:65535  not closed"
    );
    assert_eq!(
        lines_of(Some(162), ENDS[3])[1],
        "15:45:32 30.0s           java/4242               57 \
         [2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535  \
         [2001:db8:1111:2222:3333:4444:5555:6666]:65535  not closed"
    );
    assert_eq!(lines_of(Some(162), ENDS[3]).len(), 2);
    // In a hundred columns most of them fit.
    assert!(lines_of(Some(100), ENDS[2])[1].contains(" 65535 [2a02:8071:b87:2f00::4321]:443 "));
}

#[test]
fn a_terminal_that_is_resized_gets_what_it_has_room_for_from_the_next_line_on() {
    let mut text = TextRenderer::new(Some(80), false, TimeZone::UTC);
    let record = stuck(&records(v4_tuple(), b"java")).clone();
    let mut shown = |size: (u16, u16)| {
        let mut out = Vec::new();
        text.resize(size.0, size.1);
        text.add_record(record.clone(), &mut out);
        text.flush_due(u64::MAX, &mut out);
        String::from_utf8(out).expect("UTF-8").lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(shown((80, 24))[0].contains(" LPORT "));
    assert_eq!(shown((80, 24)).len(), 1, "the heading is in sight");
    let wider = shown((200, 24));
    assert!(wider[0].starts_with("TIME") && wider[0].contains(" LOCAL "), "{wider:?}");
    assert!(wider[1].contains("all read"), "{wider:?}");
    assert_eq!(shown((200, 50)).len(), 1);
    let narrow = shown((60, 24));
    assert!(narrow[0].starts_with("TIME") && narrow.iter().all(|line| line.chars().count() <= 60));
    assert!(shown((0, 0))[0].contains(" LPORT "), "a size that is not known is 80 columns");
}

#[test]
fn a_range_of_ages_that_does_not_fit_its_column_is_its_lower_bound() {
    for (least, most, exact, narrow, wide) in [
        (10_600.0, Some(10_900.0), false, "10.6s+", "10.6s-10.9s"),
        (400.0, Some(18_120_000.0), false, "400ms+", "400ms-5h02m"),
        (30_000.0, Some(30_000.0), true, "30.0s", "30.0s"),
        (30_000.0, Some(30_040.0), false, "30.0s", "30.0s"),
        (1.0, Some(2.0), false, "1.0ms+", "1.0ms-2.0ms"),
        (5_100.0, None, false, "5.1s+", "5.1s+"),
        (3_600_000.0 * 23.0, Some(8.64e9), false, "23h00m+", "23h00m-100d"),
    ] {
        let mut record = stuck(&records(v4_tuple(), b"java")).clone();
        if let Event::Stuck(stuck) = &mut record.event {
            (stuck.age_ms, stuck.age_max_ms, stuck.exact) = (least, most, exact);
        }
        for (width, expected) in [(80, narrow), (120, wide)] {
            let line = lines(Some(width), false, std::slice::from_ref(&record)).pop().expect("a line");
            assert!(line.starts_with(&format!("15:45:32 {expected} ")), "{line}");
        }
    }
}

/// The stuck line of a socket between these ends, on the interface with index 3 of its namespace.
fn on_a_link(width: Option<u16>, zones: Option<InterfaceNames>, ends: (&str, &str)) -> Vec<String> {
    let mut record = stuck(&records(v4_tuple(), b"java")).clone();
    if let Event::Stuck(stuck) = &mut record.event {
        let tuple = Tuple { interface: 3, family: AF_INET6, ..socket(ends).tuple() };
        stuck.socket = SocketId::new(1, 7, &tuple);
    }
    let mut text = TextRenderer::new(width, false, TimeZone::UTC).with_interface_names(zones);
    let mut out = Vec::new();
    text.add_record(record, &mut out);
    text.flush_due(u64::MAX, &mut out);
    String::from_utf8(out).expect("UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn a_link_local_address_tells_its_interface() {
    let name: fn(u16) -> Option<Name> = |index| (index == 3).then(|| Name::from_bytes(b"vethd0e1f2a\x1b[2"));
    let ends = ("[fe80::1:2:3:4]:443", "[fe80::a:b:c:d]:51234");
    for (zones, zone) in [
        (None, "%3"),
        (Some(InterfaceNames { netns: 7, name }), "%vethd0e1f2a\\u{1b}[2"),
        (Some(InterfaceNames { netns: 8, name }), "%3"), // another namespace has other interfaces
        (Some(InterfaceNames { netns: 7, name: |_| None }), "%3"),
    ] {
        let line = on_a_link(None, zones, ends).pop().expect("a line");
        for end in [format!(" [fe80::1:2:3:4{zone}]:443 "), format!(" [fe80::a:b:c:d{zone}]:51234 ")] {
            assert!(line.contains(&end), "no {end}: {line}");
        }
        for width in [60, 80, 100, 120, 200] {
            let lines = on_a_link(Some(width), zones, ends);
            assert!(lines.iter().all(|line| line.chars().count() <= width.into()), "{lines:?}");
            assert!(lines.concat().contains(&format!("[fe80::a:b:c:d{zone}]:51234")), "{lines:?}");
        }
    }
    // A socket that is bound to an interface needs none to be told where an address means the same
    // on all.
    let global = on_a_link(None, None, ENDS[1]).pop().expect("a line");
    assert!(global.contains(" [2001:db8::1]:443 ") && global.contains(" [2001:db8::2]:51234 "), "{global}");
}

#[test]
fn a_record_has_the_interface_of_link_local_addresses_only() {
    let fields = |ends| {
        let mut record = stuck(&records(v4_tuple(), b"java")).clone();
        let id = SocketId::new(1, 7, &Tuple { interface: 3, ..socket(ends).tuple() });
        if let Event::Stuck(stuck) = &mut record.event {
            stuck.socket = id;
        }
        let written = parsed(&record);
        let read: SocketId = serde_json::from_value(written.clone()).expect("a socket");
        assert_eq!(read, id, "a replay knows it");
        (written["local_addr"].clone(), written.get("interface").cloned())
    };
    assert_eq!(fields(("[fe80::1]:443", "[fe80::2]:1")), (json!("fe80::1"), Some(json!(3))));
    assert_eq!(fields(ENDS[1]), (json!("2001:db8::1"), None));
    assert_eq!(fields(ENDS[0]), (json!("255.255.255.255"), None));
}

/// Names that mislead a terminal, or that a person would give.
fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..16),
        "[\\x00-\u{ff}]{0,8}|[\u{590}-\u{8ff}\u{1100}-\u{11ff}\u{2000}-\u{206f}]{0,5}|.{0,5}"
            .prop_map(String::into_bytes),
        "[a-z]{1,15}".prop_map(String::into_bytes),
    ]
}

fn any_socket() -> impl Strategy<Value = SocketId> {
    let ends = prop_oneof![
        any::<[std::net::Ipv4Addr; 2]>().prop_map(|ends| ends.map(IpAddr::from)),
        any::<[std::net::Ipv6Addr; 2]>().prop_map(|ends| ends.map(IpAddr::from)),
    ];
    (ends, any::<[u16; 2]>()).prop_map(|(ends, ports)| {
        let [local, remote] = [0, 1].map(|end| SocketAddr::new(ends[end].to_canonical(), ports[end]));
        socket_between(local, remote)
    })
}

proptest! {
    #[test]
    fn any_record_stays_in_any_terminal(
        width in 40_u16..250,
        name in any_name(),
        thread in any_name(),
        socket in any_socket(),
        pid in 0_u32..5_000_000,
        holders in 0_usize..40,
        ages in any::<[u32; 2]>(),
        (old, new) in (1_u8..13, 1_u8..13),
        numbers in any::<[Option<u32>; 2]>(),
        together: bool,
    ) {
        let [least, most] = ages.map(|age| f64::from(age) * f64::from(age % 1000));
        let owners: Vec<_> = (0..holders).map(|nth| owner(pid + nth as u32 % 3, nth as u32, &name)).collect();
        let all = records(v4_tuple(), &thread);
        let changed = all.into_iter().map(|mut record| {
            match &mut record.event {
                Event::Stuck(stuck) => {
                    stuck.socket = socket;
                    stuck.details.owners = owners.clone();
                    stuck.details.owners_total = holders;
                    (stuck.age_ms, stuck.age_max_ms, stuck.exact) = (least, Some(least + most), most == 0.0);
                    stuck.state = State(old);
                }
                Event::Cleared(cleared) => {
                    (cleared.socket, cleared.by) = (socket, owners.first().cloned());
                    cleared.in_state_ms = most;
                }
                Event::Transition(transition) => {
                    (transition.socket, transition.owner) = (socket, owners.first().cloned());
                    (transition.old_state, transition.new_state) = (State(old), State(new));
                    transition.in_old_state_ms = Some(least);
                }
                _ => {}
            }
            record
        });
        let mut shown: Vec<_> = changed.collect();
        let mut life = lives().swap_remove(0);
        if let Event::Life(life) = &mut life.event {
            (life.socket, life.owner) = (socket, owners.first().cloned());
            (life.retransmits, life.rtt_us) = (numbers[0], numbers[1]);
            life.duration_ms = Some(most);
        }
        shown.push(life);
        shown.push(Record { at: WALL_AT, event: Event::Process(process_record(pid, &ProcessRollup {
            comm: Some(comm(&name)), stuck: holders, oldest_ns: Some(u64::from(ages[0])), ..ProcessRollup::default()
        })) });
        let mut heading = Vec::new();
        for line in written(Some(width), false, &shown, together) {
            prop_assert!(!line.chars().any(|c| c.is_control() || c.width() == Some(0)), "{:?}", line);
            let cells = cells(&line);
            prop_assert!(cells.len() <= width.into(), "wider than {}:\n{}", width, line);
            if line.starts_with("TIME") {
                heading = cells;
            }
        }
        prop_assert!(!heading.is_empty());
    }
}
