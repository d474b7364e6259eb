//! What `--once` was asked about and could not look at: a verdict must not be green for what nobody
//! has seen.
//!
//! Pure: what a walk and `/proc` have shown comes in as data.

use std::{collections::BTreeSet, fmt::Write as _};

use rustc_hash::FxHashSet;
use tcptrace_common::{SocketRow, state};

use crate::engine::{
    filter::{
        Filter,
        missing::{HostContents, Missing, Resident},
    },
    walk::Walk,
};

/// The processes of this host, as far as they may be seen.
#[derive(Debug, Default)]
pub struct Residents {
    /// Those that `/proc` lists; none where the filter does not ask for processes.
    pub listed: Vec<Resident>,
    /// Whether it lists every process: no hidepid keeps any back.
    pub lists_all: bool,
    /// Whether every process may be asked for its network namespace.
    pub asks_all: bool,
}

/// What was not looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CoverageGaps {
    /// What is not there.
    pub missing: Vec<Missing>,
    /// Network namespaces that are there and could not be entered.
    pub namespaces: Vec<u32>,
    /// Whether there may be processes that cannot be seen, and namespaces that only they lead to.
    pub processes: bool,
    /// Processes whose descriptors may not be seen.
    pub descriptors: Vec<u32>,
    /// Processes that do not say what they run, which a filter asks about.
    pub unnamed: Vec<u32>,
}

/// So many numbers are shown.
const SHOWN: usize = 5;

impl CoverageGaps {
    /// What the filter asks about and a walk did not show. The rest of the host does not matter.
    /// `unnamed_holders`: holders of sockets that did not say what they run.
    pub fn find_gaps(
        filter: &Filter,
        walk: &Walk,
        residents: &Residents,
        has_cgroup: &dyn Fn(&str) -> bool,
        unnamed_holders: &BTreeSet<u32>,
    ) -> Self {
        let Residents { listed, lists_all, asks_all } = residents;
        let mut there: FxHashSet<u32> = walk.namespaces.union(&walk.left_out).copied().collect();
        there.extend(walk.sockets.iter().map(|row| row.netns));
        let asks = filter.asks_for_processes();
        let asked: Vec<_> = if asks {
            filter.admitted_processes(listed).filter(|resident| !resident.is_kernel_thread).collect()
        } else {
            Vec::new()
        };
        // The namespaces that have to be seen, where they can be told.
        let needed: Option<FxHashSet<u32>> = if !filter.named_namespaces().is_empty() {
            Some(filter.named_namespaces().iter().copied().collect())
        } else if asks && *lists_all {
            asked.iter().map(|resident| resident.netns).collect()
        } else {
            None
        };
        let mut unnamed = BTreeSet::new();
        if filter.asks_for_programs() {
            let owners = listed.iter().map(|resident| &resident.owner);
            unnamed.extend(owners.filter(|owner| owner.lacks_program()).map(|owner| owner.pid));
            unnamed.extend(unnamed_holders);
        }
        let is_needed = |netns: &u32| needed.as_ref().is_none_or(|needed| needed.contains(netns));
        // Descriptors lead to a listener in a namespace that nothing else leads to, and not to what
        // waits in its queue.
        let has_queue = |row: &&SocketRow| row.state == state::LISTEN && row.unread > 0;
        let queues = walk.sockets.iter().filter(has_queue).map(|row| row.netns);
        let queues = queues.filter(|netns| *netns != 0 && !walk.namespaces.contains(netns));
        let mut namespaces: Vec<_> = walk.left_out.iter().copied().chain(queues).filter(is_needed).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        let mut missing =
            filter.find_missing(&HostContents { residents: listed, namespaces: &there, has_cgroup });
        // Any of the others may run it.
        missing.retain(|missing| unnamed.is_empty() || !matches!(missing, Missing::Program(_)));
        Self {
            missing,
            namespaces,
            processes: (asks && !lists_all) || (needed.is_none() && !asks_all),
            descriptors: asked
                .iter()
                .filter(|resident| !resident.shows_descriptors)
                .map(|resident| resident.owner.pid)
                .collect(),
            unnamed: unnamed.into_iter().collect(),
        }
    }

    /// Whether all was looked at.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What was not looked at, in a line.
    pub fn describe_gaps(&self) -> String {
        let mut parts: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
        if !self.namespaces.is_empty() {
            let what = format_count(&self.namespaces, "network namespace");
            parts.push(format!("{what} could not be entered"));
        }
        if self.processes {
            parts.push(
                "other users' processes may not be looked at, nor the network namespaces that only they lead to"
                    .to_owned(),
            );
        }
        if !self.descriptors.is_empty() {
            parts.push(format!(
                "the descriptors of {} may not be read",
                format_count(&self.descriptors, "process")
            ));
        }
        if !self.unnamed.is_empty() {
            let what = format_count(&self.unnamed, "process");
            parts.push(format!("what is run by {what} cannot be read"));
        }
        parts.join("; ")
    }

    /// Why there is no verdict where nothing was found stuck, and what to do about it.
    pub fn refusal_message(&self) -> String {
        let mut text = format!("cannot tell whether anything is stuck: {}", self.describe_gaps());
        let (why, remedy) = if self.missing.is_empty() {
            ("what could be looked at is not stuck; what could not may be", String::new())
        } else {
            (
                "nothing stuck and nothing there would look the same to a health check",
                "check the filter; without --once tcptrace waits for what is not there yet".to_owned(),
            )
        };
        let mut remedies = vec![remedy];
        let may_be_seen =
            Self { missing: self.missing.clone(), unnamed: self.unnamed.clone(), ..Self::default() };
        if *self != may_be_seen {
            let needs = [
                (!self.namespaces.is_empty(), "CAP_SYS_ADMIN"),
                (self.processes, "CAP_SYS_PTRACE"),
                (!self.descriptors.is_empty(), "CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE"),
            ];
            let needs: Vec<_> = needs.into_iter().filter(|(is, _)| *is).map(|(_, needed)| needed).collect();
            remedies.push(format!("run it as root, or add {}", needs.join(" and ")));
        }
        if !self.unnamed.is_empty() {
            remedies.push("filter by --pid or --comm, which need no answer of the process".to_owned());
        }
        remedies.retain(|remedy| !remedy.is_empty());
        let _infallible = write!(text, "\n  why:  {why}\n  do:   {}", remedies.join("; "));
        text
    }
}

/// `2 processes (17, 42)`
fn format_count(numbers: &[u32], thing: &str) -> String {
    let shown: Vec<_> = numbers.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = if numbers.len() > SHOWN { ", …" } else { "" };
    let plural = match (numbers.len(), thing.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {thing}{plural} ({}{more})", numbers.len(), shown.join(", "))
}

#[cfg(test)]
mod tests;
