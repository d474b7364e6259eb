//! Why a socket stays in its state, from what its queues hold, and what those are for people.

use serde::{Deserialize, Serialize};
use tcptrace_common::{RowFlags, SocketRow, state};

/// Why a socket stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Still in the accept queue: no process has called accept(2).
    NotAccepted,
    /// Bytes wait that the process has not read.
    DataUnread,
    /// Only the end of the stream waits to be read.
    EofUnread,
    /// All is read; what the process wrote is unsent or not acknowledged.
    Sending,
    /// Nothing is left to read or to send: the process just keeps it open.
    NotClosed,
    /// It waits for the other end.
    Peer,
    /// Cannot be told.
    Unknown,
}

impl Cause {
    /// The cause that a socket's own state proves.
    pub fn of(row: &SocketRow) -> Self {
        match row.state {
            state::CLOSE_WAIT if row.flags.contains(RowFlags::IN_ACCEPT_QUEUE) => Self::NotAccepted,
            state::CLOSE_WAIT if row.unread > 1 => Self::DataUnread,
            state::CLOSE_WAIT if row.unread == 1 => Self::EofUnread,
            state::CLOSE_WAIT if row.unsent > 0 => Self::Sending,
            state::CLOSE_WAIT => Self::NotClosed,
            state::SYN_SENT
            | state::SYN_RECV
            | state::FIN_WAIT1
            | state::FIN_WAIT2
            | state::CLOSING
            | state::LAST_ACK => Self::Peer,
            _ => Self::Unknown,
        }
    }

    /// In a few words, for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotAccepted => "not accepted",
            Self::DataUnread => "data unread",
            Self::EofUnread => "EOF unread",
            Self::Sending => "sending",
            Self::NotClosed => "not closed",
            Self::Peer => "peer",
            Self::Unknown => "unknown",
        }
    }
}

/// Bytes received that the process has not read. The kernel's count takes the peer's FIN for a byte.
pub fn recv_queue(row: &SocketRow) -> u32 {
    match row.state {
        state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING => row.unread.saturating_sub(1),
        _ => row.unread,
    }
}

/// Bytes written that are unsent or not acknowledged. The kernel's count takes our SYN or FIN for a byte.
pub fn send_queue(row: &SocketRow) -> u32 {
    match row.state {
        state::SYN_SENT | state::FIN_WAIT1 | state::LAST_ACK | state::CLOSING => row.unsent.saturating_sub(1),
        _ => row.unsent,
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn row(state: u8, unread: u32, unsent: u32) -> SocketRow {
        SocketRow { state, unread, unsent, ..SocketRow::zeroed() }
    }

    #[test]
    fn each_cause_of_close_wait_is_told_from_its_queues() {
        let of = |unread, unsent| Cause::of(&row(state::CLOSE_WAIT, unread, unsent));
        assert_eq!(of(0, 0), Cause::NotClosed);
        assert_eq!(of(0, 10), Cause::Sending);
        assert_eq!(of(1, 0), Cause::EofUnread);
        assert_eq!(of(1, 10), Cause::EofUnread);
        assert_eq!(of(2, 10), Cause::DataUnread);
        let queued = SocketRow { flags: RowFlags::IN_ACCEPT_QUEUE, ..row(state::CLOSE_WAIT, 500, 0) };
        assert_eq!(Cause::of(&queued), Cause::NotAccepted);
    }

    #[test]
    fn queues_do_not_count_syn_and_fin() {
        assert_eq!(recv_queue(&row(state::CLOSE_WAIT, 1, 0)), 0);
        assert_eq!(recv_queue(&row(state::CLOSE_WAIT, 0, 0)), 0);
        assert_eq!(recv_queue(&row(state::CLOSE_WAIT, 101, 0)), 100);
        assert_eq!(recv_queue(&row(state::ESTABLISHED, 101, 0)), 101);
        assert_eq!(send_queue(&row(state::LAST_ACK, 0, 8)), 7);
        assert_eq!(send_queue(&row(state::CLOSE_WAIT, 0, 8)), 8);
    }

    #[test]
    fn other_states_wait_for_the_peer_or_for_nobody() {
        assert_eq!(Cause::of(&row(state::FIN_WAIT2, 0, 0)), Cause::Peer);
        assert_eq!(Cause::of(&row(state::ESTABLISHED, 9, 9)), Cause::Unknown);
        assert_eq!(Cause::of(&row(state::LISTEN, 0, 128)), Cause::Unknown);
    }
}
