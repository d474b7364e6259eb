//! Text as the form of a stream: fitted to the terminal, if it goes to one.

use crate::{
    events::Record,
    outputs::{stream::Format, text::TextRenderer},
    terminal::{Size, Terminal},
};

/// Writes text to a terminal or a file.
pub struct TextFormat {
    text: Box<TextRenderer>,
    /// Where it goes, if that is a terminal.
    terminal: Option<Terminal>,
}

impl TextFormat {
    /// Writes `text` for this terminal, or for no terminal.
    pub fn new(text: TextRenderer, terminal: Option<Terminal>) -> Self {
        Self { text: Box::new(text), terminal }
    }
}

impl Format for TextFormat {
    fn render(&mut self, record: Record, out: &mut Vec<u8>) {
        self.text.add_record(record, out);
    }

    /// Lays out the lines to come for the terminal as it is now.
    fn begin_batch(&mut self) {
        if let Some(terminal) = &self.terminal {
            let Size { columns, rows } = terminal.size();
            self.text.resize(columns, rows);
        }
    }

    fn settle(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        self.text.flush_due(now_ns, out);
    }

    fn settle_roll_ups(&mut self, now_ns: u64, out: &mut Vec<u8>) {
        if self.text.has_roll_ups() {
            self.begin_batch();
            self.text.flush_all(now_ns, out);
        }
    }

    fn due_ns(&self) -> Option<u64> {
        self.text.next_flush_ns()
    }

    fn ready_ns(&self) -> u64 {
        self.text.earliest_flush_ns()
    }
}
