//! What is written directly is the serde form, and no text does harm.

use std::{net::Ipv6Addr, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::events::{Cause, Family, Listener, OriginHow, OriginRecord, OwnerHow, Start};

fn transition(socket: SocketId, owner: Option<Owner>, in_old_state_ms: Option<f64>) -> Event {
    let (old_state, new_state) = (State(1), State(8));
    let owner_how = if owner.is_some() { OwnerHow::Close } else { OwnerHow::None };
    let stand_in = in_old_state_ms.is_some();
    Event::Transition(Transition {
        socket,
        old_state,
        new_state,
        in_old_state_ms,
        owner,
        owner_how,
        stand_in,
        how: stand_in.then_some(Ending::TimedOut),
    })
}

#[test]
fn processes_that_take_each_others_place_are_each_written_as_they_are() {
    let exe: Arc<str> = "/usr/bin/\"java\"".into();
    let group: Arc<str> = "/app.slice".into();
    let plain = Owner { exe: Some(exe.clone()), ..Owner::once(1) };
    let owners = [
        plain.clone(),
        Owner { pid: 1 + WRITTEN_OWNERS as u32, ..plain.clone() },
        Owner { cgroup: Some(group.clone()), ..plain.clone() },
        Owner { cgroup: Some(group.clone()), container: Some("3f2a".into()), ..plain.clone() },
        Owner { exe: Some("/usr/bin/other".into()), cgroup: Some(group), ..plain.clone() },
        Owner { uid: Some(7), comm: Some(Name::from_bytes(b"java")), fd: Some(3), ..plain.clone() },
        Owner::once(1),
        plain,
        Owner { exe: Some("x".repeat(1000).into()), ..Owner::once(1) },
    ];
    let mut json = Json::default();
    for owner in owners.iter().chain(owners.iter().rev()) {
        let (mut written, mut directly) = (Vec::new(), Vec::new());
        json.actors.write_cached(owner, &mut written);
        write_owner(owner, &mut directly);
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&directly));
        assert_eq!(directly, serde_json::to_vec(owner).expect("JSON"));
    }
}

#[test]
fn names_written_directly_are_those_of_the_serde_form() {
    let quoted = |value: serde_json::Result<String>| value.expect("it is JSON");
    for how in [OwnerHow::Fd, OwnerHow::Listener, OwnerHow::Origin, OwnerHow::Close, OwnerHow::None] {
        assert_eq!(quoted(serde_json::to_string(&how)), format!("\"{}\"", how.name()));
    }
    for how in [
        Ending::Closed,
        Ending::Exited,
        Ending::Reset,
        Ending::TimedOut,
        Ending::Destroyed,
        Ending::Peer,
        Ending::Unknown,
    ] {
        assert_eq!(quoted(serde_json::to_string(&how)), format!("\"{}\"", how.name()));
    }
    for family in [Family::Ipv4, Family::Ipv6] {
        assert_eq!(quoted(serde_json::to_string(&family)), format!("\"{}\"", family.name()));
    }
}

fn stuck(socket: SocketId, owners: Vec<Owner>, since_ns: i128) -> Event {
    let since = Instant { wall_ns: since_ns, mono_ns: 0 };
    let is_waiting = owners.is_empty();
    let origin = OriginRecord {
        pid: 4242,
        tid: 4243,
        comm: Name(*b"pool-\"1\"\0\0\0\0\0\0\0\0"),
        how: OriginHow::Accept,
        time: since,
    };
    let listener = Listener {
        cookie: 5,
        local_addr: socket.local_addr,
        local_port: 80,
        backlog: 3,
        backlog_limit: u32::MAX,
    };
    let peer = Peer {
        cookie: 9,
        netns: socket.netns,
        state: State(5),
        owners: owners.clone(),
        owners_total: 3,
        owner_how: OwnerHow::Listener,
        gone: true,
    };
    Event::Stuck(Box::new(Stuck {
        socket,
        state: State(8),
        threshold_ms: Some(30_000.0),
        age_ms: 30_000.4,
        age_max_ms: (!is_waiting).then_some(1e9),
        exact: is_waiting,
        since,
        details: SocketDetails {
            recv_queue: 17,
            send_queue: 0,
            cause: if is_waiting { Cause::NotAccepted } else { Cause::DataUnread },
            owner_how: if is_waiting { OwnerHow::None } else { OwnerHow::Fd },
            origin: (!is_waiting).then_some(origin),
            listener: is_waiting.then_some(listener),
            peer: (!is_waiting).then_some(peer),
            owners_total: owners.len() + 7,
            unlisted: Vec::new(),
            owners,
        },
        is_reminder: false,
    }))
}

fn found(stuck: Event) -> Event {
    let Event::Stuck(stuck) = stuck else { unreachable!("made so") };
    Event::Found(Box::new(Stuck { threshold_ms: None, ..*stuck }))
}

#[test]
fn what_is_written_directly_is_its_serde_form() {
    let v4 = |last| IpAddr::from([10, 0, 255, last]);
    let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xabcd, 1));
    let socket = |local_addr, remote_addr, netns| SocketId {
        cookie: u64::MAX,
        netns,
        family: if netns.is_some() { Family::Ipv4 } else { Family::Ipv6 },
        local_addr,
        local_port: 0,
        remote_addr,
        remote_port: 65_535,
        interface: netns.is_none().then_some(3),
    };
    let owner = Owner {
        comm: Some(Name(*b"a \"\n\\ \xff\xf0\x9f\0\0\0\0\0\0\0")),
        exe: Some("/usr/bin/\u{7}x".into()),
        uid: Some(0),
        ..Owner::once(4242)
    };
    let holder = Owner {
        fd: Some(57),
        comm: Some(Name(*b"java\0\0\0\0\0\0\0\0\0\0\0\0")),
        cgroup: Some("/app.slice".into()),
        container: Some("0123456789abcdef".into()),
        ..owner.clone()
    };
    let times = [
        1_795_967_132_104_233_918,
        1_795_967_132_104_233_919,
        1_795_967_132_999_999_999,
        1_795_967_133_000_000_000,
        0,
        -1,
        -1_000_000_000,
        i128::from(i64::MAX),
        i128::from(i64::MAX) + 1,
        i128::MIN,
        1_795_967_133_000_000_001,
    ];
    let mut json = Json::default();
    for wall_ns in times {
        let here = socket(v4(1), v4(0), Some(4_026_531_840));
        let elsewhere = socket(v6, IpAddr::V6(Ipv6Addr::UNSPECIFIED), None);
        for event in [
            transition(here, None, None),
            transition(elsewhere, Some(owner.clone()), Some(0.001)),
            transition(socket(v4(9), v4(10), Some(1)), Some(owner.clone()), Some(1e300)),
            stuck(here, Vec::new(), wall_ns),
            stuck(elsewhere, vec![holder.clone()], wall_ns.saturating_sub(30_000_400_000)),
            stuck(here, vec![holder.clone(), owner.clone()], wall_ns.saturating_add(1)),
            found(stuck(here, Vec::new(), wall_ns)),
        ] {
            let record = Record { at: Instant { wall_ns, mono_ns: 7 }, event };
            let mut line = Vec::new();
            json.write_record(&record, &mut line);
            let mut expected = Vec::new();
            write_by_serde(&record, &mut expected);
            expected.push(b'\n');
            assert_eq!(String::from_utf8_lossy(&line), String::from_utf8_lossy(&expected));
        }
    }
}

#[test]
fn milliseconds_written_directly_are_numbers_as_serde_writes_them() {
    let mut numbers =
        vec![-0.0, -1.5, f64::NAN, f64::INFINITY, f64::MAX, f64::MIN_POSITIVE, 1e15, 1e12, 1e-4, 0.1 + 0.2];
    for us in [
        0,
        1,
        9,
        10,
        99,
        100,
        120,
        999,
        1_000,
        1_001,
        1_010,
        30_000_400,
        u64::from(u32::MAX),
        1 << 50,
        u64::MAX,
    ] {
        numbers.extend([
            us as f64 / 1_000.0,
            (us as f64 / 1_000.0).next_up(),
            (us as f64 / 1_000.0).next_down(),
        ]);
    }
    for ms in numbers {
        let (mut written, mut expected) = (Vec::new(), Vec::new());
        write_milliseconds(&ms, &mut written);
        write_by_serde(&ms, &mut expected);
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&expected), "{ms:?}");
    }
}

proptest! {
    #[test]
    fn any_milliseconds_are_a_number_as_serde_writes_it(ns in any::<u64>(), shift in 0..64_u32) {
        let ms = crate::events::milliseconds(ns >> shift);
        let (mut written, mut expected) = (Vec::new(), Vec::new());
        write_milliseconds(&ms, &mut written);
        write_by_serde(&ms, &mut expected);
        prop_assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&expected), "{:?}", ms);
    }
}

/// A record with this text in it, as a line.
fn line(text: &str) -> Vec<u8> {
    let at = Instant { wall_ns: 0, mono_ns: Duration::from_secs(1).as_nanos() as u64 };
    let start = Start {
        version: "1".into(),
        kernel: text.to_owned(),
        host: String::new(),
        boot_id: None,
        sockets: 0,
        sources: Vec::new(),
    };
    let mut out = Vec::new();
    Json::default().write_record(&Record { at, event: Event::Start(start) }, &mut out);
    out
}

#[test]
fn what_a_terminal_obeys_is_escaped() {
    let line = String::from_utf8(line("a\u{9b}31m\u{2028}\u{202e}\x7f\u{e0041}\u{fc}\"\n")).expect("UTF-8");
    assert!(line.contains(r#""a\u009b31m\u2028\u202e\u007f\udb40\udc41ü\"\n""#), "{line}");
}

proptest! {
    #[test]
    fn any_text_is_one_line_and_the_same_text_again(
        text in prop_oneof![any::<String>(), "[\u{0}-\u{1f}\u{7e}-\u{a0}\u{2000}-\u{2070}\u{feff}\"\\\\]{0,20}"]
    ) {
        let line = line(&text);
        let shown = std::str::from_utf8(&line).expect("UTF-8");
        let body = shown.strip_suffix('\n').expect("an end");
        prop_assert!(!body.chars().any(|c| c.is_control() || does_harm(c)), "{:?}", body);
        let parsed: serde_json::Value = serde_json::from_str(body).expect("JSON");
        prop_assert_eq!(parsed["kernel"].as_str(), Some(&text[..]));
    }
}
