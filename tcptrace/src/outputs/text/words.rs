//! Numbers, names and addresses as people read them. What a process chose (its name) is escaped, so that it cannot forge
//! a line or move the cursor.

use std::{cmp::Reverse, fmt::Write as _};

use rustc_hash::FxHashMap;
use tcptrace_common::COMM_LEN;
use unicode_width::UnicodeWidthChar;

use crate::{
    events::{
        Cause, Ending, Lost, LostReason, Name, OriginHow, Owner, OwnerHow, Peer, Resync, SocketDetails,
        Start, Stuck, Summary,
    },
    outputs::text::columns,
};

/// How many names of a socket's holders a line has at the most.
const NAMES: usize = 3;

/// What to say on stderr when starting: that it watches, how much, and for what.
pub fn welcome(start: &Start, namespaces: usize, watched: Option<&str>) -> String {
    let mut text = format!("watching {}", sockets_in(start, namespaces));
    if let Some(watched) = watched {
        let _infallible = write!(text, " for {watched}");
    }
    text
}

/// What to say on stderr after one look: how much was looked at, and for what.
pub fn looked(start: &Start, namespaces: usize, watched: &str) -> String {
    format!("looked at {} for {watched}", sockets_in(start, namespaces))
}

/// What one look came to: how many are stuck, and how many more are in the state and not proven to have been there for
/// as long as the threshold.
pub fn verdict(stuck: u64, others: usize, states: &str, threshold: &str) -> String {
    let mut text = if stuck == 0 { "nothing stuck".to_owned() } else { format!("{stuck} stuck") };
    if others > 0 {
        let _infallible =
            write!(text, "; {others} more in {states}, younger than {threshold} or of unknown age");
    }
    text
}

fn sockets_in(start: &Start, namespaces: usize) -> String {
    format!("{} in {}", plural(start.sockets, "TCP socket"), plural(namespaces, "namespace"))
}

/// What to say on stderr at the end.
pub fn farewell(summary: &Summary) -> String {
    let Summary { transitions, lost, dropped, stuck, cleared, lives, duration_ms, .. } = summary;
    let mut text = format!("{} seen", plural(*transitions as usize, "transition"));
    if *stuck + *cleared > 0 {
        let _infallible = write!(text, ", {stuck} stuck, {cleared} cleared");
    }
    if *lives > 0 {
        let _infallible = write!(
            text,
            ", {} told",
            if *lives == 1 { "1 life".to_owned() } else { format!("{lives} lives") }
        );
    }
    if *lost > 0 {
        let _infallible = write!(text, ", {lost} lost");
    }
    if *dropped > 0 {
        let _infallible = write!(text, ", {dropped} not written (reader too slow)");
    }
    let _infallible = write!(text, " in {}", span(duration_ms));
    text
}

/// A length of time in six columns: `350ms`, `30.0s`, `1m02s`, `5h02m`, `3d04h`, `100d`.
pub fn span(ms: impl std::borrow::Borrow<f64>) -> String {
    let mut text = String::new();
    columns::span(&mut text, *ms.borrow());
    text
}

/// An age in `width` columns, from (at least, at most, whether it is exact): `30.0s` where it is exact, else the range
/// that it is in, `30.0s-5h02m`. If that is too wide, or there is no upper bound, only the lower one: `30.0s+`.
pub(crate) fn age((at_least_ms, at_most_ms, exact): (f64, Option<f64>, bool), width: usize) -> String {
    let least = span(at_least_ms);
    let range = at_most_ms
        .map(span)
        .map(|most| if most == least { least.clone() } else { format!("{least}-{most}") });
    match range {
        _ if exact => least,
        Some(range) if range.len() <= width => range,
        _ => format!("{least}+"),
    }
}

/// Names a cause in a few words.
pub(crate) const fn cause_words(cause: Cause) -> &'static str {
    match cause {
        Cause::NotAccepted => "not accepted",
        Cause::DataUnread => "data unread",
        Cause::EofUnread => "EOF unread",
        Cause::Sending => "sending",
        Cause::NotClosed => "not closed",
        Cause::Peer => "peer",
        Cause::Unknown => "unknown",
    }
}

/// What else there is to say about a stuck socket, where there is room.
pub(crate) fn detail(record: &SocketDetails) -> String {
    match record.cause {
        Cause::DataUnread => format!(": {} wait", plural(record.recv_queue as usize, "byte")),
        Cause::Sending => format!(": {} unacknowledged", plural(record.send_queue as usize, "byte")),
        Cause::NotClosed => ": all read, nothing to send".to_owned(),
        Cause::EofUnread => ": all data read, the end is not".to_owned(),
        Cause::NotAccepted => match &record.listener {
            Some(listener) => {
                format!(": waits in the accept queue ({} of {})", listener.backlog, listener.backlog_limit)
            }
            None => ": waits in the accept queue".to_owned(),
        },
        Cause::Peer | Cause::Unknown => String::new(),
    }
}

/// Which thread brought a stuck socket into its process, where that is not plain from who holds it.
pub(crate) fn origin(record: &SocketDetails) -> Option<String> {
    let origin = record.origin.as_ref()?;
    let did = match origin.how {
        OriginHow::Accept => "accepted",
        OriginHow::Connect => "connected",
        OriginHow::Listen => return None,
    };
    let thread = printable(&origin.comm);
    match record.owners.iter().find(|owner| owner.pid == origin.pid) {
        Some(owner) if owner.comm.is_some_and(|comm| comm != origin.comm) => {
            Some(format!("{did} by thread {thread}"))
        }
        Some(_) => None,
        None => Some(format!("{did} by {thread}/{}", origin.pid)),
    }
}

/// What is at the other end of a stuck socket, if that is on this host.
pub(crate) fn peer(record: &SocketDetails) -> Option<String> {
    let peer = record.peer.as_ref()?;
    let (holders, state) = (Holders::at(peer), peer.state);
    Some(match peer.owner_how {
        OwnerHow::Listener => format!("peer in {state}, not accepted by {}", holders.named(usize::MAX)),
        _ if !peer.owners.is_empty() => {
            format!("peer {} fd {} in {state}", holders.named(usize::MAX), holders.descriptors())
        }
        _ if peer.gone => format!("peer gone, {state}"),
        _ => format!("peer in {state}, no descriptor holds it"),
    })
}

/// How a stuck socket cleared.
pub(crate) const fn ending(how: Ending) -> Option<&'static str> {
    match how {
        Ending::Closed => Some("closed"),
        Ending::Exited => Some("process ended"),
        Ending::Reset => Some("reset by the peer"),
        Ending::TimedOut => Some("timed out"),
        Ending::Destroyed => Some("destroyed"),
        Ending::Peer | Ending::Unknown => None,
    }
}

/// Who holds a socket: the process that is named, its descriptors, and the other processes.
#[derive(Debug)]
pub(crate) struct Holders<'a> {
    /// The process that is named, by its first descriptor.
    first: Option<&'a Owner>,
    /// How many more descriptors it has of the socket.
    more: usize,
    /// How many other processes hold it.
    others: usize,
    /// The descriptors that the record lists.
    listed: &'a [Owner],
    /// One of each process that the record has no room for.
    unlisted: &'a [Owner],
    /// How many descriptors there are, listed or not.
    total: usize,
}

impl<'a> Holders<'a> {
    /// The holders of a stuck socket.
    pub(crate) fn of(record: &'a Stuck) -> Self {
        let SocketDetails { owners, unlisted, owners_total, .. } = &record.details;
        Self::new(owners, unlisted, *owners_total)
    }

    /// The holders of the other end of a stuck socket.
    pub(crate) fn at(peer: &'a Peer) -> Self {
        Self::new(&peer.owners, &[], peer.owners_total)
    }

    /// The processes of these descriptors, in the order of their pids.
    pub(crate) fn among(all: &'a [Owner]) -> Self {
        Self::new(all, &[], all.len())
    }

    fn new(listed: &'a [Owner], unlisted: &'a [Owner], total: usize) -> Self {
        let mut processes = listed.chunk_by(|one, next| one.pid == next.pid);
        let of_first = processes.next().map_or(0, <[Owner]>::len);
        let others = processes.count() + unlisted.len();
        // All that a list leaves out is of the first process where there is no other.
        let of_first = if others == 0 { total } else { of_first };
        Self { first: listed.first(), more: of_first.saturating_sub(1), others, listed, unlisted, total }
    }

    /// The descriptor: `57`, or `57+2` if the same process has two more of the socket.
    pub(crate) fn descriptors(&self) -> String {
        let mut text =
            self.first.and_then(|first| first.fd).map_or_else(|| "-".to_owned(), |fd| fd.to_string());
        if self.more > 0 {
            let _infallible = write!(text, "+{}", self.more);
        }
        text
    }

    /// The process in at most `width` columns, if they hold a letter of its name: `java/4242`, or `java/4242+20` if 20
    /// others hold the socket as well.
    pub(crate) fn named(&self, width: usize) -> String {
        let Some(first) = self.first else { return "-".to_owned() };
        process_and((first.pid, first.comm.as_ref()), self.others, width)
    }

    /// Which other processes hold it, if any do: each with its descriptor, or how many there are of each name.
    pub(crate) fn detail(&self) -> Option<String> {
        let unlisted = || self.unlisted.iter().map(std::slice::from_ref);
        let others = || self.listed.chunk_by(|one, next| one.pid == next.pid).skip(1).chain(unlisted());
        let names = match self.others {
            0 => return None,
            1 | 2 => {
                let one = |of: &[Owner]| {
                    let fd = Holders::among(of).descriptors();
                    format!("{} fd {fd}", process((of[0].pid, of[0].comm.as_ref()), usize::MAX))
                };
                others().map(one).collect::<Vec<_>>()
            }
            _ => {
                let mut names: FxHashMap<Option<[u8; COMM_LEN]>, usize> = FxHashMap::default();
                others().for_each(|of| *names.entry(of[0].comm.map(|name| name.0)).or_default() += 1);
                let mut names: Vec<_> = names.into_iter().collect();
                names.sort_unstable_by_key(|(name, count)| (Reverse(*count), *name));
                let left_out: usize = names.drain(NAMES.min(names.len())..).map(|(_, count)| count).sum();
                let name =
                    |name: Option<_>| name.map_or_else(|| "?".to_owned(), |name| printable(&Name(name)));
                let named = names.into_iter().map(|(of, count)| format!("{count} {}", name(of)));
                named.chain((left_out > 0).then(|| format!("{left_out} more"))).collect()
            }
        };
        let mut words = format!("also held by {}", names.join(", "));
        if self.total > self.listed.len() + self.unlisted.len() {
            let _infallible = write!(words, ", by {} descriptors in all", self.total);
        }
        Some(words)
    }
}

/// `name/pid+20` in at most `width` columns, for a process and 20 others.
fn process_and(owner: (u32, Option<&Name>), others: usize, width: usize) -> String {
    let others = if others == 0 { String::new() } else { format!("+{others}") };
    process(owner, width.saturating_sub(others.len())) + &others
}

pub(crate) fn lost_words(lost: &Lost) -> String {
    match lost.reason {
        LostReason::RingFull => format!(
            "lost {}: the ring buffer was full ({} in all)",
            plural(lost.lost as usize, "transition"),
            lost.lost_total
        ),
        LostReason::Skipped => format!(
            "lost {}: the kernel did not run the program ({} in all)",
            plural(lost.lost as usize, "transition"),
            lost.lost_total
        ),
        LostReason::ReaderSlow => format!(
            "left out {}: the reader was too slow ({} in all)",
            plural(lost.lost as usize, "record"),
            lost.lost_total
        ),
    }
}

pub(crate) fn resync_words(resync: &Resync) -> String {
    format!("looked at all {} again: {} repaired", plural(resync.sockets, "socket"), resync.repaired)
}

/// `name/pid` in at most `width` columns, if the pid leaves room.
pub(crate) fn process(owner: (u32, Option<&Name>), width: usize) -> String {
    let mut text = String::new();
    add_process(&mut text, owner, width);
    text
}

/// The same, appended to a line.
pub(crate) fn add_process(line: &mut String, (pid, comm): (u32, Option<&Name>), width: usize) {
    let mut digits = itoa::Buffer::new();
    let pid = digits.format(pid);
    let room = width.saturating_sub(pid.len() + 1).max(1);
    match comm.map(|comm| (plain(comm), comm)) {
        None => line.push('?'),
        Some((Some(name), _)) => line.push_str(&name[..name.len().min(room)]),
        Some((None, comm)) => {
            let begin = line.len();
            add_printable(line, comm, room);
            if line.len() == begin {
                line.push('…');
            }
        }
    }
    line.push('/');
    line.push_str(pid);
}

/// A name that is shown as it is, a column for each byte: nearly all are.
fn plain(name: &Name) -> Option<&str> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    name.bytes().iter().all(is_plain).then(|| std::str::from_utf8(name.bytes()).ok()).flatten()
}

/// A process's name with everything escaped that does not stand in a column of its own, or two, where it was written.
pub(crate) fn printable(name: &Name) -> String {
    let mut text = String::new();
    add_printable(&mut text, name, usize::MAX);
    text
}

/// Appends as many of a name's characters, escaped as [`printable`] does, as fit `room` columns. No escape is cut.
fn add_printable(line: &mut String, name: &Name, room: usize) {
    let mut left = room;
    let mut piece = String::new();
    for chunk in name.bytes().utf8_chunks() {
        let characters = chunk.valid().chars().map(Ok);
        for one in characters.chain(chunk.invalid().iter().map(Err)) {
            piece.clear();
            match one {
                Ok(c @ ('"' | '\'')) => piece.push(c),
                Ok(c) if does_harm(c) => piece.extend(c.escape_unicode()),
                Ok(c) => piece.extend(c.escape_debug()),
                Err(byte) => {
                    let _infallible = write!(piece, "\\x{byte:02x}");
                }
            }
            let Some(after) = left.checked_sub(visible(&piece)) else { return };
            left = after;
            line.push_str(&piece);
        }
    }
}

/// Whether a character does something to those around it instead of standing in a column of its own, or two, where it
/// was written: it moves the cursor, is invisible, combines, or turns the direction of writing.
pub(crate) fn does_harm(c: char) -> bool {
    width_of(c) == 0 || is_right_to_left(c)
}

/// Columns that a terminal gives to a character (UAX #11).
fn width_of(c: char) -> usize {
    UnicodeWidthChar::width(c).unwrap_or(0)
}

/// Whether a terminal may show it before what it follows, and the columns after it in another order: the blocks of scripts
/// that run from right to left (`DerivedBidiClass.txt`: R and AL, with what is not assigned yet).
const fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}'
        | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
}

pub(crate) fn plural(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// A text with as many blanks behind it as fill `width` columns.
pub(crate) fn padded(text: &str, width: usize) -> String {
    format!("{text}{:1$}", "", width.saturating_sub(visible(text)))
}

/// Columns that a line takes, without its colours.
pub(crate) fn visible(line: &str) -> usize {
    let mut columns = 0;
    let mut in_colour = false;
    for c in line.chars() {
        match (in_colour, c) {
            (false, '\x1b') => in_colour = true,
            (true, 'm') => in_colour = false,
            (false, c) => columns += width_of(c),
            (true, _) => {}
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(name: &str) -> String {
        printable(&Name::from_bytes(name.as_bytes()))
    }

    #[test]
    fn what_moves_the_cursor_or_what_follows_is_escaped() {
        for (name, expected) in [
            ("java", "java"),
            ("tmux: server", "tmux: server"),
            ("Gem\u{fc}se", "Gem\u{fc}se"),
            ("\u{65e5}\u{672c}", "\u{65e5}\u{672c}"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("a\u{200b}b", "a\\u{200b}b"), // nothing, in no column
            ("e\u{301}", "e\\u{301}"),     // on top of what is before it
            ("\u{1160}", "\\u{1160}"),     // a vowel that joins the letter before it
            ("\u{5d0}", "\\u{5d0}"),       // from right to left
            ("\u{202e}x", "\\u{202e}x"),   // all of it from right to left
            ("\u{2067}x", "\\u{2067}x"),
            ("\u{61c}", "\\u{61c}"),
            ("\u{9b}31m", "\\u{9b}31m"),
        ] {
            assert_eq!(shown(name), expected);
        }
    }

    #[test]
    fn no_escape_is_cut() {
        let name = Name::from_bytes(b"\x1b[2J\x1b[H");
        assert_eq!(process((7, Some(&name)), 30), "\\u{1b}[2J\\u{1b}[H/7");
        assert_eq!(process((7, Some(&name)), 16), "\\u{1b}[2J/7");
        assert_eq!(process((7, Some(&name)), 5), "…/7");
    }

    #[test]
    fn wide_characters_take_the_columns_that_they_take() {
        let name = Name::from_bytes("\u{65e5}\u{672c}\u{8a9e}".as_bytes());
        assert_eq!(process((4242, Some(&name)), 10), "\u{65e5}\u{672c}/4242");
        assert_eq!(visible("\x1b[31m\u{65e5}\u{672c}\x1b[0m/4242"), 9);
        assert_eq!(padded("\u{65e5}\u{672c}", 6), "\u{65e5}\u{672c}  ");
        assert_eq!(padded("longer", 3), "longer");
    }

    proptest! {
        #[test]
        fn any_name_stays_in_its_columns(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..16),
                "\\PC{0,5}|[\\x00-\\u{ff}]{0,8}|[\u{590}-\u{8ff}\u{1100}-\u{11ff}\u{2000}-\u{206f}]{0,5}|.{0,5}"
                    .prop_map(String::into_bytes),
            ],
            width in 0_usize..30,
        ) {
            let name = Name::from_bytes(&bytes);
            let text = printable(&name);
            prop_assert!(!text.chars().any(|c| c.is_control() || width_of(c) == 0 || is_right_to_left(c)), "{:?}", text);
            let text = process((7, Some(&name)), width);
            prop_assert!(text.ends_with("/7"));
            prop_assert!(visible(&text) <= width.max(4), "{:?}", text);
            prop_assert_eq!(visible(&padded(&text, 30)), 30);
        }
    }
}
