//! [`Kernel`]: the kernel while it is traced.

mod ring;
mod walks;

use aya::{
    Ebpf,
    maps::{Array, MapData, RingBuf},
};
use aya_log::EbpfLogger;
use rustix::process::{Resource, Rlimit, setrlimit};
use tcptrace_common::{names::maps, state};

use crate::{
    diagnostics::{KernelLog, print_problem},
    engine::coverage::Residents,
    host::{
        attach_error::AttachError,
        bpf::{
            attach, attachment::Attachment, fallback::FallbackPrograms, loss::LossCounter,
            no_btf::cookie_map::CookieMap, object::take_map, programs::Link,
        },
        features::{Feature, FeatureStatus, is_used},
        options::Options,
        privilege,
        proc::{arguments::Patience, residents},
    },
};

/// The kernel while it is traced. Dropping this detaches everything.
pub struct Kernel {
    ebpf: Ebpf,
    links: Vec<Link>,
    fallbacks: Option<FallbackPrograms>,
    transitions: RingBuf<MapData>,
    losses: LossCounter,
    walk_filter: Array<MapData, [u32; 4]>,
    log: EbpfLogger<KernelLog>,
    statuses: Vec<FeatureStatus>,
    /// Only on kernels without BTF.
    cookies: Option<CookieMap>,
}

impl Kernel {
    /// Loads the BPF programs and, if transitions are traced, attaches them: from here on none is
    /// missed. [`prepare`](crate::host::preflight::prepare) comes before.
    ///
    /// The calling thread, which should be the only one, keeps no more privileges than walks use.
    ///
    /// # Errors
    /// This host cannot be traced.
    pub fn attach(options: &Options) -> Result<Self, AttachError> {
        // Before Linux 5.11 the memory of a map counts as locked memory. If the limit cannot be
        // raised and is too low, creating the map fails and says so.
        let unlimited = Rlimit { current: None, maximum: None };
        let _may_fail = setrlimit(Resource::Memlock, unlimited);
        let attachment = attach::attach(options)?;
        let Attachment { mut ebpf, links, mut statuses, tracing, counter, fallbacks, has_btf } = attachment;
        if let Err(error) = privilege::give_up_unneeded(fallbacks.is_some()) {
            print_problem(format_args!("cannot give up the privileges that are no longer needed: {error}"));
        }
        let by_proc = !is_used(&statuses, Feature::TaskFile);
        statuses.extend(privilege::probe_privileges(by_proc)?);
        let watches_all = options.watched_states == state::ALL;
        Ok(Self {
            links,
            fallbacks,
            losses: LossCounter::new(&mut ebpf, &tracing, counter, watches_all)?,
            transitions: take_map(&mut ebpf, maps::TRANSITIONS)?,
            walk_filter: take_map(&mut ebpf, maps::WALK_FILTER)?,
            log: EbpfLogger::init_with_logger(&mut ebpf, KernelLog).map_err(|error| {
                AttachError::Setup(format!("cannot read the log of the BPF programs: {error}"))
            })?,
            statuses,
            cookies: (!has_btf).then(|| CookieMap::new(options.watched_states)),
            ebpf,
        })
    }

    /// Returns which features are in use, and why the others are not.
    pub fn feature_statuses(&self) -> &[FeatureStatus] {
        &self.statuses
    }

    /// Says what can be seen of the host's processes, and lists them if `are_wanted`. Each one's
    /// arguments are waited for as long as `patience` says.
    pub fn residents(&self, are_wanted: bool, patience: Patience) -> Residents {
        residents::list_residents(are_wanted, patience, !is_used(&self.statuses, Feature::TaskFile))
    }

    /// Whether there is a cgroup of this path.
    pub fn has_cgroup(path: &str) -> bool {
        residents::has_cgroup(path)
    }

    /// Whether other network namespaces can be entered.
    pub fn enters_namespaces(&self) -> bool {
        is_used(&self.statuses, Feature::SetNs)
    }

    /// Detaches the programs: no more transitions are recorded. Sockets can still be walked.
    pub fn detach(&mut self) {
        self.links.clear();
        self.fallbacks = None;
        self.losses.close();
    }
}
