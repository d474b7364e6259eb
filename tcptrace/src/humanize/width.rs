//! How many columns of a terminal a text takes.

use unicode_width::UnicodeWidthChar;

/// Returns the columns that a terminal gives to a character (UAX #11).
pub(crate) fn char_width(c: char) -> usize {
    UnicodeWidthChar::width(c).unwrap_or(0)
}

/// Returns the columns that a line takes. Colour sequences take none.
pub(crate) fn display_width(line: &str) -> usize {
    let mut columns = 0;
    let mut in_colour = false;
    for c in line.chars() {
        match (in_colour, c) {
            (false, '\x1b') => in_colour = true,
            (true, 'm') => in_colour = false,
            (false, c) => columns += char_width(c),
            (true, _) => {}
        }
    }
    columns
}

/// Appends spaces to a text until it takes `width` columns.
pub(crate) fn pad_end(text: &str, width: usize) -> String {
    format!("{text}{:1$}", "", width.saturating_sub(display_width(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_columns_and_colours_none() {
        assert_eq!(display_width("\x1b[31m\u{65e5}\u{672c}\x1b[0m/4242"), 9);
        assert_eq!(pad_end("\u{65e5}\u{672c}", 6), "\u{65e5}\u{672c}  ");
        assert_eq!(pad_end("longer", 3), "longer");
    }
}
