//! What the BPF programs attach to, as the only named types of an otherwise blank BTF.
//!
//! aya looks up an attach target by name in a parsed BTF. Parsing all of the kernel's takes it 30 ms and 25 MB,
//! for a few ids that `btf-rs` finds without parsing. So aya gets a BTF in which these have their own ids
//! and every other id is a placeholder. The form is that of `Documentation/bpf/btf.rst`.

use aya::{Btf, Endianness};
use btf_rs::Type;

/// `enum { BTF_KIND_… }`, `include/uapi/linux/btf.h`.
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;

/// A target that the kernel does not have is left out: loading the program that wants it says so.
pub(super) fn find(kernel: &btf_rs::Btf) -> Result<Btf, aya::BtfError> {
    let targets = [
        ("btf_trace_inet_sock_set_state", KIND_TYPEDEF),
        ("bpf_iter_tcp", KIND_FUNC),
        ("bpf_iter_task_file", KIND_FUNC),
        ("security_sock_graft", KIND_FUNC),
        ("tcp_time_wait", KIND_FUNC),
    ];
    let mut named: Vec<(u32, u32, &str)> =
        targets.into_iter().filter_map(|(name, kind)| Some((id(kernel, name, kind)?, kind, name))).collect();
    named.sort_unstable();
    let mut strings = vec![0];
    let mut types = Vec::new();
    let mut next_id = 1;
    for (id, kind, name) in named {
        (next_id..id).for_each(|_| types.extend([0, KIND_FWD << 24, 0]));
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

/// The id of the type of that name and kind.
fn id(kernel: &btf_rs::Btf, name: &str, kind: u32) -> Option<u32> {
    kernel.resolve_ids_by_name(name).ok()?.into_iter().find(|id| {
        matches!(
            (kernel.resolve_type_by_id(*id), kind),
            (Ok(Type::Typedef(_)), KIND_TYPEDEF) | (Ok(Type::Func(_)), KIND_FUNC)
        )
    })
}
