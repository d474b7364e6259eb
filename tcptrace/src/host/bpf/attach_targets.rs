//! The kernel functions and types to which the BPF programs attach, and a stub BTF that names only
//! them.
//!
//! aya looks up an attach target by its name in a BTF that it has parsed. It takes 30 ms and 25 MB
//! to parse all of the kernel's, for a few ids that `btf.rs` finds without. So aya gets a stub in
//! which the targets have their ids and every other id is a placeholder. The format is that of
//! `Documentation/bpf/btf.rst`.

use aya::{Btf, BtfError, Endianness};
use aya_obj::btf::{BtfType, Func, FuncLinkage};

use crate::host::bpf::btf::{self, FUNC, HEADER_BYTES, MAGIC, TYPE_BYTES, TYPEDEF, TypeQuery};

/// The kind of a forward declaration, which serves as placeholder (`include/uapi/linux/btf.h`).
const FORWARD: u32 = 7;

/// All attach targets. Those of the iterators come first.
pub(crate) const TARGETS: [TypeQuery; 5] = [
    (FUNC, "bpf_iter_tcp"),
    (FUNC, "bpf_iter_task_file"),
    (TYPEDEF, "btf_trace_inet_sock_set_state"),
    (FUNC, "security_sock_graft"),
    (FUNC, "tcp_time_wait"),
];
const ITERATORS: usize = 2;

/// An attach target in the running kernel: its id, kind and name.
pub(crate) type Target = (u32, u32, &'static str);

/// Finds the targets that the kernel has: all, or those of the iterators if no `transitions` are
/// traced. If one is missing, loading its program will say so.
pub(crate) fn find_targets(kernel: &btf::Btf<'_>, transitions: bool) -> Vec<Target> {
    let find = |(kind, name): TypeQuery| Some((kernel.type_id(kind, name)?, kind, name));
    let wanted = if transitions { &TARGETS[..] } else { &TARGETS[..ITERATORS] };
    let mut targets: Vec<_> = wanted.iter().copied().filter_map(find).collect();
    targets.sort_unstable();
    targets
}

/// Makes a BTF with these targets and placeholders.
///
/// # Errors
/// aya cannot parse it.
pub(crate) fn stub_btf(targets: &[Target]) -> Result<Btf, BtfError> {
    // aya has no way to add a typedef, so everything up to the last one is parsed, which takes
    // longer.
    let typedefs = targets.iter().rposition(|(_, kind, _)| *kind == TYPEDEF).map_or(0, |last| last + 1);
    let (parsed, added) = targets.split_at(typedefs);
    let (mut btf, mut next_id) = match parsed.last() {
        Some((last, ..)) => (Btf::parse(&encode_types(parsed), Endianness::default())?, last + 1),
        None => (Btf::new(), 1),
    };
    for (id, _, name) in added {
        for _ in next_id..*id {
            btf.add_type(BtfType::Unknown);
        }
        let name = btf.add_string(name);
        next_id = btf.add_type(BtfType::Func(Func::new(name, 0, FuncLinkage::Static))) + 1;
    }
    Ok(btf)
}

/// Encodes the targets, with placeholders for all other ids up to the last one.
///
/// All goes into one vector of the right size: there are tens of thousands of placeholders, and
/// what this thread allocates beside it stays with the process.
fn encode_types(targets: &[Target]) -> Vec<u8> {
    let count = targets.last().map_or(0, |(id, ..)| *id as usize); // addresses have 64 bits
    let mut strings = vec![0];
    let strings_length = 1 + targets.iter().map(|(.., name)| name.len() + 1).sum::<usize>();
    let types_length = count * TYPE_BYTES;
    let mut encoded = Vec::with_capacity(HEADER_BYTES + types_length + strings_length);
    let [types_length, strings_length] = [types_length, strings_length].map(section_length);
    encoded.extend_from_slice(&MAGIC);
    encoded.extend_from_slice(&[1, 0]); // version, flags
    let mut put = |words: &[u32]| encoded.extend_from_slice(bytemuck::must_cast_slice(words));
    put(&[section_length(HEADER_BYTES), 0, types_length, types_length, strings_length]);
    let mut next_id = 1;
    for (id, kind, name) in targets {
        (next_id..*id).for_each(|_| put(&[0, FORWARD << 24, 0]));
        put(&[section_length(strings.len()), kind << 24, 0]);
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
        next_id = id + 1;
    }
    encoded.extend_from_slice(&strings);
    encoded
}

/// Returns a length in the width that BTF uses. A section of ours is far below 4 GB.
fn section_length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    #[test]
    fn each_target_has_its_own_id_and_nothing_else_has_a_name() {
        let all = [(7, FUNC, "before"), (38, TYPEDEF, "type"), (39, FUNC, "next"), (114, FUNC, "last")];
        for targets in [&all[..], &all[..2], &all[2..], &all[3..], &[]] {
            let btf = stub_btf(targets).expect("it is BTF");
            for (id, kind, name) in all {
                let kind = if kind == FUNC { BtfKind::Func } else { BtfKind::Typedef };
                let expected = targets.iter().any(|(_, _, wanted)| *wanted == name).then_some(id);
                assert_eq!(btf.id_by_type_name_kind(name, kind).ok(), expected, "{name} of {targets:?}");
            }
        }
    }
}
