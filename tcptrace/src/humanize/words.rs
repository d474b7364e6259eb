//! What a record says, in a few words.

use crate::{
    events::{Cause, CloseReason, Ending, Lost, LostReason, Resync},
    humanize::number::count_of,
};

/// Says why a stuck socket stays in its state.
pub(crate) const fn cause_words(cause: Cause) -> &'static str {
    match cause {
        Cause::NotAccepted => "not accepted",
        Cause::DataUnread => "data unread",
        Cause::EofUnread => "EOF unread",
        Cause::Sending => "sending",
        Cause::NotClosed => "not closed",
        Cause::Peer => "peer",
        Cause::Unknown => "unknown",
    }
}

/// Says how a stuck socket cleared; `None` if the state that it left for says it.
pub(crate) const fn ending_words(how: Ending) -> Option<&'static str> {
    match how {
        Ending::Closed => Some("closed"),
        Ending::Exited => Some("process ended"),
        Ending::Reset => Some("reset by the peer"),
        Ending::TimedOut => Some("timed out"),
        Ending::Destroyed => Some("destroyed"),
        Ending::Peer | Ending::Unknown => None,
    }
}

/// Says what ended a connection, in at most nine columns.
pub(crate) const fn close_reason_words(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::LocalClose => "closed",
        CloseReason::PeerClose => "by peer",
        CloseReason::ResetReceived => "peer RST",
        CloseReason::ResetSent => "sent RST",
        CloseReason::Timeout => "timed out",
        CloseReason::Refused => "refused",
        CloseReason::Exit => "exited",
        CloseReason::Destroyed => "destroyed",
        CloseReason::Unknown => "unknown",
    }
}

/// Says what was lost, and why.
pub(crate) fn lost_words(lost: &Lost) -> String {
    let Lost { lost, lost_total, reason } = lost;
    match reason {
        LostReason::RingFull => {
            let lost = count_of(*lost, "transition");
            format!("lost {lost}: the ring buffer was full ({lost_total} in all)")
        }
        LostReason::Skipped => {
            let lost = count_of(*lost, "transition");
            format!("lost {lost}: the kernel did not run the program ({lost_total} in all)")
        }
        LostReason::ReaderSlow => {
            let lost = count_of(*lost, "record");
            format!("left out {lost}: the reader was too slow ({lost_total} in all)")
        }
    }
}

/// Says what a resync looked at and repaired.
pub(crate) fn resync_words(resync: &Resync) -> String {
    format!("looked at all {} again: {} repaired", count_of(resync.sockets, "socket"), resync.repaired)
}
