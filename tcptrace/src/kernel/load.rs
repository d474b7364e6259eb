//! Loads the BPF object: with the running kernel's BTF, or as a plain tracepoint program where there is none.

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, Iter, TracePoint, tp_btf::BtfTracePointLink, trace_point::TracePointLink},
};
use tcptrace_common::{Config, EventLayout, KernelLayout, state};

use super::{
    Options, event_format, layout, lost,
    refusal::{self, Refusal},
    sources::{Feature, NOT_NEEDED, Source, TURNED_OFF},
    targets,
};

/// The BPF object, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcptrace-ebpf"));

/// The names of its programs (`tcptrace-ebpf/src/main.rs`).
const TRANSITION: &str = "transition";
const SKIPPED_TRANSITION: &str = "skipped_transition";
const TRANSITION_EVENT: &str = "transition_event";
pub(super) const TCP_SOCKETS: &str = "tcp_sockets";
pub(super) const SOCKET_HOLDERS: &str = "socket_holders";

/// The BPF object, loaded and attached.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) attached: Attached,
    pub(super) sources: Vec<Source>,
    /// The name of the program on the tracepoint.
    pub(super) tracing: &'static str,
    /// Whether it reads the kernel's structures. If not, there are no iterators either.
    pub(super) has_btf: bool,
}

/// What is on the tracepoint; dropping this takes it off.
#[expect(dead_code, reason = "held for what dropping it does")]
pub(super) enum Attached {
    Typed(Vec<BtfTracePointLink>),
    Event(TracePointLink),
}

/// Loads and attaches what this kernel can do best.
pub(super) fn load(options: &Options) -> Result<Loaded, Refusal> {
    let why = if options.without.contains(&Feature::TpBtf) {
        TURNED_OFF.to_owned()
    } else {
        match with_btf(options) {
            Err(refusal) if refusal.leaves_the_event() => refusal.what(),
            decided => return decided,
        }
    };
    as_event(options, why)
}

fn with_btf(options: &Options) -> Result<Loaded, Refusal> {
    let raw = std::fs::read(refusal::BTF_PATH).map_err(Refusal::NoBtf)?;
    // Making a loader parses all of the kernel's BTF, wanted or not: meanwhile, find what is wanted.
    let loader = std::thread::spawn(EbpfLoader::new);
    let kernel = layout::parse(&raw).map_err(|error| Refusal::BadBtf(format!("{error:#}")))?;
    let layout = layout::find(&kernel).map_err(Refusal::UnknownKernel)?;
    let btf = targets::find(&kernel).map_err(|error| Refusal::BadBtf(error.to_string()))?;
    drop((raw, kernel));
    let mut loader = loader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let event = EventLayout::UNKNOWN;
    let config = |has_cookie| Config { has_cookie, ..config(options, layout, event) };

    let (mut ebpf, cookie) = if options.without.contains(&Feature::Cookie) {
        (traced(&mut loader, options, config(0), &btf)?, Source::unused(Feature::Cookie, TURNED_OFF))
    } else {
        match traced(&mut loader, options, config(1), &btf) {
            Ok(ebpf) => (ebpf, Source::used(Feature::Cookie)),
            // Whether the helper may be called here is known only by trying.
            Err(Refusal::Program { said, .. }) => {
                (traced(&mut loader, options, config(0), &btf)?, Source::unused(Feature::Cookie, said))
            }
            Err(refusal) => return Err(refusal),
        }
    };
    if options.transitions {
        iterator(&mut ebpf, TCP_SOCKETS, "tcp", &btf)?;
    }
    let holders = if options.without.contains(&Feature::TaskFile) {
        Source::unused(Feature::TaskFile, TURNED_OFF)
    } else {
        match iterator(&mut ebpf, SOCKET_HOLDERS, "task_file", &btf) {
            Ok(()) => Source::used(Feature::TaskFile),
            Err(refusal) => Source::unused(Feature::TaskFile, refusal.what()),
        }
    };
    let mut attached = Vec::new();
    let traced = if options.transitions {
        attached.push(attach(&mut ebpf, TRANSITION)?);
        Source::used(Feature::TpBtf)
    } else {
        Source::unused(Feature::TpBtf, NOT_NEEDED)
    };
    // Where little is watched the first program is done at once with nearly all: little is skipped, and the second
    // would cost as much again. What is skipped all the same is counted, and repaired.
    if options.transitions
        && options.watched_states == state::ALL
        && ebpf.program(TRANSITION).is_some_and(lost::is_skipped)
    {
        tp_btf(&mut ebpf, SKIPPED_TRANSITION, &btf)?;
        attached.push(attach(&mut ebpf, SKIPPED_TRANSITION)?);
    }
    let attached = Attached::Typed(attached);
    let sources = vec![traced, Source::used(Feature::IterTcp), cookie, holders];
    Ok(Loaded { ebpf, attached, sources, tracing: TRANSITION, has_btf: true })
}

/// The way without BTF; `why` it is taken.
fn as_event(options: &Options, why: String) -> Result<Loaded, Refusal> {
    let sources = |event| {
        vec![
            Source::unused(Feature::TpBtf, event),
            Source::unused(Feature::IterTcp, "needs BTF; using sock_diag"),
            Source::unused(Feature::Cookie, "needs BTF; using identities of our own"),
            Source::unused(Feature::TaskFile, "needs BTF; using /proc/PID/fd"),
        ]
    };
    if !options.transitions {
        let config = config(options, KernelLayout::UNKNOWN, EventLayout::UNKNOWN);
        let ebpf = object(&mut EbpfLoader::new(), options, config)?;
        let (attached, sources) = (Attached::Typed(Vec::new()), sources(NOT_NEEDED.to_owned()));
        return Ok(Loaded { ebpf, attached, sources, tracing: TRANSITION_EVENT, has_btf: false });
    }
    let no_event =
        |said: &dyn std::fmt::Display| Refusal::NoEvent { why: why.clone(), said: said.to_string() };
    let mut loader = EbpfLoader::new();
    let attach = || {
        let event = event_format::read().map_err(|error| no_event(&error))?;
        let mut ebpf = object(&mut loader, options, config(options, KernelLayout::UNKNOWN, event))?;
        let program = program::<&mut TracePoint>(&mut ebpf, TRANSITION_EVENT)?;
        let attached = program
            .load()
            .and_then(|()| program.attach("sock", "inet_sock_set_state"))
            .and_then(|link| program.take_link(link))
            .map_err(|error| Refusal::from_program(TRANSITION_EVENT, &error))?;
        Ok((ebpf, Attached::Event(attached)))
    };
    let (ebpf, attached) = event_format::where_tracefs_is(attach).map_err(|error| no_event(&error))??;
    let sources =
        sources(format!("{why}; using the event sock:inet_sock_set_state, which tells no namespace"));
    Ok(Loaded { ebpf, attached, sources, tracing: TRANSITION_EVENT, has_btf: false })
}

const fn config(options: &Options, layout: KernelLayout, event: EventLayout) -> Config {
    Config { layout, event, watched_states: options.watched_states, has_cookie: 0 }
}

/// Creates the maps and loads the one program without which there is nothing to trace.
fn traced(
    loader: &mut EbpfLoader<'static>,
    options: &Options,
    config: Config,
    btf: &Btf,
) -> Result<Ebpf, Refusal> {
    let mut ebpf = object(loader, options, config)?;
    if options.transitions {
        tp_btf(&mut ebpf, TRANSITION, btf)?;
    } else {
        iterator(&mut ebpf, TCP_SOCKETS, "tcp", btf)?;
    }
    Ok(ebpf)
}

fn tp_btf(ebpf: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<(), Refusal> {
    program::<&mut BtfTracePoint>(ebpf, name)?
        .load("inet_sock_set_state", btf)
        .map_err(|error| Refusal::from_program(name, &error))
}

fn attach(ebpf: &mut Ebpf, name: &'static str) -> Result<BtfTracePointLink, Refusal> {
    let program = program::<&mut BtfTracePoint>(ebpf, name)?;
    let link = program.attach().and_then(|link| program.take_link(link));
    link.map_err(|error| Refusal::from_program(name, &error))
}

/// Creates the maps.
fn object(loader: &mut EbpfLoader<'static>, options: &Options, config: Config) -> Result<Ebpf, Refusal> {
    // For as long as the process: a loader keeps what it was told, and there may be a second try.
    let config: &'static Config = Box::leak(Box::new(config));
    loader
        // Relocations of C programs: we have none.
        .btf(None)
        .override_global("CONFIG", bytemuck::bytes_of(config), true)
        .map_max_entries("TRANSITIONS", options.ring_bytes)
        .map_max_entries("IDENTITIES", if config.has_cookie == 1 { 1 } else { options.identities })
        .load(OBJECT)
        .map_err(Refusal::from_aya)
}

fn iterator(ebpf: &mut Ebpf, name: &'static str, over: &str, btf: &Btf) -> Result<(), Refusal> {
    program::<&mut Iter>(ebpf, name)?.load(over, btf).map_err(|error| Refusal::from_program(name, &error))
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, Refusal>
where
    T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| absent(name))?;
    program.try_into().map_err(|error| Refusal::from_program(name, &error))
}

/// Something that `build.rs` should have put there.
pub(super) fn absent(name: &str) -> Refusal {
    Refusal::Setup(format!("`{name}` is missing from the BPF object: this build is broken"))
}
