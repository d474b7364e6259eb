//! A roll-up as a record.

use crate::{
    engine::processes::ProcessRollup,
    events::{Name, Owner, ProcessRecord, milliseconds},
};

/// Makes the record of a process's roll-up.
pub fn process_record(pid: u32, rolled: &ProcessRollup) -> ProcessRecord {
    // Adding 0 turns -0.0 into 0.0.
    let thousandth = |number: f64| (number * 1_000.0).round() / 1_000.0 + 0.0;
    let ProcessRollup { stuck, shared, fds_open, fds_limit, ended, stopped, busy, .. } = *rolled;
    ProcessRecord {
        pid,
        comm: rolled.comm.map(Name),
        program: None,
        unit: None,
        container: None,
        pod: None,
        stuck,
        shared,
        oldest_ms: rolled.oldest_ns.map(milliseconds),
        growth_per_min: thousandth(rolled.growth_per_min.unwrap_or(0.0)),
        fds_open,
        fds_limit,
        fds_growth_per_min: fds_open.map(|_| thousandth(rolled.fds_growth_per_min.unwrap_or(0.0))),
        fds_full_in_s: rolled.fds_full_in_s.map(thousandth),
        ended,
        stopped,
        busy,
        growth_is_known: rolled.growth_per_min.is_some(),
        fds_growth_is_known: rolled.fds_growth_per_min.is_some(),
        shared_with: None,
    }
}

/// Adds what is known of the process from a socket that was charged to it.
pub fn add_owner(record: &mut ProcessRecord, owner: &Owner) {
    record.program.clone_from(&owner.program);
    record.unit.clone_from(&owner.unit);
    record.container.clone_from(&owner.container);
    record.pod.clone_from(&owner.pod);
}
