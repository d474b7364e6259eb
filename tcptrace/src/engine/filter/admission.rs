//! A filter over the records of a run, in their order: what was admitted once bears on what comes later about the same
//! socket.

use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::state;

use crate::engine::filter::Filter;
use crate::events::{Event, Owner, OwnerHow};

/// What the filter admits, also of what comes later about the same socket.
#[derive(Debug)]
pub(crate) struct Admission {
    /// What is to be reported.
    pub(crate) filter: Filter,
    /// Whether it is empty: asked of every record.
    admits_all: bool,
    /// Sockets reported stuck, and not yet cleared: that is reported too.
    stuck: FxHashSet<u64>,
    /// Whether the process of a socket was admitted, where a transition or a walk has told it: for transitions that do
    /// not tell. Kept as long as the socket.
    by_process: FxHashMap<u64, bool>,
    /// Whether a life is told after the last transition of a connection.
    tells_lives: bool,
}

impl Admission {
    /// Nothing admitted yet.
    pub(crate) fn by(filter: Filter, tells_lives: bool) -> Self {
        let admits_all = filter.is_empty();
        Self {
            filter,
            admits_all,
            stuck: FxHashSet::default(),
            by_process: FxHashMap::default(),
            tells_lives,
        }
    }

    /// These processes have to do with the socket.
    pub(crate) fn learn<'a>(&mut self, cookie: u64, owners: impl IntoIterator<Item = &'a Owner>) {
        let is_admitted = owners.into_iter().any(|owner| self.filter.admits_owner(owner));
        self.by_process.insert(cookie, is_admitted);
    }

    /// Whether a socket that has been found stuck, and is not cleared, was reported.
    pub(crate) fn has_reported(&self, cookie: u64) -> bool {
        self.admits_all || self.stuck.contains(&cookie)
    }

    /// The socket is gone.
    pub(crate) fn forget(&mut self, cookie: u64) {
        self.by_process.remove(&cookie);
    }

    /// Whether a record is to be reported.
    pub(crate) fn admits(&mut self, event: &Event) -> bool {
        if self.admits_all {
            return true;
        }
        match event {
            Event::Stuck(stuck) => {
                let is_admitted = self.filter.admits(&stuck.socket, stuck.details.processes());
                if is_admitted {
                    self.stuck.insert(stuck.socket.cookie);
                }
                is_admitted
            }
            // What was left is told of those whose coming was.
            Event::Found(found) => {
                let cookie = found.socket.cookie;
                let mut is_admitted = self.filter.admits_socket(&found.socket);
                if self.filter.asks_for_processes() {
                    let is_held = matches!(found.details.owner_how, OwnerHow::Fd | OwnerHow::Listener);
                    if is_held || !self.by_process.contains_key(&cookie) {
                        self.learn(cookie, found.details.processes());
                    }
                    is_admitted &= self.by_process.get(&cookie) == Some(&true);
                    if found.state.0 == state::CLOSE {
                        self.by_process.remove(&cookie);
                    }
                }
                is_admitted
            }
            Event::Cleared(cleared) => self.stuck.remove(&cleared.socket.cookie),
            Event::Transition(transition) => {
                let cookie = transition.socket.cookie;
                let mut is_admitted = self.filter.admits_socket(&transition.socket);
                if self.filter.asks_for_processes() {
                    if let Some(owner) = &transition.owner {
                        self.learn(cookie, [owner]);
                    }
                    is_admitted &= self.by_process.get(&cookie).is_some_and(|is_admitted| *is_admitted);
                    let is_last = transition.new_state.0 == state::CLOSE || transition.stand_in;
                    if is_last && (!self.tells_lives || transition.old_state.0 == state::LISTEN) {
                        self.by_process.remove(&cookie);
                    }
                }
                is_admitted
            }
            Event::Life(life) => {
                let known = self.by_process.remove(&life.socket.cookie);
                let is_its = |owner: &Owner| self.filter.admits_owner(owner);
                self.filter.admits_socket(&life.socket)
                    && (!self.filter.asks_for_processes()
                        || known == Some(true)
                        || life.owner.as_ref().is_some_and(is_its))
            }
            _ => true,
        }
    }
}
