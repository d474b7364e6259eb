//! All that touches the kernel: loading the BPF object, the ring, the walks, `/proc`.
//!
//! Nothing here decides anything about sockets. Records leave it decoded; errors leave it as a [`AttachError`]
//! (this host cannot be traced) or a [`WalkError`] (this one look failed).

pub mod attach_error;
pub mod bpf;
pub mod features;
pub mod privilege;
pub mod proc;
pub mod scheduling;
pub mod shortage;
pub mod surroundings;
pub mod walk;

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use self::attach_error::AttachError;
use self::bpf::decode::DecodeError;
use self::bpf::{
    decode,
    drain::{self, Drained, Limit},
    load,
    loss::LossCounter,
    loss::NewLosses,
    no_btf::cookie_map::CookieMap,
};
use self::features::{Feature, FeatureStatus};
use self::proc::residents;
use self::walk::{WalkError, namespaces, walk_thread};
use crate::engine::ring_event::RingEvent;
use crate::{
    clock,
    diagnostics::{KernelLog, say},
    engine::{
        coverage::Residents,
        walk::{Reach, Walk},
    },
};
use aya::{
    Ebpf,
    maps::{Array, MapData, RingBuf},
    programs::Iter,
};
use aya_log::EbpfLogger;
use tcptrace_common::{
    WalkFilter,
    names::{maps, programs},
    state,
};

/// What is to be traced, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only transitions from or into one of these states are written to the ring (a mask).
    pub watched_states: u32,
    /// Whether each socket's last transition is to tell what its life came to.
    pub lives: bool,
    /// Whether transitions are to be seen. If not, nothing is put on the tracepoint: sockets can only be walked.
    pub transitions: bool,
    /// Size of the ring, bytes: a power of two of pages.
    pub ring_bytes: u32,
    /// For how many live sockets identities are kept where the kernel gives no cookies.
    pub identities: u32,
    /// Features not to use although the kernel has them.
    pub without: Vec<Feature>,
}

/// Checks that this process may trace this host and sees it, and moves it into the host's time and cgroup namespaces. To be
/// called before any thread is started: only a process with one thread may change its time namespace.
///
/// # Errors
/// This host cannot be traced from here.
pub fn prepare(options: &Options) -> Result<(), AttachError> {
    // First: without descriptors each of the others fails for another reason.
    reserve_descriptors(if options.transitions { TO_TRACE } else { TO_LOOK_ONCE })?;
    surroundings::check()?;
    privilege::check()?;
    surroundings::join()
}

/// The kernel, being traced. Dropping it detaches everything.
pub struct Kernel {
    ebpf: Ebpf,
    attached: Vec<load::Attached>,
    guards: Option<load::FallbackPrograms>,
    transitions: RingBuf<MapData>,
    losses: LossCounter,
    wanted: Array<MapData, [u32; 4]>,
    log: EbpfLogger<KernelLog>,
    sources: Vec<FeatureStatus>,
    /// Only where the kernel has no BTF.
    cookies: Option<CookieMap>,
}

impl Kernel {
    /// Loads the BPF object and attaches to the tracepoint, where transitions are wanted: from here on none is missed.
    /// [`prepare`] comes before.
    /// The calling thread, which should be the only one, keeps no more privileges than walking takes.
    ///
    /// # Errors
    /// This host cannot be traced.
    pub fn attach(options: &Options) -> Result<Self, AttachError> {
        // Before Linux 5.11 a map's memory counts as locked memory. If this is not allowed, creating the map
        // says so.
        let unlimited = rustix::process::Rlimit { current: None, maximum: None };
        let _where_it_matters_the_map_fails =
            rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited);
        let load::Loaded { mut ebpf, attached, mut sources, tracing, tally, guards, has_btf } =
            load::load(options)?;
        if let Err(error) = privilege::give_up(guards.is_some()) {
            say(format_args!("cannot give up what is no longer needed: {error}"));
        }
        let by_proc = !uses(&sources, Feature::TaskFile);
        sources.extend(privilege::sources(by_proc)?);
        Ok(Self {
            attached,
            guards,
            losses: LossCounter::of(&mut ebpf, &tracing, tally, options.watched_states == state::ALL)?,
            transitions: map(&mut ebpf, maps::TRANSITIONS)?,
            wanted: map(&mut ebpf, maps::WALK_FILTER)?,
            log: EbpfLogger::init_with_logger(&mut ebpf, KernelLog)
                .map_err(|error| AttachError::Setup(format!("cannot read the BPF programs' log: {error}")))?,
            sources,
            cookies: (!has_btf).then(|| CookieMap::new(options.watched_states)),
            ebpf,
        })
    }

    /// Which kernel features are in use, and why the others are not.
    pub fn sources(&self) -> &[FeatureStatus] {
        &self.sources
    }

    /// The processes of this host, as far as they may be seen; without a list of them unless they are wanted.
    pub fn residents(&self, are_wanted: bool) -> Residents {
        residents::residents(are_wanted, !uses(&self.sources, Feature::TaskFile))
    }

    /// Whether there is a cgroup of this path.
    pub fn has_cgroup(path: &str) -> bool {
        residents::has_cgroup(path)
    }

    /// Takes the program off the tracepoint: nothing comes into the ring any more. Sockets can still be walked.
    pub fn detach(&mut self) {
        self.attached.clear();
        self.guards = None;
        self.losses.close();
    }

    /// The descriptor that becomes readable when a transition comes after all had been drained.
    pub fn ring(&self) -> BorrowedFd<'_> {
        self.transitions.as_fd()
    }

    /// Hands on the records in the ring up to a limit, in the order in which each socket's happened, and passes
    /// on what the BPF programs logged.
    ///
    /// # Errors
    /// The ring held something that is no transition; what came after it is still there.
    pub fn drain(&mut self, limit: Limit, mut each: impl FnMut(&RingEvent)) -> Result<Drained, DecodeError> {
        let Self { transitions, cookies, .. } = self;
        let drained = drain::take(limit, clock::monotonic_ns, || {
            let Some(bytes) = transitions.next() else { return Ok(None) };
            let mut heard = decode::ring_event(&bytes)?;
            walk_thread::drop_actor(heard.transition_mut());
            if let (Some(cookies), RingEvent::Transition(transition)) = (&mut *cookies, &heard) {
                heard = RingEvent::Transition(cookies.transition(*transition));
            }
            each(&heard);
            Ok(Some(heard.transition().ktime_ns))
        })?;
        self.log.flush();
        Ok(drained)
    }

    /// Whether other network namespaces can be entered.
    pub fn enters_namespaces(&self) -> bool {
        uses(&self.sources, Feature::SetNs)
    }

    /// Which transitions have not reached the ring since the last call. `told_twice`: how many of the transitions drained so
    /// far came a second time. `now_ns`: `CLOCK_MONOTONIC` nanoseconds; what was skipped just now is told by a later call,
    /// at [`Self::losses_due_ns`], if nothing has taken it over until then.
    ///
    /// # Errors
    /// The counters could not be read.
    pub fn take_new_losses(
        &mut self,
        told_twice: u64,
        now_ns: u64,
    ) -> Result<NewLosses, aya::maps::MapError> {
        if let Some(guards) = &mut self.guards
            && self.losses.last_needs_a_guard()?
        {
            match guards.attach(&mut self.ebpf) {
                Some(Ok((name, attached))) => {
                    self.attached.push(attached);
                    self.losses.guarded_by(&self.ebpf, name, told_twice)?;
                }
                // What there is goes on, and what it misses goes on being counted.
                Some(Err(refusal)) => {
                    self.guards = None;
                    say(format_args!("cannot guard against skipped transitions: {}", refusal.what()));
                }
                None => self.guards = None,
            }
        }
        self.losses.take_new(told_twice, now_ns)
    }

    /// When [`Self::take_new_losses`] is to be called even if nothing comes.
    pub fn losses_due_ns(&self) -> Option<u64> {
        self.losses.due_ns()
    }

    /// Walks the open TCP sockets in one of `states` (a mask) as far as `reach` says, and who holds them.
    ///
    /// # Errors
    /// See [`WalkError`]. Namespaces and processes that vanish meanwhile are no error.
    pub fn walk(&mut self, states: u32, reach: &Reach) -> Result<Walk, WalkError> {
        self.walk_holding(states, states, reach)
    }

    /// Like [`Self::walk`], and finds at least the holders of those in one of `held` (a part of `states`): it is faster
    /// where few are.
    ///
    /// # Errors
    /// As there.
    pub fn walk_holding(&mut self, states: u32, held: u32, reach: &Reach) -> Result<Walk, WalkError> {
        let sees_all = uses(&self.sources, Feature::Proc);
        if let Some(cookies) = &mut self.cookies {
            // Transitions do not tell the namespace of their socket.
            let reach = reach.clone().everywhere();
            let mut walk = walk::walk(walk::By::SockDiag(states), None, &reach, sees_all)?;
            let is_complete = walk.covers(0);
            cookies.rows(&mut walk.sockets, is_complete);
            walk::add_holders(&mut walk)?;
            return Ok(walk);
        }
        let by_files = uses(&self.sources, Feature::TaskFile);
        // /proc/PID/fd tells sockets by their inodes.
        let walked = namespaces::own().unwrap_or(0);
        let wanted = WalkFilter {
            socket_states: states,
            holder_states: held,
            walked_netns: walked,
            needs_inode: (!by_files).into(),
        };
        self.wanted.set(0, bytemuck::must_cast::<_, [u32; 4]>(wanted), 0)?;
        let (mut sockets, mut holders) = (None, None);
        for (name, program) in self.ebpf.programs_mut() {
            match name {
                programs::TCP_SOCKETS => sockets = Some(<&mut Iter>::try_from(program)?),
                programs::SOCKET_HOLDERS if by_files => {
                    let iterator = <&mut Iter>::try_from(program)?;
                    holders = Some(walk::Holders { iterator, states: held });
                }
                _ => {}
            }
        }
        let sockets = sockets.unwrap_or_else(|| unreachable!("load() has loaded it"));
        let mut walk = walk::walk(walk::By::Iterator(sockets), holders, reach, sees_all)?;
        if !by_files {
            walk::add_holders(&mut walk)?;
        }
        Ok(walk)
    }
}

/// How many descriptors a run takes that only looks, and one that traces, with some to spare.
const TO_LOOK_ONCE: usize = 24;
const TO_TRACE: usize = 40;

/// Raises the soft limit of open files, and checks that this many can be opened: below, some libraries panic or name
/// another reason.
fn reserve_descriptors(count: usize) -> Result<(), AttachError> {
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    let _the_soft_limit_stays = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    let spare: io::Result<Vec<_>> = (0..count).map(|_| io::stderr().as_fd().try_clone_to_owned()).collect();
    spare.map(drop).map_err(|error| {
        let what = format!("cannot open {count} files");
        AttachError::short(&what, &error).unwrap_or_else(|| AttachError::Setup(format!("{what}: {error}")))
    })
}

fn uses(sources: &[FeatureStatus], feature: Feature) -> bool {
    sources.iter().any(|source| source.feature == feature && source.in_use())
}

fn map<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, AttachError> {
    let found = ebpf.take_map(name).ok_or_else(|| load::absent(name))?;
    found.try_into().map_err(|error| AttachError::Setup(format!("cannot open the BPF map `{name}`: {error}")))
}
