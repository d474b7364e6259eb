//! Typed flags: one type for each record that has some, so that no flag is tested in the wrong
//! record.
//!
//! All of them are plain data. An unknown bit is kept and ignored.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

bitflags! {
    /// What is known about a [`TransitionRecord`](crate::TransitionRecord) beside its fields.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
    pub struct TransitionFlags: u8 {
        /// `task` caused the transition.
        const ACTOR_KNOWN = 1;
        /// `task.comm` is known. Without BTF it may not be.
        const PROCESS_NAMED = 2;
        /// A fallback program wrote the record. In rare cases another program has recorded the same
        /// transition, so user space looks for a duplicate.
        const FALLBACK_RECORDED = 4;
        /// The task that caused the transition was exiting, so that the kernel closed its
        /// descriptors.
        const EXITING = 8;
        /// A timewait socket has replaced the socket. The new state, TIME_WAIT or FIN_WAIT2, is
        /// that of the timewait socket, which no process holds.
        const TIMEWAIT = 16;
        /// No task caused the transition; `task` is the one that connected or accepted the socket.
        const OPENER_KNOWN = 32;
        /// The task aborted the connection, and the kernel sent the peer a reset: it closed the
        /// socket with unread data or with SO_LINGER 0, or disconnected it.
        const ABORTED = 64;
        /// A closing socket has closed in the orderly way: the peer acknowledged our FIN, or sent
        /// its own.
        const COMPLETED = 128;
    }
}

bitflags! {
    /// What is known about a socket in a [`SocketRow`](crate::SocketRow) beside its fields.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
    pub struct RowFlags: u8 {
        /// No process has accepted the socket yet.
        const IN_ACCEPT_QUEUE = 1;
        /// The row is that of a timewait socket (`struct inet_timewait_sock`), in TIME_WAIT or
        /// FIN_WAIT2. The full socket is gone, and no process holds a timewait socket.
        const TIMEWAIT = 2;
        /// The socket has a file, so descriptors can hold it. sock_diag does not report this.
        const HAS_FILE = 4;
        /// An [`OpenerRecord`](crate::OpenerRecord) follows the row.
        const HAS_OPENER = 8;
        /// `snd_una` and `rcv_nxt` are known. sock_diag does not report them.
        const HAS_SEQUENCES = 16;
    }
}

bitflags! {
    /// What is known about an [`OpenerRecord`](crate::OpenerRecord) beside its fields.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
    pub struct OpenerFlags: u8 {
        /// `task.comm` is known, as in [`TransitionFlags::PROCESS_NAMED`].
        const PROCESS_NAMED = 1;
    }
}

/// A boolean that is plain data: every bit pattern is valid, and all but 0 are true.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Bool32(u32);

impl Bool32 {
    /// The value for false.
    pub const FALSE: Self = Self(0);
    /// The value for true.
    pub const TRUE: Self = Self(1);

    /// Returns the value as a `bool`.
    #[inline(always)]
    pub const fn get(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Bool32 {
    #[inline(always)]
    fn from(value: bool) -> Self {
        Self(value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_a_record_has_its_own_bit() {
        // If two flags shared a bit, the sum would be larger than the union.
        let sum = |bits: &mut dyn Iterator<Item = u8>| bits.map(u32::from).sum::<u32>();
        let transition = &mut TransitionFlags::all().iter().map(|flag| flag.bits());
        assert_eq!(sum(transition), u32::from(TransitionFlags::all().bits()));
        let row = &mut RowFlags::all().iter().map(|flag| flag.bits());
        assert_eq!(sum(row), u32::from(RowFlags::all().bits()));
    }
}
