//! Bytes from the kernel → records, each checked for what user space goes on to rely on.

use bytemuck::AnyBitPattern;
use tcptrace_common::{
    AF_INET, AF_INET6, Closing, FoundSocket, HolderRow, SocketRow, Transition, Tuple, state,
};

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too few or too many bytes.
    #[error("a {record} is {expected} bytes, the kernel gave {length}")]
    Length {
        /// Which record was expected.
        record: &'static str,
        /// Its size, bytes.
        expected: usize,
        /// What came, bytes.
        length: usize,
    },
    /// A TCP state that no kernel header names.
    #[error("the kernel gave the unknown TCP state {0}")]
    State(u8),
    /// An address family that is neither IPv4 nor IPv6.
    #[error("the kernel gave the unknown address family {0}")]
    Family(u16),
}

/// What comes through the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A state change.
    Transition(Transition),
    /// A socket's last one, with what its life came to.
    Closing(Closing),
}

impl Heard {
    /// The state change.
    pub const fn transition(&self) -> &Transition {
        match self {
            Self::Transition(transition) => transition,
            Self::Closing(closing) => &closing.transition,
        }
    }
}

/// One record of the ring.
///
/// # Errors
/// See [`DecodeError`].
pub fn heard(bytes: &[u8]) -> Result<Heard, DecodeError> {
    let heard = if bytes.len() == size_of::<Closing>() {
        Heard::Closing(fixed(bytes, "closing")?)
    } else {
        Heard::Transition(fixed(bytes, "transition")?)
    };
    let transition = heard.transition();
    check_state(transition.old_state)?;
    check_state(transition.new_state)?;
    check_family(&transition.tuple)?;
    Ok(heard)
}

/// One row of the walk of the sockets.
///
/// # Errors
/// See [`DecodeError`].
pub fn found_socket(bytes: &[u8]) -> Result<FoundSocket, DecodeError> {
    let found: FoundSocket = fixed(bytes, "socket row")?;
    check_row(&found.row)?;
    Ok(found)
}

/// One row of the walk of the descriptors.
///
/// # Errors
/// See [`DecodeError`].
pub fn holder_row(bytes: &[u8]) -> Result<HolderRow, DecodeError> {
    let row: HolderRow = fixed(bytes, "holder row")?;
    check_row(&row.socket.row)?;
    Ok(row)
}

fn fixed<T: AnyBitPattern>(bytes: &[u8], record: &'static str) -> Result<T, DecodeError> {
    if bytes.len() == size_of::<T>() {
        Ok(bytemuck::pod_read_unaligned(bytes))
    } else {
        Err(DecodeError::Length { record, expected: size_of::<T>(), length: bytes.len() })
    }
}

fn check_row(row: &SocketRow) -> Result<(), DecodeError> {
    check_state(row.state)?;
    check_family(&row.tuple)
}

fn check_state(number: u8) -> Result<(), DecodeError> {
    if state::ALL & state::bit(number) == 0 { Err(DecodeError::State(number)) } else { Ok(()) }
}

fn check_family(tuple: &Tuple) -> Result<(), DecodeError> {
    match tuple.family {
        AF_INET | AF_INET6 => Ok(()),
        other => Err(DecodeError::Family(other)),
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::{Zeroable as _, bytes_of};

    use proptest::prelude::*;

    use super::*;

    fn sample() -> Transition {
        Transition {
            ktime_ns: 0x0102_0304_0506_0708,
            cookie: 77,
            netns: 4_026_531_840,
            tuple: Tuple { family: AF_INET, local_port: 9666, remote_port: 40112, ..Tuple::zeroed() },
            old_state: state::ESTABLISHED,
            new_state: state::CLOSE_WAIT,
            ..Transition::zeroed()
        }
    }

    #[test]
    fn a_record_survives_the_boundary_at_any_alignment() {
        let record = sample();
        for shift in 0..8 {
            let mut bytes = vec![0xee; shift];
            bytes.extend_from_slice(bytes_of(&record));
            assert_eq!(heard(&bytes[shift..]), Ok(Heard::Transition(record)));
        }
    }

    #[test]
    fn every_other_length_is_refused() {
        let bytes = [bytes_of(&sample()), &[0; 200]].concat();
        let is_a_record = |length: &usize| [size_of::<Transition>(), size_of::<Closing>()].contains(length);
        for length in (0..bytes.len()).filter(|length| !is_a_record(length)) {
            assert_eq!(
                heard(&bytes[..length]),
                Err(DecodeError::Length { record: "transition", expected: 112, length })
            );
        }
    }

    #[test]
    fn unknown_states_and_families_are_refused() {
        for number in [0, 13, 31, 32, 200, 255] {
            let old = Transition { old_state: number, ..sample() };
            let new = Transition { new_state: number, ..sample() };
            assert_eq!(heard(bytes_of(&old)), Err(DecodeError::State(number)));
            assert_eq!(heard(bytes_of(&new)), Err(DecodeError::State(number)));
        }
        let unix = Transition { tuple: Tuple { family: 1, ..Tuple::zeroed() }, ..sample() };
        assert_eq!(heard(bytes_of(&unix)), Err(DecodeError::Family(1)));
        let last = Closing { transition: unix, ..Closing::zeroed() };
        assert_eq!(heard(bytes_of(&last)), Err(DecodeError::Family(1)));
    }

    #[test]
    fn a_last_transition_comes_with_its_counters() {
        let mut last = Closing { transition: sample(), ..Closing::zeroed() };
        (last.counters.bytes_sent, last.origin.task.pid) = (0x0102_0304_0506, 4242);
        assert_eq!(heard(bytes_of(&last)), Ok(Heard::Closing(last)));
    }

    #[test]
    fn rows_are_checked_like_records() {
        let row = SocketRow {
            state: state::LISTEN,
            tuple: Tuple { family: AF_INET6, ..Tuple::zeroed() },
            ..SocketRow::zeroed()
        };
        let good = FoundSocket { row, ..FoundSocket::zeroed() };
        assert_eq!(found_socket(bytes_of(&good)), Ok(good));
        assert_eq!(
            found_socket(&[]),
            Err(DecodeError::Length { record: "socket row", expected: 152, length: 0 })
        );
        let holder = HolderRow { socket: good, ..HolderRow::zeroed() };
        assert_eq!(holder_row(bytes_of(&holder)), Ok(holder));
        let bad = FoundSocket { row: SocketRow { state: 99, ..row }, ..good };
        assert_eq!(found_socket(bytes_of(&bad)), Err(DecodeError::State(99)));
        let bad = HolderRow { socket: bad, ..holder };
        assert_eq!(holder_row(bytes_of(&bad)), Err(DecodeError::State(99)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_sound_record_or_an_error(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            length in proptest::sample::select(vec![
                size_of::<Transition>(), size_of::<Closing>(), size_of::<FoundSocket>(), size_of::<HolderRow>(), 0
            ]),
            state in 0_u8..14,
            family in proptest::sample::select(vec![AF_INET, AF_INET6, 1]),
        ) {
            let (known, sound) = (1..=12, [AF_INET, AF_INET6]);
            if length > 0 {
                bytes.resize(length, state);
            }
            if length == size_of::<Transition>() || length == size_of::<Closing>() {
                // Random bytes alone would never be a record. A transition comes first in both.
                let (head, rest) = bytes.split_at(size_of::<Transition>());
                let mut likely: Transition = bytemuck::pod_read_unaligned(head);
                (likely.old_state, likely.new_state, likely.tuple.family) = (state, 8, family);
                bytes = [bytes_of(&likely), rest].concat();
            }
            if let Ok(heard) = heard(&bytes) {
                let record = heard.transition();
                prop_assert!(known.contains(&record.old_state) && known.contains(&record.new_state));
                prop_assert!(sound.contains(&record.tuple.family));
            }
            for row in [found_socket(&bytes), holder_row(&bytes).map(|row| row.socket)].into_iter().flatten() {
                prop_assert!(known.contains(&row.row.state) && sound.contains(&row.row.tuple.family));
            }
        }
    }
}
