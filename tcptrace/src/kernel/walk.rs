//! Walks the kernel's sockets in every network namespace, and the descriptors that hold them.

use std::{
    io::{self, ErrorKind, Read as _},
    thread,
};

use aya::{
    maps::MapError,
    programs::{Iter, ProgramError, links::LinkError},
};
use bytemuck::Zeroable as _;
use rustc_hash::FxHashMap;
use tcptrace_common::{Descriptor, FoundSocket, HolderRow, SocketRow};

use super::{namespaces, sock_diag};
use crate::{
    clock,
    decode::{self, DecodeError},
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

/// Walks all sockets, and who holds them where there is an iterator for that: both at once.
pub(super) fn walk(sockets: By<'_>, mut holders: Option<Holders<'_>>) -> Result<Walk, WalkError> {
    let mut walk = Walk { started_ns: clock::monotonic_ns(), ..Walk::default() };
    let own = namespaces::own().map(|own| own.inode);
    let held = thread::scope(|scope| {
        // A thread of its own, because one that has entered a namespace should not do anything else.
        let every_socket = scope.spawn(|| every_namespace(sockets, &mut walk));
        let held = holders.as_mut().map(|holders| every_holder(holders.iterator, own)).transpose();
        every_socket.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        held
    })?;
    if let (Some(Held { holders: found, mut elsewhere }), Some(holders)) = (held, holders) {
        walk.holders = found;
        // One that was accepted, or handed on, after those descriptors had been read and before the socket was.
        if walk.misses_a_holder(holders.states) {
            Held { holders: walk.holders, elsewhere } = every_holder(holders.iterator, own)?;
        }
        for socket in elsewhere.into_values() {
            if !walk.namespaces.contains(&socket.row.netns) {
                walk.add(socket);
            }
        }
    }
    walk.sockets.sort_unstable_by_key(|row| row.ktime_ns);
    Ok(walk)
}

/// Our own namespace first, since this thread is in it, then the others. One that cannot be entered is left
/// out: it is gone, or not ours to see.
fn every_namespace(mut sockets: By<'_>, walk: &mut Walk) -> Result<(), WalkError> {
    let found = namespaces::find();
    let mut this_one = |inode: u32, walk: &mut Walk| match &mut sockets {
        By::Iterator(iterator) => read_rows(iterator, size_of::<FoundSocket>(), |row| {
            walk.add(decode::found_socket(row)?);
            Ok(())
        }),
        By::SockDiag(states) => {
            let mut rows = Vec::new();
            sock_diag::walk(*states, inode, &mut rows)?;
            rows.into_iter().for_each(|row| walk.add(FoundSocket { row, ..FoundSocket::zeroed() }));
            Ok(())
        }
    };
    this_one(found.own.unwrap_or(0), walk)?;
    walk.namespaces.extend(found.own);
    for namespace in found.others {
        if namespace.enter().is_ok() {
            this_one(namespace.inode, walk)?;
            walk.namespaces.insert(namespace.inode);
        }
    }
    Ok(())
}

/// What the descriptors tell.
struct Held {
    holders: Vec<Holder>,
    /// The sockets of other namespaces than our own: perhaps only their holders lead to them, as no process lives there
    /// any more.
    elsewhere: FxHashMap<u64, FoundSocket>,
}

fn every_holder(holders: &mut Iter, own_namespace: Option<u32>) -> Result<Held, WalkError> {
    let mut held = Held { holders: Vec::new(), elsewhere: FxHashMap::default() };
    read_rows(holders, size_of::<HolderRow>(), |row| {
        let HolderRow { socket, descriptor } = decode::holder_row(row)?;
        let Descriptor { pid, fd, uid, start_ns, comm, .. } = descriptor;
        let process = Some(Named { start_ns, uid, comm });
        let SocketRow { cookie, netns, .. } = socket.row;
        held.holders.push(Holder { cookie, pid, fd, process });
        if Some(netns) != own_namespace {
            held.elsewhere.entry(cookie).or_insert(socket);
        }
        Ok(())
    })?;
    // While the sockets are still being read.
    held.holders = in_order(held.holders);
    Ok(held)
}

/// Runs an iterator to its end and hands on each row of `size` bytes. The kernel gives whole rows, up to eight pages of
/// them at a time, and EAGAIN when it went a long way without finding any (`bpf_seq_read`, `kernel/bpf/bpf_iter.c`).
fn read_rows(
    iterator: &mut Iter,
    size: usize,
    mut each: impl FnMut(&[u8]) -> Result<(), DecodeError>,
) -> Result<(), WalkError> {
    let link = iterator.attach()?;
    let mut file = iterator.take_link(link)?.into_file()?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            read => match read? {
                0 => return Ok(()),
                length => buffer[..length].chunks(size).try_for_each(&mut each)?,
            },
        }
    }
}
