//! Whether two sockets are the two ends of one connection. Their addresses do not tell: two
//! namespaces can have the same, and an unprivileged user can make a namespace with any. Their
//! states and sequence numbers do.
//!
//! What one end has sent and knows to be received, the other end has received; what an end has
//! received, the other has sent: `snd_una` ≤ the other's `rcv_nxt` ≤ `write_seq`, in both
//! directions. Where nothing is on its way each is one value of 2³². The two rows are read one
//! after the other, and both ends can move in between: the earlier row's numbers only grow, so its
//! `write_seq` and `rcv_nxt` may be behind the later row. How far they may be is limited by the
//! time, by what that end can still send or receive in its state, and by when the later one last
//! received something.

use tcptrace_common::{RowFlags, SocketRow, state};

use crate::engine::walk::can_be_ends;

/// What two sockets with the same two addresses and ports are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndsMatch {
    /// Their sequence numbers are those of one connection.
    Agree,
    /// They are not the two ends of one connection.
    Differ,
    /// Their states are possible; their sequence numbers are not known.
    Unknown,
}

/// Compares two rows of one walk.
pub(crate) fn compare_ends(one: &SocketRow, other: &SocketRow) -> EndsMatch {
    if !can_be_ends(one.state, other.state) {
        return EndsMatch::Differ;
    }
    if !(has_sequences(one) && has_sequences(other)) {
        return EndsMatch::Unknown;
    }
    let (earlier, later) = if one.ktime_ns <= other.ktime_ns { (one, other) } else { (other, one) };
    let elapsed_ns = later.ktime_ns - earlier.ktime_ns;
    let moved = |since_jiffies, is_final: bool| {
        if is_final || later.flags.contains(RowFlags::TIMEWAIT) {
            0
        } else {
            most_moved(since_jiffies, elapsed_ns)
        }
    };
    let sent = moved(later.since_data_jiffies, has_sent_all(earlier.state));
    let received = moved(later.since_ack_jiffies, has_received_all(earlier.state));
    let there = is_within(later.rcv_nxt, earlier.snd_una, write_seq(earlier).wrapping_add(sent));
    let back = is_within(earlier.rcv_nxt, later.snd_una.wrapping_sub(received), write_seq(later));
    if there && back { EndsMatch::Agree } else { EndsMatch::Differ }
}

/// Until the handshake is over one end does not know the other's numbers.
fn has_sequences(row: &SocketRow) -> bool {
    row.flags.contains(RowFlags::HAS_SEQUENCES) && !matches!(row.state, state::SYN_SENT | state::SYN_RECV)
}

/// Whether its FIN is sent.
const fn has_sent_all(in_state: u8) -> bool {
    matches!(in_state, state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::LAST_ACK)
}

/// Whether the other end's FIN is received.
const fn has_received_all(in_state: u8) -> bool {
    matches!(in_state, state::CLOSE_WAIT | state::CLOSING | state::LAST_ACK)
}

/// By how much one end can have moved between the two rows, where the later one last received
/// something so long ago.
fn most_moved(since_jiffies: u32, elapsed_ns: u64) -> u32 {
    /// A jiffy takes from 1 ms to 10 ms (`CONFIG_HZ`).
    const JIFFY_NS: (u64, u64) = (1_000_000, 10_000_000);
    /// More than any link carries: 100 Gbit/s.
    const BYTES_PER_NS: u64 = 12;
    /// A segment, however short the time.
    const SEGMENT: u64 = 64 << 10;
    /// The largest window that TCP can have.
    const WINDOW: u64 = 1 << 30;
    let at_rest_for_ns = u64::from(since_jiffies).saturating_mul(JIFFY_NS.0);
    if at_rest_for_ns > elapsed_ns.saturating_add(JIFFY_NS.1) {
        return 0;
    }
    elapsed_ns.saturating_mul(BYTES_PER_NS).saturating_add(SEGMENT).min(WINDOW) as u32
}

/// Where its next byte to send gets its number from: all before it is sent or waits.
const fn write_seq(row: &SocketRow) -> u32 {
    row.snd_una.wrapping_add(row.unsent)
}

/// Whether a sequence number is from one to another, modulo 2³².
const fn is_within(number: u32, from: u32, to: u32) -> bool {
    number.wrapping_sub(from) <= to.wrapping_sub(from)
}

#[cfg(test)]
mod tests;
