//! Decodes bytes from the kernel into records, and checks what user space relies on.

use bytemuck::AnyBitPattern;
use tcptrace_common::{
    AF_INET, AF_INET6, ClosingRecord, Descriptor, OpenerRecord, RowFlags, SocketRow, Tuple, state,
};

use crate::host::bpf::ring_event::RingEvent;

/// These bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The length is not that of the record.
    #[error("{record}: the kernel returned {length} bytes in place of {expected}")]
    Length {
        /// The expected record.
        record: &'static str,
        /// The size of the expected record, bytes.
        expected: usize,
        /// The number of bytes that the kernel returned.
        length: usize,
    },
    /// No kernel header names this TCP state.
    #[error("the kernel returned the unknown TCP state {0}")]
    State(u8),
    /// The address family is neither IPv4 nor IPv6.
    #[error("the kernel returned the unknown address family {0}")]
    Family(u16),
}

/// Decodes one record of the ring.
///
/// # Errors
/// See [`DecodeError`].
pub fn ring_event(bytes: &[u8]) -> Result<RingEvent, DecodeError> {
    let event = if bytes.len() == size_of::<ClosingRecord>() {
        RingEvent::Closing(decode_fixed(bytes, "closing")?)
    } else {
        RingEvent::Transition(decode_fixed(bytes, "transition")?)
    };
    let transition = event.transition();
    check_state(transition.old_state)?;
    check_state(transition.new_state)?;
    check_family(&transition.tuple)?;
    Ok(event)
}

/// A socket, and its opener if the kernel keeps it.
pub type FoundSocket = (SocketRow, Option<OpenerRecord>);

/// Takes the first row off those of a walk of sockets.
///
/// # Errors
/// See [`DecodeError`].
pub fn socket_row(rows: &mut &[u8]) -> Result<FoundSocket, DecodeError> {
    let row: SocketRow = take_first(rows, "socket row")?;
    check_row(&row)?;
    let opener = row.flags.contains(RowFlags::HAS_OPENER).then(|| take_first(rows, "opener")).transpose()?;
    Ok((row, opener))
}

/// Takes the first row off those of a walk of descriptors, with the socket that the descriptor
/// holds if the kernel added it.
///
/// # Errors
/// See [`DecodeError`].
pub fn descriptor_row(rows: &mut &[u8]) -> Result<(Descriptor, Option<FoundSocket>), DecodeError> {
    let descriptor: Descriptor = take_first(rows, "descriptor")?;
    let socket = descriptor.has_row.get().then(|| socket_row(rows)).transpose()?;
    Ok((descriptor, socket))
}

fn take_first<T: AnyBitPattern>(rows: &mut &[u8], record: &'static str) -> Result<T, DecodeError> {
    let length = rows.len().min(size_of::<T>());
    let (bytes, rest) = rows.split_at(length);
    *rows = rest;
    decode_fixed(bytes, record)
}

fn decode_fixed<T: AnyBitPattern>(bytes: &[u8], record: &'static str) -> Result<T, DecodeError> {
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
    use tcptrace_common::{Bool32, TransitionRecord};

    fn sample() -> TransitionRecord {
        TransitionRecord {
            ktime_ns: 0x0102_0304_0506_0708,
            cookie: 77,
            netns: 4_026_531_840,
            tuple: Tuple { family: AF_INET, local_port: 9666, remote_port: 40112, ..Tuple::zeroed() },
            old_state: state::ESTABLISHED,
            new_state: state::CLOSE_WAIT,
            ..TransitionRecord::zeroed()
        }
    }

    #[test]
    fn a_record_survives_the_boundary_at_any_alignment() {
        let record = sample();
        for shift in 0..8 {
            let mut bytes = vec![0xee; shift];
            bytes.extend_from_slice(bytes_of(&record));
            assert_eq!(ring_event(&bytes[shift..]), Ok(RingEvent::Transition(record)));
        }
    }

    #[test]
    fn every_other_length_is_refused() {
        let bytes = [bytes_of(&sample()), &[0; 200]].concat();
        let is_a_record =
            |length: &usize| [size_of::<TransitionRecord>(), size_of::<ClosingRecord>()].contains(length);
        for length in (0..bytes.len()).filter(|length| !is_a_record(length)) {
            assert_eq!(
                ring_event(&bytes[..length]),
                Err(DecodeError::Length { record: "transition", expected: 112, length })
            );
        }
    }

    #[test]
    fn unknown_states_and_families_are_refused() {
        for number in [0, 13, 31, 32, 200, 255] {
            let old = TransitionRecord { old_state: number, ..sample() };
            let new = TransitionRecord { new_state: number, ..sample() };
            assert_eq!(ring_event(bytes_of(&old)), Err(DecodeError::State(number)));
            assert_eq!(ring_event(bytes_of(&new)), Err(DecodeError::State(number)));
        }
        let unix = TransitionRecord { tuple: Tuple { family: 1, ..Tuple::zeroed() }, ..sample() };
        assert_eq!(ring_event(bytes_of(&unix)), Err(DecodeError::Family(1)));
        let last = ClosingRecord { transition: unix, ..ClosingRecord::zeroed() };
        assert_eq!(ring_event(bytes_of(&last)), Err(DecodeError::Family(1)));
    }

    #[test]
    fn a_last_transition_comes_with_its_counters() {
        let mut last = ClosingRecord { transition: sample(), ..ClosingRecord::zeroed() };
        (last.counters.bytes_sent, last.opener.task.pid) = (0x0102_0304_0506, 4242);
        assert_eq!(ring_event(bytes_of(&last)), Ok(RingEvent::Closing(last)));
    }

    #[test]
    fn rows_are_checked_like_records() {
        let row = SocketRow {
            state: state::LISTEN,
            tuple: Tuple { family: AF_INET6, ..Tuple::zeroed() },
            ..SocketRow::zeroed()
        };
        assert_eq!(socket_row(&mut bytes_of(&row)), Ok((row, None)));
        assert_eq!(
            socket_row(&mut &[0; 40][..]),
            Err(DecodeError::Length { record: "socket row", expected: 96, length: 40 })
        );
        let bad = SocketRow { state: 99, ..row };
        assert_eq!(socket_row(&mut bytes_of(&bad)), Err(DecodeError::State(99)));
        let holds = Descriptor { has_row: Bool32::TRUE, ..Descriptor::zeroed() };
        let rows = [bytes_of(&holds), bytes_of(&bad)].concat();
        assert_eq!(descriptor_row(&mut &rows[..]), Err(DecodeError::State(99)));
    }

    #[test]
    fn rows_are_as_long_as_what_is_known() {
        let row = SocketRow {
            state: state::CLOSE_WAIT,
            tuple: Tuple { family: AF_INET, ..Tuple::zeroed() },
            ..SocketRow::zeroed()
        };
        let known = SocketRow { flags: RowFlags::HAS_OPENER, ..row };
        let mut opener = OpenerRecord::zeroed();
        opener.task.pid = 4242;
        let rows = [bytes_of(&known), bytes_of(&opener), bytes_of(&row)].concat();
        let mut left = &rows[..];
        assert_eq!(socket_row(&mut left), Ok((known, Some(opener))));
        assert_eq!((socket_row(&mut left), left.len()), (Ok((row, None)), 0));
        let (alone, followed) = (
            Descriptor { fd: 7, ..Descriptor::zeroed() },
            Descriptor { has_row: Bool32::TRUE, ..Descriptor::zeroed() },
        );
        let rows = [bytes_of(&alone), bytes_of(&followed), &rows, bytes_of(&alone)].concat();
        let mut left = &rows[..];
        assert_eq!(descriptor_row(&mut left), Ok((alone, None)));
        assert_eq!(descriptor_row(&mut left), Ok((followed, Some((known, Some(opener))))));
        assert_eq!(socket_row(&mut left), Ok((row, None)));
        assert_eq!((descriptor_row(&mut left), left.len()), (Ok((alone, None)), 0));
        let mut cut = &rows[48..48 + 48 + 96 + 55];
        assert_eq!(
            descriptor_row(&mut cut),
            Err(DecodeError::Length { record: "opener", expected: 56, length: 55 })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_sound_record_or_an_error(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            length in proptest::sample::select(vec![
                size_of::<TransitionRecord>(),
                size_of::<ClosingRecord>(),
                size_of::<SocketRow>(),
                size_of::<Descriptor>(),
                0
            ]),
            state in 0_u8..14,
            family in proptest::sample::select(vec![AF_INET, AF_INET6, 1]),
        ) {
            let (known, sound) = (1..=12, [AF_INET, AF_INET6]);
            if length > 0 {
                bytes.resize(length, state);
            }
            if length == size_of::<TransitionRecord>() || length == size_of::<ClosingRecord>() {
                // Random bytes are hardly ever a record. Both records begin with a transition.
                let (head, rest) = bytes.split_at(size_of::<TransitionRecord>());
                let mut likely: TransitionRecord = bytemuck::pod_read_unaligned(head);
                (likely.old_state, likely.new_state, likely.tuple.family) = (state, 8, family);
                bytes = [bytes_of(&likely), rest].concat();
            }
            if let Ok(event) = ring_event(&bytes) {
                let record = event.transition();
                prop_assert!(known.contains(&record.old_state) && known.contains(&record.new_state));
                prop_assert!(sound.contains(&record.tuple.family));
                let read = match &event {
                    RingEvent::Transition(transition) => bytes_of(transition),
                    RingEvent::Closing(closing) => bytes_of(closing),
                };
                prop_assert_eq!(read, &bytes[..], "no byte is lost or moved");
            }
            let mut rows = &bytes[..];
            while !rows.is_empty() && let Ok((row, _)) = socket_row(&mut rows) {
                prop_assert!(known.contains(&row.state) && sound.contains(&row.tuple.family));
            }
            let mut rows = &bytes[..];
            while !rows.is_empty() && let Ok((_, socket)) = descriptor_row(&mut rows) {
                prop_assert!(socket.is_none_or(|(row, _)| known.contains(&row.state)));
            }
        }
    }
}
