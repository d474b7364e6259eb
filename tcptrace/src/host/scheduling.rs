//! The tracer's place among the host's tasks: behind those it watches.

use std::io;

/// From here on this thread, and those that it starts, take a CPU from nobody when they are woken: they wait for the
/// end of the other's time slice, some milliseconds (`SCHED_BATCH`, sched(7)).
///
/// The ring wakes the tracer from within the BPF program. From Linux 7 on an ordinary task would push the program's
/// task off the CPU there and then, and nobody else's transitions could be recorded by that program before it has
/// its CPU again.
///
/// # Errors
/// See sched_setscheduler(2).
pub fn wait_for_others() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is this thread; the parameters are only read.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_others_runs_as_a_batch_and_so_do_those_that_it_starts() {
        // SAFETY: no memory is involved.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        std::thread::spawn(move || {
            wait_for_others().expect("needs no privilege");
            assert_eq!(policy(), libc::SCHED_BATCH);
            let started = std::thread::spawn(policy).join();
            assert_eq!(started.expect("no panic"), libc::SCHED_BATCH);
        })
        .join()
        .expect("as it should be");
    }
}
