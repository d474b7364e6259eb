//! Reads the kernel's type information (BTF, `Documentation/bpf/btf.rst`): finds a few types by
//! name and the offsets of their members.
//!
//! One pass over a hundred thousand types notes where each begins and which of them are queried.
//! This takes about a millisecond of a start, where btf-rs 2 takes 175 ms and 40 MB. Any
//! bytes are safe to read: malformed ones give an error, or nothing is found in them.

use std::{fs, io, ops::Deref, path::Path};

use memmap2::{Mmap, MmapOptions};

/// `BTF_MAGIC`, in the byte order of this machine.
pub(crate) const MAGIC: [u8; 2] = 0xeb9f_u16.to_ne_bytes();
/// The size of a `struct btf_header`: magic, version, flags, `hdr_len`, `type_off`, `type_len`,
/// `str_off`, `str_len`.
pub(crate) const HEADER_BYTES: usize = 24;
/// The size of a type, without what follows it for its kind.
pub(crate) const TYPE_BYTES: usize = 12;
/// The size of a member of a struct or union.
const MEMBER_BYTES: usize = 12;
/// The longest chain of types that is followed. The kernel's own are far shorter.
const MAX_DEPTH: u32 = 32;
/// The number of members that are looked at for one path at most. The kernel's structs have far
/// fewer.
const MAX_MEMBERS: u32 = 100_000;

/// The kind of a struct (`include/uapi/linux/btf.h`); the kinds below are from there too.
pub(crate) const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// The kind of a typedef.
pub(crate) const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
/// The kind of a function.
pub(crate) const FUNC: u32 = 12;
const TYPE_TAG: u32 = 18;

/// These bytes are no BTF.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBtf {
    #[error("it does not begin as BTF of this machine does")]
    Magic,
    #[error("it is cut off")]
    Short,
    #[error("type {id} is of an unknown kind, {kind}")]
    Kind { id: u32, kind: u32 },
}

/// The bytes of a file, in place if the file can be mapped.
pub(crate) enum Raw {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Deref for Raw {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Read(read) => read,
        }
    }
}

/// Reads the kernel's type information.
///
/// Newer kernels can map it (`kernel/bpf/sysfs_btf.c`), so that nothing is copied. To read it
/// takes as long as to search it, because sysfs returns a page at a time.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read_kernel_btf(path: &Path) -> io::Result<Raw> {
    let file = fs::File::open(path)?;
    // SAFETY: the kernel does not change this file while it runs, and nobody else can write to it.
    match unsafe { MmapOptions::new().map_copy_read_only(&file) } {
        Ok(mapped) => Ok(Raw::Mapped(mapped)),
        Err(_) => fs::read(path).map(Raw::Read),
    }
}

/// A type to find, by its kind and name.
pub(crate) type TypeQuery = (u32, &'static str);

/// Type information, with the places of the queried types.
#[derive(Debug)]
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `types`; the first one has the id 1.
    begins: Vec<u32>,
    /// The queried types, with their ids.
    found: Vec<(TypeQuery, u32)>,
}

/// The first words of a type.
#[derive(Clone, Copy)]
struct TypeHead {
    name: u32,
    info: u32,
    /// The id of the type to which this one leads, or the size of this one.
    size_or_type: u32,
}

impl TypeHead {
    fn read_head(bytes: &[u8], at: usize) -> Option<Self> {
        Some(Self {
            name: read_word(bytes, at)?,
            info: read_word(bytes, at + 4)?,
            size_or_type: read_word(bytes, at + 8)?,
        })
    }

    /// Returns the kind of the type.
    const fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// Returns the number of members, or of what else follows.
    const fn count_members(self) -> usize {
        // Masked to 16 bits, so nothing is cut off.
        (self.info & 0xffff) as usize
    }

    /// Whether the words with the offsets of members also contain sizes of bit fields.
    const fn has_bit_fields(self) -> bool {
        self.info >> 31 == 1
    }

    /// Returns how many bytes follow; `None` for an unknown kind.
    const fn tail_bytes(self) -> Option<usize> {
        Some(match self.kind() {
            // Pointer, forward declaration, typedef, qualifiers, function, float, type tag.
            2 | 7..=12 | 16 | 18 => 0,
            // Integer, variable, declaration tag.
            1 | 14 | 17 => 4,
            // Array.
            3 => 12,
            // Enumeration, function's parameters.
            6 | 13 => self.count_members() * 8,
            // Struct, union, section, enumeration of 64 bits.
            4 | 5 | 15 | 19 => self.count_members() * 12,
            _ => return None,
        })
    }
}

impl<'a> Btf<'a> {
    /// Finds the queried types in `raw`. Of several types that match a query, the first one
    /// counts; structs without members do not.
    ///
    /// # Errors
    /// The bytes are no BTF, or contain something that cannot be skipped.
    pub(crate) fn parse(raw: &'a [u8], queries: &[TypeQuery]) -> Result<Self, BadBtf> {
        let (types, strings) = split_sections(raw)?;
        let mut btf =
            Self { types, strings, begins: Vec::with_capacity(types.len() / 24), found: Vec::new() };
        // Most types are of other kinds than those queried.
        let kinds = queries.iter().fold(0_u32, |mask, (kind, _)| mask | 1 << kind);
        let mut at = 0;
        while at < types.len() {
            let head = TypeHead::read_head(types, at).ok_or(BadBtf::Short)?;
            btf.begins.push(u32::try_from(at).map_err(|_| BadBtf::Short)?);
            let id = u32::try_from(btf.begins.len()).map_err(|_| BadBtf::Short)?;
            if kinds >> head.kind() & 1 == 1
                && let Some(query) = queries.iter().find(|query| btf.matches(head, query))
            {
                btf.found.push((*query, id));
            }
            at += TYPE_BYTES + head.tail_bytes().ok_or(BadBtf::Kind { id, kind: head.kind() })?;
        }
        if at == types.len() { Ok(btf) } else { Err(BadBtf::Short) }
    }

    fn matches(&self, head: TypeHead, (kind, name): &TypeQuery) -> bool {
        head.kind() == *kind
            && (head.kind() != STRUCT || head.count_members() > 0)
            && self.is_named(head.name, name)
    }

    /// Returns the id of a type that was queried.
    pub(crate) fn type_id(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it = |((its_kind, its_name), _): &&(TypeQuery, u32)| *its_kind == kind && *its_name == name;
        self.found.iter().find(is_it).map(|(_, id)| *id)
    }

    /// Returns the byte offset of `member.member…` in a struct. Members of anonymous structs and
    /// unions are found by name, as in C.
    pub(crate) fn offset_of(&self, mut within: u32, members: &str) -> Option<u32> {
        let (mut bits, mut left) = (0_u32, MAX_MEMBERS);
        for name in members.split('.') {
            let (at, found) = self.find_member(within, name, MAX_DEPTH, &mut left)?;
            bits = bits.checked_add(at)?;
            within = found;
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Finds a member by name: its offset in bits, and its type. `left`: how many members may
    /// still be looked at.
    fn find_member(&self, within: u32, name: &str, depth: u32, left: &mut u32) -> Option<(u32, u32)> {
        let (at, head) = self.resolve_composite(within)?;
        (0..head.count_members()).find_map(|nth| {
            *left = left.checked_sub(1)?;
            let member = at + TYPE_BYTES + nth * MEMBER_BYTES;
            let [named, of, offset] = [0, 4, 8].map(|part| read_word(self.types, member + part));
            let (named, of, offset) = (named?, of?, offset?);
            let bits = if head.has_bit_fields() { offset & 0x00ff_ffff } else { offset };
            if self.is_named(named, name) {
                Some((bits, of))
            } else if self.is_named(named, "") {
                let (inner, found) = self.find_member(of, name, depth.checked_sub(1)?, left)?;
                Some((bits.checked_add(inner)?, found))
            } else {
                None
            }
        })
    }

    /// Follows typedefs and qualifiers to a struct or union. Returns where that begins.
    fn resolve_composite(&self, mut id: u32) -> Option<(usize, TypeHead)> {
        for _ in 0..MAX_DEPTH {
            let index = usize::try_from(id.checked_sub(1)?).ok()?;
            let at = usize::try_from(*self.begins.get(index)?).ok()?;
            let head = TypeHead::read_head(self.types, at)?;
            match head.kind() {
                STRUCT | UNION => return Some((at, head)),
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = head.size_or_type,
                _ => return None,
            }
        }
        None
    }

    /// Whether this name is at `offset` of the strings.
    fn is_named(&self, offset: u32, name: &str) -> bool {
        let there = usize::try_from(offset).ok().and_then(|offset| self.strings.get(offset..));
        let Some(there) = there else { return false };
        // Nearly always, the first byte decides.
        there.first() == Some(name.as_bytes().first().unwrap_or(&0))
            && there.starts_with(name.as_bytes())
            && there.get(name.len()) == Some(&0)
    }
}

/// Returns the sections of the types and of the strings.
fn split_sections(raw: &[u8]) -> Result<(&[u8], &[u8]), BadBtf> {
    if raw.len() < HEADER_BYTES {
        return Err(BadBtf::Short);
    }
    if raw.get(..2) != Some(&MAGIC[..]) {
        return Err(BadBtf::Magic);
    }
    let number = |at| read_word(raw, at).and_then(|word| usize::try_from(word).ok()).ok_or(BadBtf::Short);
    let header_bytes = number(4)?;
    let section = |at: usize, length: usize| {
        let begin = header_bytes.checked_add(at)?;
        raw.get(begin..begin.checked_add(length)?)
    };
    let types = section(number(8)?, number(12)?).ok_or(BadBtf::Short)?;
    let strings = section(number(16)?, number(20)?).ok_or(BadBtf::Short)?;
    Ok((types, strings))
}

fn read_word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
pub(crate) mod blob;

#[cfg(test)]
mod tests {
    use super::blob::Blob;
    use super::*;

    const FORWARD: u32 = 7;
    const INT: u32 = 1;

    fn example() -> Vec<u8> {
        let mut blob = Blob::default();
        blob.add("int", INT, 4, &[32]); // 1
        blob.add_composite("sock", &[]); // 2: an empty one of the same name
        blob.composite_of("", UNION, 0, &[("port", 1, 0), ("hash", 1, 0)]); // 3
        blob.add_composite("common", &[("family", 1, 0), ("", 3, 32), ("odd", 1, 65)]); // 4
        blob.add("common_t", TYPEDEF, 4, &[]); // 5
        blob.add("", CONST, 5, &[]); // 6
        blob.composite_of("sock", STRUCT, 1, &[("flags", 1, 3 << 24 | 8), ("inner", 6, 64)]); // 7
        blob.add("sock", FUNC, 1, &[]); // 8
        blob.add("other", FORWARD, 0, &[]); // 9
        blob.bytes()
    }

    #[test]
    fn types_are_found_by_kind_and_name_and_members_as_in_c() {
        let raw = example();
        let btf =
            Btf::parse(&raw, &[(STRUCT, "sock"), (FUNC, "sock"), (STRUCT, "absent")]).expect("it is good");
        let sock = btf.type_id(STRUCT, "sock").expect("it is there");
        assert_eq!((sock, btf.type_id(FUNC, "sock"), btf.type_id(STRUCT, "absent")), (7, Some(8), None));
        assert_eq!(btf.offset_of(sock, "flags"), Some(1));
        assert_eq!(btf.offset_of(sock, "inner"), Some(8));
        assert_eq!(btf.offset_of(sock, "inner.family"), Some(8));
        assert_eq!(btf.offset_of(sock, "inner.hash"), Some(12), "through an anonymous union");
        for absent in ["absent", "inner.absent", "flags.x", "inner.odd"] {
            assert_eq!(btf.offset_of(sock, absent), None, "{absent}");
        }
    }

    #[test]
    fn what_is_cut_off_or_of_an_unknown_kind_is_an_error() {
        let raw = example();
        for length in 0..raw.len() {
            let cut = Btf::parse(&raw[..length], &[(STRUCT, "sock")]).map(|btf| btf.found);
            assert!(matches!(cut, Err(BadBtf::Magic | BadBtf::Short)), "{length}: {cut:?}");
        }
        let mut blob = Blob::default();
        blob.add("new", 31, 0, &[]);
        assert_eq!(Btf::parse(&blob.bytes(), &[]).map(|_| ()), Err(BadBtf::Kind { id: 1, kind: 31 }));
    }

    #[test]
    fn types_that_lead_to_themselves_end_somewhere() {
        let mut blob = Blob::default();
        blob.add_composite("sock", &[("", 1, 0), ("", 1, 0), ("to", 2, 0)]); // 1: in itself, twice
        blob.add("loop", TYPEDEF, 2, &[]); // 2
        let raw = blob.bytes();
        let btf = Btf::parse(&raw, &[(STRUCT, "sock")]).expect("it is good");
        assert_eq!(btf.offset_of(1, "to.x"), None);
        assert_eq!(
            btf.offset_of(1, "absent"),
            None,
            "without looking into it two to the thirty-second times"
        );
    }
}
