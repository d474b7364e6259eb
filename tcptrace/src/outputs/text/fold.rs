//! Folds a line that is wider than the terminal into several that are not.

use crate::humanize::width::char_width;

/// Appends a line as lines of at most `width` columns, and returns how many. It is broken at
/// spaces, or anywhere if there are none, and continues behind `indent` spaces. Only the spaces at
/// a break are left out.
pub(crate) fn fold_line(line: &str, width: usize, indent: usize, out: &mut Vec<u8>) -> u64 {
    let indent = indent.min(width / 2);
    let mut lines = 0;
    let mut rest = line;
    loop {
        let room = if lines == 0 { width } else { width - indent };
        if lines > 0 {
            out.extend(std::iter::repeat_n(b' ', indent));
        }
        lines += 1;
        let (fits, more) = rest.split_at(first_line_length(rest, room.max(1)));
        out.extend_from_slice(if more.is_empty() { fits } else { fits.trim_end() }.as_bytes());
        out.push(b'\n');
        rest = more.trim_start_matches(' ');
        if rest.is_empty() {
            return lines;
        }
    }
}

/// Returns how many bytes of a text are its first line of at most `room` columns: at least one
/// character.
fn first_line_length(text: &str, room: usize) -> usize {
    let (mut columns, mut in_colour, mut last_space) = (0, false, None);
    for (at, c) in text.char_indices() {
        match (in_colour, c) {
            (false, '\x1b') => in_colour = true,
            (true, 'm') => in_colour = false,
            (true, _) => {}
            (false, c) => {
                if c == ' ' && text[..at].contains(|c| c != ' ') {
                    last_space = Some(at);
                }
                columns += char_width(c);
                if columns > room {
                    return last_space.unwrap_or(at).max(text.chars().next().map_or(0, char::len_utf8));
                }
            }
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(line: &str, width: usize, indent: usize) -> String {
        let mut out = Vec::new();
        let lines = fold_line(line, width, indent, &mut out);
        let out = String::from_utf8(out).expect("UTF-8");
        assert_eq!(out.lines().count() as u64, lines);
        out
    }

    #[test]
    fn a_line_is_broken_at_spaces_and_anywhere_if_there_are_none() {
        assert_eq!(folded("one two three", 20, 2), "one two three\n");
        assert_eq!(folded("one two three", 8, 2), "one two\n  three\n");
        assert_eq!(folded("one two three", 7, 2), "one two\n  three\n");
        assert_eq!(folded("abcdefghij", 4, 2), "abcd\n  ef\n  gh\n  ij\n");
        assert_eq!(folded("\x1b[31mone\x1b[0m two", 3, 0), "\x1b[31mone\x1b[0m\ntwo\n");
        assert_eq!(folded("\u{65e5}\u{672c}\u{8a9e}", 3, 0), "\u{65e5}\n\u{672c}\n\u{8a9e}\n");
        assert_eq!(folded("\u{65e5}", 1, 0), "\u{65e5}\n", "a character that is wider than the terminal");
    }
}
