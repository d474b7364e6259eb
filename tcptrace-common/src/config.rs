//! The configuration of the BPF programs, which user space sets before it loads them.
//!
//! It is a read-only global. The verifier therefore knows each value as a constant, accepts
//! `sk + offset` as an address, and never walks a branch that a constant rules out.

use bytemuck::{Pod, Zeroable};

use crate::{Bool32, OpenCall, state};

/// The offset of a field that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets of the kernel's struct members, from the running kernel's BTF.
///
/// A path such as `sock.sk_err` begins with the struct that the offset counts from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct KernelLayout {
    /// The address family, `sock.__sk_common.skc_family` (`u16`).
    pub family: u32,
    /// The TCP state, `sock.__sk_common.skc_state` (`u8`).
    pub state: u32,
    /// The peer's port, `sock.__sk_common.skc_dport` (`u16`, network order).
    pub remote_port: u32,
    /// The peer's IPv4 address, `sock.__sk_common.skc_daddr` (4 bytes).
    pub remote_v4: u32,
    /// The local IPv4 address, `sock.__sk_common.skc_rcv_saddr` (4 bytes).
    pub local_v4: u32,
    /// The peer's IPv6 address, `sock.__sk_common.skc_v6_daddr` (16 bytes). [`ABSENT`] in a
    /// kernel without IPv6.
    pub remote_v6: u32,
    /// The local IPv6 address, `sock.__sk_common.skc_v6_rcv_saddr` (16 bytes). [`ABSENT`] in a
    /// kernel without IPv6.
    pub local_v6: u32,
    /// The index of the interface that the socket is bound to,
    /// `sock.__sk_common.skc_bound_dev_if` (`int`). May be [`ABSENT`].
    pub interface: u32,
    /// The network namespace, `sock.__sk_common.skc_net.net` (pointer to `net`). [`ABSENT`] in a
    /// kernel without namespaces.
    pub net: u32,
    /// The inode number of a network namespace, `net.ns.inum` (`u32`).
    pub net_inum: u32,
    /// The pending error, `sock.sk_err` (`int`).
    pub err: u32,
    /// The process side of a socket, `sock.sk_socket` (pointer to `socket`). Null while the socket
    /// is in an accept queue.
    pub socket: u32,
    /// The length of a listener's accept queue, `sock.sk_ack_backlog` (`u32`).
    pub backlog: u32,
    /// The limit of that length, `sock.sk_max_ack_backlog` (`u32`).
    pub backlog_limit: u32,
    /// The protocol side of a socket, `socket.sk` (pointer to `sock`).
    pub socket_sk: u32,
    /// The file of a socket, `socket.file` (pointer to `file`).
    pub socket_file: u32,
    /// The inode of a file, `file.f_inode` (pointer to `inode`).
    pub file_inode: u32,
    /// The number of an inode, `inode.i_ino` (`unsigned long` or `u64`).
    pub inode_number: u32,
    /// The local port, `tcp_sock.inet_conn.icsk_inet.inet_sport` (`u16`, network order). It
    /// survives the release of the port.
    pub local_port: u32,
    /// When data last arrived, `tcp_sock.inet_conn.icsk_ack.lrcvtime` (`u32`, jiffies).
    pub last_data: u32,
    /// When an ACK last arrived, `tcp_sock.rcv_tstamp` (`u32`, jiffies).
    pub last_ack: u32,
    /// The next sequence number expected from the peer, `tcp_sock.rcv_nxt` (`u32`).
    pub rcv_nxt: u32,
    /// The first sequence number that the process has not read, `tcp_sock.copied_seq` (`u32`).
    pub copied_seq: u32,
    /// The next sequence number that the process writes, `tcp_sock.write_seq` (`u32`).
    pub write_seq: u32,
    /// The first sequence number that the peer has not acknowledged, `tcp_sock.snd_una` (`u32`).
    pub snd_una: u32,
    /// The process id, `task_struct.tgid` (`int`).
    pub task_tgid: u32,
    /// The thread id, `task_struct.pid` (`int`).
    pub task_pid: u32,
    /// The first thread of the process, `task_struct.group_leader` (pointer to `task_struct`).
    pub task_leader: u32,
    /// The name of a thread, `task_struct.comm` (16 bytes).
    pub task_comm: u32,
    /// The `PF_` flags, `task_struct.flags` (`unsigned int`).
    pub task_flags: u32,
    /// When the thread started, `task_struct.start_boottime` (`u64`, nanoseconds).
    pub task_start: u32,
    /// The credentials, `task_struct.real_cred` (pointer to `cred`).
    pub task_cred: u32,
    /// The real user id, `cred.uid` (`kuid_t`, a `u32`).
    pub cred_uid: u32,
    /// The local port while the socket holds it, `sock.__sk_common.skc_num` (`u16`, host order).
    pub held_port: u32,
    /// The state of a timewait socket, `inet_timewait_sock.tw_substate` (`unsigned char`).
    pub timewait_substate: u32,
    /// Like `rcv_nxt`, of a timewait socket: `sock.__sk_common.skc_tw_rcv_nxt` (`u32`).
    pub timewait_rcv_nxt: u32,
    /// Like `snd_nxt`, of a timewait socket: `sock.__sk_common.skc_tw_snd_nxt` (`u32`).
    pub timewait_snd_nxt: u32,
    /// Bytes of payload sent, retransmitted ones included, `tcp_sock.bytes_sent` (`u64`).
    /// [`ABSENT`] before Linux 4.19.
    pub bytes_sent: u32,
    /// Bytes of payload retransmitted, `tcp_sock.bytes_retrans` (`u64`). [`ABSENT`] before Linux
    /// 4.19.
    pub bytes_resent: u32,
    /// Bytes of payload received in order, a received FIN counting as one,
    /// `tcp_sock.bytes_received` (`u64`). May be [`ABSENT`].
    pub bytes_received: u32,
    /// Segments retransmitted, `tcp_sock.total_retrans` (`u32`). May be [`ABSENT`].
    pub retransmits: u32,
    /// Eight times the smoothed round-trip time, µs, `tcp_sock.srtt_us` (`u32`). May be [`ABSENT`].
    pub round_trip: u32,
    /// A bit for each of `enum sock_flags`, `sock.__sk_common.skc_flags` (`unsigned long`). May be
    /// [`ABSENT`].
    pub flags: u32,
    /// Whether a task is using the socket, in its own context, `sock.sk_lock.owned` (`int`). May be
    /// [`ABSENT`].
    pub owned: u32,
    /// The next sequence number to send, `tcp_sock.snd_nxt` (`u32`).
    pub snd_nxt: u32,
}

/// Byte offsets of the fields of the event `sock:inet_sock_set_state`, from its `format` in
/// tracefs.
///
/// On a kernel without BTF the programs read nothing else of a transition.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct EventLayout {
    /// The address of the socket, `skaddr` (pointer to `sock`).
    pub socket: u32,
    /// The state before, `oldstate` (`int`).
    pub old_state: u32,
    /// The state after, `newstate` (`int`).
    pub new_state: u32,
    /// The local port, `sport` (`u16`, host order).
    pub local_port: u32,
    /// The peer's port, `dport` (`u16`, host order).
    pub remote_port: u32,
    /// The address family, `family` (`u16`).
    pub family: u32,
    /// The protocol, `protocol` (`u16`, `u8` before Linux 5.6).
    pub protocol: u32,
    /// The local IPv4 address, `saddr` (4 bytes).
    pub local_v4: u32,
    /// The peer's IPv4 address, `daddr` (4 bytes).
    pub remote_v4: u32,
    /// The local IPv6 address, `saddr_v6` (16 bytes).
    pub local_v6: u32,
    /// The peer's IPv6 address, `daddr_v6` (16 bytes).
    pub remote_v6: u32,
}

/// The read-only global [`crate::names::CONFIG`] of the BPF object.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct BpfConfig {
    /// Offsets in the kernel's structures; all [`ABSENT`] on a kernel without BTF.
    pub layout: KernelLayout,
    /// Offsets in the event; all [`ABSENT`] on a kernel with BTF.
    pub event: EventLayout,
    /// The watched states, a mask (see [`crate::state::bit`]). Transitions that leave or enter one
    /// of them are recorded.
    pub watched_states: u32,
    /// Whether tracing programs may call `bpf_get_socket_cookie` (Linux 5.12).
    pub has_cookie: Bool32,
    /// Whether tracing programs may call `bpf_sk_storage_get` (Linux 5.11).
    pub has_storage: Bool32,
    /// Whether loads can read the current task: `bpf_get_current_task_btf` exists (Linux 5.11).
    pub has_task: Bool32,
    /// Whether a socket's last transition is recorded as a [`crate::ClosingRecord`].
    pub records_lives: Bool32,
    /// One bit for each transition for which the programs with BTF have work to do, see
    /// [`interest_bit`] and [`BpfConfig::with_interest`].
    pub interest: [u32; 8],
}

/// Returns the place of a transition in [`BpfConfig::interest`]: the index of a word, and a bit in
/// it.
#[inline(always)]
pub const fn interest_bit(old_state: u8, new_state: u8) -> (usize, u32) {
    ((old_state & 15) as usize >> 1, ((old_state & 1) as u32) << 4 | (new_state & 15) as u32)
}

/// Defines the layout of which no offset is known, and the one in the object file.
macro_rules! constant_layouts {
    ($($layout:ident),+) => {
        $(
            impl $layout {
                const FIELDS: usize = size_of::<Self>() / size_of::<u32>();

                /// The layout of which no offset is known, because it is not read.
                pub const UNKNOWN: Self = bytemuck::must_cast([ABSENT; Self::FIELDS]);

                /// The value in the object file; the loader replaces it.
                const UNSET: Self = bytemuck::must_cast([0_u32; Self::FIELDS]);
            }
        )+
    };
}

constant_layouts!(KernelLayout, EventLayout);

impl BpfConfig {
    /// The value in the object file; the loader replaces it.
    pub const UNSET: Self = Self {
        layout: KernelLayout::UNSET,
        event: EventLayout::UNSET,
        watched_states: 0,
        has_cookie: Bool32::FALSE,
        has_storage: Bool32::FALSE,
        has_task: Bool32::FALSE,
        records_lives: Bool32::FALSE,
        interest: [0; 8],
    };

    /// Returns the configuration with `interest` filled in.
    ///
    /// The programs have work to do for three kinds of transitions: those that are watched, those
    /// that open a socket if its storage keeps the opener, and those that close a socket if we keep
    /// its cookie.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a pair is below 256")]
    pub const fn with_interest(mut self) -> Self {
        self.interest = [0; 8];
        let mut pair = 0;
        while pair <= u8::MAX as usize {
            let (old_state, new_state) = (pair as u8 >> 4, pair as u8 & 15);
            let is_watched = state::leaves_or_enters(self.watched_states, old_state, new_state);
            let is_stored = self.has_storage.get() && OpenCall::of_transition(old_state, new_state).is_some();
            let is_forgotten = !self.has_cookie.get() && new_state == state::CLOSE;
            if is_watched || is_stored || is_forgotten {
                let (word, bit) = interest_bit(old_state, new_state);
                self.interest[word] |= 1 << bit;
            }
            pair += 1;
        }
        self
    }
}

const _: () = assert!(size_of::<BpfConfig>() == 69 * 4);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn interesting(config: &BpfConfig) -> Vec<(u8, u8)> {
        let interest = config.with_interest().interest;
        let is_set = |&(old_state, new_state): &(u8, u8)| {
            let (word, bit) = interest_bit(old_state, new_state);
            interest[word] >> bit & 1 != 0
        };
        (1..=12).flat_map(|old| (1..=12).map(move |new| (old, new))).filter(is_set).collect()
    }

    #[test]
    fn with_all_states_watched_every_change_is_of_interest() {
        let all = BpfConfig {
            watched_states: state::ALL,
            has_cookie: Bool32::TRUE,
            has_storage: Bool32::TRUE,
            ..BpfConfig::UNSET
        };
        let pairs = (1..=12).flat_map(|old| (1..=12).map(move |new| (old, new)));
        let changes: Vec<_> = pairs.filter(|(old, new)| old != new).collect();
        assert_eq!(interesting(&all), changes);
    }

    #[test]
    fn with_one_state_watched_few_are() {
        let one = BpfConfig {
            watched_states: state::bit(state::CLOSE_WAIT),
            has_cookie: Bool32::TRUE,
            has_storage: Bool32::FALSE,
            ..BpfConfig::UNSET
        };
        let found = interesting(&one);
        assert_eq!(found.len(), 22, "into it and out of it: {found:?}");
        assert!(found.iter().all(|(old, new)| [*old, *new].contains(&state::CLOSE_WAIT)), "{found:?}");

        let mut with_openings = found.clone();
        with_openings.extend([(state::CLOSE, state::SYN_SENT), (state::CLOSE, state::LISTEN)]);
        with_openings.sort_unstable();
        assert_eq!(interesting(&BpfConfig { has_storage: Bool32::TRUE, ..one }), with_openings);

        let mut with_closings = found;
        with_closings.extend((1..=12).filter(|old| *old != state::CLOSE_WAIT).map(|old| (old, state::CLOSE)));
        with_closings.sort_unstable();
        assert_eq!(interesting(&BpfConfig { has_cookie: Bool32::FALSE, ..one }), with_closings);
    }
}
