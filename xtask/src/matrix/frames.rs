//! What a guest tells the host over its second serial line: text, a frame a line. `guest.rs` writes it, `report.rs`
//! reads it.

use std::fmt;

/// One line. No text in it contains a line's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The kernel: `uname -r`, `uname -v`.
    Kernel(String, String),
    /// The kernel features that the tracer finds there: `sources` of its `start` record, JSON.
    Features(String),
    /// A test program is started.
    Run(String),
    /// Some of its tests are run again: the transitions they were to see were lost, which the tracer told.
    Again(String),
    /// A line of its stdout.
    Out(String),
    /// A line of its stderr.
    Err(String),
    /// It has ended: `0` if well, otherwise how.
    Exit(String),
    /// The guest could not do what it should.
    Trouble(String),
    /// All programs were run, and nothing follows.
    End,
}

impl fmt::Display for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(release, version) => write!(formatter, "kernel {release} {version}"),
            Self::Features(json) => write!(formatter, "features {json}"),
            Self::Run(name) => write!(formatter, "run {name}"),
            Self::Again(name) => write!(formatter, "again {name}"),
            Self::Out(line) => write!(formatter, "1 {line}"),
            Self::Err(line) => write!(formatter, "2 {line}"),
            Self::Exit(status) => write!(formatter, "exit {status}"),
            Self::Trouble(text) => write!(formatter, "trouble {}", text.replace('\n', " ")),
            Self::End => write!(formatter, "end"),
        }
    }
}

impl Frame {
    /// Reads a line; none if it is no frame, which a guest that dies while writing leaves.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        if line == "end" {
            return Some(Self::End);
        }
        let (kind, rest) = line.split_once(' ')?;
        let text = rest.to_owned();
        Some(match kind {
            "kernel" => {
                let (release, version) = rest.split_once(' ')?;
                Self::Kernel(release.to_owned(), version.to_owned())
            }
            "features" => Self::Features(text),
            "run" => Self::Run(text),
            "again" => Self::Again(text),
            "1" => Self::Out(text),
            "2" => Self::Err(text),
            "exit" => Self::Exit(text),
            "trouble" => Self::Trouble(text),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let frames = [
            Frame::Kernel("6.1.0-56".into(), "#1 SMP Debian 6.1.192-2".into()),
            Frame::Features(r#"{"iter/tcp":{"in_use":true}}"#.into()),
            Frame::Run("stuck".into()),
            Frame::Again("stuck".into()),
            Frame::Out("end".into()),
            Frame::Out(String::new()),
            Frame::Err("2 x".into()),
            Frame::Exit("signal 9".into()),
            Frame::Trouble("no /proc".into()),
            Frame::End,
        ];
        for frame in frames {
            assert_eq!(Frame::parse(&frame.to_string()), Some(frame));
        }
    }

    #[test]
    fn torn_lines_are_no_frames() {
        for line in ["", "en", "ex", "kernel 6.1", "other text"] {
            assert_eq!(Frame::parse(line), None, "{line}");
        }
    }
}
