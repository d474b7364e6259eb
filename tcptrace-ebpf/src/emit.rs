//! Emits records into the ring: the only place that fills in a [`TransitionRecord`].

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use tcptrace_common::{
    ClosingRecord, Counters, OpenCall, OpenerFlags, OpenerRecord, TransitionFlags, TransitionRecord, state,
};

use crate::{
    actor,
    change::{Program, RawChange},
    config::config,
    held_back,
    opener::write_opener,
};

/// The ring. The loader sets its size.
#[map]
static TRANSITIONS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Per CPU and program: transitions for which the ring had no room.
#[map]
static RING_FULL: PerCpuArray<u64> = PerCpuArray::with_max_entries(Program::COUNT, 0);

/// The socket that changes its state, as far as a program can read it.
pub(crate) trait ChangedSocket: Copy {
    /// Returns the address, by which the socket is known while it lives.
    fn address(self) -> u64;

    /// Returns whether the socket has a peer yet.
    fn has_peer(self) -> bool;

    /// Returns the cookie.
    fn cookie<C: EbpfContext>(self, ctx: &C) -> u64;

    /// Forgets the cookie, if it is one of our own.
    fn forget_cookie(self);

    /// Writes `tuple`, `netns` and `sk_err`. Returns the last; `None` if it is not known.
    ///
    /// # Safety
    /// All of `record` can be written to.
    unsafe fn write_socket(self, record: *mut TransitionRecord) -> Option<i32>;

    /// Returns what ended the socket, see [`actor::close_flags`].
    fn close_flags(self, old_state: u8) -> TransitionFlags;

    /// Returns what is stored with the socket.
    fn stored_opener(self) -> Option<&'static OpenerRecord>;

    /// Returns what the kernel has counted.
    fn read_counters(self) -> Counters;
}

/// Emits the record of a change that happens now, and before it the socket's record that was
/// held back until now. Holds the record back instead if it has to wait, see [`held_back`].
#[inline(always)]
pub(crate) fn emit_change<C: EbpfContext>(ctx: &C, change: RawChange, socket: impl ChangedSocket) {
    // SAFETY: the helper takes no arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    match (change.old_state, change.new_state) {
        (state::LISTEN, state::SYN_RECV) if !socket.has_peer() => {
            return held_back::hold_back(socket.address(), now_ns);
        }
        (state::SYN_RECV, _) => {
            if let Some(entered_ns) = held_back::take_held_back(socket.address()) {
                let entered = RawChange { old_state: state::LISTEN, new_state: state::SYN_RECV, ..change };
                emit_record(ctx, entered, entered_ns, socket);
            }
        }
        _ => {}
    }
    emit_record(ctx, change, now_ns, socket);
}

/// Emits the record of a change at `ktime_ns`, or counts that the ring had no room for it.
///
/// Called twice, so inlining it would double the program.
#[inline(never)]
fn emit_record<C: EbpfContext>(ctx: &C, change: RawChange, ktime_ns: u64, socket: impl ChangedSocket) {
    // The cookie comes before the reservation: the reader reads nothing behind a record that is
    // reserved and not submitted yet.
    let cookie = socket.cookie(ctx);
    if change.new_state == state::CLOSE {
        socket.forget_cookie();
    }
    // A listener is no connection, so its life is not recorded.
    let is_last = change.new_state == state::CLOSE && change.old_state != state::LISTEN;
    let is_emitted = if config!(records_lives).get() && is_last {
        emit_with(|record: *mut ClosingRecord| {
            // SAFETY: all of `record` can be written to.
            unsafe {
                let opener = fill_transition(&raw mut (*record).transition, change, ktime_ns, cookie, socket);
                (&raw mut (*record).counters).write(socket.read_counters());
                write_opener(&raw mut (*record).opener, opener);
            }
        })
    } else {
        emit_with(|record: *mut TransitionRecord| {
            // SAFETY: all of `record` can be written to.
            unsafe { fill_transition(record, change, ktime_ns, cookie, socket) };
        })
    };
    if !is_emitted {
        add_to(&RING_FULL, change.program.index(), 1);
    }
}

/// Reserves room in the ring, has `fill` write all of it, and submits it. Returns whether there was
/// room.
#[inline(always)]
fn emit_with<T: 'static>(fill: impl FnOnce(*mut T)) -> bool {
    let Some(mut entry) = TRANSITIONS.reserve::<T>(0) else { return false };
    fill(entry.as_mut_ptr());
    // No flags: the kernel wakes the reader only if it had read everything before this record.
    entry.submit(0);
    true
}
/// Fills in a record. Returns what is stored with the socket if it was looked up, as it is for
/// every last transition.
///
/// # Safety
/// All of `record` can be written to.
#[inline(always)]
unsafe fn fill_transition(
    record: *mut TransitionRecord,
    change: RawChange,
    ktime_ns: u64,
    cookie: u64,
    socket: impl ChangedSocket,
) -> Option<&'static OpenerRecord> {
    let RawChange { old_state, new_state, program } = change;
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
        let acts =
            flags.contains(TransitionFlags::ACTOR_KNOWN) || actor::causes_change(change, sk_err == Some(0));
        let opener = if acts && !closes { None } else { socket.stored_opener() };

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
            && let Some(OpenerRecord {
                timewait_state: timewait @ (state::TIME_WAIT | state::FIN_WAIT2), ..
            }) = opener
        {
            flags |= TransitionFlags::TIMEWAIT;
            (*record).new_state = *timewait;
        }
        (*record).flags = flags;
        opener
    }
}

/// Adds to a counter of this CPU that only one program writes.
///
/// Until Linux 6.1 the kernel may let a program interrupt itself. Of two additions at the same time
/// one may then be missed: BPF has no better addition in Rust.
#[inline(always)]
pub(crate) fn add_to(counters: &PerCpuArray<u64>, index: u32, count: u64) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the counter is that of this CPU, so no other CPU writes it meanwhile.
        unsafe { *counter += count };
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
