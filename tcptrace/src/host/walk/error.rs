//! Why a walk failed.

use std::io;

use aya::{
    maps::MapError,
    programs::{ProgramError, links::LinkError},
};

use crate::host::{bpf::decode::DecodeError, error_text::with_causes};

/// A walk could not be started, or could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The iterator could not be started.
    #[error("cannot walk the kernel's sockets: {}", with_causes(.0))]
    Start(#[from] ProgramError),
    /// The iterator could not be opened.
    #[error("cannot open the walk of the kernel's sockets: {}", with_causes(.0))]
    Open(#[from] LinkError),
    /// A system call of the walk failed.
    #[error("cannot read the kernel's sockets: {0}")]
    Read(#[from] io::Error),
    /// The kernel returned bytes that are no row.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The map that says which sockets to walk could not be written.
    #[error("cannot say which sockets to walk: {}", with_causes(.0))]
    Filter(#[from] MapError),
}
