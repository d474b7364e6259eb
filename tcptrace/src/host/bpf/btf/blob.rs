//! Encodes type information for tests, complete or broken.

use crate::host::bpf::btf::{MAGIC, STRUCT};

/// Types and strings in the format of `Documentation/bpf/btf.rst`.
#[derive(Clone, Default)]
pub(in crate::host::bpf) struct Blob {
    pub(in crate::host::bpf) types: Vec<u32>,
    strings: Vec<u8>,
    count: u32,
}

impl Blob {
    /// Adds a string. Returns its offset.
    #[expect(clippy::cast_possible_truncation, reason = "what is made here is small")]
    pub(in crate::host::bpf) fn add_string(&mut self, text: &str) -> u32 {
        if self.strings.is_empty() {
            self.strings.push(0);
        }
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type, with `more` after its header. Returns its id.
    pub(in crate::host::bpf) fn add(
        &mut self,
        name: &str,
        kind: u32,
        size_or_type: u32,
        more: &[u32],
    ) -> u32 {
        self.add_with(name, kind << 24, size_or_type, more)
    }

    /// Adds a struct with these members: name, type, offset in bits. Returns its id.
    pub(in crate::host::bpf) fn add_composite(&mut self, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        self.composite_of(name, STRUCT, 0, members)
    }

    /// Adds a struct or union. `flag` is 1 if the offsets also contain sizes of bit fields.
    pub(in crate::host::bpf) fn composite_of(
        &mut self,
        name: &str,
        kind: u32,
        flag: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let mut words = Vec::new();
        for (name, id, bits) in members {
            words.extend([self.add_string(name), *id, *bits]);
        }
        self.add_with(name, flag << 31 | kind << 24 | members.len() as u32, 8, &words)
    }

    fn add_with(&mut self, name: &str, info: u32, size_or_type: u32, more: &[u32]) -> u32 {
        let name = self.add_string(name);
        self.types.extend([name, info, size_or_type]);
        self.types.extend_from_slice(more);
        self.count += 1;
        self.count
    }

    /// Encodes all that was added.
    pub(in crate::host::bpf) fn bytes(&self) -> Vec<u8> {
        let types: &[u8] = bytemuck::cast_slice(&self.types);
        let mut bytes = [&MAGIC[..], &[1, 0]].concat();
        for word in [24, 0, types.len() as u32, types.len() as u32, self.strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        [&bytes, types, &self.strings].concat()
    }
}
