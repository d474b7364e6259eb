//! The threads that walk. Each is used for one walk: a thread that has entered a namespace should
//! do nothing else.

use std::{
    io,
    panic::resume_unwind,
    thread::{Builder, Scope, ScopedJoinHandle, scope},
};

use crate::host::walk::error::WalkError;

/// The name of the threads that walk, here and in every other tcptrace.
pub(crate) const NAME: &str = "tcptrace-walk";

/// A thread that walks.
pub(crate) type WalkThread<'scope, T> = ScopedJoinHandle<'scope, Result<T, WalkError>>;

/// Starts a thread.
///
/// # Errors
/// The limit of threads is reached.
pub(crate) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> Result<T, WalkError> + Send + 'scope,
) -> io::Result<WalkThread<'scope, T>> {
    Builder::new().name(NAME.to_owned()).spawn_scoped(scope, work)
}

/// Waits for a thread.
///
/// # Errors
/// It failed.
pub(crate) fn join<T>(thread: WalkThread<'_, T>) -> Result<T, WalkError> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `work` in a thread of its own.
///
/// # Errors
/// The thread cannot be started, or it failed.
pub(crate) fn run_walk<T: Send>(work: impl FnOnce() -> Result<T, WalkError> + Send) -> Result<T, WalkError> {
    scope(|scope| join(spawn(scope, work)?))
}
