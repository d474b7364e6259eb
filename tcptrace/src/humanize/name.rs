//! Names that a process chose for itself, made safe to print: they cannot forge a line, move the
//! cursor, or reorder what is next to them.

use std::fmt::Write as _;

use crate::{
    events::{Name, Owner},
    humanize::width::{char_width, display_width},
};

/// Returns a name with every character escaped that affects the characters around it.
pub(crate) fn printable_name(name: &Name) -> String {
    let mut text = String::new();
    write_printable(&mut text, name, usize::MAX);
    text
}

/// Whether a character affects those around it instead of taking a column or two of its own: it
/// moves the cursor, is invisible, combines with another, or changes the direction of writing.
pub(crate) fn affects_neighbours(c: char) -> bool {
    char_width(c) == 0 || is_right_to_left(c)
}

/// Whether a character is in a block of a script that runs from right to left
/// (`DerivedBidiClass.txt`: R and AL, unassigned characters included). A terminal may show it
/// before the text that it follows, and reorder the columns after it.
const fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}'
        | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
}

/// A process as text names it: by its name and pid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessName<'a> {
    /// The pid of the process.
    pub(crate) pid: u32,
    /// The name; `None` if it is not known.
    pub(crate) comm: Option<&'a Name>,
}

impl<'a> From<&'a Owner> for ProcessName<'a> {
    fn from(owner: &'a Owner) -> Self {
        Self { pid: owner.pid, comm: owner.comm.as_ref() }
    }
}

impl ProcessName<'_> {
    /// Formats `name/pid` in at most `width` columns. The pid and one column of the name are never
    /// cut.
    pub(crate) fn fit_width(self, width: usize) -> String {
        let mut text = String::new();
        self.write_fitted(&mut text, width);
        text
    }

    /// Formats a process and `others` more, `name/pid+20`, in at most `width` columns.
    pub(crate) fn format_with_others(self, others: usize, width: usize) -> String {
        let others = if others == 0 { String::new() } else { format!("+{others}") };
        self.fit_width(width.saturating_sub(others.len())) + &others
    }

    /// Appends what [`Self::fit_width`] returns.
    pub(crate) fn write_fitted(self, line: &mut String, width: usize) {
        let mut digits = itoa::Buffer::new();
        let pid = digits.format(self.pid);
        let room = width.saturating_sub(pid.len() + 1).max(1);
        match self.comm.map(|comm| (as_plain_text(comm), comm)) {
            None => line.push('?'),
            Some((Some(name), _)) => line.push_str(&name[..name.len().min(room)]),
            Some((None, comm)) => {
                let begin = line.len();
                write_printable(line, comm, room);
                if line.len() == begin {
                    line.push('…');
                }
            }
        }
        line.push('/');
        line.push_str(pid);
    }
}

/// Returns a name that needs no escape, one column a byte. Nearly all names are like that.
fn as_plain_text(name: &Name) -> Option<&str> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    name.bytes().iter().all(is_plain).then(|| std::str::from_utf8(name.bytes()).ok()).flatten()
}

/// Appends as many of a name's characters, escaped as [`printable_name`] does, as fit `room`
/// columns. No escape is cut.
fn write_printable(line: &mut String, name: &Name, room: usize) {
    let mut left = room;
    let mut piece = String::new();
    for chunk in name.bytes().utf8_chunks() {
        let characters = chunk.valid().chars().map(Ok);
        for one in characters.chain(chunk.invalid().iter().map(Err)) {
            piece.clear();
            match one {
                Ok(c @ ('"' | '\'')) => piece.push(c),
                Ok(c) if affects_neighbours(c) => piece.extend(c.escape_unicode()),
                Ok(c) => piece.extend(c.escape_debug()),
                Err(byte) => {
                    let _infallible = write!(piece, "\\x{byte:02x}");
                }
            }
            let Some(after) = left.checked_sub(display_width(&piece)) else { return };
            left = after;
            line.push_str(&piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::humanize::width::pad_end;

    fn shown(name: &str) -> String {
        printable_name(&Name::from_bytes(name.as_bytes()))
    }

    fn process(pid: u32, comm: &Name, width: usize) -> String {
        ProcessName { pid, comm: Some(comm) }.fit_width(width)
    }

    #[test]
    fn characters_that_move_the_cursor_or_affect_others_are_escaped() {
        for (name, expected) in [
            ("java", "java"),
            ("tmux: server", "tmux: server"),
            ("Gem\u{fc}se", "Gem\u{fc}se"),
            ("\u{65e5}\u{672c}", "\u{65e5}\u{672c}"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("a\u{200b}b", "a\\u{200b}b"), // invisible, takes no column
            ("e\u{301}", "e\\u{301}"),     // combines with the character before it
            ("\u{1160}", "\\u{1160}"),     // a vowel that joins the letter before it
            ("\u{5d0}", "\\u{5d0}"),       // from right to left
            ("\u{202e}x", "\\u{202e}x"),   // makes all that follows run from right to left
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
        assert_eq!(process(7, &name, 30), "\\u{1b}[2J\\u{1b}[H/7");
        assert_eq!(process(7, &name, 16), "\\u{1b}[2J/7");
        assert_eq!(process(7, &name, 5), "…/7");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let name = Name::from_bytes("\u{65e5}\u{672c}\u{8a9e}".as_bytes());
        assert_eq!(process(4242, &name, 10), "\u{65e5}\u{672c}/4242");
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
            let text = printable_name(&name);
            let affects = |c: char| c.is_control() || affects_neighbours(c);
            prop_assert!(!text.chars().any(affects), "{:?}", text);
            let text = process(7, &name, width);
            prop_assert!(text.ends_with("/7"));
            prop_assert!(display_width(&text) <= width.max(4), "{:?}", text);
            prop_assert_eq!(display_width(&pad_end(&text, 30)), 30);
        }
    }
}
