//! Who is responsible for a socket, by what a walk has seen: the processes that hold it, or its
//! listener.

use crate::{
    engine::{ownership::walk_index::WalkIndex, process_info::ProcessDetails, walk::Holder},
    events::{Name, Owner, OwnerHow, bounds},
};

/// The processes and descriptors that a socket is charged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responsible {
    /// Those that a record lists, by pid and descriptor: one of each process first,
    /// [`bounds::LISTED`] at most.
    pub owners: Vec<Owner>,
    /// How many there are, listed or not.
    pub total: usize,
    /// One of each process that `owners` has no room for: only filters and roll-ups look at them.
    pub unlisted: Vec<Owner>,
    /// How they are known.
    pub how: OwnerHow,
}

impl WalkIndex<'_> {
    /// Says who is responsible for a socket: its holders, or else those of the listener in whose
    /// accept queue it is.
    pub fn responsible_owners(&self, cookie: u64) -> Responsible {
        let holding: Vec<_> = self.holders_of(cookie).collect();
        if !holding.is_empty() {
            return Responsible::list_holders(&holding, OwnerHow::Fd);
        }
        let listeners = self.listeners_of_queued(cookie).iter();
        let mut listening: Vec<_> = listeners.flat_map(|row| self.holders_of(row.cookie)).collect();
        listening.sort_unstable_by_key(|(holder, _)| (holder.pid, holder.fd));
        Responsible::list_holders(&listening, OwnerHow::Listener)
    }
}

impl Responsible {
    /// Every process, listed or not, at least once.
    pub fn processes(&self) -> impl Iterator<Item = &Owner> {
        self.owners.iter().chain(&self.unlisted)
    }

    /// Only the descriptors that are listed become owners: a socket can have tens of thousands.
    fn list_holders(holders: &[(&Holder, Option<&ProcessDetails>)], how: OwnerHow) -> Self {
        let pid = |(holder, _): &(&Holder, _)| holder.pid;
        let mut all = Self { owners: Vec::new(), total: holders.len(), unlisted: Vec::new(), how };
        if holders.is_empty() {
            all.how = OwnerHow::None;
        }
        let mut last = None;
        for (one, is_listed) in holders.iter().zip(bounds::listed(holders, pid)) {
            let is_first = last.replace(pid(one)) != Some(pid(one));
            if is_listed {
                all.owners.push(owner_of_holder(one));
            } else if is_first {
                all.unlisted.push(owner_of_holder(one));
            }
        }
        all
    }
}

/// The process that holds a socket.
fn owner_of_holder((holder, process): &(&Holder, Option<&ProcessDetails>)) -> Owner {
    let comm = process.and_then(|process| process.comm.as_deref()).map(Name::from_bytes);
    let mut owner = Owner {
        fd: Some(holder.fd),
        comm: holder.process.map(|process| Name(process.comm)).or(comm),
        uid: holder.process.map(|process| process.uid).or(process.and_then(|process| process.uid)),
        ..Owner::once(holder.pid)
    };
    if let Some(process) = process {
        add_details(&mut owner, process);
    }
    owner
}

/// Adds what was looked up about a process beyond its name and user.
pub fn add_details(owner: &mut Owner, process: &ProcessDetails) {
    owner.inner_pids.clone_from(&process.inner_pids);
    owner.program.clone_from(&process.program);
    owner.exe.clone_from(&process.exe);
    owner.cgroup.clone_from(&process.cgroup);
    owner.unit.clone_from(&process.unit);
    owner.container.clone_from(&process.container);
    owner.pod.clone_from(&process.pod);
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use rustc_hash::FxHashSet;
    use tcptrace_common::{RowFlags, SocketRow, state};

    use super::*;
    use crate::engine::walk::{Walk, in_order};

    /// A socket in CLOSE_WAIT, and its listener.
    fn walk(flags: RowFlags, holders: Vec<(u64, u32, u32)>) -> Walk {
        let row = |cookie, state, flags| SocketRow { cookie, state, flags, netns: 1, ..SocketRow::zeroed() };
        let holder = |(cookie, pid, fd)| Holder { cookie, pid, fd, process: None };
        Walk {
            sockets: vec![row(1, state::CLOSE_WAIT, flags), row(2, state::LISTEN, RowFlags::empty())],
            holders: in_order(holders.into_iter().map(holder).collect()),
            ..Walk::default()
        }
    }

    fn charged(walk: &Walk) -> Responsible {
        WalkIndex::for_sockets(walk, &FxHashSet::from_iter([1]), |_, _| ProcessDetails::default())
            .responsible_owners(1)
    }

    fn pids<'a>(owners: impl IntoIterator<Item = &'a Owner>) -> Vec<(u32, Option<u32>)> {
        owners.into_iter().map(|owner| (owner.pid, owner.fd)).collect()
    }

    #[test]
    fn thousands_of_descriptors_are_counted_and_sixteen_named() {
        let many = (3..19_003).map(|fd| (1, 40, fd));
        let charged = charged(&walk(RowFlags::empty(), many.chain([(1, 50, 9)]).collect()));
        assert_eq!((charged.total, charged.how), (19_001, OwnerHow::Fd));
        let listed: Vec<_> = (3..18).map(|fd| (40, Some(fd))).chain([(50, Some(9))]).collect();
        assert_eq!(pids(&charged.owners), listed);
        assert_eq!(charged.unlisted, []);
    }

    #[test]
    fn every_process_is_known_to_filters() {
        let many = (0..100).flat_map(|pid| [(1, pid, 5), (1, pid, 6)]);
        let charged = charged(&walk(RowFlags::empty(), many.collect()));
        assert_eq!((charged.total, charged.owners.len(), charged.unlisted.len()), (200, 16, 84));
        let all: Vec<_> = (0..100).map(|pid| (pid, Some(5))).collect();
        assert_eq!(pids(charged.processes()), all);
    }

    #[test]
    fn a_listener_with_many_holders_is_charged_likewise() {
        let many = (0..100).flat_map(|pid| [(2, pid, 5), (2, pid, 6)]);
        let charged = charged(&walk(RowFlags::IN_ACCEPT_QUEUE, many.collect()));
        assert_eq!((charged.total, charged.how), (200, OwnerHow::Listener));
        assert_eq!((charged.owners.len(), charged.unlisted.len()), (16, 84));
    }

    #[test]
    fn nobody_is_charged_with_a_socket_that_nobody_holds() {
        let charged = charged(&walk(RowFlags::empty(), Vec::new()));
        assert_eq!(charged.how, OwnerHow::None);
        assert_eq!((charged.total, charged.processes().count()), (0, 0));
    }
}
