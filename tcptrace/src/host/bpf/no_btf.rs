//! The way without BTF: the BPF program at the plain event, and one behind it that counts what the first is kept from.

pub mod cookie_map;
pub mod event_format;
pub mod miss_count;

use crate::host::bpf::load;
use aya::{
    Ebpf,
    programs::{RawTracePoint, TracePoint, raw_trace_point::RawTracePointLink},
};
use tcptrace_common::{
    EventLayout, KernelLayout,
    names::programs::{EVENT, EVENT_COUNTER},
};

use crate::diagnostics::say;
use crate::host::{
    Options,
    attach_error::AttachError,
    bpf::{
        load::{Attached, Loaded, TRACEPOINT},
        loader,
    },
    features::{Feature, FeatureStatus, NOT_NEEDED, NOT_SHOWN},
};

/// Loads and attaches what is needed there; `why` this way is taken.
pub(crate) fn load(options: &Options, why: String) -> Result<Loaded, AttachError> {
    let sources = |event| {
        vec![
            FeatureStatus::unused(Feature::TpBtf, event),
            FeatureStatus::unused(Feature::IterTcp, "needs BTF; using sock_diag"),
            FeatureStatus::unused(Feature::Cookie, "needs BTF; using identities of our own"),
            FeatureStatus::unused(Feature::TaskFile, "needs BTF; using /proc/PID/fd"),
            FeatureStatus::unused(Feature::Storage, "needs BTF"),
            FeatureStatus::unused(Feature::Accept, "needs BTF"),
            FeatureStatus::unused(
                Feature::TimeWait,
                if load::shows_replaced(options) { "needs BTF" } else { NOT_SHOWN },
            ),
        ]
    };
    if !options.transitions {
        let config = load::config(options, KernelLayout::UNKNOWN, EventLayout::UNKNOWN);
        let ebpf = load::object(&mut loader::new().map_err(load::no_thread)?, options, config)?;
        let (attached, sources) = (Vec::new(), sources(NOT_NEEDED.to_owned()));
        return Ok(Loaded {
            ebpf,
            attached,
            sources,
            tracing: vec![EVENT],
            tally: None,
            guards: None,
            has_btf: false,
        });
    }
    let no_event =
        |said: &dyn std::fmt::Display| AttachError::NoEvent { why: why.clone(), said: said.to_string() };
    let mut loader = loader::new().map_err(load::no_thread)?;
    let attach = || {
        let event = event_format::read().map_err(|error| no_event(&error))?;
        let mut ebpf =
            load::object(&mut loader, options, load::config(options, KernelLayout::UNKNOWN, event))?;
        let program = load::program::<&mut TracePoint>(&mut ebpf, EVENT)?;
        let attached = program
            .load()
            .and_then(|()| program.attach("sock", TRACEPOINT))
            .and_then(|link| program.take_link(link))
            .map_err(|error| AttachError::from_program(EVENT, &error))?;
        Ok((ebpf, attached))
    };
    let (mut ebpf, event) = event_format::where_tracefs_is(attach).map_err(|error| no_event(&error))??;
    // After the other: the kernel runs them in that order. Without it, what it counts itself has to do.
    let counting = tally(&mut ebpf)
        .inspect_err(|refusal| say(format_args!("cannot count skipped transitions: {}", refusal.what())))
        .ok();
    let tally = counting.is_some().then_some(EVENT_COUNTER);
    // They go in this order: the one that counts must not be left alone.
    let attached = counting.map(Attached::MissCount).into_iter().chain([Attached::Event(event)]).collect();
    let sources =
        sources(format!("{why}; using the event sock:inet_sock_set_state, which tells no namespace"));
    Ok(Loaded { ebpf, attached, sources, tracing: vec![EVENT], tally, guards: None, has_btf: false })
}

/// Has the program run that counts what the one at the event is kept from.
fn tally(ebpf: &mut Ebpf) -> Result<RawTracePointLink, AttachError> {
    let program = load::program::<&mut RawTracePoint>(ebpf, EVENT_COUNTER)?;
    let link =
        program.load().and_then(|()| program.attach(TRACEPOINT)).and_then(|link| program.take_link(link));
    link.map_err(|error| AttachError::from_program(EVENT_COUNTER, &error))
}
