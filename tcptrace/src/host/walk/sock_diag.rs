//! Walks the sockets of a network namespace with `sock_diag(7)`, as `ss` does. This is the way on
//! kernels without BTF, on which no iterator can be loaded.
//!
//! The crate for this protocol (netlink-packet-sock-diag 0.5) builds a value with every attribute
//! of each socket: 4 to 9 ms for 15,000 sockets. We need one attribute and read the messages in
//! place, which takes 0.3 ms.

use std::io;

use bytemuck::{Pod, Zeroable};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
};
use tcptrace_common::{AF_INET, AF_INET6, RowFlags, SocketRow, Tuple, state, v4_mapped};

use crate::clock;

/// `struct nlmsghdr` (`include/uapi/linux/netlink.h`).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MessageHeader {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid` (`include/uapi/linux/inet_diag.h`), ports in network order.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DiagSocketId {
    local_port: [u8; 2],
    remote_port: [u8; 2],
    local_addr: [u8; 16],
    remote_addr: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` behind its header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DiagRequest {
    header: MessageHeader,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: DiagSocketId,
}

/// A socket as the kernel describes it: `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: DiagSocketId,
    expires: u32,
    recv_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const IPPROTO_TCP: u8 = 6;
/// AF_INET and AF_INET6, in the width that sock_diag uses.
const FAMILIES: [u8; 2] = [2, 10];
const REQUEST_BYTES: u32 = 72;
const _: () = assert!(size_of::<DiagRequest>() == 72);
/// The attribute that holds a `struct tcp_info`.
const INET_DIAG_INFO: u16 = 2;
/// The `idiag_timer` of a timewait socket, whatever its state is.
const TIME_WAIT_TIMER: u8 = 3;
/// Offsets of `tcpi_last_data_recv` and `tcpi_last_ack_recv` in a `struct tcp_info`
/// (`include/uapi/linux/tcp.h`).
const LAST_DATA_RECV: usize = 52;
const LAST_ACK_RECV: usize = 56;

/// Adds every TCP socket of the calling thread's namespace in one of `states` (a mask) to `rows`.
///
/// SYN_RECV is left out: sock_diag shows the entries of the SYN queue as such, which belong to no
/// process yet.
///
/// # Errors
/// The kernel has no sock_diag for TCP (`CONFIG_INET_TCP_DIAG`), or its answer is malformed.
pub(crate) fn walk_namespace(states: u32, netns: u32, rows: &mut Vec<SocketRow>) -> io::Result<()> {
    for family in FAMILIES {
        dump_family(family, states & !state::bit(state::SYN_RECV), netns, rows)?;
    }
    Ok(())
}

fn dump_family(family: u8, states: u32, netns: u32, rows: &mut Vec<SocketRow>) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let request = DiagRequest {
        header: MessageHeader {
            length: REQUEST_BYTES,
            kind: SOCK_DIAG_BY_FAMILY,
            flags: DUMP,
            ..MessageHeader::zeroed()
        },
        family,
        protocol: IPPROTO_TCP,
        extensions: 1 << (INET_DIAG_INFO - 1),
        states,
        ..DiagRequest::zeroed()
    };
    // The kernel fills one answer ahead: what recv(2) returns was read after the call before
    // began.
    let mut read_after_ns = clock::monotonic_ns();
    rustix::net::sendto(
        &socket,
        bytemuck::bytes_of(&request),
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let called_ns = clock::monotonic_ns();
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let before = rows.len();
        let more = parse_answer(&buffer[..length], netns, read_after_ns, rows)?;
        // The kernel read its own clock for this answer up to so much later than the time that the
        // rows have: at that time, the last ACK was more recent by as much.
        let late_jiffies = (clock::monotonic_ns() - read_after_ns).div_ceil(clock::jiffy_ns().max(1));
        for row in &mut rows[before..] {
            row.since_ack_jiffies =
                row.since_ack_jiffies.saturating_sub(u32::try_from(late_jiffies).unwrap_or(u32::MAX));
        }
        if !more {
            return Ok(());
        }
        read_after_ns = called_ns;
    }
}

/// Adds the sockets of one answer, which consists of messages, to `rows`. Returns whether more
/// answers follow.
fn parse_answer(mut bytes: &[u8], netns: u32, ktime_ns: u64, rows: &mut Vec<SocketRow>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "sock_diag returned a truncated message");
    while !bytes.is_empty() {
        let header: MessageHeader = read_head(bytes).ok_or_else(malformed)?;
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let body = bytes.get(size_of::<MessageHeader>()..length).ok_or_else(malformed)?;
        match header.kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let error: i32 = read_head(body).ok_or_else(malformed)?;
                return Err(io::Error::from_raw_os_error(error.saturating_neg()));
            }
            _ => rows.extend(parse_row(body, netns, ktime_ns)),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// Converts the message of one socket.
fn parse_row(body: &[u8], netns: u32, ktime_ns: u64) -> Option<SocketRow> {
    let answer: Answer = read_head(body)?;
    let family = u16::from(answer.family);
    let address = |bytes: [u8; 16]| {
        if family == AF_INET { v4_mapped([bytes[0], bytes[1], bytes[2], bytes[3]]) } else { bytes }
    };
    let interface = if family == AF_INET6 { u16::try_from(answer.id.interface).unwrap_or(0) } else { 0 };
    let info = find_attribute(body.get(size_of::<Answer>()..)?, INET_DIAG_INFO).unwrap_or_default();
    let jiffies = |offset: usize| {
        let ms: u32 = info.get(offset..).and_then(read_head).unwrap_or(0);
        // The kernel counts jiffies and rounds them down to milliseconds.
        let jiffies = (u64::from(ms) * 1_000_000).div_ceil(clock::jiffy_ns().max(1));
        u32::try_from(jiffies).unwrap_or(u32::MAX)
    };
    let DiagSocketId { local_port, remote_port, local_addr, remote_addr, cookie, .. } = answer.id;
    Some(SocketRow {
        ktime_ns,
        cookie: u64::from(cookie[0]) | u64::from(cookie[1]) << 32,
        inode: answer.inode,
        netns,
        state: answer.state,
        flags: match (answer.timer, answer.inode) {
            (TIME_WAIT_TIMER, _) => RowFlags::TIMEWAIT,
            (_, 0) => RowFlags::IN_ACCEPT_QUEUE,
            _ => RowFlags::empty(),
        },
        tuple: Tuple {
            local_addr: address(local_addr),
            remote_addr: address(remote_addr),
            local_port: u16::from_be_bytes(local_port),
            remote_port: u16::from_be_bytes(remote_port),
            family,
            interface,
        },
        unread: answer.recv_queue,
        unsent: answer.send_queue,
        since_ack_jiffies: jiffies(LAST_ACK_RECV),
        since_data_jiffies: jiffies(LAST_DATA_RECV),
        ..SocketRow::zeroed()
    })
}

/// Returns the value of the first attribute (`struct rtattr`) of a type.
fn find_attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [length, kind]: [u16; 2] = read_head(bytes)?;
        let length = usize::from(length);
        if kind == wanted {
            return bytes.get(4..length);
        }
        bytes = bytes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn read_head<T: Pod>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(state: u8, timer: u8) -> Vec<u8> {
        let answer = Answer {
            family: FAMILIES[0],
            state,
            timer,
            id: DiagSocketId {
                local_port: 9666_u16.to_be_bytes(),
                remote_port: 40112_u16.to_be_bytes(),
                local_addr: [10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                cookie: [7, 1],
                ..DiagSocketId::zeroed()
            },
            recv_queue: 5,
            inode: 99,
            ..Answer::zeroed()
        };
        let mut body = bytemuck::bytes_of(&answer).to_vec();
        let info: Vec<u8> = (0..64).map(|at| if at == LAST_ACK_RECV { 40 } else { 0 }).collect();
        for (kind, value) in [(1_u16, vec![1, 2, 3]), (INET_DIAG_INFO, info)] {
            body.extend_from_slice(bytemuck::bytes_of(&[
                u16::try_from(value.len()).expect("short") + 4,
                kind,
            ]));
            body.extend_from_slice(&value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(size_of::<MessageHeader>() + body.len()).expect("short");
        let mut bytes =
            bytemuck::bytes_of(&MessageHeader { length, kind, ..MessageHeader::zeroed() }).to_vec();
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_families_are_those_of_the_records() {
        assert_eq!(FAMILIES.map(u16::from), [AF_INET, AF_INET6]);
    }

    #[test]
    fn an_answer_is_a_row() {
        let mut rows = Vec::new();
        let two = [message(SOCK_DIAG_BY_FAMILY, &answer(state::CLOSE_WAIT, 0)), message(NLMSG_DONE, &[0; 4])];
        assert!(!parse_answer(&two.concat(), 77, 1_000, &mut rows).expect("well-formed"));
        let [row] = rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.cookie, row.netns, row.inode, row.unread), (7 | 1 << 32, 77, 99, 5));
        assert_eq!((row.tuple.local_port, row.tuple.remote_port), (9666, 40112));
        assert_eq!(row.tuple.local_addr, v4_mapped([10, 0, 0, 5]));
        assert_eq!(u64::from(row.since_ack_jiffies) * clock::jiffy_ns(), 40_000_000);
    }

    #[test]
    fn a_timewait_socket_is_told_from_a_socket() {
        let mut rows = Vec::new();
        let one = message(SOCK_DIAG_BY_FAMILY, &answer(state::FIN_WAIT2, TIME_WAIT_TIMER));
        assert!(parse_answer(&one, 1, 1, &mut rows).expect("well-formed"));
        assert_eq!(rows.iter().map(|row| row.flags).collect::<Vec<_>>(), [RowFlags::TIMEWAIT]);
    }

    #[test]
    fn errors_and_broken_messages_are_errors() {
        let refused = message(NLMSG_ERROR, &(-2_i32).to_ne_bytes());
        let error = parse_answer(&refused, 1, 1, &mut Vec::new()).expect_err("an error");
        assert_eq!(error.raw_os_error(), Some(2));
        let whole = message(SOCK_DIAG_BY_FAMILY, &answer(state::LISTEN, 0));
        for cut in 1..whole.len() - 1 {
            let _no_panic = parse_answer(&whole[..cut], 1, 1, &mut Vec::new());
        }
        assert!(parse_answer(&whole[..20], 1, 1, &mut Vec::new()).is_err());
        let endless = message(SOCK_DIAG_BY_FAMILY, &[&answer(state::LISTEN, 0)[..72], &[0; 8]].concat());
        assert!(parse_answer(&endless, 1, 1, &mut Vec::new()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_rows_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..200, byte in any::<u8>()
        ) {
            let mut rows = Vec::new();
            let _or_an_error = parse_answer(&bytes, 1, 1, &mut rows);
            prop_assert!(rows.len() <= bytes.len() / size_of::<MessageHeader>());
            let mut one_wrong = message(SOCK_DIAG_BY_FAMILY, &answer(state::CLOSE_WAIT, 0));
            let at = at % one_wrong.len();
            one_wrong[at] = byte;
            one_wrong.extend_from_slice(&bytes);
            let _or_an_error = parse_answer(&one_wrong, 1, 1, &mut rows);
            let _or_none = find_attribute(&bytes, INET_DIAG_INFO);
        }

        #[test]
        fn any_sockets_are_rows_in_their_order(
            sockets in proptest::collection::vec(
                (1_u8..13, any::<[u16; 2]>(), any::<[[u8; 16]; 2]>(), any::<[u32; 5]>(), any::<bool>()), 0..20
            ),
            is_last: bool,
        ) {
            let mut bytes = Vec::new();
            for (state, ports, addresses, [cookie, high, inode, unread, unsent], is_v6) in &sockets {
                let answer = Answer {
                    family: if *is_v6 { AF_INET6 } else { AF_INET } as u8,
                    state: *state,
                    id: DiagSocketId {
                        local_port: ports[0].to_be_bytes(),
                        remote_port: ports[1].to_be_bytes(),
                        local_addr: addresses[0],
                        remote_addr: addresses[1],
                        cookie: [*cookie, *high],
                        ..DiagSocketId::zeroed()
                    },
                    recv_queue: *unread,
                    send_queue: *unsent,
                    inode: *inode,
                    ..Answer::zeroed()
                };
                bytes.extend(message(SOCK_DIAG_BY_FAMILY, bytemuck::bytes_of(&answer)));
            }
            if is_last {
                bytes.extend(message(NLMSG_DONE, &[0; 4]));
            }
            let mut rows = Vec::new();
            prop_assert_eq!(parse_answer(&bytes, 77, 5, &mut rows).expect("well-formed"), !is_last);
            prop_assert_eq!(rows.len(), sockets.len());
            for (row, (state, ports, addresses, numbers, is_v6)) in rows.iter().zip(&sockets) {
                prop_assert_eq!((row.state, row.netns, row.ktime_ns), (*state, 77, 5));
                prop_assert_eq!([row.tuple.local_port, row.tuple.remote_port], *ports);
                prop_assert_eq!(&[row.inode, row.unread, row.unsent], &numbers[2..]);
                prop_assert_eq!(row.cookie, u64::from(numbers[0]) | u64::from(numbers[1]) << 32);
                let end = |bytes: [u8; 16]| if *is_v6 { bytes } else { v4_mapped([bytes[0], bytes[1], bytes[2], bytes[3]]) };
                prop_assert_eq!([row.tuple.local_addr, row.tuple.remote_addr], addresses.map(end));
            }
        }
    }
}
