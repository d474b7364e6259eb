//! What the BPF programs attach to, as the only named types of an otherwise blank BTF.
//!
//! aya looks up an attach target by name in a parsed BTF. Parsing all of the kernel's takes it 30 ms and 25 MB,
//! for a few ids that are found without (`btf.rs`). So aya gets a BTF in which these have their own ids
//! and every other id is a placeholder. The form is that of `Documentation/bpf/btf.rst`.

use aya::{Btf, Endianness};

use super::btf::{self, FUNC, HEADER_BYTES, MAGIC, TYPE_BYTES, TYPEDEF, Wanted};

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

/// A target in the running kernel: its id, kind and name.
pub(super) type Target = (u32, u32, &'static str);

/// Those that the kernel has: loading the program that wants another one says so.
pub(super) fn find(kernel: &btf::Btf<'_>) -> Vec<Target> {
    let find = |(kind, name): Wanted| Some((kernel.id(kind, name)?, kind, name));
    let mut targets: Vec<_> = TARGETS.into_iter().filter_map(find).collect();
    targets.sort_unstable();
    targets
}

/// A BTF with these in it, and otherwise blank.
pub(super) fn blank(targets: &[Target]) -> Result<Btf, aya::BtfError> {
    let count = targets.last().map_or(0, |(id, ..)| *id);
    let mut strings = vec![0];
    let mut blob = Vec::with_capacity(HEADER_BYTES + TYPE_BYTES * count as usize + 256);
    blob.extend_from_slice(&MAGIC);
    blob.extend_from_slice(&[1, 0]); // version, flags
    let put = |blob: &mut Vec<u8>, words: &[u32]| {
        words.iter().for_each(|word| blob.extend_from_slice(&word.to_ne_bytes()));
    };
    let type_length = count * TYPE_BYTES as u32;
    let string_length = 1 + targets.iter().map(|(.., name)| name.len() as u32 + 1).sum::<u32>();
    put(&mut blob, &[HEADER_BYTES as u32, 0, type_length, type_length, string_length]);
    let mut next_id = 1;
    for (id, kind, name) in targets {
        (next_id..*id).for_each(|_| put(&mut blob, &[0, FORWARD << 24, 0]));
        put(&mut blob, &[strings.len() as u32, kind << 24, 0]);
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
        next_id = id + 1;
    }
    blob.extend_from_slice(&strings);
    Btf::parse(&blob, Endianness::default())
}
