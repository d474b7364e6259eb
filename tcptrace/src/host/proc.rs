//! What `/proc` says about processes.

pub mod arguments;
pub mod cgroup;
pub mod container;
pub mod live_processes;
pub mod proc_stat;
pub mod process;
pub mod program;
pub mod residents;
pub mod unit;
