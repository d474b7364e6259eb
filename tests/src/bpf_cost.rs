//! Calls bpf(2) for `cargo xtask bench`: attaches a program that does nothing to the tracepoint,
//! and has the kernel measure run times.
//!
//! Two instructions need no compiler, object file or loader. What is measured is the kernel's cost
//! of running any program there.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use btf_rs::{Btf, Type};

/// `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_ENABLE_STATS: libc::c_int = 32;
/// `enum bpf_prog_type` of the same header.
const BPF_PROG_TYPE_TRACING: u32 = 26;
/// `enum bpf_attach_type` of the same header.
const BPF_TRACE_RAW_TP: u32 = 23;
/// `enum bpf_stats_type` of the same header.
const BPF_STATS_RUN_TIME: u32 = 0;

/// `r0 = 0; exit` as `struct bpf_insn`: opcode, registers, offset, immediate.
const NOTHING: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads here, up to `attach_btf_id`.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// The part of `union bpf_attr` that BPF_RAW_TRACEPOINT_OPEN reads. A program that was loaded for
/// one function knows its name.
#[repr(C)]
#[derive(Default)]
struct Open {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

/// The part of `union bpf_attr` that BPF_ENABLE_STATS reads.
#[repr(C)]
struct Stats {
    kind: u32,
}

/// Keeps a program attached to a tracepoint.
#[derive(Debug)]
pub struct Attached {
    /// The program. `/proc/PID/fdinfo` shows its run time while this descriptor is open.
    _program: OwnedFd,
    _link: OwnedFd,
}

/// Attaches a `tp_btf` program that returns at once to `inet_sock_set_state`. Dropping the result
/// detaches it.
///
/// # Errors
/// If the kernel has no BTF, or this process is not root.
pub fn attach_nothing() -> io::Result<Attached> {
    let mut load = Load {
        prog_type: BPF_PROG_TYPE_TRACING,
        insn_cnt: u32::try_from(NOTHING.len()).expect("two"),
        insns: NOTHING.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: BPF_TRACE_RAW_TP,
        attach_btf_id: tracepoint()?,
        ..Load::default()
    };
    load.prog_name[..5].copy_from_slice(b"empty");
    // SAFETY: the kernel reads as much as the length says, and what the addresses in it lead to:
    // two instructions and a C string, which are constants.
    let program = unsafe { bpf(BPF_PROG_LOAD, &load) }?;
    let open = Open { prog_fd: program.as_raw_fd().cast_unsigned(), ..Open::default() };
    // SAFETY: the kernel reads as much as the length says; it has no address in it but null.
    let link = unsafe { bpf(BPF_RAW_TRACEPOINT_OPEN, &open) }?;
    Ok(Attached { _program: program, _link: link })
}

/// Has the kernel measure how long each BPF program runs, until the result is dropped. Unlike the
/// sysctl `kernel.bpf_stats_enabled`, that also ends if this process is killed.
///
/// # Errors
/// If this process is not root.
pub fn measure_run_times() -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as much as the length says; it has no address in it.
    unsafe { bpf(BPF_ENABLE_STATS, &Stats { kind: BPF_STATS_RUN_TIME }) }
}

/// Returns the BTF id of the tracepoint's type.
fn tracepoint() -> io::Result<u32> {
    let kernel = Btf::from_file("/sys/kernel/btf/vmlinux").map_err(io::Error::other)?;
    let ids = kernel.resolve_ids_by_name("btf_trace_inet_sock_set_state").map_err(io::Error::other)?;
    ids.into_iter()
        .find(|id| matches!(kernel.resolve_type_by_id(*id), Ok(Type::Typedef(_))))
        .ok_or_else(|| io::Error::other("the kernel's BTF has no tracepoint inet_sock_set_state"))
}

/// Calls bpf(2) with a command that returns a descriptor.
///
/// # Safety
/// `attributes` has to be what `command` reads, and the addresses in it have to be valid.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says; the length is that of what the pointer leads to.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: these commands return a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
