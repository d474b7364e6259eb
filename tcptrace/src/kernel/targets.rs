//! What the BPF programs attach to, as the only named types of an otherwise blank BTF.
//!
//! aya looks up an attach target by name in a parsed BTF. Parsing all of the kernel's takes it 30 ms and 25 MB,
//! for a few ids that are found without (`btf.rs`). So aya gets a BTF in which these have their own ids
//! and every other id is a placeholder. The form is that of `Documentation/bpf/btf.rst`.

use aya::{Btf, Endianness};

use super::btf::{self, FUNC, TYPEDEF, Wanted};

/// A forward declaration: what a placeholder is (`include/uapi/linux/btf.h`).
const FORWARD: u32 = 7;

/// What the programs attach to.
pub(super) const TARGETS: [Wanted; 5] = [
    (TYPEDEF, "btf_trace_inet_sock_set_state"),
    (FUNC, "bpf_iter_tcp"),
    (FUNC, "bpf_iter_task_file"),
    (FUNC, "security_sock_graft"),
    (FUNC, "tcp_time_wait"),
];

/// A target that the kernel does not have is left out: loading the program that wants it says so.
pub(super) fn find(kernel: &btf::Btf<'_>) -> Result<Btf, aya::BtfError> {
    let mut named: Vec<(u32, u32, &str)> =
        TARGETS.into_iter().filter_map(|(kind, name)| Some((kernel.id(kind, name)?, kind, name))).collect();
    named.sort_unstable();
    let mut strings = vec![0];
    let mut types = Vec::new();
    let mut next_id = 1;
    for (id, kind, name) in named {
        (next_id..id).for_each(|_| types.extend([0, FORWARD << 24, 0]));
        types.extend([strings.len() as u32, kind << 24, 0]);
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
        next_id = id + 1;
    }
    let type_bytes: &[u8] = bytemuck::cast_slice(&types);
    let (type_length, string_length) = (type_bytes.len() as u32, strings.len() as u32);
    let mut blob = Vec::with_capacity(24 + type_bytes.len() + strings.len());
    blob.extend_from_slice(&0xeb9f_u16.to_ne_bytes()); // magic
    blob.extend_from_slice(&[1, 0]); // version, flags
    for word in [24, 0, type_length, type_length, string_length] {
        blob.extend_from_slice(&word.to_ne_bytes());
    }
    blob.extend_from_slice(type_bytes);
    blob.extend_from_slice(&strings);
    Btf::parse(&blob, Endianness::default())
}
