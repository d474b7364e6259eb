//! Loads and attaches single programs.

use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, FEntry, Iter, fentry::FEntryLink, raw_trace_point::RawTracePointLink,
        tp_btf::BtfTracePointLink, trace_point::TracePointLink,
    },
};

use crate::host::{
    attach_error::AttachError,
    bpf::object::{TRACEPOINT, find_program},
};

/// An attached program. Dropping this detaches it.
#[expect(dead_code, reason = "held for what dropping it does")]
pub(crate) enum Link {
    /// At the tracepoint, with BTF.
    Transition(BtfTracePointLink),
    /// At the event, without BTF.
    Event(TracePointLink),
    /// At the tracepoint without BTF, to count.
    EventCounter(RawTracePointLink),
    /// At the entry of a kernel function.
    Function(FEntryLink),
}

/// Loads a program for the tracepoint.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn load_tp_btf(ebpf: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<(), AttachError> {
    find_program::<&mut BtfTracePoint>(ebpf, name)?
        .load(TRACEPOINT, btf)
        .map_err(|error| AttachError::from_program(name, &error))
}

/// Attaches a loaded program to the tracepoint.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn attach_tp_btf(ebpf: &mut Ebpf, name: &'static str) -> Result<Link, AttachError> {
    let program = find_program::<&mut BtfTracePoint>(ebpf, name)?;
    let link = program.attach().and_then(|link| program.take_link(link));
    link.map(Link::Transition).map_err(|error| AttachError::from_program(name, &error))
}

/// Loads a program and attaches it to the entry of the kernel function `target`.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn attach_fentry(
    ebpf: &mut Ebpf,
    name: &'static str,
    target: &str,
    btf: &Btf,
) -> Result<Link, AttachError> {
    let program = find_program::<&mut FEntry>(ebpf, name)?;
    let link =
        program.load(target, btf).and_then(|()| program.attach()).and_then(|link| program.take_link(link));
    link.map(Link::Function).map_err(|error| AttachError::from_program(name, &error))
}

/// Loads a program that iterates over the kernel's `target`.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn load_iter(
    ebpf: &mut Ebpf,
    name: &'static str,
    target: &str,
    btf: &Btf,
) -> Result<(), AttachError> {
    find_program::<&mut Iter>(ebpf, name)?
        .load(target, btf)
        .map_err(|error| AttachError::from_program(name, &error))
}
