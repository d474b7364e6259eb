//! Who holds a socket, whose queue it waits in, and what is at its other end, from the rows of a made-up walk.

use bytemuck::Zeroable as _;
use tcptrace_common::{AF_INET, AF_INET6, RowFlags};

use super::*;

const HERE: u32 = 7;
const US: [u8; 16] = v4_mapped([10, 0, 0, 5]);
const THEM: [u8; 16] = v4_mapped([10, 0, 0, 9]);

fn row(cookie: u64, state: u8, local: ([u8; 16], u16), remote: ([u8; 16], u16)) -> SocketRow {
    let tuple = Tuple {
        local_addr: local.0,
        local_port: local.1,
        remote_addr: remote.0,
        remote_port: remote.1,
        family: AF_INET,
        interface: 0,
    };
    SocketRow { cookie, state, netns: HERE, tuple, ..SocketRow::zeroed() }
}

fn listener(cookie: u64, addr: [u8; 16], queued: u32) -> SocketRow {
    SocketRow { unread: queued, ..row(cookie, state::LISTEN, (addr, 80), ([0; 16], 0)) }
}

fn waiting() -> SocketRow {
    SocketRow { flags: RowFlags::IN_ACCEPT_QUEUE, ..row(1, state::CLOSE_WAIT, (US, 80), (THEM, 4000)) }
}

fn walk(rows: &[SocketRow]) -> Walk {
    Walk { sockets: rows.to_vec(), ..Walk::default() }
}

fn gather(walk: &Walk) -> WalkIndex<'_> {
    WalkIndex::for_sockets(walk, &FxHashSet::from_iter([1]), |_, _| ProcessDetails::default())
}

fn listeners(rows: &[SocketRow]) -> Vec<u64> {
    gather(&walk(rows)).listeners_of_queued(1).iter().map(|row| row.cookie).collect()
}

#[test]
fn a_listener_of_the_address_comes_before_one_of_all() {
    let any = listener(2, v4_mapped([0; 4]), 1);
    assert_eq!(listeners(&[waiting(), any]), [2]);
    assert_eq!(listeners(&[waiting(), any, listener(3, US, 1)]), [3]);
    assert_eq!(listeners(&[waiting(), listener(4, THEM, 1)]), [0_u64; 0]);
}

#[test]
fn of_listeners_that_share_a_port_those_with_a_queue_count() {
    let any = v4_mapped([0; 4]);
    let all = [waiting(), listener(2, any, 0), listener(3, any, 5), listener(4, any, 1)];
    assert_eq!(listeners(&all), [3, 4]);
}

#[test]
fn a_listener_elsewhere_or_of_another_family_is_not_meant() {
    let any = v4_mapped([0; 4]);
    let elsewhere = SocketRow { netns: HERE + 1, ..listener(2, any, 1) };
    let mut other_family = listener(3, any, 1);
    other_family.tuple.family = AF_INET6;
    assert_eq!(listeners(&[waiting(), elsewhere, other_family]), [0_u64; 0]);
}

#[test]
fn an_accepted_socket_has_no_listener() {
    let accepted = SocketRow { flags: RowFlags::empty(), ..waiting() };
    assert_eq!(listeners(&[accepted, listener(2, US, 1)]), [0_u64; 0]);
}

#[test]
fn a_socket_accepted_while_the_walk_went_on_no_longer_waits() {
    let holder = Holder { cookie: 1, pid: 42, fd: 5, process: None };
    let sockets = vec![waiting(), listener(2, US, 1)];
    let walk = Walk { sockets, holders: vec![holder], ..Walk::default() };
    let index = gather(&walk);
    assert_eq!(index.row_of(1).map(|row| row.flags), Some(RowFlags::empty()));
    assert!(index.listeners_of_queued(1).is_empty());
}

/// Two ends of one connection, ours in CLOSE_WAIT, as rows with sequence numbers.
fn ends() -> (SocketRow, SocketRow) {
    let ours = row(1, state::CLOSE_WAIT, (US, 80), (THEM, 4000));
    let theirs = row(2, state::FIN_WAIT2, (THEM, 4000), (US, 80));
    let (sent, received) = (1_000, 2_000);
    (
        SocketRow { flags: RowFlags::HAS_SEQUENCES, snd_una: sent, rcv_nxt: received, ..ours },
        SocketRow { flags: RowFlags::HAS_SEQUENCES, snd_una: received, rcv_nxt: sent, ..theirs },
    )
}

fn peer(rows: &[SocketRow]) -> Option<u64> {
    gather(&walk(rows)).peer_of(1).map(|row| row.cookie)
}

#[test]
fn the_other_end_is_found_here_or_in_another_namespace() {
    let (ours, theirs) = ends();
    let elsewhere = SocketRow { cookie: 3, netns: HERE + 1, ..theirs };
    assert_eq!(peer(&[ours, theirs]), Some(2));
    assert_eq!(peer(&[ours, elsewhere]), Some(3));
    assert_eq!(peer(&[ours, theirs, elsewhere]), Some(2));
    assert_eq!(peer(&[ours]), None);
    let also_elsewhere = SocketRow { cookie: 4, netns: HERE + 2, ..theirs };
    assert_eq!(peer(&[ours, elsewhere, also_elsewhere]), None, "which one cannot be told");
}

#[test]
fn a_strangers_socket_with_the_same_two_ends_is_not_the_other_end() {
    let (ours, theirs) = ends();
    let stranger = SocketRow { cookie: 3, netns: HERE + 1, snd_una: 77, rcv_nxt: 78, ..theirs };
    assert_eq!(peer(&[ours, stranger]), None);
    let elsewhere = SocketRow { netns: HERE + 2, ..theirs };
    assert_eq!(peer(&[ours, stranger, elsewhere]), Some(2), "the one that fits");
    let open = SocketRow { state: state::ESTABLISHED, ..stranger };
    assert_eq!(peer(&[ours, open]), None);
}

#[test]
fn without_sequence_numbers_the_other_end_is_found_in_the_same_namespace_only() {
    let (ours, theirs) = ends();
    let plain = |row| SocketRow { flags: RowFlags::empty(), snd_una: 0, rcv_nxt: 0, ..row };
    let elsewhere = SocketRow { netns: HERE + 1, ..theirs };
    assert_eq!(peer(&[plain(ours), plain(theirs)]), Some(2));
    assert_eq!(peer(&[plain(ours), plain(elsewhere)]), None);
    let open = SocketRow { state: state::ESTABLISHED, ..theirs };
    assert_eq!(peer(&[plain(ours), plain(open)]), None);
}

#[test]
fn another_end_that_nobody_has_accepted_leads_to_its_listener() {
    let waits = SocketRow { cookie: 2, ..waiting() };
    let ours = row(1, state::FIN_WAIT2, (THEM, 4000), (US, 80));
    let walk = Walk {
        holders: vec![Holder { cookie: 3, pid: 42, fd: 5, process: None }],
        ..walk(&[ours, waits, listener(3, US, 1)])
    };
    let index = gather(&walk);
    assert_eq!(index.peer_of(1).map(|row| row.cookie), Some(2));
    assert_eq!(index.listeners_of_queued(2).iter().map(|row| row.cookie).collect::<Vec<_>>(), [3]);
    assert_eq!(index.holders_of(3).count(), 1);
    assert!(!index.is_gone(2));
}

#[test]
fn another_end_is_gone_where_no_process_can_have_it() {
    let (ours, theirs) = ends();
    let is_gone = |flags| {
        let theirs = SocketRow { flags, ..theirs };
        let walk = walk(&[SocketRow { flags: RowFlags::empty(), ..ours }, theirs]);
        gather(&walk).is_gone(2)
    };
    assert!(
        is_gone(RowFlags::IN_ACCEPT_QUEUE),
        "closed: it has no file, and is in a state that no queue knows"
    );
    assert!(!is_gone(RowFlags::HAS_FILE), "on its way to another process: it has a file, and no descriptor");
    let stand_in = SocketRow { flags: RowFlags::TIMEWAIT, ..theirs };
    let walk = Walk { stand_ins: vec![stand_in], ..walk(&[SocketRow { flags: RowFlags::empty(), ..ours }]) };
    assert!(gather(&walk).is_gone(2));
}

#[test]
fn the_other_end_of_a_loopback_connection_is_in_its_namespace() {
    for local in [v4_mapped([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.octets()] {
        let ours = row(1, state::CLOSE_WAIT, (local, 80), (local, 4000));
        let theirs = row(2, state::FIN_WAIT2, (local, 4000), (local, 80));
        assert_eq!(gather(&walk(&[ours, theirs])).peer_of(1), Some(&theirs));
        assert!(gather(&walk(&[ours, SocketRow { netns: HERE + 1, ..theirs }])).peer_of(1).is_none());
    }
}

#[test]
fn the_other_end_may_be_a_stand_in() {
    let ours = row(1, state::CLOSE_WAIT, (US, 80), (THEM, 4000));
    let stand_in = row(2, state::FIN_WAIT2, (THEM, 4000), (US, 80));
    let walk = Walk { sockets: vec![ours], stand_ins: vec![stand_in], ..Walk::default() };
    let index = gather(&walk);
    assert_eq!(index.peer_of(1), Some(&stand_in));
}

#[test]
fn a_socket_connected_to_itself_is_not_its_own_peer() {
    let itself = row(1, state::CLOSE_WAIT, (US, 80), (US, 80));
    assert!(gather(&walk(&[itself])).peer_of(1).is_none());
}
