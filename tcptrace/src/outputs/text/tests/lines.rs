//! Lines of transitions, which are written piece by piece, against what the calendar and `format!`
//! make of them.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::humanize::{name::printable_name, span::format_span};

/// Rules as POSIX writes them: no files of zones are needed.
const ZONES: [&str; 4] = [
    "UTC0",
    "CET-1CEST,M3.5.0,M10.5.0/3",           // Europe/Berlin
    "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", // Australia/Lord_Howe: half an hour
    "MMT0:44:30",                           // Africa/Monrovia until 1972: an offset with seconds
];

/// Where to begin, seconds since 1970: just before the clocks change in the first two zones that
/// do, twice each; where the sign does; where nanoseconds leave 64 bits, and the calendar ends.
const BEGINS: [i64; 8] = [
    1_774_745_999,
    1_792_889_999,
    1_775_314_799,
    1_791_041_399,
    -1,
    9_223_372_036,
    -9_223_372_037,
    253_402_207_199,
];

/// The line of a transition, in a width that leaves nothing out.
fn line(text: &mut TextRenderer, at: Instant, transition: Transition) -> String {
    let mut out = Vec::new();
    text.add_record(Record { at, event: Event::Transition(transition) }, &mut out);
    let out = String::from_utf8(out).expect("UTF-8");
    out.lines().next_back().expect("a line").to_owned()
}

fn transition() -> Transition {
    Transition {
        socket: SocketId::new(1, 1, &v4_tuple()),
        old_state: State(state::ESTABLISHED),
        new_state: State(state::CLOSE_WAIT),
        stand_in: false,
        in_old_state_ms: None,
        owner: None,
        owner_how: OwnerHow::None,
        how: None,
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u16; 8]>().prop_map(IpAddr::from),
        Just(IpAddr::from([0; 4])),
        Just(IpAddr::from([0; 16])),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), any::<u16>()]
}

proptest! {
    #[test]
    fn the_time_is_the_calendars_whatever_came_before(
        zone in proptest::sample::select(&ZONES[..]),
        begin in proptest::sample::select(&BEGINS[..]),
        steps_ns in proptest::collection::vec(
            prop_oneof![-3_000_000_i64..3_000_000, -1_500_000_000_i64..1_500_000_000, -4_000 * SECOND as i64..4_000 * SECOND as i64],
            1..40,
        ),
    ) {
        let zone = TimeZone::posix(zone).expect("a rule");
        let mut text = TextRenderer::new(None, false, zone.clone());
        let mut wall_ns = i128::from(begin) * i128::from(SECOND);
        for step_ns in steps_ns {
            wall_ns += i128::from(step_ns);
            let at = Instant { wall_ns, mono_ns: 7 };
            let line = line(&mut text, at, transition());
            let expected = at.timestamp().to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string();
            prop_assert_eq!(line.split(' ').next(), Some(&expected[..]));
        }
    }

    #[test]
    fn a_line_written_piece_by_piece_is_what_format_makes_of_it(
        (local_addr, remote_addr) in (address(), address()),
        (local_port, remote_port) in (port(), port()),
        (old_state, new_state) in (1..13_u8, 1..13_u8),
        in_old_state_ms in proptest::option::of(prop_oneof![0.0..20.0, 0.0..1e9]),
        owner in proptest::option::of((any::<u32>(), proptest::option::of("[ -~]{0,15}|.{0,5}"))),
    ) {
        let (old_state, new_state) = (State(old_state), State(new_state));
        let socket = SocketId { local_addr, local_port, remote_addr, remote_port, ..transition().socket };
        let name = |name: &String| Name::from_bytes(name.as_bytes());
        let acting = owner.as_ref().map(|(pid, comm)| Owner { comm: comm.as_ref().map(name), ..Owner::once(*pid) });
        let transition = Transition { socket, old_state, new_state, in_old_state_ms, owner: acting, ..transition() };
        let at = Instant { wall_ns: 0, mono_ns: 0 };
        let line = line(&mut TextRenderer::new(None, false, TimeZone::UTC), at, transition);

        let end = |address: IpAddr, port| match port {
            0 if address.is_ipv6() => format!("[{address}]:*"),
            0 => format!("{address}:*"),
            _ => SocketAddr::new(address, port).to_string(),
        };
        let local = end(local_addr, local_port);
        // An IPv6 end that is longer makes room for any other.
        let is_listener = remote_port == 0 && remote_addr.is_unspecified();
        let remote = if is_listener { "*".to_owned() } else { end(remote_addr, remote_port) };
        let width = if local.len().max(remote.len()) > 21 { 47 } else { 21 };
        let after = in_old_state_ms.map_or("-".to_owned(), format_span);
        let who = match &owner {
            None => "-".to_owned(),
            Some((pid, None)) => format!("?/{pid}"),
            Some((pid, Some(comm))) => format!("{}/{pid}", printable_name(&name(comm))),
        };
        prop_assert_eq!(
            line,
            format!("00:00:00.000 {local:width$} {remote:width$} {old_state:10} {new_state:10} {after:>6} {who}")
        );
    }
}
