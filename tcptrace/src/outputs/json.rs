//! Records as lines of JSON: their serde form, written faster where it pays.
//!
//! Nearly all lines of a stream are transitions, and where thousands of sockets are stuck at once
//! nearly all tell that. Most of such a line are names that never change and the same second as in
//! the line before. Written directly, it takes less than half the time; a test holds both ways
//! equal.
//!
//! JSON itself lets most characters stand as they are. Those that a terminal obeys, or that some
//! readers of lines take for the end of one, are escaped: to a parser that is the same text.

use std::{
    io::{self, Write},
    net::IpAddr,
    sync::Arc,
};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::outputs::dotted::Dotted;
use crate::{
    events::{
        Ending, Event, Instant, Name, Owner, Peer, Record, SCHEMA_VERSION, SocketDetails, SocketId, State,
        Stuck, Transition, bounds,
    },
    outputs::{
        stream::Format,
        timestamp_cache::{SecondCache, pad_number},
    },
};

/// Bytes that hardly any line about a socket has more of: room is made once for all of it.
const LINE: usize = 1 << 10;

/// Writes lines of JSON.
#[derive(Debug, Default)]
pub struct Json {
    happened: SecondCache,
    since: SecondCache,
    actors: WrittenOwners,
}

impl Format for Json {
    fn render(&mut self, record: Record, out: &mut Vec<u8>) {
        self.write_record(&record, out);
    }
}

impl Json {
    /// Appends a record as one line.
    pub fn write_record(&mut self, record: &Record, out: &mut Vec<u8>) {
        match &record.event {
            Event::Transition(transition) => self.write_transition(record.at, transition, out),
            Event::Stuck(stuck) | Event::Found(stuck) => self.write_stuck(record, stuck, out),
            _ => write_by_serde(record, out),
        }
        out.push(b'\n');
    }

    /// What all records about a socket begin with.
    fn begin_record(&mut self, event: &str, at: Instant, socket: &SocketId, out: &mut Vec<u8>) {
        const { assert!(SCHEMA_VERSION < 10, "one digit") };
        out.reserve(LINE);
        out.extend_from_slice(&[b'{', b'"', b'v', b'"', b':', b'0' + SCHEMA_VERSION]);
        out.extend_from_slice(b",\"event\":\"");
        out.extend_from_slice(event.as_bytes());
        out.extend_from_slice(b"\",\"time\":\"");
        write_time(at, &mut self.happened, out);
        out.extend_from_slice(b"\",\"mono_ns\":");
        write_number(at.mono_ns, out);
        write_socket(socket, out);
    }

    fn write_transition(&mut self, at: Instant, record: &Transition, out: &mut Vec<u8>) {
        let Transition { socket, old_state, new_state, in_old_state_ms, owner, owner_how, stand_in, how } =
            record;
        self.begin_record("transition", at, socket, out);
        write_state(b",\"old_state\":\"", *old_state, out);
        write_state(b"\",\"new_state\":\"", *new_state, out);
        out.extend_from_slice(b"\",\"stand_in\":");
        write_boolean(*stand_in, out);
        out.extend_from_slice(b",\"in_old_state_ms\":");
        write_or_null(in_old_state_ms.as_ref(), write_milliseconds, out);
        out.extend_from_slice(b",\"owner\":");
        write_or_null(owner.as_ref(), |owner, out| self.actors.write_cached(owner, out), out);
        out.extend_from_slice(b",\"owner_how\":\"");
        out.extend_from_slice(owner_how.name().as_bytes());
        out.extend_from_slice(b"\",\"how\":");
        write_or_null(how.as_ref(), write_ending, out);
        out.push(b'}');
    }

    fn write_stuck(&mut self, record: &Record, stuck: &Stuck, out: &mut Vec<u8>) {
        let Stuck { socket, state: in_state, threshold_ms, age_ms, age_max_ms, exact, since, .. } = stuck;
        let SocketDetails { recv_queue, send_queue, cause, owners, owners_total, owner_how, .. } =
            &stuck.details;
        let SocketDetails { origin, listener, peer, .. } = &stuck.details;
        self.begin_record(record.event.name(), record.at, socket, out);
        write_state(b",\"state\":\"", *in_state, out);
        out.push(b'"');
        if let Some(threshold_ms) = threshold_ms {
            out.extend_from_slice(b",\"threshold_ms\":");
            write_milliseconds(threshold_ms, out);
        }
        out.extend_from_slice(b",\"age_ms\":");
        write_milliseconds(age_ms, out);
        out.extend_from_slice(b",\"age_max_ms\":");
        write_or_null(age_max_ms.as_ref(), write_milliseconds, out);
        out.extend_from_slice(b",\"exact\":");
        write_boolean(*exact, out);
        out.extend_from_slice(b",\"since\":\"");
        write_time(*since, &mut self.since, out);
        out.extend_from_slice(b"\",\"recv_queue\":");
        write_number(*recv_queue, out);
        out.extend_from_slice(b",\"send_queue\":");
        write_number(*send_queue, out);
        out.extend_from_slice(b",\"cause\":");
        write_by_serde(cause, out);
        out.extend_from_slice(b",\"owners\":");
        write_owners(owners, out);
        out.extend_from_slice(b",\"owners_total\":");
        write_number(*owners_total, out);
        out.extend_from_slice(b",\"owner_how\":\"");
        out.extend_from_slice(owner_how.name().as_bytes());
        out.extend_from_slice(b"\",\"origin\":");
        write_by_serde(origin, out);
        out.extend_from_slice(b",\"listener\":");
        write_by_serde(listener, out);
        out.extend_from_slice(b",\"peer\":");
        write_or_null(peer.as_ref(), write_peer, out);
        out.push(b'}');
    }
}

/// How processes were written that acted lately, by pid: what is long in them is the same in each
/// of their transitions.
#[derive(Debug, Default)]
struct WrittenOwners(Vec<Option<WrittenOwner>>);

/// So many are kept: a process takes the place of another one whose pid has the same remainder.
const WRITTEN_OWNERS: usize = 64;

/// What was looked up of a process, and how it is written. It holds the texts, so that no other
/// can have their addresses.
#[derive(Debug)]
struct WrittenOwner {
    texts: [Option<Arc<str>>; 6],
    executable: Vec<u8>,
    groups: Vec<u8>,
}

impl WrittenOwners {
    fn write_cached(&mut self, owner: &Owner, out: &mut Vec<u8>) {
        let Owner { pid, fd, comm, program, exe, uid, cgroup, unit, container, pod, .. } = owner;
        if self.0.is_empty() {
            self.0.resize_with(WRITTEN_OWNERS, || None);
        }
        let place = &mut self.0[*pid as usize % WRITTEN_OWNERS];
        let texts = [program, exe, cgroup, unit, container, pod];
        if !place.as_ref().is_some_and(|actor| {
            actor.texts.iter().zip(texts).all(|(one, other)| is_same(one.as_ref(), other.as_ref()))
        }) {
            *place = None;
        }
        let actor = place.get_or_insert_with(|| {
            let (mut executable, mut groups) = (Vec::new(), Vec::new());
            add_executable(owner, &mut executable);
            add_groups(owner, &mut groups);
            WrittenOwner { texts: texts.map(Option::clone), executable, groups }
        });
        add_name(*pid, *fd, comm.as_ref(), out);
        out.extend_from_slice(&actor.executable);
        write_or_null(uid.as_ref(), write_integer, out);
        out.extend_from_slice(&actor.groups);
    }
}

/// Whether two texts are one, or both are missing.
fn is_same(one: Option<&Arc<str>>, other: Option<&Arc<str>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// RFC 3339, UTC, nanoseconds; `second` is kept from one to the next.
fn write_time(at: Instant, second: &mut SecondCache, out: &mut Vec<u8>) {
    let without_zone = |timestamp| format!("{timestamp:.0}").trim_end_matches('Z').to_owned();
    let (second, nanosecond) = second.format_second(at, without_zone);
    out.extend_from_slice(second.as_bytes());
    out.push(b'.');
    out.extend_from_slice(&pad_number::<9>(nanosecond));
    out.push(b'Z');
}

/// Appends which socket it is, after other fields.
fn write_socket(socket: &SocketId, out: &mut Vec<u8>) {
    let SocketId { cookie, netns, family, local_addr, local_port, remote_addr, remote_port, interface } =
        socket;
    out.extend_from_slice(b",\"cookie\":");
    write_number(*cookie, out);
    out.extend_from_slice(b",\"netns\":");
    write_or_null(netns.as_ref(), write_integer, out);
    out.extend_from_slice(b",\"family\":\"");
    out.extend_from_slice(family.name().as_bytes());
    out.extend_from_slice(b"\",\"local_addr\":\"");
    write_address(*local_addr, out);
    out.extend_from_slice(b"\",\"local_port\":");
    write_number(*local_port, out);
    out.extend_from_slice(b",\"remote_addr\":\"");
    write_address(*remote_addr, out);
    out.extend_from_slice(b"\",\"remote_port\":");
    write_number(*remote_port, out);
    if let Some(interface) = interface {
        out.extend_from_slice(b",\"interface\":");
        write_number(*interface, out);
    }
}

fn write_owners(owners: &[Owner], out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, owner) in owners.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_owner(owner, out);
    }
    out.push(b']');
}

fn write_peer(peer: &Peer, out: &mut Vec<u8>) {
    let Peer { cookie, netns, state: in_state, owners, owners_total, owner_how, gone } = peer;
    out.extend_from_slice(b"{\"cookie\":");
    write_number(*cookie, out);
    out.extend_from_slice(b",\"netns\":");
    write_or_null(netns.as_ref(), write_integer, out);
    write_state(b",\"state\":\"", *in_state, out);
    out.extend_from_slice(b"\",\"owners\":");
    write_owners(owners, out);
    out.extend_from_slice(b",\"owners_total\":");
    write_number(*owners_total, out);
    out.extend_from_slice(b",\"owner_how\":\"");
    out.extend_from_slice(owner_how.name().as_bytes());
    out.extend_from_slice(b"\",\"gone\":");
    write_boolean(*gone, out);
    out.push(b'}');
}

fn write_owner(owner: &Owner, out: &mut Vec<u8>) {
    add_name(owner.pid, owner.fd, owner.comm.as_ref(), out);
    add_executable(owner, out);
    write_or_null(owner.uid.as_ref(), write_integer, out);
    add_groups(owner, out);
}

fn add_name(pid: u32, fd: Option<u32>, comm: Option<&Name>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"pid\":");
    write_number(pid, out);
    out.extend_from_slice(b",\"fd\":");
    write_or_null(fd.as_ref(), write_integer, out);
    out.extend_from_slice(b",\"comm\":");
    write_or_null(comm, write_name, out);
}

fn add_executable(owner: &Owner, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"program\":");
    write_or_null(owner.program.as_ref(), write_shared, out);
    out.extend_from_slice(b",\"exe\":");
    write_or_null(owner.exe.as_ref(), write_shared, out);
    out.extend_from_slice(b",\"uid\":");
}

fn add_groups(owner: &Owner, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"cgroup\":");
    write_or_null(owner.cgroup.as_ref(), write_shared, out);
    out.extend_from_slice(b",\"unit\":");
    write_or_null(owner.unit.as_ref(), write_shared, out);
    out.extend_from_slice(b",\"container\":");
    write_or_null(owner.container.as_ref(), write_shared, out);
    out.extend_from_slice(b",\"pod\":");
    write_or_null(owner.pod.as_ref(), write_shared, out);
    out.push(b'}');
}

fn write_shared(shared: &Arc<str>, out: &mut Vec<u8>) {
    let shortened = bounds::shortened(shared);
    write_text(shortened.as_bytes(), &shortened, out);
}

fn write_or_null<T>(option: Option<&T>, mut write: impl FnMut(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    match option {
        Some(some) => write(some, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_name(name: &Name, out: &mut Vec<u8>) {
    write_text(name.bytes(), name, out);
}

/// A name or a path: hardly ever is there anything in its `bytes` to escape.
fn write_text(bytes: &[u8], it: &impl Serialize, out: &mut Vec<u8>) {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if bytes.iter().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else {
        write_by_serde(it, out);
    }
}

/// A number that comes from whole microseconds, as all of ours do: its shortest form has no more
/// digits than those.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    clippy::trivially_copy_pass_by_ref,
    reason = "`as` saturates, and what it cut is compared; `option` hands out references"
)]
fn write_milliseconds(ms: &f64, out: &mut Vec<u8>) {
    let us = (ms * 1_000.0 + 0.5) as u64;
    // Beyond that, numbers have another form.
    if ms.is_sign_negative() || us >= 1_000_000_000_000_000 || us as f64 / 1_000.0 != *ms {
        return write_by_serde(ms, out);
    }
    write_number(us / 1_000, out);
    out.push(b'.');
    let [tenths, hundredths, thousandths] = pad_number::<3>((us % 1_000) as u32);
    out.push(tenths);
    if (hundredths, thousandths) != (b'0', b'0') {
        out.push(hundredths);
    }
    if thousandths != b'0' {
        out.push(thousandths);
    }
}

fn write_boolean(boolean: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if boolean { b"true" } else { b"false" });
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "`option` hands out references")]
fn write_ending(how: &Ending, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(how.name().as_bytes());
    out.push(b'"');
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "`option` hands out references")]
fn write_integer(integer: &u32, out: &mut Vec<u8>) {
    write_number(*integer, out);
}

fn write_state(name: &[u8], state: State, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(state.kernel_name().as_bytes());
}

fn write_number(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn write_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(Dotted::of(v4).bytes()),
        IpAddr::V6(v6) => write_formatted(out, format_args!("{v6}")),
    }
}

fn write_formatted(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _memory_takes_everything = out.write_fmt(text);
}

/// Appends the serde form.
fn write_by_serde(value: &impl Serialize, out: &mut Vec<u8>) {
    let start = out.len();
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Harmless(CompactFormatter));
    if let Err(error) = value.serialize(&mut serializer) {
        // Only a type that JSON cannot express fails here, and none of ours is such a type.
        out.truncate(start);
        unreachable!("a record that is no JSON: {error}");
    }
}

struct Harmless(CompactFormatter);

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let Self(as_it_is) = self;
        // All field names, and nearly all that is in them.
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return as_it_is.write_string_fragment(writer, fragment);
        }
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| does_harm(*c)) {
            as_it_is.write_string_fragment(writer, &rest[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        as_it_is.write_string_fragment(writer, rest)
    }
}

/// Whether a character does something instead of being something: DEL and the C1 controls, ends of
/// lines, what is invisible or changes the direction (general categories Cc, Zl, Zp and Cf; what
/// JSON itself escapes does not come here).
const fn does_harm(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests;
