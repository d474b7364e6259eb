//! A recorded JSON stream, read line by line: what [`crate::outputs`] wrote, as data again.
//!
//! Any bytes may come. What is no record of this form is an error with the number of its line;
//! fields and events that are not known are passed over, since adding them keeps the form's
//! version.

pub mod input;

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, BufRead as _, Read as _},
};

use serde::Deserialize;

use self::input::Lines;
use crate::{
    diagnostics::shorten_text,
    events::{Event, Fields, Instant, LONGEST_RECORD, SCHEMA_VERSION},
};

/// Bytes of the longest line that is read. It leaves room beyond [`LONGEST_RECORD`] for recordings
/// of earlier builds, which listed every descriptor of a socket.
const LONGEST_LINE: u64 = 64 << 20;

const _: () = assert!(LONGEST_LINE >= LONGEST_RECORD as u64, "what is written can be read back");

/// The byte order mark that some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What an error quotes of a line, characters.
const QUOTED: usize = 300;

/// A line that is no record, or that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}{what}", if matches!(.what, What::Empty) { String::new() } else { format!("line {line} of the recording: ") })]
pub struct BadLine {
    line: u64,
    what: What,
}

/// The beginning of what is wrong with a line: that may quote all of it.
fn in_short(error: &impl Display) -> String {
    shorten_text(&error.to_string(), QUOTED).into_owned()
}

#[derive(Debug, thiserror::Error)]
enum What {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("is no record: {}", in_short(.0))]
    NoRecord(#[from] serde_json::Error),
    #[error("has a time that is no time: {}", in_short(.0))]
    Time(#[from] jiff::Error),
    #[error("is of version {0} of the records' form; this tcptrace reads version {SCHEMA_VERSION}")]
    Version(u64),
    #[error("is longer than {LONGEST_LINE} bytes")]
    Long,
    #[error("is cut off: the recording ends within it; all before it was replayed")]
    CutOff,
    #[error("the recording is empty")]
    Empty,
}

/// One line of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedLine {
    /// When it happened.
    pub at: Instant,
    /// What happened; `None` if this version does not know that kind of record, or if a replay has
    /// no use for it.
    pub event: Option<Event>,
    /// The number of the line before, if that is cut off and was passed over.
    pub cut: Option<u64>,
}

/// The lines of a recording.
#[derive(Debug)]
pub struct Recording<R> {
    reader: R,
    line: u64,
}

impl<R: Lines> Recording<R> {
    /// From its first line on.
    pub const fn new(reader: R) -> Self {
        Self { reader, line: 0 }
    }

    /// Whether the next line is not there yet, and may be long in coming.
    pub fn has_to_wait(&self) -> bool {
        self.reader.has_to_wait()
    }

    /// Whether the end that was reached is none of the recording's.
    pub fn is_abandoned(&self) -> bool {
        self.reader.is_abandoned()
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// It is no record. Reading on is of no use.
    pub fn next_line(&mut self) -> Result<Option<RecordedLine>, BadLine> {
        self.line += 1;
        let line = self.line;
        let bad = |what| BadLine { line, what };
        match self.read_line() {
            // A run that was killed while it wrote, and the next one appended to the same file.
            Err(What::NoRecord(why)) if why.is_eof() => {
                self.line += 1;
                match self.read_line() {
                    Ok(Some(next @ RecordedLine { event: Some(Event::Start(_)), .. })) => {
                        Ok(Some(RecordedLine { cut: Some(line), ..next }))
                    }
                    _ => Err(bad(What::NoRecord(why))),
                }
            }
            // What was read of a line, or of a compressed block, that nobody waits for any more.
            Err(_) if self.reader.is_abandoned() => Ok(None),
            read => read.map_err(bad),
        }
    }

    fn read_line(&mut self) -> Result<Option<RecordedLine>, What> {
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return if self.line == 1 && !self.reader.is_abandoned() { Err(What::Empty) } else { Ok(None) };
        }
        if self.line == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        let has_end = bytes.pop_if(|last| *last == b'\n').is_some();
        if !has_end && read as u64 == LONGEST_LINE {
            return Err(What::Long);
        }
        // Lines are written whole; one without an end may be whole all the same, if it was put
        // there by hand.
        match parse_line(&bytes) {
            Ok(line) => Ok(Some(line)),
            Err(What::NoRecord(why)) if !has_end && why.is_eof() => Err(What::CutOff),
            Err(what) => Err(what),
        }
    }
}

/// What every line has.
#[derive(Deserialize)]
struct LineHead<'a> {
    v: u64,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    mono_ns: u64,
}

fn parse_line(bytes: &[u8]) -> Result<RecordedLine, What> {
    let fields = Fields::split(bytes)?;
    let LineHead { v, event, time, mono_ns } = fields.read()?;
    if v != u64::from(SCHEMA_VERSION) {
        return Err(What::Version(v));
    }
    let time: jiff::Timestamp = time.parse()?;
    let mut event = match &*event {
        // A replay sums up anew.
        "process" | "summary" => None,
        kind => Event::from_fields(kind, &fields)?,
    };
    if let Some(Event::Stuck(stuck) | Event::Found(stuck)) = &mut event {
        stuck.details.limit();
    }
    Ok(RecordedLine { at: Instant { wall_ns: time.as_nanosecond(), mono_ns }, event, cut: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const TRANSITION: &str = r#"{"v":1,"event":"transition","time":"2026-11-22T15:45:32.104233918Z","mono_ns":7,"cookie":5,"netns":null,"family":"ipv4","local_addr":"10.0.0.5","local_port":80,"remote_addr":"10.0.0.9","remote_port":4000,"old_state":"ESTABLISHED","new_state":"CLOSE_WAIT","stand_in":false,"in_old_state_ms":null,"owner":null,"owner_how":"none","how":"peer"}"#;

    fn read_line(bytes: impl AsRef<[u8]>) -> Result<Vec<RecordedLine>, String> {
        let mut recording = Recording::new(bytes.as_ref());
        let mut lines = Vec::new();
        while let Some(line) = recording.next_line().map_err(|error| error.to_string())? {
            lines.push(line);
        }
        Ok(lines)
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let lines = read_line(format!("{TRANSITION}\n{TRANSITION}")).expect("two records");
        assert_eq!(lines.len(), 2);
        let RecordedLine { at, event: Some(event), .. } = &lines[0] else { panic!("{lines:?}") };
        let record = crate::events::Record { at: *at, event: event.clone() };
        assert_eq!(serde_json::to_string(&record).expect("it is JSON"), TRANSITION);
        assert_eq!(lines[1], lines[0], "also without an end of line");
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        let newer = TRANSITION.replace("\"v\":1", "\"v\":1,\"more\":[{}]").replace("transition", "weather");
        assert_eq!(read_line(newer + "\n").expect("a record")[0].event, None);
    }

    #[test]
    fn what_is_no_record_is_an_error_with_the_number_of_its_line() {
        for (second, words) in [
            ("", "line 2 of the recording: is no record"),
            ("\u{1b}[2J", "is no record"),
            (&TRANSITION.replace("CLOSE_WAIT", &"x".repeat(100_000)), "no state: xxx"),
            (&TRANSITION.replace("ipv4", &"x".repeat(100_000)), "unknown variant `xxx"),
            (&TRANSITION.replace("2026-11-22T", &"x".repeat(100_000)), "has a time that is no time"),
            ("{}", "is no record: missing field `v`"),
            ("nonsense", "is no record"),
            ("\u{0}\u{1}", "is no record"),
            ("[1]", "is no record"),
            (&TRANSITION[..100], "is no record"),
            (&TRANSITION.replace("\"v\":1", "\"v\":2"), "is of version 2"),
            (&TRANSITION.replace("2026-11-22T", "yesterday"), "has a time that is no time"),
            (&TRANSITION.replace("CLOSE_WAIT", "ASLEEP"), "no state: ASLEEP"),
            (&TRANSITION.replace("\"mono_ns\":7", "\"mono_ns\":-7"), "is no record"),
            (&TRANSITION.replace("10.0.0.9", "10.0.0"), "is no record"),
            (&"[".repeat(100_000), "is no record"),
        ] {
            let error = read_line(format!("{TRANSITION}\n{second}\n{TRANSITION}\n")).expect_err(second);
            assert!(
                error.starts_with("line 2 of the recording: ") && error.contains(words),
                "{second}: {error}"
            );
            assert!(error.chars().count() < 400, "{error}");
        }
        let error = read_line([TRANSITION.as_bytes(), b"\n{\"v\":1,\xff\n"].concat()).expect_err("no UTF-8");
        assert!(error.starts_with("line 2"), "{error}");
    }

    #[test]
    fn a_recording_that_was_cut_off_says_so() {
        let cut = format!("{TRANSITION}\n{}", &TRANSITION[..200]);
        assert_eq!(
            read_line(cut).expect_err("cut off"),
            "line 2 of the recording: is cut off: the recording ends within it; all before it was replayed"
        );
    }

    #[test]
    fn a_run_that_was_killed_does_not_keep_the_next_one_from_being_read() {
        const START: &str = r#"{"v":1,"event":"start","time":"2026-11-22T15:45:32Z","mono_ns":9,"version":"1","kernel":"6","host":"h"}"#;
        let lines =
            read_line(format!("{TRANSITION}\n{}\n{START}\n", &TRANSITION[..200])).expect("two whole lines");
        assert_eq!(lines.iter().map(|line| line.cut).collect::<Vec<_>>(), [None, Some(2)]);
        // Anything else that follows is not the next run.
        let error = read_line(format!("{}\n{TRANSITION}\n", &TRANSITION[..200])).expect_err("damaged");
        assert!(error.starts_with("line 1 of the recording: is no record"), "{error}");
    }

    #[test]
    fn a_recording_that_an_editor_has_saved_is_one() {
        let saved = format!("\u{feff}{TRANSITION}\r\n{TRANSITION}\r\n");
        assert_eq!(read_line(saved).expect("two records").len(), 2);
        // Only where it is the first.
        assert!(read_line(format!("{TRANSITION}\n\u{feff}{TRANSITION}\n")).is_err());
    }

    #[test]
    fn an_empty_recording_is_a_mistake() {
        let error = read_line("").expect_err("nothing in it");
        assert_eq!(error, "the recording is empty");
    }

    /// A record of each kind that a replay reads, with all its fields.
    fn records() -> Vec<Value> {
        let head = json!({
            "v": 1, "time": "2026-11-22T15:45:33.104233918Z", "mono_ns": 2_000_000_000_u64, "cookie": 6, "netns": 7,
            "family": "ipv6", "local_addr": "fe80::1", "local_port": 80, "remote_addr": "fe80::2", "remote_port": 4000,
            "interface": 3,
        });
        let owner = json!({
            "pid": 42, "fd": 5, "comm": "java", "exe": "/usr/bin/java", "uid": 0, "cgroup": "/", "container": null,
        });
        let origin = json!({
            "pid": 42, "tid": 43, "comm": "http-nio", "how": "accept", "time": "2026-11-22T15:45:30.104233918Z",
        });
        let stuck = json!({
            "state": "CLOSE_WAIT", "threshold_ms": 1000.0, "age_ms": 1000.5, "age_max_ms": 5000.0, "exact": false,
            "since": "2026-11-22T15:45:32.103733918Z", "recv_queue": 3, "send_queue": 0, "cause": "data_unread",
            "owners": [owner], "owners_total": 1, "owner_how": "fd", "origin": origin,
            "listener": {"cookie": 8, "local_addr": "::", "local_port": 80, "backlog": 1, "backlog_limit": 128},
            "peer": {"cookie": 9, "netns": 7, "state": "FIN_WAIT2", "owners": [owner], "owners_total": 1,
                     "owner_how": "fd", "gone": false},
        });
        let kinds = json!({
            "start": {"version": "1", "kernel": "6.1", "host": "h", "boot_id": "b", "sockets": 3, "sources": {}},
            "transition": {"old_state": "ESTABLISHED", "new_state": "CLOSE_WAIT", "stand_in": false,
                "in_old_state_ms": 1.5, "owner": owner, "owner_how": "close", "how": "peer"},
            "stuck": stuck, "found": stuck,
            "cleared": {"state": "CLOSE_WAIT", "new_state": "LAST_ACK", "in_state_ms": 1.5, "how": "closed", "by": owner},
            "life": {"opened": null, "duration_ms": 1.5, "role": "client", "states": {"ESTABLISHED": 1.5},
                "close_reason": "local_close", "error": null, "bytes_sent": 1, "bytes_received": 2, "retransmits": 0,
                "rtt_us": 5, "owner": owner, "owner_how": "close"},
            "lost": {"lost": 1, "lost_total": 1, "reason": "ring_full"},
            "resync": {"sockets": 3, "repaired": 1},
        });
        let kinds = kinds.as_object().expect("an object");
        let record = |(event, own): (&String, &Value)| {
            let mut record = head.clone();
            let fields = record.as_object_mut().expect("an object");
            fields.insert("event".to_owned(), event.as_str().into());
            fields.extend(own.as_object().expect("an object").clone());
            record
        };
        kinds.iter().map(record).collect()
    }

    /// The values within, itself included.
    fn values(value: &mut Value) -> Vec<&mut Value> {
        let is_whole = !value.is_array() && !value.is_object();
        if is_whole {
            return vec![value];
        }
        match value {
            Value::Array(items) => items.iter_mut().flat_map(values).collect(),
            Value::Object(fields) => fields.values_mut().flat_map(values).collect(),
            _ => Vec::new(),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
            "(CLOSE_WAIT|CLOSE|fd|peer|ipv4|::1|10.0.0.1|9999-12-31T23:59:59.999999999Z)"
                .prop_map(Value::from),
            "x{600}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    fn assert_read_or_told(bytes: &[u8]) -> Result<(), TestCaseError> {
        let whole = [TRANSITION.as_bytes(), b"\n", bytes, b"\n", TRANSITION.as_bytes()].concat();
        if let Err(error) = read_line(&whole) {
            prop_assert!(error.starts_with("line "), "{}", error);
            prop_assert!(error.chars().count() < 400, "{}", error);
        }
        Ok(())
    }

    #[test]
    fn a_record_of_each_kind_is_read() {
        for record in records() {
            let lines = read_line(format!("{record}\n")).unwrap_or_else(|error| panic!("{error}: {record}"));
            assert!(lines[0].event.is_some(), "{record}");
        }
    }

    proptest! {
        #[test]
        fn any_values_in_a_record_are_read_or_told_in_short(
            nth in any::<prop::sample::Index>(),
            wrong in proptest::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
            missing in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let mut record = nth.get(&records()).clone();
            for (at, value) in wrong {
                let mut values = values(&mut record);
                let at = at.index(values.len());
                *values[at] = value;
            }
            if let (Some(missing), Some(fields)) = (missing, record.as_object_mut()) {
                let name = fields.keys().nth(missing.index(fields.len())).cloned();
                fields.retain(|field, _| Some(field) != name.as_ref());
            }
            assert_read_or_told(record.to_string().as_bytes())?;
        }

        #[test]
        fn any_bytes_are_lines_or_told_in_short(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), json in any_value(),
            cut in any::<prop::sample::Index>(), byte: u8,
        ) {
            assert_read_or_told(&bytes)?;
            assert_read_or_told(json.to_string().as_bytes())?;
            let mut damaged = TRANSITION.as_bytes().to_vec();
            let cut = cut.index(damaged.len());
            damaged[cut] = byte;
            assert_read_or_told(&damaged)?;
            assert_read_or_told(&damaged[..cut])?;
        }
    }
}
