//! Walks the kernel's sockets in every network namespace, and the descriptors that hold them.

pub mod namespaces;
pub mod sock_diag;
pub mod walk_thread;

use crate::host::bpf::decode;
use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
    vec::IntoIter,
};

use aya::{
    maps::MapError,
    programs::{Iter, ProgramError, links::LinkError},
};
use rustc_hash::{FxHashMap, FxHashSet};
use tcptrace_common::Descriptor;

use self::namespaces::{Namespace, Namespaces};
use crate::host::{attach_error, proc::process};
use crate::{
    clock,
    engine::walk::{Holder, Named, Reach, Walk, in_order},
    host::bpf::decode::{DecodeError, Found},
};

/// A walk could not be made, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The iterator could not be started.
    #[error("cannot walk the kernel's sockets: {}", attach_error::chain(.0))]
    Start(#[from] ProgramError),
    /// The iterator could not be opened.
    #[error("cannot open the walk of the kernel's sockets: {}", attach_error::chain(.0))]
    Open(#[from] LinkError),
    /// Reading from the iterator, or setting it up, failed.
    #[error("cannot read the kernel's sockets: {0}")]
    Read(#[from] io::Error),
    /// The kernel gave something that is no row.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The map that says which states are wanted could not be written.
    #[error("cannot say which sockets to walk: {}", attach_error::chain(.0))]
    States(#[from] MapError),
}

/// How the sockets of a namespace are read.
pub(crate) enum By<'a> {
    /// By `iter/tcp`; which states are wanted has been said before.
    Iterator(&'a mut Iter),
    /// By sock_diag, those in one of these states (a mask).
    SockDiag(u32),
}

/// How the descriptors are read that hold sockets.
pub(crate) struct Holders<'a> {
    pub(crate) iterator: &'a mut Iter,
    /// In which states sockets' holders are wanted (a mask), as has been said before.
    pub(crate) states: u32,
}

/// CPU time that each thread of a walk may spend in namespaces that need not be entered.
const CHEAP: Duration = Duration::from_millis(10);

/// How often a namespace that could not be entered is looked for again in one walk.
const SEARCHES: u32 = 3;

/// Namespaces that are left to be entered, each with whether it has to be, whatever that costs.
type Left = Mutex<IntoIter<(Namespace, bool)>>;

/// Walks the sockets, and who holds them if there is an iterator for that: both at once. Whichever is done
/// first goes on with the namespaces that are left. `sees_all`: whether no process is hidden from this one.
pub(crate) fn walk(
    sockets: By<'_>,
    mut holders: Option<Holders<'_>>,
    reach: &Reach,
    sees_all: bool,
) -> Result<Walk, WalkError> {
    let mut walk = Walk { started_ns: clock::monotonic_ns(), ..Walk::default() };
    let has_holders = holders.is_some();
    let (sockets, left) = (Mutex::new(sockets), OnceLock::new());
    let mut also = Walk::default();
    let held = thread::scope(|scope| {
        // Threads of their own, because one that has entered a namespace should not do anything else.
        let every_socket = spawn(scope, || {
            let (found, failed) = match namespaces::find(None) {
                Ok(found) => (found, None),
                Err(error) => (Namespaces::default(), Some(error)),
            };
            // The other thread waits for this.
            let left = left.get_or_init(|| Mutex::new(in_turn(found.others, reach, has_holders)));
            failed.map_or(Ok(()), Err)?;
            walk.found_all = found.is_complete && sees_all;
            read_sockets(&sockets, found.own.unwrap_or(0), &mut walk)?;
            walk.namespaces.extend(found.own);
            every_namespace(&sockets, left, &mut walk)?;
            walk.cpu_ns = clock::thread_cpu_ns();
            Ok(())
        })?;
        let held = holders.as_mut().map(|holders| {
            let every_holder = spawn(scope, || {
                let held = every_holder(holders.iterator)?;
                every_namespace(&sockets, left.wait(), &mut also)?;
                also.cpu_ns = clock::thread_cpu_ns();
                Ok(held)
            });
            joined(every_holder?)
        });
        joined(every_socket)?;
        held.transpose()
    })?;
    walk.append(also);
    let mut elsewhere = FxHashMap::default();
    if let (Some(mut held), Some(holders)) = (held, holders) {
        walk.holders = held.holders;
        // One that was accepted, or handed on, after those descriptors had been read and before the socket was.
        if walk.misses_a_holder(holders.states) {
            held = thread::scope(|scope| joined(spawn(scope, || every_holder(holders.iterator))?))?;
            walk.holders = held.holders;
        }
        elsewhere = held.elsewhere;
    }
    let missing = missing(&walk, reach, &elsewhere);
    if !missing.is_empty() {
        let led_to = elsewhere.values().map(|(row, _)| row.netns).collect();
        let mut also = Walk::default();
        let seek = || seek(&sockets, missing, &led_to, &walk, &mut also);
        let absent = thread::scope(|scope| joined(spawn(scope, seek)?))?;
        also.cpu_ns += walk.cpu_ns;
        walk.append(also);
        walk.left_out.retain(|netns| !absent.contains(netns));
    }
    for (row, origin) in elsewhere.into_values() {
        if !walk.namespaces.contains(&row.netns) {
            walk.led_to.insert(row.netns);
            walk.add(row, origin);
        }
    }
    let Walk { left_out, namespaces, ended, .. } = &mut walk;
    left_out.retain(|netns| !namespaces.contains(netns) && !ended.contains(netns));
    // A few that are in order already, one after the other.
    walk.sockets.sort_by_key(|row| row.ktime_ns);
    Ok(walk)
}

/// The namespaces in the order in which they are to be entered, each with whether it has to be. Where
/// descriptors are walked as well, only they tell which sockets are left to be looked for.
fn in_turn(found: Vec<Namespace>, reach: &Reach, has_holders: bool) -> IntoIter<(Namespace, bool)> {
    let due: FxHashSet<u32> = match reach {
        Reach::Everywhere(_) => {
            return found.into_iter().map(|namespace| (namespace, true)).collect::<Vec<_>>().into_iter();
        }
        Reach::Sockets(sockets) => sockets.iter().map(|(_, netns)| *netns).collect(),
    };
    let in_any = due.contains(&0);
    let (first, last): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|namespace| due.contains(&namespace.inode));
    let first = first.into_iter().map(|namespace| (namespace, in_any || !has_holders));
    let last = last.into_iter().map(|namespace| (namespace, in_any));
    first.chain(last).collect::<Vec<_>>().into_iter()
}

/// The namespaces that have to be looked for again: not walked, although that takes walking them to say whether
/// a socket is still there. `elsewhere`: the sockets that descriptors have led to.
fn missing(walk: &Walk, reach: &Reach, elsewhere: &FxHashMap<u64, Found>) -> FxHashSet<u32> {
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

/// Looks for namespaces again and walks them. One to which nothing leads in two searches has ended: a process may
/// have passed by the first one, its child's pid lower than its own. Returns those to which the last search found
/// no way.
fn seek(
    sockets: &Mutex<By<'_>>,
    mut missing: FxHashSet<u32>,
    led_to: &FxHashSet<u32>,
    before: &Walk,
    walk: &mut Walk,
) -> Result<FxHashSet<u32>, WalkError> {
    let was_found = |netns: &&u32| before.left_out.contains(*netns);
    let mut absent: FxHashSet<u32> = missing.iter().filter(|netns| !was_found(netns)).copied().collect();
    for _ in 0..SEARCHES {
        let found = namespaces::find(Some(&missing))?;
        let mut unseen = missing.clone();
        for namespace in found.others {
            unseen.remove(&namespace.inode);
            absent.remove(&namespace.inode);
            if namespace.enter()? {
                read_sockets(sockets, namespace.inode, walk)?;
                walk.namespaces.insert(namespace.inode);
                missing.remove(&namespace.inode);
            }
        }
        for netns in unseen {
            if absent.insert(netns) {
                continue;
            }
            missing.remove(&netns);
            // One that has sockets that are held has not ended, although there is no way into it. Of one that may
            // have a process that could not be asked nothing is known.
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

/// Finds the holders without an iterator for that.
pub(crate) fn add_holders(walk: &mut Walk) -> Result<(), WalkError> {
    thread::scope(|scope| {
        joined(spawn(scope, || {
            process::add_holders(walk)?;
            walk.cpu_ns += clock::thread_cpu_ns();
            Ok(())
        })?)
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    look: impl FnOnce() -> Result<T, WalkError> + Send + 'scope,
) -> io::Result<thread::ScopedJoinHandle<'scope, Result<T, WalkError>>> {
    thread::Builder::new().name(walk_thread::NAME.to_owned()).spawn_scoped(scope, look)
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T, WalkError>>) -> Result<T, WalkError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Walks the namespaces that are left. One that has to be entered and cannot be is left out, like one that need
/// not be once that has cost enough.
fn every_namespace(sockets: &Mutex<By<'_>>, left: &Left, walk: &mut Walk) -> Result<(), WalkError> {
    let began_ns = clock::thread_cpu_ns();
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    while let Some((namespace, has_to_be)) = next() {
        let is_cheap = || clock::thread_cpu_ns() - began_ns < CHEAP.as_nanos() as u64;
        if (has_to_be || is_cheap()) && namespace.enter()? {
            read_sockets(sockets, namespace.inode, walk)?;
            walk.namespaces.insert(namespace.inode);
        } else {
            walk.left_out.insert(namespace.inode);
        }
    }
    Ok(())
}

/// The sockets of the namespace that this thread is in.
fn read_sockets(sockets: &Mutex<By<'_>>, namespace: u32, walk: &mut Walk) -> Result<(), WalkError> {
    let file = match &mut *sockets.lock().unwrap_or_else(PoisonError::into_inner) {
        By::Iterator(iterator) => Ok(open(iterator)?),
        By::SockDiag(states) => Err(*states),
    };
    match file {
        Ok(file) => read_rows(file, |rows| {
            let (row, origin) = decode::found_socket(rows)?;
            walk.add(row, origin);
            Ok(())
        }),
        Err(states) => {
            let mut rows = Vec::new();
            sock_diag::walk(states, namespace, &mut rows)?;
            rows.into_iter().for_each(|row| walk.add(row, None));
            Ok(())
        }
    }
}

/// What the descriptors tell.
struct Held {
    holders: Vec<Holder>,
    /// The sockets of other namespaces than our own: perhaps only their holders lead to them, as no process lives there
    /// any more.
    elsewhere: FxHashMap<u64, Found>,
}

fn every_holder(holders: &mut Iter) -> Result<Held, WalkError> {
    let mut held = Held { holders: Vec::new(), elsewhere: FxHashMap::default() };
    read_rows(open(holders)?, |rows| {
        let (descriptor, socket) = decode::holder(rows)?;
        let Descriptor { cookie, pid, fd, uid, start_ns, comm, .. } = descriptor;
        let process = Some(Named { start_ns, uid, comm });
        held.holders.push(Holder { cookie, pid, fd, process });
        if let Some(socket) = socket {
            held.elsewhere.entry(cookie).or_insert(socket);
        }
        Ok(())
    })?;
    // While the sockets are still being read.
    held.holders = in_order(held.holders);
    Ok(held)
}

/// A walk of its own, in the namespace that this thread is in.
fn open(iterator: &mut Iter) -> Result<File, WalkError> {
    let link = iterator.attach()?;
    Ok(iterator.take_link(link)?.into_file()?)
}

/// Reads an iterator to its end; `take` takes one row off what was read. The kernel gives whole rows, up to eight pages of
/// them at a time, and EAGAIN when it went a long way without finding any (`bpf_seq_read`, `kernel/bpf/bpf_iter.c`).
fn read_rows(
    mut file: File,
    mut take: impl FnMut(&mut &[u8]) -> Result<(), DecodeError>,
) -> Result<(), WalkError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut rows = match file.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Ok(0) => return Ok(()),
            read => &buffer[..read?],
        };
        while !rows.is_empty() {
            take(&mut rows)?;
        }
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
            .map(|(namespace, has_to_be)| (namespace.inode, has_to_be))
            .collect()
    }

    #[test]
    fn the_namespaces_of_due_sockets_are_entered_first() {
        let due = Reach::Sockets(vec![(1, 30), (2, 30), (3, 50)]);
        let found = [10, 30, 40, 50];
        // Descriptors lead to most sockets: only then is it known which namespaces have to be entered.
        assert_eq!(order(&found, &due, true), [(30, false), (50, false), (10, false), (40, false)]);
        assert_eq!(order(&found, &due, false), [(30, true), (50, true), (10, false), (40, false)]);
        let somewhere = Reach::Sockets(vec![(1, 0), (2, 30)]);
        assert_eq!(order(&found, &somewhere, true), [(30, true), (10, true), (40, true), (50, true)]);
        assert_eq!(order(&found, &Reach::default(), true), found.map(|inode| (inode, true)));
    }

    #[test]
    fn a_namespace_is_missing_if_only_a_walk_of_it_tells_what_is_there() {
        let set = |inodes: &[u32]| inodes.iter().copied().collect::<FxHashSet<u32>>();
        let walk = Walk { namespaces: set(&[10]), left_out: set(&[20, 21]), ..Walk::default() };
        let held: FxHashMap<u64, Found> = [(7, (SocketRow::zeroed(), None))].into_iter().collect();
        let due = Reach::Sockets(vec![(1, 10), (2, 20), (7, 21), (8, 99), (9, 0)]);
        assert_eq!(missing(&walk, &due, &held), set(&[20, 99]), "a descriptor leads to 7");
        let known = Reach::Everywhere(set(&[0, 10, 99]));
        assert_eq!(missing(&walk, &known, &held), set(&[20, 21, 99]));
    }
}
