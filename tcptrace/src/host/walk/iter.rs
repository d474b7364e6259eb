//! Reads sockets and descriptors with BPF iterators.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
};

use aya::programs::Iter;
use rustc_hash::FxHashMap;
use tcptrace_common::Descriptor;

use crate::{
    engine::walk::{Holder, Named, Walk, in_order},
    host::{
        bpf::decode::{self, DecodeError, FoundSocket},
        walk::error::WalkError,
    },
};

/// The iterator over descriptors.
pub(crate) struct HolderReader<'a> {
    /// The program `iter/task_file`.
    pub(crate) iterator: &'a mut Iter,
    /// The states (a mask) of the sockets whose holders are wanted. The BPF program has them from
    /// the map `WALK_FILTER`.
    pub(crate) states: u32,
}

/// What the descriptors show.
pub(crate) struct HeldSockets {
    /// The descriptors that hold sockets.
    pub(crate) holders: Vec<Holder>,
    /// The sockets in other namespaces than our own, by cookie. Perhaps only their holders lead to
    /// them, because no process lives in their namespace any more.
    pub(crate) elsewhere: FxHashMap<u64, FoundSocket>,
}

/// Starts an iteration in the namespace that the calling thread is in.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn open(iterator: &mut Iter) -> Result<File, WalkError> {
    let link = iterator.attach()?;
    Ok(iterator.take_link(link)?.into_file()?)
}

/// Adds the sockets that an opened `iter/tcp` returns to `walk`.
///
/// # Errors
/// See [`WalkError`].
pub(crate) fn read_sockets(file: File, walk: &mut Walk) -> Result<(), WalkError> {
    read_rows(file, |rows| {
        let (row, origin) = decode::socket_row(rows)?;
        walk.add(row, origin);
        Ok(())
    })
}

/// Reads all descriptors that hold sockets.
///
/// # Errors
/// See [`WalkError`].
pub(crate) fn read_holders(iterator: &mut Iter) -> Result<HeldSockets, WalkError> {
    let mut held = HeldSockets { holders: Vec::new(), elsewhere: FxHashMap::default() };
    read_rows(open(iterator)?, |rows| {
        let (descriptor, socket) = decode::descriptor_row(rows)?;
        let Descriptor { cookie, pid, fd, uid, start_ns, comm, .. } = descriptor;
        let process = Some(Named { start_ns, uid, comm });
        held.holders.push(Holder { cookie, pid, fd, process });
        if let Some(socket) = socket {
            held.elsewhere.entry(cookie).or_insert(socket);
        }
        Ok(())
    })?;
    // Sorted in this thread, while the other one still reads sockets.
    held.holders = in_order(held.holders);
    Ok(held)
}

/// Reads an iterator to its end. `take` takes one row off what was read.
///
/// The kernel returns whole rows, up to eight pages at a time, and EAGAIN when it went a long way
/// without finding any (`bpf_seq_read`, `kernel/bpf/bpf_iter.c`).
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
