//! A change of a socket's state, and the program that handles it.

use tcptrace_common::state::leaves_or_enters;

use crate::config::config;

/// The programs on the tracepoint, in the order in which the kernel runs them.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Handles every transition, unless the kernel skips it.
    Primary = 0,
    /// Handles what the primary program was skipped for.
    Fallback = 1,
    /// Handles what the two others were skipped for.
    SecondFallback = 2,
}

impl Program {
    /// The number of programs.
    pub(crate) const COUNT: u32 = 3;

    /// Returns the index of the program in counters of each program.
    #[inline(always)]
    pub(crate) const fn index(self) -> u32 {
        self as u32 // its number above
    }
}

/// One change as the tracepoint reports it, and the program that handles it. Three bytes, so that
/// it fits a register.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawChange {
    /// The state before, see [`tcptrace_common::state`].
    pub(crate) old_state: u8,
    /// The state after, see [`tcptrace_common::state`].
    pub(crate) new_state: u8,
    /// The program that runs.
    pub(crate) program: Program,
}

impl RawChange {
    /// Takes the states as the tracepoint has them, two `int`s.
    #[inline(always)]
    pub(crate) const fn new(old_state: u32, new_state: u32, program: Program) -> Self {
        // A state is below 16, so the casts lose nothing.
        Self { old_state: old_state as u8, new_state: new_state as u8, program }
    }

    /// Returns whether the change leaves or enters a watched state.
    #[inline(always)]
    pub(crate) fn is_watched(self) -> bool {
        leaves_or_enters(config!(watched_states), self.old_state, self.new_state)
    }
}
