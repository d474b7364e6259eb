//! Loads the BPF object with the running kernel's BTF; where there is none, `plain.rs` does without.

use crate::host::attach_error;
use std::{
    io,
    panic::resume_unwind,
    thread::{self, ScopedJoinHandle},
};

use aya::{
    Btf, BtfError, Ebpf, EbpfLoader,
    programs::{
        BtfTracePoint, FEntry, Iter, fentry::FEntryLink, raw_trace_point::RawTracePointLink,
        tp_btf::BtfTracePointLink, trace_point::TracePointLink,
    },
};
use tcptrace_common::{
    Config, EventLayout, KernelLayout,
    names::{
        self, maps,
        programs::{ACCEPTED, FALLBACK, SECOND_FALLBACK, SOCKET_HOLDERS, TCP_SOCKETS, TIMEWAIT, TRANSITION},
    },
    state,
};

use crate::host::{
    Options,
    attach_error::AttachError,
    bpf::{attach_targets, btf, loader, loss, no_btf, offsets},
    features::{Feature, FeatureStatus, NOT_NEEDED, NOT_SHOWN, TURNED_OFF},
};

/// The BPF object, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcptrace-ebpf"));

/// The states that a socket leaves when a timewait socket replaces it, as a mask.
const TIMEWAIT_FROM: u32 = state::bit(state::FIN_WAIT2) | state::bit(state::CLOSING);
/// The tracepoint.
pub(crate) const TRACEPOINT: &str = "inet_sock_set_state";

/// The BPF object, loaded and attached.
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    pub(crate) attached: Vec<Attached>,
    pub(crate) sources: Vec<FeatureStatus>,
    /// The names of the programs on the tracepoint.
    pub(crate) tracing: Vec<&'static str>,
    /// The name of the program that counts what they are kept from, if there is one.
    pub(crate) tally: Option<&'static str>,
    /// What may yet be put there.
    pub(crate) guards: Option<FallbackPrograms>,
    /// Whether it reads the kernel's structures. If not, there are no iterators either.
    pub(crate) has_btf: bool,
}

/// A program where the kernel runs it; dropping this takes it off.
#[expect(dead_code, reason = "held for what dropping it does")]
pub(crate) enum Attached {
    Transition(BtfTracePointLink),
    Event(TracePointLink),
    MissCount(RawTracePointLink),
    Function(FEntryLink),
}

/// Programs that take over on the tracepoint what those before are kept from: put there when they are seen to be needed,
/// since most hosts never are in need of them.
pub(crate) struct FallbackPrograms {
    targets: Vec<attach_targets::Target>,
    /// Those in the form that aya takes: where transitions are many, the next guard must not be long in coming.
    ready: Option<Btf>,
    next: &'static [&'static str],
}

impl FallbackPrograms {
    /// Loads and attaches the next one, if there is another; its name too.
    pub(crate) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
    ) -> Option<Result<(&'static str, Attached), AttachError>> {
        let (name, rest) = self.next.split_first()?;
        self.next = rest;
        let btf = self.ready.take().map_or_else(|| attach_targets::stub_btf(&self.targets), Ok);
        let attached = btf
            .map_err(|error| AttachError::BadBtf(error.to_string()))
            .and_then(|btf| tp_btf(ebpf, name, &btf))
            .and_then(|()| attach(ebpf, name));
        Some(attached.map(|link| (*name, Attached::Transition(link))))
    }
}

/// Loads and attaches what this kernel can do best.
pub(crate) fn load(options: &Options) -> Result<Loaded, AttachError> {
    let why = if options.without.contains(&Feature::TpBtf) {
        TURNED_OFF.to_owned()
    } else {
        match with_btf(options) {
            Err(refusal) if refusal.leaves_the_event() => refusal.what(),
            decided => return decided,
        }
    };
    no_btf::load(options, why)
}

fn with_btf(options: &Options) -> Result<Loaded, AttachError> {
    let raw = btf::read(attach_error::BTF_PATH.as_ref()).map_err(|error| {
        AttachError::short("cannot read the kernel's type information", &error)
            .unwrap_or(AttachError::NoBtf(error))
    })?;
    let kernel = offsets::parse(&raw).map_err(|error| AttachError::BadBtf(error.to_string()))?;
    let layout = offsets::find(&kernel).map_err(AttachError::UnknownKernel)?;
    let targets = attach_targets::find(&kernel, options.transitions);
    // What aya makes of the targets takes as much memory again.
    drop(raw);
    let mut loader = loader::new().map_err(no_thread)?;
    let event = EventLayout::UNKNOWN;
    let config = |helpers: Helpers| {
        Config {
            has_cookie: helpers.cookie.into(),
            has_storage: helpers.storage.into(),
            // It came with the second of the two, and before the first.
            has_task: (helpers.cookie || helpers.storage).into(),
            records_lives: options.lives.into(),
            ..config(options, layout, event)
        }
        .with_interest()
    };
    // It takes as long as making the object and its maps.
    let (mut ebpf, helpers, btf) = thread::scope(|scope| {
        let btf = thread::Builder::new()
            .spawn_scoped(scope, || attach_targets::stub_btf(&targets))
            .map_err(no_thread)?;
        with_helpers(&mut loader, options, config, btf)
    })?;
    if options.transitions {
        iterator(&mut ebpf, TCP_SOCKETS, "tcp", &btf)?;
    }
    let holders = if options.without.contains(&Feature::TaskFile) {
        FeatureStatus::unused(Feature::TaskFile, TURNED_OFF)
    } else {
        match iterator(&mut ebpf, SOCKET_HOLDERS, "task_file", &btf) {
            Ok(()) => FeatureStatus::used(Feature::TaskFile),
            Err(refusal @ AttachError::Short { .. }) => return Err(refusal),
            Err(refusal) => FeatureStatus::unused(Feature::TaskFile, refusal.what()),
        }
    };
    let mut attached = Vec::new();
    let traced = if options.transitions {
        attached.push(Attached::Transition(attach(&mut ebpf, TRANSITION)?));
        FeatureStatus::used(Feature::TpBtf)
    } else {
        FeatureStatus::unused(Feature::TpBtf, NOT_NEEDED)
    };
    let mut tracing = vec![TRANSITION];
    // Where little is watched the first program is done at once with nearly all: little is skipped, and the second
    // would cost as much again. It comes when something is skipped all the same.
    // Where the kernel does not count what it skips, it skips nothing.
    let may_skip = options.transitions && ebpf.program(TRANSITION).is_some_and(loss::is_skipped);
    let has_second = may_skip && options.watched_states == state::ALL;
    if has_second {
        tp_btf(&mut ebpf, FALLBACK, &btf)?;
        attached.push(Attached::Transition(attach(&mut ebpf, FALLBACK)?));
        tracing.push(FALLBACK);
    }
    let mut function = |feature: Feature, name, is_needed: bool| {
        Ok(if !options.transitions {
            FeatureStatus::unused(feature, NOT_NEEDED)
        } else if options.without.contains(&feature) {
            FeatureStatus::unused(feature, TURNED_OFF)
        } else if !is_needed {
            FeatureStatus::unused(feature, NOT_SHOWN)
        } else if !helpers.storage.in_use() {
            FeatureStatus::unused(feature, format_args!("needs {}", Feature::Storage.name()))
        } else {
            match fentry(&mut ebpf, name, &btf) {
                Ok(link) => {
                    attached.push(Attached::Function(link));
                    FeatureStatus::used(feature)
                }
                // It would be there with a higher limit.
                Err(refusal @ AttachError::Short { .. }) => return Err(refusal),
                Err(refusal) => FeatureStatus::unused(feature, refusal.what()),
            }
        })
    };
    let accept = function(Feature::Accept, (ACCEPTED, "security_sock_graft"), true)?;
    let time_wait = function(Feature::TimeWait, (TIMEWAIT, "tcp_time_wait"), shows_replaced(options))?;
    let next = if has_second { &[SECOND_FALLBACK][..] } else { &[FALLBACK, SECOND_FALLBACK] };
    let guards = may_skip.then(|| FallbackPrograms { targets, ready: has_second.then_some(btf), next });
    let sources = vec![
        traced,
        FeatureStatus::used(Feature::IterTcp),
        helpers.cookie,
        holders,
        helpers.storage,
        accept,
        time_wait,
    ];
    Ok(Loaded { ebpf, attached, sources, tracing, tally: None, guards, has_btf: true })
}

/// Whether these views show what becomes of a socket that a stand-in replaces.
pub(crate) const fn shows_replaced(options: &Options) -> bool {
    options.watched_states & TIMEWAIT_FROM != 0
}

pub(crate) const fn config(options: &Options, layout: KernelLayout, event: EventLayout) -> Config {
    Config { layout, event, watched_states: options.watched_states, ..Config::UNSET }
}

/// The helpers that tracing programs may call only on newer kernels; whether they may is known only by trying.
#[derive(Clone, Copy)]
struct Helpers<T = bool> {
    cookie: T,
    storage: T,
}

/// Creates the maps and loads the one program without which there is nothing to trace, with as many of the helpers
/// as the kernel lets it call.
fn with_helpers(
    loader: &mut EbpfLoader<'static>,
    options: &Options,
    config: impl Fn(Helpers) -> Config,
    btf: ScopedJoinHandle<'_, Result<Btf, BtfError>>,
) -> Result<(Ebpf, Helpers<FeatureStatus>, Btf), AttachError> {
    let is_off = |feature| options.without.contains(&feature);
    // Without transitions nothing is ever put into a socket's storage.
    let off = Helpers {
        cookie: is_off(Feature::Cookie),
        storage: is_off(Feature::Storage) || !options.transitions,
    };
    let storage_off = if options.transitions { TURNED_OFF } else { NOT_NEEDED };
    let mut said = Helpers { cookie: TURNED_OFF.to_owned(), storage: storage_off.to_owned() };
    let (mut last, mut btf) = (None, Err(btf));
    for (cookie, storage) in [(true, true), (true, false), (false, true), (false, false)] {
        if (cookie && off.cookie) || (storage && off.storage) {
            continue;
        }
        let mut ebpf = object(loader, options, config(Helpers { cookie, storage }))?;
        let made = btf.or_else(joined)?;
        let tried = if options.transitions {
            tp_btf(&mut ebpf, TRANSITION, &made)
        } else {
            iterator(&mut ebpf, TCP_SOCKETS, "tcp", &made)
        };
        match tried {
            Ok(()) => {
                let source = |feature, used: bool, said: String| {
                    if used { FeatureStatus::used(feature) } else { FeatureStatus::unused(feature, said) }
                };
                let cookie = source(Feature::Cookie, cookie, said.cookie);
                let storage = source(Feature::Storage, storage, said.storage);
                return Ok((ebpf, Helpers { cookie, storage }, made));
            }
            Err(refusal @ AttachError::Program { .. }) => {
                // The last to be refused with one of them says why that one cannot be.
                let what = refusal.what();
                if cookie {
                    said.cookie.clone_from(&what);
                }
                if storage {
                    said.storage = what;
                }
                last = Some(refusal);
            }
            Err(refusal) => return Err(refusal),
        }
        btf = Ok(made);
    }
    Err(last.unwrap_or_else(|| absent(TRANSITION)))
}

fn joined(making: ScopedJoinHandle<'_, Result<Btf, BtfError>>) -> Result<Btf, AttachError> {
    let made = making.join().unwrap_or_else(|panic| resume_unwind(panic));
    made.map_err(|error| AttachError::BadBtf(error.to_string()))
}

/// Has the program of that name run where the kernel enters that function.
fn fentry(
    ebpf: &mut Ebpf,
    (name, function): (&'static str, &str),
    btf: &Btf,
) -> Result<FEntryLink, AttachError> {
    let program = program::<&mut FEntry>(ebpf, name)?;
    let link =
        program.load(function, btf).and_then(|()| program.attach()).and_then(|link| program.take_link(link));
    link.map_err(|error| AttachError::from_program(name, &error))
}

fn tp_btf(ebpf: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<(), AttachError> {
    program::<&mut BtfTracePoint>(ebpf, name)?
        .load(TRACEPOINT, btf)
        .map_err(|error| AttachError::from_program(name, &error))
}

fn attach(ebpf: &mut Ebpf, name: &'static str) -> Result<BtfTracePointLink, AttachError> {
    let program = program::<&mut BtfTracePoint>(ebpf, name)?;
    let link = program.attach().and_then(|link| program.take_link(link));
    link.map_err(|error| AttachError::from_program(name, &error))
}

/// Creates the maps.
pub(crate) fn object(
    loader: &mut EbpfLoader<'static>,
    options: &Options,
    config: Config,
) -> Result<Ebpf, AttachError> {
    // For as long as the process: a loader keeps what it was told, and there may be a second try.
    let config: &'static Config = Box::leak(Box::new(config));
    loader
        // Relocations of C programs: we have none.
        .btf(None)
        .override_global(names::CONFIG, bytemuck::bytes_of(config), true)
        .map_max_entries(maps::TRANSITIONS, options.ring_bytes)
        .map_max_entries(maps::COOKIES, if config.has_cookie.get() { 1 } else { options.identities })
        .load(OBJECT)
        .map_err(AttachError::from_aya)
}

fn iterator(ebpf: &mut Ebpf, name: &'static str, over: &str, btf: &Btf) -> Result<(), AttachError> {
    program::<&mut Iter>(ebpf, name)?.load(over, btf).map_err(|error| AttachError::from_program(name, &error))
}

pub(crate) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, AttachError>
where
    T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| absent(name))?;
    program.try_into().map_err(|error| AttachError::from_program(name, &error))
}

/// No thread could be made.
pub(crate) fn no_thread(error: io::Error) -> AttachError {
    let what = "cannot start a thread";
    AttachError::short(what, &error).unwrap_or_else(|| AttachError::Setup(format!("{what}: {error}")))
}

/// Something that `build.rs` should have put there.
pub(crate) fn absent(name: &str) -> AttachError {
    AttachError::Setup(format!("`{name}` is missing from the BPF object: this build is broken"))
}
