//! Loads and attaches the programs that read the kernel's structures, on kernels with BTF.

use std::thread;

use aya::{Btf, Ebpf};
use tcptrace_common::{
    BpfConfig, EventLayout, KernelLayout,
    names::programs::{
        ACCEPTED, FALLBACK, SECOND_FALLBACK, SOCKET_HOLDERS, TCP_SOCKETS, TIMEWAIT, TRANSITION,
    },
    state,
};

use crate::host::{
    attach_error::{AttachError, BTF_PATH},
    bpf::{
        attach_targets::{self, Target, stub_btf},
        attachment::Attachment,
        btf,
        fallback::FallbackPrograms,
        helpers::{Helpers, load_first},
        loader, object, offsets,
        programs::{Link, attach_fentry, attach_tp_btf, load_iter, load_tp_btf},
        skip_count,
    },
    features::{Feature, FeatureStatus, NOT_NEEDED, NOT_SHOWN, TURNED_OFF},
    options::Options,
};

/// Loads and attaches the programs.
///
/// # Errors
/// The kernel has no usable BTF, refuses a program that is indispensable, or something has run out.
pub(crate) fn attach(options: &Options) -> Result<Attachment, AttachError> {
    let (layout, targets) = read_kernel(options)?;
    let mut loader = loader::without_kernel_btf()?;
    // aya's BTF takes as long to make as the object and its maps: make both at the same time.
    let (mut ebpf, helpers, btf) = thread::scope(|scope| {
        let btf = thread::Builder::new()
            .spawn_scoped(scope, || stub_btf(&targets))
            .map_err(|error| AttachError::from_io("cannot start a thread", &error))?;
        load_first(&mut loader, options, |helpers| full_config(options, layout, helpers), btf)
    })?;
    if options.transitions {
        load_iter(&mut ebpf, TCP_SOCKETS, "tcp", &btf)?;
    }
    let holders = load_holders(&mut ebpf, options, &btf)?;
    let mut links = Vec::new();
    let traced = if options.transitions {
        links.push(attach_tp_btf(&mut ebpf, TRANSITION)?);
        FeatureStatus::available(Feature::TpBtf)
    } else {
        FeatureStatus::unavailable(Feature::TpBtf, NOT_NEEDED)
    };
    let mut tracing = vec![TRANSITION];
    // A kernel that does not count what it skips skips nothing.
    let may_skip = options.transitions && ebpf.program(TRANSITION).is_some_and(skip_count::is_counted);
    // If only some states are watched, the first program is done at once with nearly all
    // transitions: few are skipped, and a second program would cost as much again. It is attached
    // when something is skipped all the same.
    let has_fallback = may_skip && options.watched_states == state::ALL;
    if has_fallback {
        load_tp_btf(&mut ebpf, FALLBACK, &btf)?;
        links.push(attach_tp_btf(&mut ebpf, FALLBACK)?);
        tracing.push(FALLBACK);
    }
    let mut functions = Functions { ebpf: &mut ebpf, options, btf: &btf, links: &mut links };
    let has_storage = helpers.storage.in_use();
    let accept = (ACCEPTED, "security_sock_graft");
    let accept = functions.attach_function(Feature::Accept, accept, true, has_storage)?;
    let timewait = (TIMEWAIT, "tcp_time_wait");
    let is_shown = object::shows_timewait(options);
    let timewait = functions.attach_function(Feature::TimeWait, timewait, is_shown, has_storage)?;
    let next = if has_fallback { &[SECOND_FALLBACK][..] } else { &[FALLBACK, SECOND_FALLBACK] };
    let fallbacks = may_skip.then(|| FallbackPrograms::new(targets, has_fallback.then_some(btf), next));
    let walked = FeatureStatus::available(Feature::IterTcp);
    let Helpers { cookie, storage } = helpers;
    let statuses = vec![traced, walked, cookie, holders, storage, accept, timewait];
    Ok(Attachment { ebpf, links, statuses, tracing, counter: None, fallbacks, has_btf: true })
}

/// Reads offsets and attach targets from the kernel's BTF. Its memory is freed before aya takes as
/// much again.
fn read_kernel(options: &Options) -> Result<(KernelLayout, Vec<Target>), AttachError> {
    let raw = btf::read_kernel_btf(BTF_PATH.as_ref()).map_err(|error| {
        AttachError::from_shortage("cannot read the kernel's type information", &error)
            .unwrap_or(AttachError::NoBtf(error))
    })?;
    let kernel = offsets::parse_btf(&raw).map_err(|error| AttachError::BadBtf(error.to_string()))?;
    let layout =
        offsets::find_offsets(&kernel).map_err(|error| AttachError::UnknownLayout(error.to_string()))?;
    Ok((layout, attach_targets::find_targets(&kernel, options.transitions)))
}

fn full_config(options: &Options, layout: KernelLayout, helpers: Helpers) -> BpfConfig {
    BpfConfig {
        has_cookie: helpers.cookie.into(),
        has_storage: helpers.storage.into(),
        // `bpf_get_current_task_btf` came with the second of the two, and before the first.
        has_task: (helpers.cookie || helpers.storage).into(),
        records_lives: options.lives.into(),
        ..object::base_config(options, layout, EventLayout::UNKNOWN)
    }
    .with_interest()
}

/// Loads the iterator over descriptors, if the kernel has one that returns sockets.
fn load_holders(ebpf: &mut Ebpf, options: &Options, btf: &Btf) -> Result<FeatureStatus, AttachError> {
    if options.without.contains(&Feature::TaskFile) {
        return Ok(FeatureStatus::unavailable(Feature::TaskFile, TURNED_OFF));
    }
    match load_iter(ebpf, SOCKET_HOLDERS, "task_file", btf) {
        Ok(()) => Ok(FeatureStatus::available(Feature::TaskFile)),
        Err(error @ AttachError::Shortage { .. }) => Err(error),
        Err(error) => Ok(FeatureStatus::unavailable(Feature::TaskFile, error)),
    }
}

/// Attaches programs to kernel functions.
struct Functions<'a> {
    ebpf: &'a mut Ebpf,
    options: &'a Options,
    btf: &'a Btf,
    links: &'a mut Vec<Link>,
}

impl Functions<'_> {
    /// Attaches a program to a function, given by their names, if this run has a use for it.
    fn attach_function(
        &mut self,
        feature: Feature,
        (name, target): (&'static str, &str),
        is_shown: bool,
        has_storage: bool,
    ) -> Result<FeatureStatus, AttachError> {
        let reason = if !self.options.transitions {
            NOT_NEEDED.to_owned()
        } else if self.options.without.contains(&feature) {
            TURNED_OFF.to_owned()
        } else if !is_shown {
            NOT_SHOWN.to_owned()
        } else if !has_storage {
            format!("needs {}", Feature::Storage.name())
        } else {
            match attach_fentry(self.ebpf, name, target, self.btf) {
                Ok(link) => {
                    self.links.push(link);
                    return Ok(FeatureStatus::available(feature));
                }
                // With a higher limit the feature would be there.
                Err(error @ AttachError::Shortage { .. }) => return Err(error),
                Err(error) => error.to_string(),
            }
        };
        Ok(FeatureStatus::unavailable(feature, reason))
    }
}
