//! Walks the open sockets of all network namespaces and the descriptors that hold them.

pub mod error;
pub mod iter;
pub mod namespaces;
pub mod own_closes;
pub mod proc_fd;
pub mod reach;
pub mod seek;
pub mod sock_diag;
pub mod socket_reader;
pub mod threads;
pub mod walker;
