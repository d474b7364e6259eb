//! Empty on purpose: gives `tcptrace/build.rs` a library to depend on, so that cargo rebuilds the
//! BPF object when its sources change. The programs are in `main.rs`.

#![no_std]
