//! Loads and attaches the programs on kernels without BTF: one at the event
//! `sock:inet_sock_set_state`, and one behind it that counts what the first one misses.

pub mod cookie_map;
pub mod event_format;
pub mod miss_count;

use aya::{
    Ebpf,
    programs::{RawTracePoint, TracePoint},
};
use tcptrace_common::{
    EventLayout, KernelLayout,
    names::programs::{EVENT, EVENT_COUNTER},
};

use crate::{
    diagnostics::print_problem,
    host::{
        attach_error::AttachError,
        bpf::{
            attachment::Attachment,
            loader,
            object::{self, TRACEPOINT, find_program},
            programs::Link,
        },
        features::{Feature, FeatureStatus, NOT_NEEDED, NOT_SHOWN},
        options::Options,
    },
};

/// Loads and attaches the programs. `reason`: why BTF is not used.
///
/// # Errors
/// The event cannot be read, or the kernel refuses the program that reads it.
pub(crate) fn attach(options: &Options, reason: &str) -> Result<Attachment, AttachError> {
    if options.transitions {
        attach_traced(options, reason)
    } else {
        let config = object::base_config(options, KernelLayout::UNKNOWN, EventLayout::UNKNOWN);
        let ebpf = object::create_maps(&mut loader::without_kernel_btf()?, options, &config)?;
        Ok(assemble_attachment(options, ebpf, Vec::new(), NOT_NEEDED.to_owned()))
    }
}

fn attach_traced(options: &Options, reason: &str) -> Result<Attachment, AttachError> {
    let no_event = |error: &dyn std::error::Error| AttachError::NoEvent {
        no_btf: reason.to_owned(),
        no_event: error.to_string(),
    };
    let mut loader = loader::without_kernel_btf()?;
    let attach_event = || {
        let event = event_format::read_format().map_err(|error| no_event(&error))?;
        let config = object::base_config(options, KernelLayout::UNKNOWN, event);
        let mut ebpf = object::create_maps(&mut loader, options, &config)?;
        let program = find_program::<&mut TracePoint>(&mut ebpf, EVENT)?;
        let link = program
            .load()
            .and_then(|()| program.attach("sock", TRACEPOINT))
            .and_then(|link| program.take_link(link))
            .map_err(|error| AttachError::from_program(EVENT, &error))?;
        Ok((ebpf, Link::Event(link)))
    };
    let attached = event_format::with_tracefs(attach_event).map_err(|error| no_event(&error))?;
    let (mut ebpf, event) = attached?;
    // Attached after the other one, because the kernel runs them in that order. If it cannot be
    // attached, the kernel's own counts have to do.
    let counter = attach_counter(&mut ebpf)
        .inspect_err(|error| print_problem(format_args!("cannot count skipped transitions: {error}")))
        .ok();
    let is_counted = counter.is_some();
    // Dropped in this order: the counter must not stay alone.
    let links = counter.into_iter().chain([event]).collect();
    let event = format!("{reason}; using the event sock:inet_sock_set_state, which tells no namespace");
    let attachment = assemble_attachment(options, ebpf, links, event);
    Ok(Attachment { counter: is_counted.then_some(EVENT_COUNTER), ..attachment })
}

/// Attaches the program that counts what the one at the event misses.
fn attach_counter(ebpf: &mut Ebpf) -> Result<Link, AttachError> {
    let program = find_program::<&mut RawTracePoint>(ebpf, EVENT_COUNTER)?;
    let link =
        program.load().and_then(|()| program.attach(TRACEPOINT)).and_then(|link| program.take_link(link));
    link.map(Link::EventCounter).map_err(|error| AttachError::from_program(EVENT_COUNTER, &error))
}

/// Describes what is attached. `event`: why the tracepoint with BTF is not used.
fn assemble_attachment(options: &Options, ebpf: Ebpf, links: Vec<Link>, event: String) -> Attachment {
    let timewait = if object::shows_timewait(options) { "needs BTF" } else { NOT_SHOWN };
    let statuses = vec![
        FeatureStatus::unavailable(Feature::TpBtf, event),
        FeatureStatus::unavailable(Feature::IterTcp, "needs BTF; using sock_diag"),
        FeatureStatus::unavailable(Feature::Cookie, "needs BTF; using identities of our own"),
        FeatureStatus::unavailable(Feature::TaskFile, "needs BTF; using /proc/PID/fd"),
        FeatureStatus::unavailable(Feature::Storage, "needs BTF"),
        FeatureStatus::unavailable(Feature::Accept, "needs BTF"),
        FeatureStatus::unavailable(Feature::TimeWait, timewait),
    ];
    Attachment { ebpf, links, statuses, tracing: vec![EVENT], counter: None, fallbacks: None, has_btf: false }
}
