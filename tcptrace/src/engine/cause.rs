//! Why a socket stays in its state, and how many bytes wait in its queues.

use tcptrace_common::{RowFlags, SocketRow, state};

use crate::events::Cause;

/// Returns the cause that a socket's own state proves.
pub fn cause_of_row(row: &SocketRow) -> Cause {
    match row.state {
        state::CLOSE_WAIT if row.flags.contains(RowFlags::IN_ACCEPT_QUEUE) => Cause::NotAccepted,
        state::CLOSE_WAIT if row.unread > 1 => Cause::DataUnread,
        state::CLOSE_WAIT if row.unread == 1 => Cause::EofUnread,
        state::CLOSE_WAIT if row.unsent > 0 => Cause::Sending,
        state::CLOSE_WAIT => Cause::NotClosed,
        state::SYN_SENT
        | state::SYN_RECV
        | state::FIN_WAIT1
        | state::FIN_WAIT2
        | state::CLOSING
        | state::LAST_ACK => Cause::Peer,
        _ => Cause::Unknown,
    }
}

/// Bytes received that the process has not read. The kernel's count takes the peer's FIN for a
/// byte.
pub fn recv_queue(row: &SocketRow) -> u32 {
    match row.state {
        state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING => row.unread.saturating_sub(1),
        _ => row.unread,
    }
}

/// Bytes written that are unsent or not acknowledged. The kernel's count takes our SYN or FIN for a
/// byte.
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
        let of = |unread, unsent| cause_of_row(&row(state::CLOSE_WAIT, unread, unsent));
        assert_eq!(of(0, 0), Cause::NotClosed);
        assert_eq!(of(0, 10), Cause::Sending);
        assert_eq!(of(1, 0), Cause::EofUnread);
        assert_eq!(of(1, 10), Cause::EofUnread);
        assert_eq!(of(2, 10), Cause::DataUnread);
        let queued = SocketRow { flags: RowFlags::IN_ACCEPT_QUEUE, ..row(state::CLOSE_WAIT, 500, 0) };
        assert_eq!(cause_of_row(&queued), Cause::NotAccepted);
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
        assert_eq!(cause_of_row(&row(state::FIN_WAIT2, 0, 0)), Cause::Peer);
        assert_eq!(cause_of_row(&row(state::ESTABLISHED, 9, 9)), Cause::Unknown);
        assert_eq!(cause_of_row(&row(state::LISTEN, 0, 128)), Cause::Unknown);
    }
}
