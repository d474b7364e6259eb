//! The BPF programs, maps and links in the kernel, by id, as `bpftool` lists them (bpf(2)).

use std::{fs, io};

/// A kind of BPF object. Each has ids of its own, which `/proc/PID/fdinfo` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A program, `prog_id`.
    Program,
    /// A map, `map_id`.
    Map,
    /// A link, `link_id`.
    Link,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Program, Self::Map, Self::Link];

    const fn in_fdinfo(self) -> &'static str {
        match self {
            Self::Program => "prog_id:",
            Self::Map => "map_id:",
            Self::Link => "link_id:",
        }
    }

    /// `BPF_PROG_GET_NEXT_ID`, `BPF_MAP_GET_NEXT_ID`, `BPF_LINK_GET_NEXT_ID` (`enum bpf_cmd`,
    /// `include/uapi/linux/bpf.h`).
    const fn next_id_command(self) -> libc::c_long {
        match self {
            Self::Program => 11,
            Self::Map => 12,
            Self::Link => 31,
        }
    }
}

/// Returns the BPF objects that a process has descriptors of.
///
/// # Panics
/// If there is no such process.
pub fn held_by(pid: u32) -> Vec<(Kind, u32)> {
    let folder = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the process lives");
    let mut held: Vec<_> = folder
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .flat_map(|info| {
            // The entry of a link has the id of its program too.
            let find = |kind: Kind| {
                let id = info.lines().find_map(|line| line.strip_prefix(kind.in_fdinfo()))?;
                Some((kind, id.trim().parse().expect("an id is a number")))
            };
            Kind::ALL.into_iter().filter_map(find).collect::<Vec<_>>()
        })
        .collect();
    held.sort_unstable();
    held.dedup();
    held
}

/// Returns whether the kernel still has this object. It reuses an id only after all others.
///
/// # Panics
/// If the kernel refuses to say.
pub fn is_there((kind, id): (Kind, u32)) -> bool {
    // The first members of `union bpf_attr` for these commands: start_id, next_id, open_flags.
    let mut attributes: [u32; 3] = [id - 1, 0, 0];
    let size = size_of_val(&attributes);
    // SAFETY: bpf(2) reads and writes so many bytes at that address, which is ours until it
    // returns.
    let done = unsafe { libc::syscall(libc::SYS_bpf, kind.next_id_command(), attributes.as_mut_ptr(), size) };
    match (done, io::Error::last_os_error().raw_os_error()) {
        (0, _) => attributes[1] == id,
        (_, Some(libc::ENOENT)) => false,
        (_, error) => panic!("{kind:?} after {}: {error:?}", id - 1),
    }
}
