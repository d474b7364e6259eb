//! Finds the offsets of the fields that the BPF programs read: the kernel's BTF in, a
//! [`KernelLayout`] out.

use tcptrace_common::{ABSENT, KernelLayout};

use crate::host::bpf::{
    attach_targets::TARGETS,
    btf::{BadBtf, Btf, STRUCT, TypeQuery},
};

/// The kernel's BTF has no usable offset of an indispensable field.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's type information has no {path}")]
pub struct NoSuchField {
    path: String,
}

/// The structs that contain the fields.
const STRUCTS: [&str; 9] =
    ["sock", "net", "socket", "file", "inode", "tcp_sock", "task_struct", "cred", "inet_timewait_sock"];

/// Parses the kernel's BTF, for the structs and for the attach targets.
///
/// # Errors
/// The bytes are no BTF.
pub(crate) fn parse_btf(raw: &[u8]) -> Result<Btf<'_>, BadBtf> {
    let structs = STRUCTS.map(|name| (STRUCT, name));
    let queries: Vec<TypeQuery> = structs.into_iter().chain(TARGETS).collect();
    Btf::parse(raw, &queries)
}

/// Finds every offset.
///
/// # Errors
/// An indispensable struct or member is missing: the kernel has moved it, or this is the BTF of
/// something else.
pub(crate) fn find_offsets(btf: &Btf<'_>) -> Result<KernelLayout, NoSuchField> {
    let known = |path: &str| {
        let (name, members) = path.split_once('.')?;
        btf.offset_of(btf.type_id(STRUCT, name)?, members)
    };
    let find = |path: &str| known(path).ok_or_else(|| NoSuchField { path: path.to_owned() });
    let optional = |path: &str| known(path).unwrap_or(ABSENT);
    Ok(KernelLayout {
        family: find("sock.__sk_common.skc_family")?,
        state: find("sock.__sk_common.skc_state")?,
        remote_port: find("sock.__sk_common.skc_dport")?,
        remote_v4: find("sock.__sk_common.skc_daddr")?,
        local_v4: find("sock.__sk_common.skc_rcv_saddr")?,
        remote_v6: optional("sock.__sk_common.skc_v6_daddr"),
        local_v6: optional("sock.__sk_common.skc_v6_rcv_saddr"),
        interface: optional("sock.__sk_common.skc_bound_dev_if"),
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
        timewait_substate: find("inet_timewait_sock.tw_substate")?,
        timewait_rcv_nxt: find("sock.__sk_common.skc_tw_rcv_nxt")?,
        timewait_snd_nxt: find("sock.__sk_common.skc_tw_snd_nxt")?,
        bytes_sent: optional("tcp_sock.bytes_sent"),
        bytes_resent: optional("tcp_sock.bytes_retrans"),
        bytes_received: optional("tcp_sock.bytes_received"),
        retransmits: optional("tcp_sock.total_retrans"),
        round_trip: optional("tcp_sock.srtt_us"),
        flags: optional("sock.__sk_common.skc_flags"),
        owned: optional("sock.sk_lock.owned"),
        snd_nxt: find("tcp_sock.snd_nxt")?,
    })
}
