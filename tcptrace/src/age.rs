//! Since when a socket is in its state: exactly where the transition was seen, else a bracket that the
//! kernel's own clocks prove.

use tcptrace_common::{SocketRow, state};

/// The time at which a socket entered its state, `CLOCK_MONOTONIC` nanoseconds: not before `earliest`, not
/// after `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    earliest: Option<u64>,
    latest: u64,
}

impl Since {
    /// It was seen entering.
    pub const fn exact(at_ns: u64) -> Self {
        Self { earliest: Some(at_ns), latest: at_ns }
    }

    /// It entered at some time in between; `None` where no earliest time is proven.
    pub fn between(earliest_ns: Option<u64>, latest_ns: u64) -> Self {
        Self { earliest: earliest_ns.map(|earliest| earliest.min(latest_ns)), latest: latest_ns }
    }

    /// The time, where it is known.
    pub fn exact_ns(self) -> Option<u64> {
        self.earliest.filter(|earliest| *earliest == self.latest)
    }

    /// The latest time at which it can have been.
    pub const fn latest_ns(self) -> u64 {
        self.latest
    }

    /// The earliest time at which it can have been, where one is proven.
    pub const fn earliest_ns(self) -> Option<u64> {
        self.earliest
    }

    /// Whether it can have been at that time.
    pub fn includes(self, at_ns: u64) -> bool {
        at_ns <= self.latest && self.earliest.is_none_or(|earliest| earliest <= at_ns)
    }

    /// What both prove together. Two that contradict each other leave the first as it is.
    pub fn narrowed_by(self, other: Self) -> Self {
        let both =
            Self { earliest: self.earliest.max(other.earliest), latest: self.latest.min(other.latest) };
        if both.earliest.is_some_and(|earliest| earliest > both.latest) { self } else { both }
    }
}

/// What the two time stamps in a socket prove about when it entered its state.
///
/// - CLOSE_WAIT began with the peer's FIN. That carried an ACK, so the last ACK (`tcp_sock.rcv_tstamp`,
///   `net/ipv4/tcp_input.c`) came then or later: the latest time. The last data (`icsk_ack.lrcvtime`, or the
///   handshake where none came) was before the FIN: the earliest time.
/// - FIN_WAIT2 began with the ACK of our FIN: likewise the latest time.
/// - ESTABLISHED began with the handshake, and `lrcvtime` is not before it: the latest time.
///
/// Jiffies are counted in 32 bits. Where the host has been up for longer than they reach, a stamp can be one
/// turn older than it looks: that makes the socket older, so the latest time still holds and the earliest one
/// is not proven.
pub fn since_by_stamps(row: &SocketRow, jiffy_ns: u64) -> Since {
    // A stamp is the number of a tick: the time itself is up to one tick later, and the row's own tick began up
    // to one tick before the row was read.
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
