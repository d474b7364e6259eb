//! A loader that has not parsed the kernel's BTF.
//!
//! aya parses all of it whenever a loader is made, 30 ms and 25 MB, for relocations that our programs have none of; what
//! they attach to is found otherwise (`targets.rs`). There is no way to ask it not to, but it does without where there is
//! no such file, and a thread may have a root directory of its own (unshare(2), `CLONE_FS`) in which there is none.

use std::{io, panic::resume_unwind, thread};

use aya::EbpfLoader;
use rustix::{
    process::chroot,
    thread::{UnshareFlags, unshare_unsafe},
};

/// Has nothing of interest in it, and is there whenever /proc is.
const ELSEWHERE: &str = "/proc/self/fdinfo";

/// A loader, quickly where this process may change its root directory (CAP_SYS_CHROOT).
///
/// # Errors
/// No thread could be made for that.
pub(crate) fn new() -> io::Result<EbpfLoader<'static>> {
    let make = || {
        // SAFETY: it concerns this thread's root and working directory and nothing else; the thread ends here.
        let elsewhere = unsafe { unshare_unsafe(UnshareFlags::FS) }.and_then(|()| chroot(ELSEWHERE));
        let _slower_if_not = elsewhere;
        EbpfLoader::new()
    };
    let thread = thread::Builder::new().spawn(make)?;
    Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
}
