//! Lives as records, and as lines.

use tcptrace_common::{Counters, UNCOUNTED};

use super::*;
use crate::engine::totals::Totals;
use crate::{
    engine::{state_change::Origin, tracker::lives::Life},
    events::{CloseReason, LifeRecord, Role},
    testing::read_record,
};

fn counters() -> Counters {
    Counters {
        bytes_sent: 12_000,
        bytes_resent: 2_000,
        bytes_received: 501,
        retransmits: 3,
        round_trip: 8 * 1_234,
        fin_bytes: 1,
        pad: 0,
    }
}

fn actor(pid: u32) -> Actor {
    Actor { pid, tid: pid, uid: 1000, comm: Some(comm(b"java")), thread_comm: comm(b"worker") }
}

fn life() -> Life {
    Life {
        opened_ns: Some(1_000 * SECOND),
        is_end_seen: true,
        role: Role::Server,
        states: [(state::SYN_RECV, 50_000), (state::ESTABLISHED, 2 * SECOND)].into_iter().collect(),
        reason: CloseReason::ResetReceived,
        sk_err: 104,
        counters: Some(counters()),
        closer: None,
        origin: None,
    }
}

fn record(life: Life) -> Record {
    let views = Views { transitions: false, stuck: false, lives: true };
    let finding =
        Finding::Life { cookie: 14893, tuple: v4_tuple(), netns: 4_026_531_840, at_ns: 1_002 * SECOND, life };
    assert_eq!(event_of(Views { lives: false, ..views }, &finding, &WALL), None);
    event_of(views, &finding, &WALL).expect("wanted")
}

#[test]
fn a_life_is_what_the_contract_shows() {
    assert_eq!(
        parsed(&record(life())),
        json!({"v": 1, "event": "life", "time": "2026-11-22T15:45:02.000000000Z",
            "mono_ns": 1_002_000_000_000_u64, "cookie": 14893, "netns": 4_026_531_840_u32, "family": "ipv4",
            "local_addr": "10.0.0.5", "local_port": 9666, "remote_addr": "10.0.0.9", "remote_port": 40112,
            "opened": "2026-11-22T15:45:00.000000000Z", "duration_ms": 2000.0, "role": "server",
            "states": {"SYN_RECV": 0.05, "ESTABLISHED": 2000.0}, "close_reason": "reset_received",
            "error": "ECONNRESET", "bytes_sent": 10_000, "bytes_received": 500, "retransmits": 3,
            "rtt_us": 1_234, "owner": null, "owner_how": "none"})
    );
}

#[test]
fn a_life_is_read_as_it_was_written() {
    let day_ns = 86_400 * SECOND;
    let states = [state::SYN_SENT, state::SYN_RECV, state::ESTABLISHED, state::FIN_WAIT1, state::CLOSE_WAIT]
        .into_iter()
        .chain([state::LAST_ACK])
        .zip([0, 999, 1_000, 1_234_567, 400 * day_ns + 1_001_000, 5 * SECOND])
        .collect();
    let written = parsed(&record(Life { states, ..life() }));
    let read = read_record::<LifeRecord>(&written.to_string()).expect("it is a life");
    let at = Instant { wall_ns: 1_795_362_302_000_000_000, mono_ns: 1_002 * SECOND };
    assert_eq!(parsed(&Record { at, event: Event::Life(read) }), written);
    assert_eq!(
        written["states"],
        json!({"SYN_SENT": 0.0, "SYN_RECV": 0.0, "ESTABLISHED": 0.001, "FIN_WAIT1": 1.234,
            "CLOSE_WAIT": 34_560_000_001.001, "LAST_ACK": 5000.0})
    );
    let mut more = written;
    more["states"]["CLOSING"] = json!(1.0);
    let refused = read_record::<LifeRecord>(&more.to_string()).expect_err("seven states");
    assert!(refused.to_string().contains("more states than a life has"), "{refused}");
}

#[test]
fn a_life_counts_as_a_record_and_is_dropped_for_a_slow_reader() {
    let event = record(life()).event;
    assert!(event.is_of_a_view() && event.may_be_held_back());
    let mut totals = Totals::default();
    totals.count_reported(&event);
    assert_eq!(totals.summary(0, 0).lives, 1);
}

#[test]
fn what_the_kernel_does_not_count_is_null() {
    let fields = ["bytes_sent", "bytes_received", "retransmits", "rtt_us"];
    let uncounted = Counters {
        bytes_resent: UNCOUNTED,
        bytes_received: UNCOUNTED,
        retransmits: u32::MAX,
        round_trip: u32::MAX,
        ..counters()
    };
    for counters in [None, Some(uncounted)] {
        let told = parsed(&record(Life { counters, ..life() }));
        assert!(fields.iter().all(|field| told[field].is_null()), "{told}");
    }
    let no_sample = Counters { round_trip: 0, fin_bytes: 0, ..counters() };
    let told = parsed(&record(Life { counters: Some(no_sample), ..life() }));
    assert_eq!((&told["rtt_us"], &told["bytes_received"]), (&json!(null), &json!(501)));
}

#[test]
fn an_end_or_a_beginning_that_was_not_seen_makes_no_duration() {
    for life in [Life { opened_ns: None, ..life() }, Life { is_end_seen: false, ..life() }] {
        assert_eq!(parsed(&record(life))["duration_ms"], json!(null));
    }
}

#[test]
fn who_closed_it_comes_before_who_opened_it() {
    let origin = Some(Origin { actor: actor(43), at_ns: 5 });
    let whose = |closer: Option<u32>, origin| {
        let record = record(Life { closer: closer.map(actor), origin, ..life() });
        let Event::Life(life) = &record.event else { panic!("{record:?}") };
        let owned_ns = life.owned_ns;
        let told = parsed(&record);
        (told["owner"]["pid"].clone(), told["owner_how"].clone(), owned_ns)
    };
    assert_eq!(whose(Some(42), origin), (json!(42), json!("close"), None));
    assert_eq!(whose(None, origin), (json!(43), json!("origin"), Some(5)));
    assert_eq!(whose(None, None), (json!(null), json!("none"), None));
}

#[test]
fn an_error_without_a_name_here_is_a_number() {
    let told = |sk_err| parsed(&record(Life { sk_err, ..life() }))["error"].clone();
    assert_eq!([told(0), told(110), told(4095)], [json!(null), json!("ETIMEDOUT"), json!("errno 4095")]);
}

#[test]
fn the_error_in_a_recording_is_any_text_and_does_nothing_to_a_terminal() {
    let mut record = record(life());
    let Event::Life(life) = &mut record.event else { panic!("{record:?}") };
    life.error = Some("\u{1b}[2Jx\nforged".into());
    let lines = lines(None, false, &[record]);
    let [_, line] = &lines[..] else { panic!("one line: {lines:?}") };
    assert!(line.ends_with(", \\u{1b}[2Jx\\u{a}forged"), "{line}");
}

#[test]
fn a_line_has_every_column_in_its_place_and_fits() {
    let reasons = [
        CloseReason::LocalClose,
        CloseReason::PeerClose,
        CloseReason::ResetReceived,
        CloseReason::ResetSent,
        CloseReason::Timeout,
        CloseReason::Refused,
        CloseReason::Exit,
        CloseReason::Destroyed,
        CloseReason::Unknown,
    ];
    for width in [80, 110] {
        for reason in reasons {
            let closer = Some(Actor { pid: 4_194_303, ..actor(1) });
            let lines = lines(Some(width), false, &[record(Life { reason, closer, ..life() })]);
            let [heading, line] = &lines[..] else { panic!("{lines:?}") };
            assert!(line.chars().count() <= width.into(), "{line}");
            for (column, text) in [("PROCESS/PID", "java/4194303"), ("REMOTE", "10.0.0.9:40112")] {
                let at = heading.find(column).expect("a column");
                assert!(line[at..].starts_with(text), "{column}:\n{heading}\n{line}");
            }
            for (column, text) in [("LIFE", "2.0s"), ("TX", "9.8K"), ("RX", "500B")] {
                let end = heading.find(column).expect("a column") + column.len();
                assert!(line[..end].ends_with(text), "{column}:\n{heading}\n{line}");
            }
        }
    }
    let wide = lines(None, false, &[record(life())]).pop().expect("a line");
    assert!(wide.ends_with("   3  1.2ms peer RST, ECONNRESET"), "{wide}");
    let unknown = Life { opened_ns: None, counters: None, ..life() };
    let bare = lines(None, false, &[record(unknown)]).pop().expect("a line");
    assert!(bare.ends_with("     -     -    -      - peer RST, ECONNRESET"), "{bare}");
}
