//! A filter over the events of a run, in their order: what was admitted once bears on what comes
//! later about the same socket.

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::state;

use crate::{
    engine::filter::Filter,
    events::{LifeRecord, Owner, OwnerHow, SocketDetails, Stuck, Transition},
};

/// Says what a filter admits, also of what comes later about the same socket.
#[derive(Debug)]
pub(crate) struct Admission {
    /// What is to be reported.
    pub(crate) filter: Filter,
    /// The filter is empty: asked for every event.
    admits_all: bool,
    /// Whether it depends on processes.
    asks_for_processes: bool,
    /// Sockets reported stuck, and not yet cleared: that is reported too.
    stuck: FxHashSet<u64>,
    /// Whether the process of a socket was admitted, where a transition or a walk has told it: for
    /// transitions that do not tell. Kept as long as the socket.
    by_process: FxHashMap<u64, bool>,
    /// Whether a life is reported after the last transition of a connection.
    reports_lives: bool,
}

impl Admission {
    /// Has admitted nothing yet.
    pub(crate) fn of_filter(filter: Filter, reports_lives: bool) -> Self {
        Self {
            admits_all: filter.is_empty(),
            asks_for_processes: filter.asks_for_processes(),
            filter,
            stuck: FxHashSet::default(),
            by_process: FxHashMap::default(),
            reports_lives,
        }
    }

    /// Whether the filter depends on processes.
    pub(crate) const fn asks_for_processes(&self) -> bool {
        self.asks_for_processes
    }

    /// Learns which processes have to do with a socket.
    pub(crate) fn learn_owners<'a>(&mut self, cookie: u64, owners: impl IntoIterator<Item = &'a Owner>) {
        let is_admitted = owners.into_iter().any(|owner| self.filter.admits_owner(owner));
        self.by_process.insert(cookie, is_admitted);
    }

    /// Forgets a socket that is gone.
    pub(crate) fn forget_socket(&mut self, cookie: u64) {
        self.by_process.remove(&cookie);
    }

    /// Whether a socket that was found stuck, and is not cleared, was reported.
    pub(crate) fn has_reported(&self, cookie: u64) -> bool {
        self.admits_all || self.stuck.contains(&cookie)
    }

    /// Marks the owners for which a process filter asked.
    pub(crate) fn mark_requested(&self, details: &mut SocketDetails) {
        for owner in details.processes_mut() {
            owner.is_requested = self.filter.admits_owner(owner);
        }
    }

    /// Decides whether it is reported that a socket is stuck.
    pub(crate) fn admits_stuck(&mut self, stuck: &Stuck) -> bool {
        if self.admits_all {
            return true;
        }
        let is_admitted = self.filter.admits(&stuck.socket, stuck.details.processes());
        if is_admitted {
            self.stuck.insert(stuck.socket.cookie);
        }
        is_admitted
    }

    /// Decides whether it is reported how a walk found a socket. That a socket is gone is reported
    /// if the socket was.
    pub(crate) fn admits_found(&mut self, found: &Stuck) -> bool {
        if self.admits_all {
            return true;
        }
        let cookie = found.socket.cookie;
        let mut is_admitted = self.filter.admits_socket(&found.socket);
        if self.asks_for_processes {
            let is_held = matches!(found.details.owner_how, OwnerHow::Fd | OwnerHow::Listener);
            if is_held || !self.by_process.contains_key(&cookie) {
                self.learn_owners(cookie, found.details.processes());
            }
            is_admitted &= self.by_process.get(&cookie) == Some(&true);
            if found.state.0 == state::CLOSE {
                self.by_process.remove(&cookie);
            }
        }
        is_admitted
    }

    /// Decides whether it is reported that a socket is no longer stuck: if it was reported stuck.
    pub(crate) fn admits_cleared(&mut self, cookie: u64) -> bool {
        self.admits_all || self.stuck.remove(&cookie)
    }

    /// Whether a transition is reported.
    pub(crate) fn admits_transition(&mut self, transition: &Transition) -> bool {
        if self.admits_all {
            return true;
        }
        let cookie = transition.socket.cookie;
        let mut is_admitted = self.filter.admits_socket(&transition.socket);
        if self.asks_for_processes {
            if let Some(owner) = &transition.owner {
                self.learn_owners(cookie, [owner]);
            }
            is_admitted &= self.by_process.get(&cookie).is_some_and(|is_admitted| *is_admitted);
            let is_last = transition.new_state.0 == state::CLOSE || transition.stand_in;
            if is_last && (!self.reports_lives || transition.old_state.0 == state::LISTEN) {
                self.by_process.remove(&cookie);
            }
        }
        is_admitted
    }

    /// Whether a connection's life is reported.
    pub(crate) fn admits_life(&mut self, life: &LifeRecord) -> bool {
        if self.admits_all {
            return true;
        }
        let known = self.by_process.remove(&life.socket.cookie);
        let is_requested = |owner: &Owner| self.filter.admits_owner(owner);
        self.filter.admits_socket(&life.socket)
            && (!self.asks_for_processes
                || known == Some(true)
                || life.owner.as_ref().is_some_and(is_requested))
    }
}
