//! Calls of kernel functions that have no helper number (`Documentation/bpf/kfuncs.rst`): the BPF object has a number
//! of ours in each, for which the function's id in the running kernel's BTF is put in.
//!
//! aya has nothing for this. An instruction is eight bytes at a multiple of eight (`struct bpf_insn`,
//! `include/uapi/linux/bpf.h`), and these two are found by their whole value.

use tcptrace_common::kfunc::{PREEMPT_DISABLE, PREEMPT_ENABLE};

/// `BPF_JMP | BPF_CALL`; the operand is a helper's number.
const CALL_HELPER: u64 = 0x85;
/// The same with `BPF_PSEUDO_KFUNC_CALL` for its source register; the operand is a BTF id.
const CALL_KFUNC: u64 = 0x2085;
/// `BPF_JMP | BPF_JA` to the next instruction.
const NOTHING: u64 = 0x05;

/// The ids of the functions that turn preemption off and on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preemption {
    pub(super) disable: u32,
    pub(super) enable: u32,
}

/// The object with these called; without them, the calls are gone. The words keep the bytes aligned.
pub(super) fn link(object: &[u8], preemption: Option<Preemption>) -> Vec<u64> {
    let call = |number: u32| CALL_HELPER | u64::from(number) << 32;
    let kfunc = |id: Option<u32>| id.map_or(NOTHING, |id| CALL_KFUNC | u64::from(id) << 32);
    let replace = |word: u64| match u64::from_le(word) {
        word if word == call(PREEMPT_DISABLE) => kfunc(preemption.map(|ids| ids.disable)),
        word if word == call(PREEMPT_ENABLE) => kfunc(preemption.map(|ids| ids.enable)),
        word => word,
    };
    let mut words = vec![0; object.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut words)[..object.len()].copy_from_slice(object);
    words.iter_mut().for_each(|word| *word = replace(*word).to_le());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(words: &[u64], preemption: Option<Preemption>) -> Vec<u64> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        link(&bytes, preemption)
    }

    #[test]
    fn only_our_numbers_are_replaced() {
        let ids = Preemption { disable: 7, enable: 8 };
        let words =
            [0x85 | 46 << 32, 0x7c70_0001_0000_0085, 0x95, 0x7c70_0002_0000_0085, 0x7c70_0001_0000_0015];
        let with = [0x85 | 46 << 32, 0x7_0000_2085, 0x95, 0x8_0000_2085, 0x7c70_0001_0000_0015];
        let without = [0x85 | 46 << 32, 0x05, 0x95, 0x05, 0x7c70_0001_0000_0015];
        assert_eq!(linked(&words, Some(ids)), with);
        assert_eq!(linked(&words, None), without);
    }

    #[test]
    fn an_object_of_any_length_is_kept() {
        let object: Vec<u8> = (0..21).collect();
        let words = link(&object, None);
        assert_eq!(&bytemuck::cast_slice::<u64, u8>(&words)[..21], object);
    }
}
