//! Checks this process and its host before anything else starts.

use std::{io, os::fd::AsFd as _};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::host::{attach_error::AttachError, options::Options, own_namespaces, privilege};

/// The number of descriptors for a single look, and for a run that traces, with some to spare.
const TO_LOOK_ONCE: usize = 24;
const TO_TRACE: usize = 40;

/// Checks that this process may trace this host and sees its processes, and moves it into the
/// host's time and cgroup namespaces.
///
/// Call it before any thread starts: only a process with one thread may change its time namespace.
///
/// # Errors
/// This host cannot be traced from here.
pub fn prepare(options: &Options) -> Result<(), AttachError> {
    // First, because without descriptors every other check fails for another reason.
    reserve_descriptors(if options.transitions { TO_TRACE } else { TO_LOOK_ONCE })?;
    own_namespaces::check_namespaces()?;
    privilege::check_capabilities()?;
    own_namespaces::join_host()
}

/// Raises the soft limit of open files, and checks that `count` can be opened: with fewer, some
/// libraries panic or report another reason.
fn reserve_descriptors(count: usize) -> Result<(), AttachError> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _may_fail = setrlimit(Resource::Nofile, files);
    let spare: io::Result<Vec<_>> = (0..count).map(|_| io::stderr().as_fd().try_clone_to_owned()).collect();
    spare.map(drop).map_err(|error| AttachError::from_io(format_args!("cannot open {count} files"), &error))
}
