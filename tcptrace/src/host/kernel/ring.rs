//! Drains the ring, and reports what did not get into it.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::MapError;

use crate::{
    clock,
    diagnostics::print_problem,
    engine::state_change::StateChange,
    host::{
        bpf::{
            decode::{self, DecodeError},
            drain::{self, Drained, Limit},
            loss::NewLosses,
            ring_event::RingEvent,
            state_change::state_change,
        },
        kernel::Kernel,
        walk::own_closes::clear_own_actor,
    },
};

impl Kernel {
    /// Returns the descriptor that becomes readable when a record comes after the ring was
    /// drained.
    pub fn ring(&self) -> BorrowedFd<'_> {
        self.transitions.as_fd()
    }

    /// Passes the state changes in the ring to `each` up to a limit, those of each socket in the
    /// order in which they happened. Also passes on what the BPF programs logged.
    ///
    /// # Errors
    /// The ring held something that is no record. What came after it is still there.
    pub fn drain(
        &mut self,
        limit: Limit,
        mut each: impl FnMut(&StateChange),
    ) -> Result<Drained, DecodeError> {
        let Self { transitions, cookies, .. } = self;
        let drained = drain::drain(limit, clock::monotonic_ns, || {
            let Some(bytes) = transitions.next() else { return Ok(None) };
            let mut event = decode::ring_event(&bytes)?;
            clear_own_actor(event.transition_mut());
            if let (Some(cookies), RingEvent::Transition(transition)) = (&mut *cookies, &mut event) {
                cookies.resolve_transition(transition);
            }
            let change = state_change(&event);
            each(&change);
            Ok(Some(change.at_ns))
        })?;
        self.log.flush();
        Ok(drained)
    }

    /// Returns the losses since the last call.
    ///
    /// `duplicates`: how many of the transitions drained so far came a second time. `now_ns`:
    /// `CLOCK_MONOTONIC` nanoseconds. A skip of this moment is reported by a later call, at
    /// [`Self::losses_due_ns`], if no fallback program has recorded it by then.
    ///
    /// # Errors
    /// The counters could not be read.
    pub fn take_new_losses(&mut self, duplicates: u64, now_ns: u64) -> Result<NewLosses, MapError> {
        if let Some(fallbacks) = &mut self.fallbacks
            && self.losses.needs_fallback()?
        {
            match fallbacks.attach_next(&mut self.ebpf) {
                Some(Ok((name, link))) => {
                    self.links.push(link);
                    self.losses.add_fallback(&self.ebpf, name, duplicates)?;
                }
                // The attached programs go on, and what they miss is still counted.
                Some(Err(error)) => {
                    self.fallbacks = None;
                    print_problem(format_args!("cannot attach another fallback program: {error}"));
                }
                None => self.fallbacks = None,
            }
        }
        self.losses.take_new(duplicates, now_ns)
    }

    /// Returns when to call [`Self::take_new_losses`] even if no record comes.
    pub fn losses_due_ns(&self) -> Option<u64> {
        self.losses.due_ns()
    }
}
