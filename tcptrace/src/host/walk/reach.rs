//! Decides which network namespaces a walk enters, and in which order.

use std::vec::IntoIter;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    engine::walk::{Reach, Walk},
    host::{bpf::decode::FoundSocket, walk::namespaces::Namespace},
};

/// A namespace that may be entered.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) namespace: Namespace,
    /// Whether it has to be entered, whatever that costs.
    pub(crate) is_required: bool,
}

/// Puts the namespaces into the order in which to enter them.
///
/// If descriptors are walked as well (`has_holders`), only their walk shows which sockets are left
/// to look for: no namespace is required before.
pub(crate) fn in_turn(found: Vec<Namespace>, reach: &Reach, has_holders: bool) -> IntoIter<Candidate> {
    let due: FxHashSet<u32> = match reach {
        Reach::Everywhere(_) => return candidates_of(found, true).collect::<Vec<_>>().into_iter(),
        Reach::Sockets(sockets) => sockets.iter().map(|(_, netns)| *netns).collect(),
    };
    // 0 is a namespace that is not known: a due socket may be in any.
    let in_any = due.contains(&0);
    let (first, last): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|namespace| due.contains(&namespace.inode));
    let first = candidates_of(first, in_any || !has_holders);
    first.chain(candidates_of(last, in_any)).collect::<Vec<_>>().into_iter()
}

fn candidates_of(found: Vec<Namespace>, is_required: bool) -> impl Iterator<Item = Candidate> {
    found.into_iter().map(move |namespace| Candidate { namespace, is_required })
}

/// Returns the namespaces to look for again: they were not walked, and only a walk of them shows
/// whether a socket is still there. `elsewhere`: the sockets to which descriptors have led.
pub(crate) fn missing_namespaces(
    walk: &Walk,
    reach: &Reach,
    elsewhere: &FxHashMap<u64, FoundSocket>,
) -> FxHashSet<u32> {
    let is_missing = |netns: &u32| *netns != 0 && !walk.namespaces.contains(netns);
    match reach {
        Reach::Everywhere(known) => known.union(&walk.left_out).copied().filter(is_missing).collect(),
        Reach::Sockets(sockets) => sockets
            .iter()
            .filter(|(cookie, _)| !elsewhere.contains_key(cookie))
            .map(|(_, netns)| *netns)
            .filter(is_missing)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use tcptrace_common::SocketRow;

    use super::*;

    fn order(found: &[u32], reach: &Reach, has_holders: bool) -> Vec<(u32, bool)> {
        let found = found.iter().map(|inode| Namespace::new(*inode)).collect();
        in_turn(found, reach, has_holders)
            .map(|candidate| (candidate.namespace.inode, candidate.is_required))
            .collect()
    }

    #[test]
    fn the_namespaces_of_due_sockets_are_entered_first() {
        let due = Reach::Sockets(vec![(1, 30), (2, 30), (3, 50)]);
        let found = [10, 30, 40, 50];
        // Descriptors lead to most sockets: only then is it known which namespaces are required.
        assert_eq!(order(&found, &due, true), [(30, false), (50, false), (10, false), (40, false)]);
        assert_eq!(order(&found, &due, false), [(30, true), (50, true), (10, false), (40, false)]);
        let somewhere = Reach::Sockets(vec![(1, 0), (2, 30)]);
        assert_eq!(order(&found, &somewhere, true), [(30, true), (10, true), (40, true), (50, true)]);
        assert_eq!(order(&found, &Reach::default(), true), found.map(|inode| (inode, true)));
    }

    #[test]
    fn a_namespace_is_missing_if_only_a_walk_of_it_shows_what_is_there() {
        let set = |inodes: &[u32]| inodes.iter().copied().collect::<FxHashSet<u32>>();
        let walk = Walk { namespaces: set(&[10]), left_out: set(&[20, 21]), ..Walk::default() };
        let held: FxHashMap<u64, FoundSocket> = [(7, (SocketRow::zeroed(), None))].into_iter().collect();
        let due = Reach::Sockets(vec![(1, 10), (2, 20), (7, 21), (8, 99), (9, 0)]);
        assert_eq!(missing_namespaces(&walk, &due, &held), set(&[20, 99]), "a descriptor leads to 7");
        let known = Reach::Everywhere(set(&[0, 10, 99]));
        assert_eq!(missing_namespaces(&walk, &known, &held), set(&[20, 21, 99]));
    }
}
