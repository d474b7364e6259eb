//! What `/proc` tells about processes.

pub mod container;
pub mod proc_stat;
pub mod process;
pub mod process_cache;
pub mod residents;
