//! Works around aya 0.14, which parses the kernel's BTF whenever a loader is made: hides the BTF.
//!
//! aya needs that BTF for relocations, of which our programs have none. Parsing it takes 30 ms and
//! 25 MB. aya 0.14 cannot be asked not to, but it continues if there is no such file, and a thread
//! can have a root directory of its own (unshare(2), `CLONE_FS`) in which there is none.
//!
//! aya 0.16 reads BTF only if an object needs it, but takes Rust 1.98. This file goes when
//! tcptrace takes that too: `EbpfLoader::new()` does then.

use std::{io, panic::resume_unwind, thread};

use aya::EbpfLoader;
use rustix::{
    process::chroot,
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::host::attach_error::AttachError;

/// A folder in which aya finds no BTF, and which exists whenever `/proc` does.
const ROOT_WITHOUT_BTF: &str = "/proc/self/fdinfo";

/// Makes a loader that has not parsed the kernel's BTF, if this process may change its root
/// directory (CAP_SYS_CHROOT). Else it has.
///
/// # Errors
/// No thread could be started.
pub(crate) fn without_kernel_btf() -> Result<EbpfLoader<'static>, AttachError> {
    make_in_thread().map_err(|error| AttachError::from_io("cannot start a thread", &error))
}

fn make_in_thread() -> io::Result<EbpfLoader<'static>> {
    let thread = thread::Builder::new().spawn(|| {
        // SAFETY: this only changes the root and working directory of this thread, which ends
        // here.
        let unshared = unsafe { unshare_unsafe(UnshareFlags::FS) };
        // If this fails, aya parses the BTF and the start is slower.
        let _may_fail = unshared.and_then(|()| chroot(ROOT_WITHOUT_BTF));
        EbpfLoader::new()
    })?;
    Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
}
