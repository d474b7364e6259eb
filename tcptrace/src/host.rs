//! All that touches the kernel and `/proc`: BPF programs, walks, processes, privileges.
//!
//! Nothing here decides anything about sockets. Records leave it decoded. Errors leave it as an
//! [`AttachError`](attach_error::AttachError), if this host cannot be traced, or as a
//! [`WalkError`](walk::error::WalkError), if one walk failed.

pub mod attach_error;
pub mod bpf;
pub mod capabilities;
pub mod error_text;
pub mod features;
pub mod kernel;
pub mod options;
pub mod own_namespaces;
pub mod preflight;
pub mod privilege;
pub mod proc;
pub mod scheduling;
pub mod shortage;
pub mod walk;
