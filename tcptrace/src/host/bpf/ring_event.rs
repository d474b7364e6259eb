//! What the BPF programs write to the ring.

use tcptrace_common::{ClosingRecord, TransitionRecord};

/// One record of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingEvent {
    /// A state change.
    Transition(TransitionRecord),
    /// The last state change of a socket, with what the kernel counted up to it.
    Closing(ClosingRecord),
}

impl RingEvent {
    /// The state change.
    pub const fn transition(&self) -> &TransitionRecord {
        match self {
            Self::Transition(transition) => transition,
            Self::Closing(closing) => &closing.transition,
        }
    }

    /// The state change, to be modified.
    pub const fn transition_mut(&mut self) -> &mut TransitionRecord {
        match self {
            Self::Transition(transition) => transition,
            Self::Closing(closing) => &mut closing.transition,
        }
    }
}
