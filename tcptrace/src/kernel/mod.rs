//! All that touches the kernel: loading the BPF object, the ring, the walks, `/proc`.
//!
//! Nothing here decides anything about sockets. Records leave it decoded; errors leave it as a [`Refusal`]
//! (this host cannot be traced) or a [`WalkError`] (this one look failed).

mod layout;
mod namespaces;
mod procfs;
mod refusal;
mod sources;
mod targets;
mod walk;

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, Iter},
};
use aya_log::EbpfLogger;
use tcptrace_common::{Config, KernelLayout, Transition};

use crate::{
    decode::{self, DecodeError},
    diagnostics::KernelLog,
    walk::Walk,
};
pub use procfs::Process;
pub use refusal::Refusal;
pub use sources::{Feature, Source};
pub use walk::WalkError;

/// The BPF object, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcptrace-ebpf"));

/// The names of the BPF object's programs (`tcptrace-ebpf/src/main.rs`).
const TRANSITION: &str = "transition";
const TCP_SOCKETS: &str = "tcp_sockets";
const SOCKET_HOLDERS: &str = "socket_holders";

/// What is to be traced, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only transitions from or into one of these states are written to the ring (a mask).
    pub watched_states: u32,
    /// Size of the ring, bytes: a power of two of pages.
    pub ring_bytes: u32,
    /// For how many live sockets identities are kept where the kernel gives no cookies.
    pub identities: u32,
    /// Features not to use although the kernel has them.
    pub without: Vec<Feature>,
}

/// The kernel, being traced. Dropping it detaches everything.
pub struct Kernel {
    ebpf: Ebpf,
    transitions: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
    row_states: Array<MapData, u32>,
    log: EbpfLogger<KernelLog>,
    sources: Vec<Source>,
    finds_holders: bool,
}

impl Kernel {
    /// Loads the BPF object and attaches to the tracepoint: from here on no transition is missed.
    ///
    /// # Errors
    /// This host cannot be traced.
    pub fn attach(options: &Options) -> Result<Self, Refusal> {
        refusal::check_privilege()?;
        // Making a loader parses all of the kernel's BTF, wanted or not: meanwhile, find what is wanted.
        let loader = std::thread::spawn(EbpfLoader::new);
        let kernel_btf = std::fs::read(refusal::BTF_PATH).map_err(Refusal::NoBtf)?;
        let kernel_btf = layout::parse(&kernel_btf).map_err(|error| Refusal::BadBtf(format!("{error:#}")))?;
        let layout = layout::find(&kernel_btf).map_err(Refusal::UnknownKernel)?;
        let btf = targets::find(&kernel_btf).map_err(|error| Refusal::BadBtf(error.to_string()))?;
        drop(kernel_btf);
        let mut loader = loader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Before Linux 5.11 a map's memory counts as locked memory. If this is not allowed, creating the map
        // says so.
        let unlimited = rustix::process::Rlimit { current: None, maximum: None };
        let _where_it_matters_the_map_fails =
            rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited);

        let loaded = if options.without.contains(&Feature::Cookie) {
            load(&mut loader, options, layout, &btf, false)
                .map(|ebpf| (ebpf, Source::unused(Feature::Cookie, sources::TURNED_OFF)))
        } else {
            load(&mut loader, options, layout, &btf, true)
                .map(|ebpf| (ebpf, Source::used(Feature::Cookie)))
                .or_else(|refusal| {
                    // Whether the helper may be called here is known only by trying.
                    let Refusal::Program { said, .. } = refusal else { return Err(refusal) };
                    load(&mut loader, options, layout, &btf, false)
                        .map(|ebpf| (ebpf, Source::unused(Feature::Cookie, said)))
                })
        };
        let (mut ebpf, cookie) = loaded?;
        let holders = if options.without.contains(&Feature::TaskFile) {
            Source::unused(Feature::TaskFile, sources::TURNED_OFF)
        } else {
            match load_iterator(&mut ebpf, SOCKET_HOLDERS, "task_file", &btf) {
                Ok(()) => Source::used(Feature::TaskFile),
                Err(refusal) => Source::unused(Feature::TaskFile, refusal),
            }
        };
        load_iterator(&mut ebpf, TCP_SOCKETS, "tcp", &btf)?;
        let finds_holders = holders.in_use();
        Ok(Self {
            transitions: map(&mut ebpf, "TRANSITIONS")?,
            lost: map(&mut ebpf, "LOST")?,
            lost_before: 0,
            row_states: map(&mut ebpf, "ROW_STATES")?,
            log: EbpfLogger::init_with_logger(&mut ebpf, KernelLog)
                .map_err(|error| Refusal::Setup(format!("cannot read the BPF programs' log: {error}")))?,
            sources: vec![Source::used(Feature::TpBtf), Source::used(Feature::IterTcp), cookie, holders],
            finds_holders,
            ebpf: attach_transition(ebpf)?,
        })
    }

    /// Which kernel features are in use, and why the others are not.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The descriptor that becomes readable when a transition comes after all had been drained.
    pub fn ring(&self) -> BorrowedFd<'_> {
        self.transitions.as_fd()
    }

    /// Hands on every transition in the ring, in the order in which each socket's happened, and passes on
    /// what the BPF programs logged.
    ///
    /// # Errors
    /// The ring held something that is no transition; what came after it is still there.
    pub fn drain(&mut self, mut each: impl FnMut(&Transition)) -> Result<(), DecodeError> {
        while let Some(bytes) = self.transitions.next() {
            each(&decode::transition(&bytes)?);
        }
        self.log.flush();
        Ok(())
    }

    /// How many transitions the full ring has cost since the last call.
    ///
    /// # Errors
    /// The counters could not be read.
    pub fn newly_lost(&mut self) -> Result<u64, aya::maps::MapError> {
        let total = self.lost.get(&0, 0)?.iter().sum::<u64>();
        Ok(total - std::mem::replace(&mut self.lost_before, total))
    }

    /// Walks every open TCP socket in one of `states` (a mask), and who holds it.
    ///
    /// # Errors
    /// See [`WalkError`]. Namespaces and processes that vanish meanwhile are no error.
    pub fn walk(&mut self, states: u32) -> Result<Walk, WalkError> {
        self.row_states.set(0, states, 0)?;
        let (mut sockets, mut holders) = (None, None);
        for (name, program) in self.ebpf.programs_mut() {
            match name {
                TCP_SOCKETS => sockets = Some(<&mut Iter>::try_from(program)?),
                SOCKET_HOLDERS if self.finds_holders => holders = Some(<&mut Iter>::try_from(program)?),
                _ => {}
            }
        }
        let sockets = sockets.unwrap_or_else(|| unreachable!("attach() has loaded it"));
        walk::walk(sockets, holders)
    }
}

/// Creates the maps and loads the one program without which there is nothing to trace.
fn load(
    loader: &mut EbpfLoader<'static>,
    options: &Options,
    layout: KernelLayout,
    btf: &Btf,
    has_cookie: bool,
) -> Result<Ebpf, Refusal> {
    // For as long as the process: a loader keeps what it was told, and there may be a second try.
    let config: &'static Config = Box::leak(Box::new(Config {
        layout,
        watched_states: options.watched_states,
        has_cookie: has_cookie.into(),
    }));
    loader
        // Relocations of C programs: we have none.
        .btf(None)
        .override_global("CONFIG", bytemuck::bytes_of(config), true)
        .map_max_entries("TRANSITIONS", options.ring_bytes)
        .map_max_entries("IDENTITIES", if has_cookie { 1 } else { options.identities });
    let mut ebpf = loader.load(OBJECT).map_err(|error| Refusal::from_aya(TRANSITION, error))?;
    transition_program(&mut ebpf)?
        .load("inet_sock_set_state", btf)
        .map_err(|error| Refusal::from_program(TRANSITION, &error))?;
    Ok(ebpf)
}

fn load_iterator(ebpf: &mut Ebpf, name: &'static str, over: &str, btf: &Btf) -> Result<(), Refusal> {
    let program = ebpf.program_mut(name).ok_or_else(|| absent(name))?;
    <&mut Iter>::try_from(program)
        .and_then(|program| program.load(over, btf))
        .map_err(|error| Refusal::from_program(name, &error))
}

fn attach_transition(mut ebpf: Ebpf) -> Result<Ebpf, Refusal> {
    transition_program(&mut ebpf)?.attach().map_err(|error| Refusal::from_program(TRANSITION, &error))?;
    Ok(ebpf)
}

fn transition_program(ebpf: &mut Ebpf) -> Result<&mut BtfTracePoint, Refusal> {
    let program = ebpf.program_mut(TRANSITION).ok_or_else(|| absent(TRANSITION))?;
    program.try_into().map_err(|error| Refusal::from_program(TRANSITION, &error))
}

fn map<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Refusal> {
    let found = ebpf.take_map(name).ok_or_else(|| absent(name))?;
    found.try_into().map_err(|error| Refusal::Setup(format!("cannot open the BPF map `{name}`: {error}")))
}

fn absent(name: &str) -> Refusal {
    Refusal::Setup(format!("`{name}` is missing from the BPF object: this build is broken"))
}
