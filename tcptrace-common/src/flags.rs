//! Typed flags: one type for each record that has some, so that no flag is tested in the wrong
//! record.
//!
//! All of them are plain data. An unknown bit is kept and means nothing.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

bitflags! {
    /// What is known about a [`Transition`](crate::Transition) beside its fields.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
    pub struct TransitionFlags: u8 {
        /// `task` caused the transition.
        const ACTOR_KNOWN = 1;
        /// `task.comm` is known. Without kernel BTF it cannot be read.
        const PROCESS_NAMED = 2;
        /// A fallback program wrote the record. In rare cases another program wrote the same
        /// transition too, so user space looks for a duplicate.
        const FALLBACK_RECORDED = 4;
        /// The task that caused the transition was exiting: the kernel closed its descriptors.
        const EXITING = 8;
        /// The socket is gone. The new state, TIME_WAIT or FIN_WAIT2, is that of the timewait
        /// socket in its place, which no process holds.
        const TIMEWAIT = 16;
        /// No task caused the transition; `task` is the one that connected or accepted the socket.
        const OPENER_KNOWN = 32;
        /// The task aborted the connection, and the kernel sent the peer a reset: it closed the
        /// socket with unread data or with SO_LINGER 0, or disconnected it.
        const ABORTED = 64;
        /// A socket that was closing has closed in the orderly way: the peer acknowledged our FIN,
        /// or sent its own.
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
        /// This is a timewait socket (`struct inet_timewait_sock`), in TIME_WAIT or FIN_WAIT2. The
        /// full socket is gone, and no process holds this one.
        const TIMEWAIT = 2;
        /// The socket has a file, so that descriptors can hold it. Only `iter/tcp` reports it.
        const HAS_FILE = 4;
        /// An [`Opener`](crate::Opener) follows the row.
        const HAS_OPENER = 8;
        /// `snd_una` and `rcv_nxt` are known. sock_diag does not report them.
        const HAS_SEQUENCES = 16;
    }
}

bitflags! {
    /// What is known about an [`Opener`](crate::Opener) beside its fields.
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
    /// False.
    pub const FALSE: Self = Self(0);
    /// True.
    pub const TRUE: Self = Self(1);

    /// Returns the boolean.
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
        // A flag that shares a bit with another one would make the sum larger than the union.
        let sum = |bits: &mut dyn Iterator<Item = u8>| bits.map(u32::from).sum::<u32>();
        let transition = &mut TransitionFlags::all().iter().map(|flag| flag.bits());
        assert_eq!(sum(transition), u32::from(TransitionFlags::all().bits()));
        let row = &mut RowFlags::all().iter().map(|flag| flag.bits());
        assert_eq!(sum(row), u32::from(RowFlags::all().bits()));
    }
}
