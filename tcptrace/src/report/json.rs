//! Records as JSON: one object a line, whatever a process calls itself.
//!
//! JSON itself lets most characters stand as they are. Those that a terminal obeys, or that some readers of lines take for
//! the end of one, are escaped: to a parser that is the same text.

use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::ser::{CompactFormatter, Formatter};

use super::Record;

/// Appends a record as one line of JSON.
pub fn json(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Harmless(CompactFormatter));
    if let Err(error) = record.serialize(&mut serializer) {
        // Only a type that JSON cannot express fails here, and none of ours is such a type.
        out.truncate(start);
        unreachable!("a record that is no JSON: {error}");
    }
    out.push(b'\n');
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

/// Whether a character does something instead of being something: DEL and the C1 controls, ends of lines, what is invisible or
/// changes the direction (general categories Cc, Zl, Zp and Cf; what JSON itself escapes does not come here).
const fn does_harm(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::report::{Event, Instant, Start};

    /// A record with this text in it, as a line.
    fn line(text: &str) -> Vec<u8> {
        let at = Instant { wall_ns: 0, mono_ns: Duration::from_secs(1).as_nanos() as u64 };
        let start = Start {
            version: "1",
            kernel: text.to_owned(),
            host: String::new(),
            boot_id: None,
            sockets: 0,
            sources: Vec::new(),
        };
        let mut out = Vec::new();
        json(&Record { at, event: Event::Start(start) }, &mut out);
        out
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let line =
            String::from_utf8(line("a\u{9b}31m\u{2028}\u{202e}\x7f\u{e0041}\u{fc}\"\n")).expect("UTF-8");
        assert!(line.contains(r#""a\u009b31m\u2028\u202e\u007f\udb40\udc41ü\"\n""#), "{line}");
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_and_the_same_text_again(
            text in prop_oneof![any::<String>(), "[\u{0}-\u{1f}\u{7e}-\u{a0}\u{2000}-\u{2070}\u{feff}\"\\\\]{0,20}"]
        ) {
            let line = line(&text);
            let shown = std::str::from_utf8(&line).expect("UTF-8");
            let body = shown.strip_suffix('\n').expect("an end");
            prop_assert!(!body.chars().any(|c| c.is_control() || does_harm(c)), "{:?}", body);
            let parsed: serde_json::Value = serde_json::from_str(body).expect("JSON");
            prop_assert_eq!(parsed["kernel"].as_str(), Some(&text[..]));
        }
    }
}
