//! Columns: text appended to a line and padded to a width. A line has several; none of them
//! allocates.

use crate::humanize::width::display_width;

/// As many spaces as the widest column has.
const SPACES: &str = "                                                                                ";

/// Appends what `write` writes, and spaces after it up to `width` columns, 80 at most.
pub(crate) fn align_left(line: &mut String, width: usize, write: impl FnOnce(&mut String)) {
    let begin = line.len();
    write(line);
    line.push_str(padding_after(width_of(&line[begin..]), width));
}

/// Appends what `write` writes, and spaces before it up to `width` columns, 80 at most.
pub(crate) fn align_right(line: &mut String, width: usize, write: impl FnOnce(&mut String)) {
    let begin = line.len();
    write(line);
    line.insert_str(begin, padding_after(width_of(&line[begin..]), width));
}

/// Appends what `write` makes of a value, or `-` if there is none.
pub(crate) fn write_or_dash<T>(line: &mut String, value: Option<T>, write: impl FnOnce(&mut String, T)) {
    match value {
        Some(value) => write(line, value),
        None => line.push('-'),
    }
}

/// Returns the spaces that fill a column, 80 at most, of which `taken` are taken.
pub(crate) fn padding_after(taken: usize, width: usize) -> &'static str {
    &SPACES[..width.min(SPACES.len()).saturating_sub(taken)]
}

/// Returns the columns of a text without colours. Most texts are ASCII, one column a byte.
pub(crate) fn width_of(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { display_width(text) }
}
