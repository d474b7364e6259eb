//! Since when a socket is in its state: exactly where the transition was seen, else a bracket that
//! the kernel's own clocks prove.

use std::num::NonZeroU64;

use tcptrace_common::{SocketRow, state};

/// The time at which a socket entered its state, `CLOCK_MONOTONIC` nanoseconds: not before
/// `earliest`, not after `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// Never at the boot itself, so that it takes no more room than a number: there is one for each
    /// socket.
    earliest: Option<NonZeroU64>,
    latest: u64,
}

impl Since {
    /// It was seen entering.
    pub const fn exact(at_ns: u64) -> Self {
        Self { earliest: NonZeroU64::new(at_ns), latest: at_ns }
    }

    /// It entered at some time in between; `None` where no earliest time is proven.
    pub fn between(earliest_ns: Option<u64>, latest_ns: u64) -> Self {
        let earliest = earliest_ns.and_then(|earliest| NonZeroU64::new(earliest.min(latest_ns)));
        Self { earliest, latest: latest_ns }
    }

    /// The time, where it is known.
    pub fn exact_ns(self) -> Option<u64> {
        self.earliest_ns().filter(|earliest| *earliest == self.latest)
    }

    /// The latest time at which it can have been.
    pub const fn latest_ns(self) -> u64 {
        self.latest
    }

    /// The earliest time at which it can have been, where one is proven.
    pub fn earliest_ns(self) -> Option<u64> {
        self.earliest.map(NonZeroU64::get)
    }

    /// Whether it can have been at that time.
    pub fn includes(self, at_ns: u64) -> bool {
        at_ns <= self.latest && self.earliest_ns().is_none_or(|earliest| earliest <= at_ns)
    }

    /// What both prove together. Two that contradict each other leave the first as it is.
    #[must_use]
    pub fn narrowed_by(self, other: Self) -> Self {
        let both =
            Self { earliest: self.earliest.max(other.earliest), latest: self.latest.min(other.latest) };
        if both.earliest_ns().is_some_and(|earliest| earliest > both.latest) { self } else { both }
    }
}

/// What the two time stamps in a socket prove about when it entered its state.
///
/// - CLOSE_WAIT began with the peer's FIN. That carried an ACK, so the last ACK
///   (`tcp_sock.rcv_tstamp`, `net/ipv4/tcp_input.c`) came then or later: the latest time. The last
///   data (`icsk_ack.lrcvtime`, or the handshake where none came) was before the FIN: the earliest
///   time.
/// - FIN_WAIT2 began with the ACK of our FIN: likewise the latest time.
/// - ESTABLISHED began with the handshake, and `lrcvtime` is not before it: the latest time.
///
/// Jiffies are counted in 32 bits. Where the host has been up for longer than they reach, a stamp
/// can be one turn older than it looks: that makes the socket older, so the latest time still holds
/// and the earliest one is not proven.
pub fn since_by_stamps(row: &SocketRow, jiffy_ns: u64) -> Since {
    // A stamp is the number of a tick: the time itself is up to one tick later, and the row's own
    // tick began up to one tick before the row was read.
    let no_later_than =
        |jiffies: u32| row.ktime_ns.saturating_sub(u64::from(jiffies.saturating_sub(1)) * jiffy_ns);
    let no_earlier_than = |jiffies: u32| row.ktime_ns.saturating_sub((u64::from(jiffies) + 1) * jiffy_ns);
    let turn_ns = jiffy_ns.saturating_mul(1 << 32);
    match row.state {
        state::CLOSE_WAIT => {
            let provable = row.ktime_ns < turn_ns;
            Since::between(
                provable.then(|| no_earlier_than(row.since_data_jiffies)),
                no_later_than(row.since_ack_jiffies),
            )
        }
        state::FIN_WAIT2 => Since::between(None, no_later_than(row.since_ack_jiffies)),
        state::ESTABLISHED => Since::between(None, no_later_than(row.since_data_jiffies)),
        _ => Since::between(None, row.ktime_ns),
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    /// Length of a jiffy where `CONFIG_HZ` is 250, nanoseconds.
    const JIFFY: u64 = 4_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn row(state: u8, since_ack_jiffies: u32, since_data_jiffies: u32) -> SocketRow {
        SocketRow {
            ktime_ns: 1_000 * SECOND,
            state,
            since_ack_jiffies,
            since_data_jiffies,
            ..SocketRow::zeroed()
        }
    }

    #[test]
    fn close_wait_is_between_the_last_data_and_the_last_ack() {
        let since = since_by_stamps(&row(state::CLOSE_WAIT, 2_500, 5_000), JIFFY);
        assert_eq!(since.latest_ns(), 990 * SECOND + JIFFY);
        assert_eq!(since.earliest_ns(), Some(980 * SECOND - JIFFY));
        assert_eq!(since.exact_ns(), None);
    }

    #[test]
    fn stamps_of_this_very_tick_prove_no_more_than_that() {
        let since = since_by_stamps(&row(state::CLOSE_WAIT, 0, 0), JIFFY);
        assert_eq!(since.latest_ns(), 1_000 * SECOND);
        assert_eq!(since.earliest_ns(), Some(1_000 * SECOND - JIFFY));
    }

    #[test]
    fn a_counter_that_may_have_turned_over_proves_no_earliest_time() {
        let turn = JIFFY << 32;
        let old = SocketRow { ktime_ns: turn + 5 * SECOND, ..row(state::CLOSE_WAIT, 250, 500) };
        let since = since_by_stamps(&old, JIFFY);
        assert_eq!((since.earliest_ns(), since.latest_ns()), (None, turn + 4 * SECOND + JIFFY));
    }

    #[test]
    fn other_states_have_what_their_stamps_prove() {
        let fin_wait2 = since_by_stamps(&row(state::FIN_WAIT2, 250, 5_000), JIFFY);
        assert_eq!((fin_wait2.earliest_ns(), fin_wait2.latest_ns()), (None, 999 * SECOND + JIFFY));
        let established = since_by_stamps(&row(state::ESTABLISHED, 250, 5_000), JIFFY);
        assert_eq!((established.earliest_ns(), established.latest_ns()), (None, 980 * SECOND + JIFFY));
        let listen = since_by_stamps(&row(state::LISTEN, 250, 250), JIFFY);
        assert_eq!((listen.earliest_ns(), listen.latest_ns()), (None, 1_000 * SECOND));
    }

    #[test]
    fn brackets_narrow_each_other_and_contradictions_are_left_alone() {
        let wide = Since::between(Some(10), 100);
        assert_eq!(wide.narrowed_by(Since::between(None, 50)), Since::between(Some(10), 50));
        assert_eq!(wide.narrowed_by(Since::between(Some(40), 200)), Since::between(Some(40), 100));
        assert_eq!(wide.narrowed_by(Since::exact(60)), Since::exact(60));
        assert_eq!(Since::exact(60).narrowed_by(wide), Since::exact(60));
        assert_eq!(wide.narrowed_by(Since::exact(500)), wide);
        assert_eq!(Since::between(Some(500), 100), Since::exact(100));
    }
}
