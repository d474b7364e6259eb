//! Walks the kernel's sockets in every network namespace, and the descriptors that hold them.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    vec::IntoIter,
};

use aya::{
    maps::MapError,
    programs::{Iter, ProgramError, links::LinkError},
};
use rustc_hash::FxHashMap;
use tcptrace_common::Descriptor;

use super::{
    namespaces::{self, Namespace},
    procfs, sock_diag, walker,
};
use crate::{
    clock,
    decode::{self, DecodeError, Found},
    walk::{Holder, Named, Walk, in_order},
};

/// A walk could not be made, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The iterator could not be started.
    #[error("cannot walk the kernel's sockets: {0}")]
    Start(#[from] ProgramError),
    /// The iterator could not be opened.
    #[error("cannot open the walk of the kernel's sockets: {0}")]
    Open(#[from] LinkError),
    /// Reading from the iterator, or setting it up, failed.
    #[error("cannot read the kernel's sockets: {0}")]
    Read(#[from] io::Error),
    /// The kernel gave something that is no row.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The map that says which states are wanted could not be written.
    #[error("cannot say which sockets to walk: {0}")]
    States(#[from] MapError),
}

/// How the sockets of a namespace are read.
pub(super) enum By<'a> {
    /// By `iter/tcp`; which states are wanted has been said before.
    Iterator(&'a mut Iter),
    /// By sock_diag, those in one of these states (a mask).
    SockDiag(u32),
}

/// How the descriptors are read that hold sockets.
pub(super) struct Holders<'a> {
    pub(super) iterator: &'a mut Iter,
    /// In which states sockets' holders are wanted (a mask), as has been said before.
    pub(super) states: u32,
}

/// Walks all sockets, and who holds them where there is an iterator for that: both at once. Whichever is done first goes on
/// with the namespaces that are left.
pub(super) fn walk(sockets: By<'_>, mut holders: Option<Holders<'_>>) -> Result<Walk, WalkError> {
    let mut walk = Walk { started_ns: clock::monotonic_ns(), ..Walk::default() };
    let (sockets, others) = (Mutex::new(sockets), OnceLock::new());
    let mut also = Walk::default();
    let held = thread::scope(|scope| {
        // Threads of their own, because one that has entered a namespace should not do anything else.
        let every_socket = spawn(scope, || {
            let found = namespaces::find();
            let others = others.get_or_init(|| Mutex::new(found.others.into_iter()));
            read_sockets(&sockets, found.own.unwrap_or(0), &mut walk)?;
            walk.namespaces.extend(found.own);
            every_namespace(&sockets, others, &mut walk)
        })?;
        let held = holders.as_mut().map(|holders| {
            let every_holder = spawn(scope, || {
                let held = every_holder(holders.iterator)?;
                every_namespace(&sockets, others.wait(), &mut also)?;
                Ok(held)
            });
            joined(every_holder?)
        });
        joined(every_socket)?;
        held.transpose()
    })?;
    walk.append(also);
    if let (Some(Held { holders: found, mut elsewhere }), Some(holders)) = (held, holders) {
        walk.holders = found;
        // One that was accepted, or handed on, after those descriptors had been read and before the socket was.
        if walk.misses_a_holder(holders.states) {
            let again = thread::scope(|scope| joined(spawn(scope, || every_holder(holders.iterator))?))?;
            Held { holders: walk.holders, elsewhere } = again;
        }
        for (row, origin) in elsewhere.into_values() {
            if !walk.namespaces.contains(&row.netns) {
                walk.add(row, origin);
            }
        }
    }
    // A few that are in order already, one after the other.
    walk.sockets.sort_by_key(|row| row.ktime_ns);
    Ok(walk)
}

/// Finds the holders without an iterator for that.
pub(super) fn add_holders(walk: &mut Walk) -> Result<(), WalkError> {
    thread::scope(|scope| {
        joined(spawn(scope, || {
            procfs::add_holders(walk);
            Ok(())
        })?)
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    look: impl FnOnce() -> Result<T, WalkError> + Send + 'scope,
) -> io::Result<thread::ScopedJoinHandle<'scope, Result<T, WalkError>>> {
    thread::Builder::new().name(walker::NAME.to_owned()).spawn_scoped(scope, look)
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T, WalkError>>) -> Result<T, WalkError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Those that are left. One that cannot be entered is left out: it is gone, or not ours to see.
fn every_namespace(
    sockets: &Mutex<By<'_>>,
    left: &Mutex<IntoIter<Namespace>>,
    walk: &mut Walk,
) -> Result<(), WalkError> {
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    while let Some(namespace) = next() {
        match namespace.enter() {
            Ok(()) => {
                read_sockets(sockets, namespace.inode, walk)?;
                walk.namespaces.insert(namespace.inode);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => drop(walk.left_out.insert(namespace.inode)),
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
