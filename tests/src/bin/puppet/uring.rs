//! accept(2) as servers with io_uring do it.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use io_uring::{IoUring, opcode, types};

use crate::{Outcome, text};

/// Accepts a connection by a ring of its own.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Outcome<OwnedFd> {
    let mut ring = IoUring::new(2).map_err(text)?;
    let (nobody, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
    let accept = opcode::Accept::new(types::Fd(listener.as_raw_fd()), nobody, no_length)
        .flags(libc::SOCK_CLOEXEC)
        .build();
    // SAFETY: it points to nothing of ours, and the listener stays open until it is done.
    unsafe { ring.submission().push(&accept) }.map_err(text)?;
    ring.submit_and_wait(1).map_err(text)?;
    let result = ring.completion().next().ok_or("the ring has no answer")?.result();
    if result < 0 {
        return Err(text(std::io::Error::from_raw_os_error(-result)));
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
