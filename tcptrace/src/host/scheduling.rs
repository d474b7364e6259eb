//! The scheduling policy: the tracer waits for a CPU behind the tasks that it watches.

use std::io;

/// Sets the policy `SCHED_BATCH` for this thread and those that it starts (sched(7)).
///
/// A thread of this policy does not preempt a running task when it is woken. It waits for the end
/// of that task's time slice, some milliseconds.
///
/// The ring wakes the tracer from within a BPF program. From Linux 7 on, an ordinary task would
/// preempt the program's task there and then, and that program would be skipped for all other
/// transitions until its task has a CPU again.
///
/// # Errors
/// See `sched_setscheduler(2)`.
pub fn yield_to_others() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is this thread, and the kernel only reads the parameters.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_those_that_it_starts_have_the_batch_policy() {
        // SAFETY: no memory is involved.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        std::thread::spawn(move || {
            yield_to_others().expect("needs no privilege");
            assert_eq!(policy(), libc::SCHED_BATCH);
            let started = std::thread::spawn(policy).join();
            assert_eq!(started.expect("no panic"), libc::SCHED_BATCH);
        })
        .join()
        .expect("the assertions hold");
    }
}
