//! The one way to stderr: messages beside the records.
//!
//! A message may quote a recording, a path, an argument or a process. Whatever is in it, it stays one line, and does nothing
//! to a terminal.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    sync::atomic::{AtomicI8, Ordering},
};

use crate::outputs::text::words::does_harm;

/// How much is said: below 0 less, above 0 more. Set once, at the start.
static VERBOSITY: AtomicI8 = AtomicI8::new(0);

/// Sets how much is said: -1 for `-q`, 1 for `-v`.
pub fn set_verbosity(verbosity: i8) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// Whether more is to be said than usual.
pub fn is_verbose() -> bool {
    VERBOSITY.load(Ordering::Relaxed) > 0
}

/// Says what went wrong, or what is missing, as one line and one write. A stderr that cannot be written to is no failure.
pub fn say(message: impl Display) {
    write(&format!("tcptrace: {}\n", harmless(&message.to_string())));
}

/// Says what is going on, unless less is wanted (`-q`).
pub fn inform(message: impl Display) {
    if VERBOSITY.load(Ordering::Relaxed) >= 0 {
        say(message);
    }
}

/// Says what is of interest to who looks closely (`-v`).
pub fn detail(message: impl Display) {
    if is_verbose() {
        say(message);
    }
}

/// Says several lines of our own making at once.
pub fn say_lines(message: impl Display) {
    let message = message.to_string();
    let lines: Vec<_> = message.lines().map(harmless).collect();
    write(&format!("tcptrace: {}\n", lines.join("\n")));
}

fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Over the `^C` that a terminal shows.
    let start = if stderr.is_terminal() { "\r" } else { "" };
    let _nobody_listens = stderr.write_all(format!("{start}{text}").as_bytes());
}

/// A text with every character escaped that moves the cursor, ends a line, or changes how others are shown.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_to_be_escaped) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_to_be_escaped(c) {
            escaped.extend(c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

fn is_to_be_escaped(c: char) -> bool {
    // Beside what has no column of its own, what Rust takes for unprintable: ends of lines, private use.
    does_harm(c) || (!matches!(c, '\\' | '\'' | '"') && c.escape_debug().len() > 1)
}

/// The beginning of a text, of so many characters at the most; `…` stands for the rest.
pub(crate) fn shortened(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// What the BPF programs log, passed on.
pub(crate) struct KernelLog;

impl log::Log for KernelLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say(format_args!("kernel: {}", record.args()));
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_all_else_is_as_it_was() {
        for (text, expected) in [
            ("cannot open /var/log/a\\b 'c' \"d\": denied", "cannot open /var/log/a\\b 'c' \"d\": denied"),
            ("Gem\u{fc}se \u{65e5}\u{672c}", "Gem\u{fc}se \u{65e5}\u{672c}"),
            ("\x1b[2Jx\rtcptrace: nothing stuck\n", "\\u{1b}[2Jx\\u{d}tcptrace: nothing stuck\\u{a}"),
            ("\u{9b}31m\u{7f}\u{202e}\u{200b}\u{2028}", "\\u{9b}31m\\u{7f}\\u{202e}\\u{200b}\\u{2028}"),
        ] {
            assert_eq!(harmless(text), expected);
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        assert_eq!(shortened("four", 4), "four");
        assert_eq!(shortened("\u{fc}ber", 3), "\u{fc}be…");
    }
}
