//! Messages on stderr, beside the records. Nothing else writes to stderr.
//!
//! A message may quote a recording, a path, an argument or a process. Whatever it quotes, it stays
//! one line, and cannot command a terminal.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    sync::atomic::{AtomicI8, Ordering},
};

use crate::humanize::name::affects_neighbours;

/// How much is printed: below 0 less than usual, above 0 more. It is set once, at the start.
static VERBOSITY: AtomicI8 = AtomicI8::new(0);

/// Sets how much is printed: -1 for `-q`, 1 for `-v`.
pub fn set_verbosity(verbosity: i8) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// Whether `-v` asked for more than usual.
pub fn is_verbose() -> bool {
    VERBOSITY.load(Ordering::Relaxed) > 0
}

/// Prints what went wrong or is missing, as one line in one write. It is no failure if stderr
/// cannot be written.
pub fn print_problem(message: impl Display) {
    write_message(&format!("tcptrace: {}\n", escape_harmful(&message.to_string())));
}

/// Prints what is going on, unless `-q` asked for less.
pub fn print_info(message: impl Display) {
    if VERBOSITY.load(Ordering::Relaxed) >= 0 {
        print_problem(message);
    }
}

/// Prints a detail, if `-v` asked for more.
pub fn print_detail(message: impl Display) {
    if is_verbose() {
        print_problem(message);
    }
}

/// Prints a message of several lines, in one write.
pub fn print_problem_lines(message: impl Display) {
    let message = message.to_string();
    let lines: Vec<_> = message.lines().map(escape_harmful).collect();
    write_message(&format!("tcptrace: {}\n", lines.join("\n")));
}

fn write_message(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Overwrites the `^C` that a terminal shows.
    let start = if stderr.is_terminal() { "\r" } else { "" };
    let _stderr_is_closed = stderr.write_all(format!("{start}{text}").as_bytes());
}

/// Returns a text with every character escaped that moves the cursor, ends a line, or affects
/// others.
pub fn escape_harmful(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            escaped.extend(c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

fn is_harmful(c: char) -> bool {
    // Rust takes line ends and private-use characters for unprintable.
    affects_neighbours(c) || (!matches!(c, '\\' | '\'' | '"') && c.escape_debug().len() > 1)
}

/// Returns a text cut to at most `characters` characters; `…` stands for the rest.
pub(crate) fn shorten_text(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// Prints what the BPF programs log.
pub(crate) struct KernelLog;

impl log::Log for KernelLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        print_problem(format_args!("kernel: {}", record.args()));
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_characters_that_affect_a_terminal_are_escaped() {
        for (text, expected) in [
            ("cannot open /var/log/a\\b 'c' \"d\": denied", "cannot open /var/log/a\\b 'c' \"d\": denied"),
            ("Gem\u{fc}se \u{65e5}\u{672c}", "Gem\u{fc}se \u{65e5}\u{672c}"),
            ("\x1b[2Jx\rtcptrace: nothing stuck\n", "\\u{1b}[2Jx\\u{d}tcptrace: nothing stuck\\u{a}"),
            ("\u{9b}31m\u{7f}\u{202e}\u{200b}\u{2028}", "\\u{9b}31m\\u{7f}\\u{202e}\\u{200b}\\u{2028}"),
        ] {
            assert_eq!(escape_harmful(text), expected);
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        assert_eq!(shorten_text("four", 4), "four");
        assert_eq!(shorten_text("\u{fc}ber", 3), "\u{fc}be…");
    }
}
