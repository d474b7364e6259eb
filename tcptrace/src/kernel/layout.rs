//! Where the running kernel keeps the fields that the BPF programs read: its BTF in, [`KernelLayout`] out.

use std::{fs::File, io::Write as _, os::fd::AsRawFd as _};

use btf_rs::{Backend, Btf, BtfType, Member, Type};
use tcptrace_common::{ABSENT, KernelLayout};

/// The kernel's BTF says nothing usable about a field that cannot be done without.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's type information has no {path}")]
pub struct NoSuchField {
    path: String,
}

/// Parses the kernel's BTF without copying its hundred thousand types, of which a dozen are wanted: btf-rs can
/// do so on a file that can be mapped, which sysfs's is only from Linux 6.16 on.
///
/// # Errors
/// `raw` is no BTF, or there was no memory for it.
pub(super) fn parse(raw: &[u8]) -> anyhow::Result<Btf> {
    check_sections(raw)?;
    let memory = rustix::fs::memfd_create("btf", rustix::fs::MemfdFlags::CLOEXEC)?;
    File::from(memory.try_clone()?).write_all(raw)?;
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok(Btf::from_file_with_backend(path, Backend::Mmap)?)
}

/// Refuses BTF whose sections are not all there: btf-rs would take it, and what is missing for something that this kernel
/// does not have.
fn check_sections(raw: &[u8]) -> anyhow::Result<()> {
    // `struct btf_header`: magic, version and flags, then hdr_len, type_off, type_len, str_off, str_len.
    let word = |at: usize| raw.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes).map(u64::from);
    let header = (word(4), word(8), word(12), word(16), word(20));
    let (Some(header), Some(types), Some(types_length), Some(strings), Some(strings_length)) = header else {
        anyhow::bail!("its header is cut off");
    };
    let end = header + (types + types_length).max(strings + strings_length);
    anyhow::ensure!(end <= raw.len() as u64, "it is cut off: {} of {end} bytes", raw.len());
    Ok(())
}

/// Finds every offset.
///
/// # Errors
/// A required struct or member is not there: a kernel that moved it, or BTF of something else.
pub(super) fn find(btf: &Btf) -> Result<KernelLayout, NoSuchField> {
    let structs =
        ["sock", "net", "socket", "file", "inode", "tcp_sock", "task_struct", "cred", "inet_timewait_sock"];
    let structs: Vec<_> =
        structs.into_iter().filter_map(|name| Some((name, composite(btf, name)?))).collect();
    let optional = |path: &str| {
        let (name, members) = path.split_once('.')?;
        let (_, within) = structs.iter().find(|(known, _)| *known == name)?;
        offset(btf, within, members)
    };
    let find = |path: &str| optional(path).ok_or_else(|| NoSuchField { path: path.to_owned() });
    let optional = |path: &str| optional(path).unwrap_or(ABSENT);
    Ok(KernelLayout {
        family: find("sock.__sk_common.skc_family")?,
        state: find("sock.__sk_common.skc_state")?,
        remote_port: find("sock.__sk_common.skc_dport")?,
        remote_v4: find("sock.__sk_common.skc_daddr")?,
        local_v4: find("sock.__sk_common.skc_rcv_saddr")?,
        remote_v6: optional("sock.__sk_common.skc_v6_daddr"),
        local_v6: optional("sock.__sk_common.skc_v6_rcv_saddr"),
        net: optional("sock.__sk_common.skc_net.net"),
        net_inum: find("net.ns.inum")?,
        err: find("sock.sk_err")?,
        socket: find("sock.sk_socket")?,
        backlog: find("sock.sk_ack_backlog")?,
        backlog_limit: find("sock.sk_max_ack_backlog")?,
        socket_sk: find("socket.sk")?,
        socket_file: find("socket.file")?,
        file_inode: find("file.f_inode")?,
        inode_number: find("inode.i_ino")?,
        local_port: find("tcp_sock.inet_conn.icsk_inet.inet_sport")?,
        last_data: find("tcp_sock.inet_conn.icsk_ack.lrcvtime")?,
        last_ack: find("tcp_sock.rcv_tstamp")?,
        rcv_nxt: find("tcp_sock.rcv_nxt")?,
        copied_seq: find("tcp_sock.copied_seq")?,
        write_seq: find("tcp_sock.write_seq")?,
        snd_una: find("tcp_sock.snd_una")?,
        task_tgid: find("task_struct.tgid")?,
        task_pid: find("task_struct.pid")?,
        task_leader: find("task_struct.group_leader")?,
        task_comm: find("task_struct.comm")?,
        task_flags: find("task_struct.flags")?,
        task_start: find("task_struct.start_boottime")?,
        task_cred: find("task_struct.real_cred")?,
        cred_uid: find("cred.uid")?,
        held_port: find("sock.__sk_common.skc_num")?,
        substate: find("inet_timewait_sock.tw_substate")?,
    })
}

/// The struct of that name that has members.
fn composite(btf: &Btf, name: &str) -> Option<Type> {
    let found = btf.resolve_types_by_name(name).ok()?;
    found.into_iter().find(|found| matches!(found, Type::Struct(_)))
}

/// Byte offset in `within` of `member.member…`; members of anonymous structs and unions are found by name, as
/// in C.
fn offset(btf: &Btf, within: &Type, members: &str) -> Option<u32> {
    let mut search = Search { btf, steps: STEPS };
    let mut within = within.clone();
    let mut bits = 0_u32;
    for name in members.split('.') {
        let (at, found) = search.member(&within, name, DEPTH)?;
        bits = bits.checked_add(at)?;
        within = found;
    }
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// How many members are looked at for one field, at most. The kernel's largest struct, with all that is in it, has fewer
/// than a thousand.
const STEPS: u32 = 20_000;
/// How deep anonymous structs may be in each other.
const DEPTH: u32 = 16;

/// One search, which ends also where types go round in circles.
struct Search<'a> {
    btf: &'a Btf,
    /// How many more are allowed.
    steps: u32,
}

impl Search<'_> {
    /// The member `name` of `within`: its offset in bits and its type.
    fn member(&mut self, within: &Type, name: &str, depth: u32) -> Option<(u32, Type)> {
        let (Type::Struct(composite) | Type::Union(composite)) = within else {
            return None;
        };
        for candidate in &composite.members {
            self.steps = self.steps.checked_sub(1)?;
            let found = self.btf.resolve_name(candidate).unwrap_or_default();
            if found == name {
                return Some((candidate.bit_offset(), self.plain_type(candidate)?));
            }
            if found.is_empty()
                && let Some(depth) = depth.checked_sub(1)
                && let Some(anonymous) = self.plain_type(candidate)
                && let Some((at, found)) = self.member(&anonymous, name, depth)
            {
                return Some((candidate.bit_offset().checked_add(at)?, found));
            }
        }
        None
    }

    /// The type of a member without the typedefs and qualifiers around it.
    fn plain_type(&mut self, member: &Member) -> Option<Type> {
        let mut found = self.btf.resolve_chained_type(member).ok()?;
        loop {
            self.steps = self.steps.checked_sub(1)?;
            let wrapper: &dyn BtfType = match &found {
                Type::Typedef(inner) => inner,
                Type::Const(inner) => inner,
                Type::Volatile(inner) => inner,
                Type::TypeTag(inner) => inner,
                _ => return Some(found),
            };
            found = self.btf.resolve_chained_type(wrapper).ok()?;
        }
    }
}
