//! The truth about sockets, from transitions, walks and time. Pure: it knows no kernel, clock, file or terminal.

pub mod age;
pub mod assemble;
pub mod cause;
pub mod coverage;
pub mod exit_signs;
pub mod figures;
pub mod filter;
pub mod ownership;
pub mod process_info;
pub mod processes;
pub mod state_change;
pub mod tracker;
pub mod walk;
