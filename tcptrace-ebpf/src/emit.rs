//! Emits records into the ring: the only place that fills in a [`Transition`].

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_FORCE_WAKEUP,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use tcptrace_common::{Closing, Counters, OpenCall, Opener, OpenerFlags, Transition, TransitionFlags, state};

use crate::{
    actor,
    change::{Program, StateChange},
    config::config,
    opener::write_opener,
};

/// The ring. The loader sets its size.
#[map]
static TRANSITIONS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Per CPU and program: transitions for which the ring had no room.
#[map]
static RING_FULL: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

/// The socket that changes its state, as far as a program can read it.
pub(crate) trait ChangedSocket: Copy {
    /// Returns the cookie.
    fn cookie<C: EbpfContext>(self, ctx: &C) -> u64;

    /// Forgets the cookie, if it is one of our own.
    fn forget_cookie(self);

    /// Writes `tuple`, `netns` and `sk_err`. Returns the last; `None` if it is not known.
    ///
    /// # Safety
    /// All of `record` can be written to.
    unsafe fn write_socket(self, record: *mut Transition) -> Option<i32>;

    /// Returns what ended the socket, see [`actor::close_flags`].
    fn close_flags(self, old_state: u8) -> TransitionFlags;

    /// Returns what is stored with the socket.
    fn opener(self) -> Option<&'static Opener>;

    /// Returns what the kernel has counted.
    fn counters(self) -> Counters;
}

/// Emits the record of a change at `ktime_ns`, or counts that the ring had no room for it.
#[inline(always)]
pub(crate) fn emit<C: EbpfContext>(ctx: &C, change: StateChange, ktime_ns: u64, socket: impl ChangedSocket) {
    // The cookie comes before the reservation: the reader can read nothing behind a record that is
    // reserved and not submitted yet.
    let cookie = socket.cookie(ctx);
    if change.new_state == state::CLOSE {
        socket.forget_cookie();
    }
    // A listener is no connection, so its life is not recorded.
    let is_last = change.new_state == state::CLOSE && change.old_state != state::LISTEN;
    if config!(records_lives).get() && is_last {
        let Some(mut entry) = TRANSITIONS.reserve::<Closing>(0) else {
            return count_full_ring(change.program);
        };
        let record = entry.as_mut_ptr();
        // SAFETY: all of the reserved space can be written to until it is submitted.
        unsafe {
            let opener = fill_transition(&raw mut (*record).transition, change, ktime_ns, cookie, socket);
            (&raw mut (*record).counters).write(socket.counters());
            write_opener(&raw mut (*record).opener, opener);
        }
        entry.submit(0);
    } else {
        let Some(mut entry) = TRANSITIONS.reserve::<Transition>(0) else {
            return count_full_ring(change.program);
        };
        // SAFETY: all of the reserved space can be written to until it is submitted.
        unsafe { fill_transition(entry.as_mut_ptr(), change, ktime_ns, cookie, socket) };
        // No flags: the kernel wakes the reader only if it had read everything before this record.
        entry.submit(0);
    }
}

/// Fills in a record. Returns what is stored with the socket, if it was looked up: for every last
/// transition it is.
///
/// # Safety
/// All of `record` can be written to.
#[inline(always)]
unsafe fn fill_transition(
    record: *mut Transition,
    change: StateChange,
    ktime_ns: u64,
    cookie: u64,
    socket: impl ChangedSocket,
) -> Option<&'static Opener> {
    let StateChange { old_state, new_state, program } = change;
    let closes = new_state == state::CLOSE;
    // SAFETY: the caller vouches for `record`.
    unsafe {
        (*record).ktime_ns = ktime_ns;
        (*record).cookie = cookie;
        let sk_err = socket.write_socket(record);
        (*record).old_state = old_state;
        (*record).new_state = new_state;
        (*record).pad = 0;

        let mut flags = if program == Program::Primary {
            TransitionFlags::empty()
        } else {
            TransitionFlags::FALLBACK_RECORDED
        };
        if closes && sk_err == Some(0) {
            flags |= socket.close_flags(old_state);
        }
        let acts = flags.contains(TransitionFlags::ACTOR_KNOWN) || actor::causes(change, sk_err == Some(0));
        let opener = if acts && !closes { None } else { socket.opener() };

        let task = &raw mut (*record).task;
        if acts {
            flags |= TransitionFlags::ACTOR_KNOWN | actor::write_current_task(task);
        } else if let Some(opener) = opener
            && opener.call != OpenCall::UNKNOWN
        {
            flags |= TransitionFlags::OPENER_KNOWN;
            if opener.flags.contains(OpenerFlags::PROCESS_NAMED) {
                flags |= TransitionFlags::PROCESS_NAMED;
            }
            actor::write_task(task, &opener.task);
        } else {
            actor::write_no_task(task);
        }

        if closes
            && matches!(old_state, state::FIN_WAIT2 | state::CLOSING)
            && let Some(Opener { timewait_state: timewait @ (state::TIME_WAIT | state::FIN_WAIT2), .. }) =
                opener
        {
            flags |= TransitionFlags::TIMEWAIT;
            (*record).new_state = *timewait;
        }
        (*record).flags = flags;
        opener
    }
}

/// Counts a record for which the ring had no room.
#[inline(always)]
fn count_full_ring(program: Program) {
    add_one(&RING_FULL, program.index());
}

/// Adds one to a counter of this CPU that only one program writes.
///
/// Until Linux 6.1 the kernel may let a program interrupt itself. Then one of two additions at the
/// same time may be missed.
#[inline(always)]
pub(crate) fn add_one(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the counter is that of this CPU, so no other CPU writes it meanwhile.
        unsafe { *counter += 1 };
    }
}

/// Wakes the reader, so that it looks at the ring and at the counters of lost transitions.
#[inline(always)]
pub(crate) fn wake_reader() {
    // If the ring is full, the reader is awake.
    if let Some(nothing) = TRANSITIONS.reserve::<u64>(0) {
        nothing.discard(BPF_RB_FORCE_WAKEUP.into());
    }
}
