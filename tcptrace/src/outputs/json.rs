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
    actors: Actors,
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
            Event::Transition(transition) => self.transition(record.at, transition, out),
            Event::Stuck(stuck) | Event::Found(stuck) => self.stuck(record, stuck, out),
            _ => value(record, out),
        }
        out.push(b'\n');
    }

    /// What all records about a socket begin with.
    fn begin(&mut self, event: &str, at: Instant, socket: &SocketId, out: &mut Vec<u8>) {
        const { assert!(SCHEMA_VERSION < 10, "one digit") };
        out.reserve(LINE);
        out.extend_from_slice(&[b'{', b'"', b'v', b'"', b':', b'0' + SCHEMA_VERSION]);
        out.extend_from_slice(b",\"event\":\"");
        out.extend_from_slice(event.as_bytes());
        out.extend_from_slice(b"\",\"time\":\"");
        time(at, &mut self.happened, out);
        out.extend_from_slice(b"\",\"mono_ns\":");
        number(at.mono_ns, out);
        id(socket, out);
    }

    fn transition(&mut self, at: Instant, record: &Transition, out: &mut Vec<u8>) {
        let Transition { socket, old_state, new_state, in_old_state_ms, owner, owner_how, stand_in, how } =
            record;
        self.begin("transition", at, socket, out);
        state(b",\"old_state\":\"", *old_state, out);
        state(b"\",\"new_state\":\"", *new_state, out);
        out.extend_from_slice(b"\",\"stand_in\":");
        boolean(*stand_in, out);
        out.extend_from_slice(b",\"in_old_state_ms\":");
        option(in_old_state_ms.as_ref(), milliseconds, out);
        out.extend_from_slice(b",\"owner\":");
        option(owner.as_ref(), |owner, out| self.actors.add(owner, out), out);
        out.extend_from_slice(b",\"owner_how\":\"");
        out.extend_from_slice(owner_how.name().as_bytes());
        out.extend_from_slice(b"\",\"how\":");
        option(how.as_ref(), ending, out);
        out.push(b'}');
    }

    fn stuck(&mut self, record: &Record, stuck: &Stuck, out: &mut Vec<u8>) {
        let Stuck { socket, state: in_state, threshold_ms, age_ms, age_max_ms, exact, since, .. } = stuck;
        let SocketDetails { recv_queue, send_queue, cause, owners, owners_total, owner_how, .. } =
            &stuck.details;
        let SocketDetails { origin, listener, peer, .. } = &stuck.details;
        self.begin(record.event.name(), record.at, socket, out);
        state(b",\"state\":\"", *in_state, out);
        out.push(b'"');
        if let Some(threshold_ms) = threshold_ms {
            out.extend_from_slice(b",\"threshold_ms\":");
            milliseconds(threshold_ms, out);
        }
        out.extend_from_slice(b",\"age_ms\":");
        milliseconds(age_ms, out);
        out.extend_from_slice(b",\"age_max_ms\":");
        option(age_max_ms.as_ref(), milliseconds, out);
        out.extend_from_slice(b",\"exact\":");
        boolean(*exact, out);
        out.extend_from_slice(b",\"since\":\"");
        time(*since, &mut self.since, out);
        out.extend_from_slice(b"\",\"recv_queue\":");
        number(*recv_queue, out);
        out.extend_from_slice(b",\"send_queue\":");
        number(*send_queue, out);
        out.extend_from_slice(b",\"cause\":");
        value(cause, out);
        out.extend_from_slice(b",\"owners\":");
        processes(owners, out);
        out.extend_from_slice(b",\"owners_total\":");
        number(*owners_total, out);
        out.extend_from_slice(b",\"owner_how\":\"");
        out.extend_from_slice(owner_how.name().as_bytes());
        out.extend_from_slice(b"\",\"origin\":");
        value(origin, out);
        out.extend_from_slice(b",\"listener\":");
        value(listener, out);
        out.extend_from_slice(b",\"peer\":");
        option(peer.as_ref(), other_end, out);
        out.push(b'}');
    }
}

/// How processes were written that acted lately, by pid: what is long in them is the same in each
/// of their transitions.
#[derive(Debug, Default)]
struct Actors(Vec<Option<Actor>>);

/// So many are kept: a process takes the place of another one whose pid has the same remainder.
const ACTORS: usize = 64;

/// What was looked up of a process, and how it is written. It holds the texts, so that no other
/// can have their addresses.
#[derive(Debug)]
struct Actor {
    texts: [Option<Arc<str>>; 6],
    executable: Vec<u8>,
    groups: Vec<u8>,
}

impl Actors {
    fn add(&mut self, owner: &Owner, out: &mut Vec<u8>) {
        let Owner { pid, fd, comm, program, exe, uid, cgroup, unit, container, pod, .. } = owner;
        if self.0.is_empty() {
            self.0.resize_with(ACTORS, || None);
        }
        let place = &mut self.0[*pid as usize % ACTORS];
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
            Actor { texts: texts.map(Option::clone), executable, groups }
        });
        add_name(*pid, *fd, comm.as_ref(), out);
        out.extend_from_slice(&actor.executable);
        option(uid.as_ref(), integer, out);
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
fn time(at: Instant, second: &mut SecondCache, out: &mut Vec<u8>) {
    let without_zone = |timestamp| format!("{timestamp:.0}").trim_end_matches('Z').to_owned();
    let (second, nanosecond) = second.format_second(at, without_zone);
    out.extend_from_slice(second.as_bytes());
    out.push(b'.');
    out.extend_from_slice(&pad_number::<9>(nanosecond));
    out.push(b'Z');
}

/// Which socket, after other fields.
fn id(socket: &SocketId, out: &mut Vec<u8>) {
    let SocketId { cookie, netns, family, local_addr, local_port, remote_addr, remote_port, interface } =
        socket;
    out.extend_from_slice(b",\"cookie\":");
    number(*cookie, out);
    out.extend_from_slice(b",\"netns\":");
    option(netns.as_ref(), integer, out);
    out.extend_from_slice(b",\"family\":\"");
    out.extend_from_slice(family.name().as_bytes());
    out.extend_from_slice(b"\",\"local_addr\":\"");
    address(*local_addr, out);
    out.extend_from_slice(b"\",\"local_port\":");
    number(*local_port, out);
    out.extend_from_slice(b",\"remote_addr\":\"");
    address(*remote_addr, out);
    out.extend_from_slice(b"\",\"remote_port\":");
    number(*remote_port, out);
    if let Some(interface) = interface {
        out.extend_from_slice(b",\"interface\":");
        number(*interface, out);
    }
}

fn processes(owners: &[Owner], out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, owner) in owners.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        process(owner, out);
    }
    out.push(b']');
}

fn other_end(peer: &Peer, out: &mut Vec<u8>) {
    let Peer { cookie, netns, state: in_state, owners, owners_total, owner_how, gone } = peer;
    out.extend_from_slice(b"{\"cookie\":");
    number(*cookie, out);
    out.extend_from_slice(b",\"netns\":");
    option(netns.as_ref(), integer, out);
    state(b",\"state\":\"", *in_state, out);
    out.extend_from_slice(b"\",\"owners\":");
    processes(owners, out);
    out.extend_from_slice(b",\"owners_total\":");
    number(*owners_total, out);
    out.extend_from_slice(b",\"owner_how\":\"");
    out.extend_from_slice(owner_how.name().as_bytes());
    out.extend_from_slice(b"\",\"gone\":");
    boolean(*gone, out);
    out.push(b'}');
}

fn process(owner: &Owner, out: &mut Vec<u8>) {
    add_name(owner.pid, owner.fd, owner.comm.as_ref(), out);
    add_executable(owner, out);
    option(owner.uid.as_ref(), integer, out);
    add_groups(owner, out);
}

fn add_name(pid: u32, fd: Option<u32>, comm: Option<&Name>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"pid\":");
    number(pid, out);
    out.extend_from_slice(b",\"fd\":");
    option(fd.as_ref(), integer, out);
    out.extend_from_slice(b",\"comm\":");
    option(comm, name, out);
}

fn add_executable(owner: &Owner, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"program\":");
    option(owner.program.as_ref(), shared, out);
    out.extend_from_slice(b",\"exe\":");
    option(owner.exe.as_ref(), shared, out);
    out.extend_from_slice(b",\"uid\":");
}

fn add_groups(owner: &Owner, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"cgroup\":");
    option(owner.cgroup.as_ref(), shared, out);
    out.extend_from_slice(b",\"unit\":");
    option(owner.unit.as_ref(), shared, out);
    out.extend_from_slice(b",\"container\":");
    option(owner.container.as_ref(), shared, out);
    out.extend_from_slice(b",\"pod\":");
    option(owner.pod.as_ref(), shared, out);
    out.push(b'}');
}

fn shared(shared: &Arc<str>, out: &mut Vec<u8>) {
    let shortened = bounds::shortened(shared);
    text(shortened.as_bytes(), &shortened, out);
}

fn option<T>(option: Option<&T>, mut write: impl FnMut(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    match option {
        Some(some) => write(some, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn name(name: &Name, out: &mut Vec<u8>) {
    text(name.bytes(), name, out);
}

/// A name or a path: hardly ever is there anything in its `bytes` to escape.
fn text(bytes: &[u8], it: &impl Serialize, out: &mut Vec<u8>) {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if bytes.iter().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else {
        value(it, out);
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
fn milliseconds(ms: &f64, out: &mut Vec<u8>) {
    let us = (ms * 1_000.0 + 0.5) as u64;
    // Beyond that, numbers have another form.
    if ms.is_sign_negative() || us >= 1_000_000_000_000_000 || us as f64 / 1_000.0 != *ms {
        return value(ms, out);
    }
    number(us / 1_000, out);
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

fn boolean(boolean: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if boolean { b"true" } else { b"false" });
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "`option` hands out references")]
fn ending(how: &Ending, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(how.name().as_bytes());
    out.push(b'"');
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "`option` hands out references")]
fn integer(integer: &u32, out: &mut Vec<u8>) {
    number(*integer, out);
}

fn state(name: &[u8], state: State, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(state.kernel_name().as_bytes());
}

fn number(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(Dotted::of(v4).bytes()),
        IpAddr::V6(v6) => append(out, format_args!("{v6}")),
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _memory_takes_everything = out.write_fmt(text);
}

/// Appends the serde form.
fn value(value: &impl Serialize, out: &mut Vec<u8>) {
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
