//! Reads the sockets of the network namespace that the calling thread is in.

use std::sync::{Mutex, PoisonError};

use aya::programs::Iter;

use crate::{
    engine::walk::Walk,
    host::walk::{error::WalkError, iter, sock_diag},
};

/// How sockets are read. The threads of a walk share it.
pub(crate) enum SocketReader<'a> {
    /// With the iterator `iter/tcp`. The map `WANTED` has the states already.
    Iterator(&'a mut Iter),
    /// With sock_diag, sockets in one of these states (a mask).
    SockDiag(u32),
}

/// Adds the sockets of the calling thread's namespace to `walk`.
///
/// # Errors
/// See [`WalkError`].
pub(crate) fn read_namespace(
    sockets: &Mutex<SocketReader<'_>>,
    netns: u32,
    walk: &mut Walk,
) -> Result<(), WalkError> {
    // The lock is held while the iterator is opened, not while it is read.
    let opened = match &mut *sockets.lock().unwrap_or_else(PoisonError::into_inner) {
        SocketReader::Iterator(iterator) => Ok(iter::open(iterator)?),
        SocketReader::SockDiag(states) => Err(*states),
    };
    match opened {
        Ok(file) => iter::read_sockets(file, walk)?,
        Err(states) => {
            let mut rows = Vec::new();
            sock_diag::walk_namespace(states, netns, &mut rows)?;
            for row in rows {
                walk.add(row, None);
            }
        }
    }
    Ok(())
}
