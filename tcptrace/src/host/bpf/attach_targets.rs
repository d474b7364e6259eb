//! What the BPF programs attach to, as the only named types of an otherwise blank BTF.
//!
//! aya looks up an attach target by name in a BTF of its own. Parsing all of the kernel's takes it 30 ms and 25 MB, for a
//! few ids that are found without (`btf.rs`). So aya gets a BTF in which these have their own ids and every other id is
//! a placeholder. The form is that of `Documentation/bpf/btf.rst`.

use crate::host::bpf::btf;
use aya::{Btf, Endianness};
use aya_obj::btf::{BtfType, Func, FuncLinkage};

use crate::host::bpf::btf::{FUNC, HEADER_BYTES, MAGIC, TYPE_BYTES, TYPEDEF, TypeQuery};

/// A forward declaration: what a placeholder is (`include/uapi/linux/btf.h`).
const FORWARD: u32 = 7;

/// What the programs attach to; what walks take comes first.
pub(crate) const TARGETS: [TypeQuery; 5] = [
    (FUNC, "bpf_iter_tcp"),
    (FUNC, "bpf_iter_task_file"),
    (TYPEDEF, "btf_trace_inet_sock_set_state"),
    (FUNC, "security_sock_graft"),
    (FUNC, "tcp_time_wait"),
];
const WALKS: usize = 2;

/// A target in the running kernel: its id, kind and name.
pub(crate) type Target = (u32, u32, &'static str);

/// Those that the kernel has, of all or of the walks' alone: loading the program that wants another one says so.
pub(crate) fn find(kernel: &btf::Btf<'_>, transitions: bool) -> Vec<Target> {
    let find = |(kind, name): TypeQuery| Some((kernel.id(kind, name)?, kind, name));
    let wanted = if transitions { &TARGETS[..] } else { &TARGETS[..WALKS] };
    let mut targets: Vec<_> = wanted.iter().copied().filter_map(find).collect();
    targets.sort_unstable();
    targets
}

/// A BTF with these in it, and otherwise blank.
pub(crate) fn stub_btf(targets: &[Target]) -> Result<Btf, aya::BtfError> {
    // A function is added where it belongs, after so many placeholders; a typedef can only be parsed, which takes longer.
    let typedefs = targets.iter().rposition(|(_, kind, _)| *kind == TYPEDEF).map_or(0, |last| last + 1);
    let (parsed, added) = targets.split_at(typedefs);
    let (mut btf, mut next_id) = match parsed.last() {
        Some((last, ..)) => (Btf::parse(&blob(parsed, *last), Endianness::default())?, last + 1),
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

/// So many types as bytes, these among them.
fn blob(targets: &[Target], count: u32) -> Vec<u8> {
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
    blob
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
