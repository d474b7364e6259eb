//! Looks again for network namespaces that a walk did not find, and walks them.

use std::sync::Mutex;

use rustc_hash::FxHashSet;

use crate::{
    clock,
    engine::walk::Walk,
    host::walk::{
        error::WalkError,
        namespaces,
        socket_reader::{SocketReader, read_namespace},
        threads,
    },
};

/// How often one walk looks again for a namespace that it could not enter.
const SEARCHES: u32 = 3;

/// Looks for the `missing` namespaces and walks them. `led_to`: the namespaces of sockets to which
/// descriptors have led.
///
/// A namespace to which nothing leads in two searches has ended. One search does not prove it: a
/// process may slip past it by starting a child with a lower pid than its own.
///
/// # Errors
/// See [`WalkError`].
pub(crate) fn seek_missing(
    sockets: &Mutex<SocketReader<'_>>,
    missing: FxHashSet<u32>,
    led_to: &FxHashSet<u32>,
    walk: &mut Walk,
) -> Result<(), WalkError> {
    if missing.is_empty() {
        return Ok(());
    }
    let mut found = Walk::default();
    let absent = threads::run_walk(|| search_missing(sockets, missing, led_to, walk, &mut found))?;
    found.cpu_ns += walk.cpu_ns;
    walk.append(found);
    walk.left_out.retain(|netns| !absent.contains(netns));
    Ok(())
}

/// Searches up to [`SEARCHES`] times. Returns the namespaces to which the last search found no
/// way.
fn search_missing(
    sockets: &Mutex<SocketReader<'_>>,
    mut missing: FxHashSet<u32>,
    led_to: &FxHashSet<u32>,
    before: &Walk,
    walk: &mut Walk,
) -> Result<FxHashSet<u32>, WalkError> {
    let was_found = |netns: &&u32| before.left_out.contains(*netns);
    let mut absent: FxHashSet<u32> = missing.iter().filter(|netns| !was_found(netns)).copied().collect();
    for _ in 0..SEARCHES {
        let found = namespaces::find_namespaces(Some(&missing))?;
        let mut unseen = missing.clone();
        for namespace in found.others {
            unseen.remove(&namespace.inode);
            absent.remove(&namespace.inode);
            if namespace.enter()? {
                read_namespace(sockets, namespace.inode, walk)?;
                walk.namespaces.insert(namespace.inode);
                missing.remove(&namespace.inode);
            }
        }
        for netns in unseen {
            if absent.insert(netns) {
                continue;
            }
            // The second search without a way into it.
            missing.remove(&netns);
            // A namespace with held sockets has not ended, although there is no way into it. If a
            // process could not be asked, it may be in that namespace: nothing is known.
            if !led_to.contains(&netns) && found.is_complete && before.found_all {
                walk.ended.insert(netns);
            }
        }
        if missing.is_empty() {
            break;
        }
    }
    walk.left_out.extend(missing);
    walk.cpu_ns = clock::thread_cpu_ns();
    Ok(absent)
}
