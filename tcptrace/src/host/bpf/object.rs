//! The BPF object that `build.rs` embeds: its configuration, maps and programs.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapError},
    programs::{Program, ProgramError},
};
use tcptrace_common::{
    BpfConfig, EventLayout, KernelLayout,
    names::{self, maps},
    state,
};

use crate::host::{attach_error::AttachError, options::Options};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tcptrace-ebpf"));

/// The tracepoint at which the kernel reports state changes.
pub(crate) const TRACEPOINT: &str = "inet_sock_set_state";

/// The states (a mask) from which a timewait socket replaces a socket.
const TIMEWAIT_FROM: u32 = state::bit(state::FIN_WAIT2) | state::bit(state::CLOSING);

/// Whether the views of this run show that a timewait socket replaces a socket.
pub(crate) const fn shows_timewait(options: &Options) -> bool {
    options.watched_states & TIMEWAIT_FROM != 0
}

/// Returns a configuration that uses no helper beyond those of Linux 5.8.
pub(crate) const fn base_config(options: &Options, layout: KernelLayout, event: EventLayout) -> BpfConfig {
    BpfConfig { layout, event, watched_states: options.watched_states, ..BpfConfig::UNSET }
}

/// Reads the object, sets its configuration and creates its maps. Loads no program.
///
/// # Errors
/// The kernel refuses a map.
pub(crate) fn create_maps(
    loader: &mut EbpfLoader<'static>,
    options: &Options,
    config: &BpfConfig,
) -> Result<Ebpf, AttachError> {
    // The loader keeps the reference for a second attempt, so the configuration is leaked.
    let config: &'static BpfConfig = Box::leak(Box::new(*config));
    loader
        // BTF serves the relocations of C programs. Ours have none.
        .btf(None)
        .override_global(names::CONFIG, bytemuck::bytes_of(config), true)
        .map_max_entries(maps::TRANSITIONS, options.ring_bytes)
        .map_max_entries(maps::COOKIES, if config.has_cookie.get() { 1 } else { options.max_cookies })
        .load(OBJECT)
        .map_err(AttachError::from_object)
}

/// Takes a map out of the object.
///
/// # Errors
/// The object has no such map of that type.
pub(crate) fn take_map<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, AttachError> {
    let found = ebpf.take_map(name).ok_or_else(|| missing_item(name))?;
    found.try_into().map_err(|error| AttachError::Setup(format!("cannot open the BPF map `{name}`: {error}")))
}

/// Finds a program in the object.
///
/// # Errors
/// The object has no such program of that type.
pub(crate) fn find_program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, AttachError>
where
    T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| missing_item(name))?;
    program.try_into().map_err(|error| AttachError::from_program(name, &error))
}

/// Reports that the object lacks something that `build.rs` should have put there.
pub(crate) fn missing_item(name: &str) -> AttachError {
    AttachError::Setup(format!("`{name}` is missing from the BPF object: this build is broken"))
}
