//! Rows of connections that were made up, and of those that have only their addresses in common.

use bytemuck::Zeroable as _;
use proptest::prelude::*;

use super::*;

/// Long ago, in jiffies.
const AT_REST: u32 = 1_000_000;

/// An end that has sent up to `sent`, all of it acknowledged, and received up to `received`.
fn end(in_state: u8, sent: u32, received: u32) -> SocketRow {
    SocketRow {
        state: in_state,
        flags: RowFlags::HAS_SEQUENCES,
        snd_una: sent,
        rcv_nxt: received,
        since_ack_jiffies: AT_REST,
        since_data_jiffies: AT_REST,
        ..SocketRow::zeroed()
    }
}

/// A server that has not closed, and its client that has: both at rest.
fn closed_by_the_client() -> (SocketRow, SocketRow) {
    (end(state::CLOSE_WAIT, 7_000, u32::MAX), end(state::FIN_WAIT2, u32::MAX, 7_000))
}

#[test]
fn the_two_ends_of_a_connection_at_rest_agree_in_every_number() {
    let (ours, theirs) = closed_by_the_client();
    assert_eq!(compare_ends(&ours, &theirs), EndsMatch::Agree);
    assert_eq!(compare_ends(&theirs, &ours), EndsMatch::Agree);
    for other in [
        SocketRow { snd_una: theirs.snd_una.wrapping_add(1), ..theirs },
        SocketRow { snd_una: theirs.snd_una.wrapping_sub(1), ..theirs },
        SocketRow { rcv_nxt: theirs.rcv_nxt + 1, ..theirs },
        SocketRow { rcv_nxt: theirs.rcv_nxt - 1, ..theirs },
        // The kernel derives both first numbers of a connection from its addresses and the clock: those of another with
        // the same two ends, made 0.8 s later, are this far away.
        SocketRow {
            snd_una: theirs.snd_una.wrapping_add(12_500_000),
            rcv_nxt: theirs.rcv_nxt + 12_500_000,
            ktime_ns: 30_000_000,
            ..theirs
        },
    ] {
        assert_eq!(compare_ends(&ours, &other), EndsMatch::Differ, "{other:?}");
    }
}

#[test]
fn an_end_that_has_not_closed_is_not_that_of_one_in_close_wait() {
    let (ours, theirs) = closed_by_the_client();
    let open = SocketRow { state: state::ESTABLISHED, ..theirs };
    assert_eq!(compare_ends(&ours, &open), EndsMatch::Differ);
}

#[test]
fn what_waits_to_be_sent_may_be_received_by_now() {
    let (ours, theirs) = closed_by_the_client();
    let sending = SocketRow { unsent: 5_000, ..ours };
    for (received, expected) in
        [(6_999, EndsMatch::Differ), (12_000, EndsMatch::Agree), (12_001, EndsMatch::Differ)]
    {
        let theirs = SocketRow { rcv_nxt: received, ..theirs };
        assert_eq!(compare_ends(&sending, &theirs), expected, "{received}");
    }
}

#[test]
fn an_end_may_have_moved_between_the_rows_if_it_received_something_just_now() {
    let (ours, theirs) = closed_by_the_client();
    // What the server sent after its own row was read, and before its client's.
    let later = |rcv_nxt, since_data_jiffies| SocketRow {
        ktime_ns: 1_000_000,
        rcv_nxt,
        since_data_jiffies,
        ..theirs
    };
    assert_eq!(compare_ends(&ours, &later(17_000, 0)), EndsMatch::Agree);
    assert_eq!(compare_ends(&ours, &later(17_000, AT_REST)), EndsMatch::Differ);
    assert_eq!(compare_ends(&ours, &later(500_000_000, 0)), EndsMatch::Differ, "not in a millisecond");
    // Nothing comes after the end of a stream.
    let later = SocketRow { ktime_ns: 1_000_000, since_ack_jiffies: 0, snd_una: 8, ..theirs };
    assert_eq!(compare_ends(&ours, &later), EndsMatch::Differ);
}

#[test]
fn without_numbers_only_the_states_are_known() {
    let (ours, theirs) = closed_by_the_client();
    let plain = SocketRow { flags: RowFlags::empty(), rcv_nxt: 0, snd_una: 0, ..theirs };
    assert_eq!(compare_ends(&ours, &plain), EndsMatch::Unknown);
    let open = SocketRow { state: state::ESTABLISHED, ..plain };
    assert_eq!(compare_ends(&ours, &open), EndsMatch::Differ);
    // The one that connects does not know the other's numbers yet.
    let (connecting, listening) = (end(state::SYN_SENT, 9, 0), end(state::SYN_RECV, 40, 10));
    assert_eq!(compare_ends(&connecting, &listening), EndsMatch::Unknown);
}

/// What happens on a connection: bytes are written, received, or acknowledged, by the one end or by the other.
#[derive(Clone, Copy, Debug)]
enum Step {
    Writes(usize, u32),
    Receives(usize, u32),
    Acknowledges(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..2_usize, 1..100_000_u32).prop_map(|(end, bytes)| Step::Writes(end, bytes)),
        (0..2_usize, 1..100_000_u32).prop_map(|(end, bytes)| Step::Receives(end, bytes)),
        (0..2_usize).prop_map(Step::Acknowledges),
    ];
    proptest::collection::vec(step, 0..20)
}

/// Both ends after these steps. Time goes by as fast as bytes can.
fn after(mut ends: [SocketRow; 2], steps: &[Step]) -> [SocketRow; 2] {
    for step in steps {
        let from = ends;
        match *step {
            Step::Writes(end, bytes) if !has_sent_all(ends[end].state) => ends[end].unsent += bytes,
            Step::Writes(..) => {}
            Step::Receives(end, most) => {
                let there = write_seq(&from[1 - end]).wrapping_sub(from[end].rcv_nxt);
                ends[end].rcv_nxt = from[end].rcv_nxt.wrapping_add(there.min(most));
                if there > 0 {
                    ends[end].since_data_jiffies = 0;
                }
            }
            Step::Acknowledges(end) => {
                let received = from[1 - end].rcv_nxt.wrapping_sub(from[end].snd_una);
                ends[end].snd_una = from[1 - end].rcv_nxt;
                ends[end].unsent -= received;
                ends[end].since_ack_jiffies = 0;
            }
        }
    }
    ends
}

proptest! {
    #[test]
    fn the_ends_of_one_connection_agree_whatever_happens_between_the_rows(
        (one, other) in prop_oneof![
            Just((state::ESTABLISHED, state::ESTABLISHED)),
            Just((state::CLOSE_WAIT, state::FIN_WAIT2)),
            Just((state::LAST_ACK, state::FIN_WAIT2)),
        ],
        sent in any::<[u32; 2]>(),
        before in steps(),
        between in steps(),
        first in 0..2_usize,
    ) {
        let ends = [end(one, sent[0], sent[1]), end(other, sent[1], sent[0])];
        let earlier = after(ends, &before);
        // At rest until the first row is read.
        let at_rest =
            earlier.map(|row| SocketRow { since_ack_jiffies: AT_REST, since_data_jiffies: AT_REST, ..row });
        let ktime_ns = 200_000 * between.len() as u64;
        let later = after(at_rest, &between).map(|row| SocketRow { ktime_ns, ..row });
        prop_assert_eq!(compare_ends(&at_rest[first], &later[1 - first]), EndsMatch::Agree);
        prop_assert_eq!(compare_ends(&later[1 - first], &at_rest[first]), EndsMatch::Agree);
    }
}
