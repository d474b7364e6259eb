//! What is known when tracing begins: what traces, where, and with which features of the kernel.

use std::collections::BTreeSet;

use crate::{
    config::Config,
    diagnostics::{print_info, print_problem},
    engine::{coverage::CoverageGaps, walk::Walk},
    events::{KernelFeature, Start, TracerInfo},
    host::{features::FeatureStatus, kernel::Kernel, proc::arguments::Patience},
};

/// Says on stderr what is being done, and which kernel features it has to do without.
pub(crate) fn print_banner(sources: &[FeatureStatus], words: &str) {
    print_info(words);
    for source in sources.iter().filter(|source| source.is_lacking()) {
        if let Some(reason) = &source.unavailable_reason {
            print_info(format_args!("without {}: {reason}", source.feature.name()));
        }
    }
}

/// Says on stderr what a filter names that is not there yet. It may come, or be a typing error.
pub(crate) fn print_missing(config: &Config, kernel: &Kernel, walk: &Walk) {
    if config.filter.names_something() {
        let residents = kernel.residents(config.filter.asks_for_processes(), Patience::Short);
        let CoverageGaps { missing, .. } =
            CoverageGaps::find_gaps(&config.filter, walk, &residents, &Kernel::has_cgroup, &BTreeSet::new());
        for missing in missing {
            print_problem(format_args!("{missing}; nothing is shown before that changes"));
        }
    }
}

/// The record of the start, after the first walk.
pub(crate) fn start_record(kernel: &Kernel, walk: &Walk) -> Start {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    Start {
        version: env!("CARGO_PKG_VERSION").into(),
        kernel: kernel_release(),
        host,
        boot_id: boot_id.ok().map(|id| id.trim_end().to_owned()),
        sockets: walk.sockets.len(),
        sources: kernel.feature_statuses().iter().map(KernelFeature::from).collect(),
    }
}

/// Returns what metrics tell of this tracer.
pub(crate) fn tracer_info(kernel: &Kernel) -> TracerInfo {
    let sources = kernel.feature_statuses().iter();
    TracerInfo {
        version: env!("CARGO_PKG_VERSION"),
        kernel: kernel_release(),
        features: sources.map(|source| (source.feature.name(), source.in_use())).collect(),
    }
}

/// The kernel's (uname(2)).
fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
