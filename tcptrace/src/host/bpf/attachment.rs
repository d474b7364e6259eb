//! The BPF object once it is loaded and attached.

use aya::Ebpf;

use crate::host::{
    bpf::{fallback::FallbackPrograms, programs::Link},
    features::FeatureStatus,
};

/// The BPF object, loaded and attached.
pub(crate) struct Attachment {
    /// The loaded BPF object.
    pub(crate) ebpf: Ebpf,
    /// The attached programs.
    pub(crate) links: Vec<Link>,
    /// The features that are in use, and why the others are not.
    pub(crate) statuses: Vec<FeatureStatus>,
    /// The names of the programs on the tracepoint, in their order there.
    pub(crate) tracing: Vec<&'static str>,
    /// The name of the program that counts what they miss, if there is one.
    pub(crate) counter: Option<&'static str>,
    /// The programs that may yet be attached.
    pub(crate) fallbacks: Option<FallbackPrograms>,
    /// Whether the programs read the kernel's structures. Without BTF there are no iterators
    /// either.
    pub(crate) has_btf: bool,
}
