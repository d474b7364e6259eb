//! Converts records of the ring to the engine's state changes: flag bits become facts.

use tcptrace_common::{ClosingRecord, OpenerFlags, Task, TransitionFlags as Flags, TransitionRecord};

use crate::{
    engine::{
        exit_signs::ExitSigns,
        state_change::{Actor, FinalStats, Origin, StateChange},
    },
    events::OriginHow,
    host::bpf::ring_event::RingEvent,
};

/// Converts a decoded record of the ring.
pub fn state_change(record: &RingEvent) -> StateChange {
    let transition = record.transition();
    let TransitionRecord {
        ktime_ns,
        cookie,
        netns,
        sk_err,
        tuple,
        old_state,
        new_state,
        flags,
        ref task,
        ..
    } = *transition;
    let named =
        |role: Flags| flags.contains(role).then(|| actor_of_task(task, flags.contains(Flags::PROCESS_NAMED)));
    StateChange {
        at_ns: ktime_ns,
        cookie,
        netns,
        tuple,
        old_state,
        new_state,
        actor: named(Flags::ACTOR_KNOWN),
        opener: named(Flags::OPENER_KNOWN),
        is_timewait: flags.contains(Flags::TIMEWAIT),
        is_fallback: flags.contains(Flags::FALLBACK_RECORDED),
        ending: ExitSigns {
            old_state,
            new_state,
            is_timewait: flags.contains(Flags::TIMEWAIT),
            has_actor: flags.contains(Flags::ACTOR_KNOWN),
            is_exiting: flags.contains(Flags::EXITING),
            is_complete: flags.contains(Flags::COMPLETED),
            sk_err,
        }
        .infer_ending(),
        final_stats: match record {
            RingEvent::Transition(_) => None,
            RingEvent::Closing(closing) => Some(final_stats(closing)),
        },
    }
}

fn final_stats(closing: &ClosingRecord) -> FinalStats {
    let ClosingRecord { transition, counters, opener } = closing;
    FinalStats {
        counters: *counters,
        sk_err: transition.sk_err,
        is_aborted: transition.flags.contains(Flags::ABORTED),
        origin: OriginHow::of(opener.call).map(|how| {
            let actor = actor_of_task(&opener.task, opener.flags.contains(OpenerFlags::PROCESS_NAMED));
            (Origin { actor, at_ns: opener.ktime_ns }, how)
        }),
    }
}

/// Converts the task of a record. `is_named`: the record has the process's name.
fn actor_of_task(task: &Task, is_named: bool) -> Actor {
    let Task { pid, tid, uid, comm, thread_comm } = *task;
    // The first thread has the process's name.
    let leader = Some(thread_comm).filter(|_| pid == tid);
    let comm = Some(comm).filter(|_| is_named).or(leader);
    Actor { pid, tid, uid, comm, thread_comm }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use tcptrace_common::{OpenCall, state};

    use super::*;
    use crate::events::Ending;

    const TASK: Task = Task {
        pid: 4242,
        tid: 4310,
        uid: 1000,
        comm: *b"java\0\0\0\0\0\0\0\0\0\0\0\0",
        thread_comm: *b"http-nio-9666-e\0",
    };

    fn change(flags: Flags, old_state: u8, new_state: u8) -> StateChange {
        let task = TASK;
        let transition = TransitionRecord { flags, task, old_state, new_state, ..TransitionRecord::zeroed() };
        state_change(&RingEvent::Transition(transition))
    }

    #[test]
    fn a_task_is_the_actor_or_the_opener_as_the_flags_say() {
        let pids = |flags| {
            let StateChange { actor, opener, .. } = change(flags, state::CLOSE_WAIT, state::LAST_ACK);
            (actor.map(|actor| actor.pid), opener.map(|opener| opener.pid))
        };
        assert_eq!(pids(Flags::empty()), (None, None));
        assert_eq!(pids(Flags::ACTOR_KNOWN), (Some(4242), None));
        assert_eq!(pids(Flags::OPENER_KNOWN), (None, Some(4242)));
    }

    #[test]
    fn without_the_processs_name_the_first_threads_name_stands_for_it() {
        let comm = |task, is_named| actor_of_task(&task, is_named).comm;
        assert_eq!(comm(TASK, true), Some(TASK.comm));
        assert_eq!(comm(TASK, false), None, "another thread's name is not the process's");
        assert_eq!(comm(Task { tid: TASK.pid, ..TASK }, false), Some(TASK.thread_comm));
    }

    #[test]
    fn each_flag_becomes_its_fact() {
        let closed = |flags| change(flags, state::FIN_WAIT2, state::CLOSE);
        assert_eq!(closed(Flags::ACTOR_KNOWN).ending, Ending::Closed);
        assert_eq!(closed(Flags::ACTOR_KNOWN | Flags::EXITING).ending, Ending::Exited);
        assert_eq!(closed(Flags::COMPLETED).ending, Ending::Peer);
        assert_eq!(closed(Flags::empty()).ending, Ending::Unknown);
        assert!(closed(Flags::FALLBACK_RECORDED).is_fallback && !closed(Flags::empty()).is_fallback);
        let replaced = change(Flags::TIMEWAIT, state::FIN_WAIT2, state::TIME_WAIT);
        assert!(replaced.is_timewait && replaced.is_last());
    }

    #[test]
    fn a_last_transition_has_the_final_stats() {
        let mut closing = ClosingRecord::zeroed();
        (closing.transition.sk_err, closing.transition.flags) = (104, Flags::ABORTED);
        (closing.transition.old_state, closing.transition.new_state) = (state::ESTABLISHED, state::CLOSE);
        closing.counters.bytes_sent = 7;
        let stats =
            |closing| state_change(&RingEvent::Closing(closing)).final_stats.expect("a last one has them");
        let unnoted = stats(closing);
        assert_eq!((unnoted.counters.bytes_sent, unnoted.sk_err, unnoted.is_aborted), (7, 104, true));
        assert_eq!(unnoted.origin, None);
        (closing.opener.call, closing.opener.task, closing.opener.ktime_ns) = (OpenCall::ACCEPT, TASK, 5);
        let (origin, how) = stats(closing).origin.expect("the kernel noted it");
        assert_eq!((origin.actor.tid, origin.at_ns, how), (4310, 5, OriginHow::Accept));
        assert_eq!(state_change(&RingEvent::Closing(closing)).ending, Ending::Reset);
    }
}
