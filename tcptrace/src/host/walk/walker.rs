//! One walk: its threads, and how their results are put together.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    vec::IntoIter,
};

use rustc_hash::FxHashMap;

use crate::{
    clock,
    engine::walk::{Reach, Walk},
    host::walk::{
        error::WalkError,
        iter::{HeldSockets, HolderReader, read_holders},
        namespaces::{self, Namespaces},
        proc_fd,
        reach::{Candidate, in_turn, missing_namespaces},
        seek::seek_missing,
        socket_reader::{SocketReader, read_namespace},
        threads::{self, join, spawn},
    },
};

/// The CPU time that each thread of a walk may spend in namespaces that are not required,
/// nanoseconds.
const OPTIONAL_CPU_NS: u64 = 10_000_000;

/// The namespaces that are yet to be entered. Both threads take from it.
type Left = Mutex<IntoIter<Candidate>>;

/// Walks the sockets and, if there is an iterator for them, the descriptors. `sees_all`: whether
/// no process is hidden from this one.
///
/// # Errors
/// See [`WalkError`]. Namespaces and processes that vanish meanwhile are no error.
pub(crate) fn walk(
    sockets: SocketReader<'_>,
    mut holders: Option<HolderReader<'_>>,
    reach: &Reach,
    sees_all: bool,
) -> Result<Walk, WalkError> {
    let sockets = Mutex::new(sockets);
    let (mut walk, held) = walk_both(&sockets, holders.as_mut(), reach, sees_all)?;
    let mut elsewhere = FxHashMap::default();
    if let (Some(mut held), Some(holders)) = (held, holders) {
        walk.holders = held.holders;
        // A socket may have been accepted or passed on after its descriptor would have been read,
        // and before the socket itself was.
        if walk.misses_a_holder(holders.states) {
            held = threads::run_walk(|| read_holders(holders.iterator))?;
            walk.holders = held.holders;
        }
        elsewhere = held.elsewhere;
    }
    let led_to = elsewhere.values().map(|(row, _)| row.netns).collect();
    seek_missing(&sockets, missing_namespaces(&walk, reach, &elsewhere), &led_to, &mut walk)?;
    for (row, origin) in elsewhere.into_values() {
        if !walk.namespaces.contains(&row.netns) {
            walk.led_to.insert(row.netns);
            walk.add(row, origin);
        }
    }
    let Walk { left_out, namespaces, ended, .. } = &mut walk;
    left_out.retain(|netns| !namespaces.contains(netns) && !ended.contains(netns));
    // A stable sort is fast here: the rows are a few sorted runs, one after the other.
    walk.sockets.sort_by_key(|row| row.ktime_ns);
    Ok(walk)
}

/// Walks sockets and descriptors at the same time, each in a thread of its own. The thread that is
/// done first continues with the namespaces that are left.
fn walk_both(
    sockets: &Mutex<SocketReader<'_>>,
    holders: Option<&mut HolderReader<'_>>,
    reach: &Reach,
    sees_all: bool,
) -> Result<(Walk, Option<HeldSockets>), WalkError> {
    let mut walk = Walk { started_ns: clock::monotonic_ns(), ..Walk::default() };
    let mut by_holders = Walk::default();
    let (left, has_holders) = (OnceLock::new(), holders.is_some());
    let held = thread::scope(|scope| {
        let socket_thread = spawn(scope, || {
            let (found, failed) = match namespaces::find_namespaces(None) {
                Ok(found) => (found, None),
                Err(error) => (Namespaces::default(), Some(error)),
            };
            // The other thread waits for this, so it is set even after an error.
            let left = left.get_or_init(|| Mutex::new(in_turn(found.others, reach, has_holders)));
            failed.map_or(Ok(()), Err)?;
            walk.found_all = found.is_complete && sees_all;
            read_namespace(sockets, found.own.unwrap_or(0), &mut walk)?;
            walk.namespaces.extend(found.own);
            read_left(sockets, left, &mut walk)?;
            walk.cpu_ns = clock::thread_cpu_ns();
            Ok(())
        })?;
        let held = holders.map(|holders| {
            let holder_thread = spawn(scope, || {
                let held = read_holders(holders.iterator)?;
                read_left(sockets, left.wait(), &mut by_holders)?;
                by_holders.cpu_ns = clock::thread_cpu_ns();
                Ok(held)
            });
            join(holder_thread?)
        });
        join(socket_thread)?;
        held.transpose()
    })?;
    walk.append(by_holders);
    Ok((walk, held))
}

/// Walks the namespaces that are left. Leaves out a required one that cannot be entered, and the
/// others once they have cost enough.
fn read_left(sockets: &Mutex<SocketReader<'_>>, left: &Left, walk: &mut Walk) -> Result<(), WalkError> {
    let began_ns = clock::thread_cpu_ns();
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    while let Some(Candidate { namespace, is_required }) = next() {
        let is_cheap = || clock::thread_cpu_ns() - began_ns < OPTIONAL_CPU_NS;
        if (is_required || is_cheap()) && namespace.enter()? {
            read_namespace(sockets, namespace.inode, walk)?;
            walk.namespaces.insert(namespace.inode);
        } else {
            walk.left_out.insert(namespace.inode);
        }
    }
    Ok(())
}

/// Adds the holders of a walk's sockets without an iterator for them.
///
/// # Errors
/// See [`WalkError`].
pub(crate) fn add_holders(walk: &mut Walk) -> Result<(), WalkError> {
    threads::run_walk(|| {
        proc_fd::add_holders(walk)?;
        walk.cpu_ns += clock::thread_cpu_ns();
        Ok(())
    })
}
