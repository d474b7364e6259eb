//! The line of a connection that is over: how long it lasted, whose it was, how much it carried,
//! and what ended it.

use crate::{
    diagnostics::escape_harmful,
    events::{CloseReason, Instant, LifeRecord},
    humanize::{
        name::ProcessName,
        number::{write_bytes, write_count},
        span::{write_lifetime, write_round_trip},
        words::close_reason_words,
    },
    outputs::text::{
        canvas::{Canvas, RED, YELLOW},
        column::{align_left, align_right, write_or_dash},
    },
};

impl Canvas {
    /// Writes the line of a connection.
    pub(crate) fn write_life(&mut self, line: &mut String, at: Instant, record: &LifeRecord) {
        let LifeRecord { socket, duration_ms, bytes_sent, bytes_received, owner, close_reason, .. } = record;
        let width = self.layout.actor;
        self.write_time(line, at);
        line.push(' ');
        align_right(line, 6, |line| write_or_dash(line, *duration_ms, write_lifetime));
        line.push(' ');
        align_left(line, width, |line| {
            write_or_dash(line, owner.as_ref(), |line, owner| {
                ProcessName::from(owner).write_fitted(line, width);
            });
        });
        line.push(' ');
        self.write_socket_endpoints(line, socket);
        align_right(line, 5, |line| write_or_dash(line, *bytes_sent, write_bytes));
        line.push(' ');
        align_right(line, 5, |line| write_or_dash(line, *bytes_received, write_bytes));
        if self.layout.is_roomy {
            line.push(' ');
            align_right(line, 4, |line| write_or_dash(line, record.retransmits, write_count));
            line.push(' ');
            align_right(line, 6, |line| write_or_dash(line, record.rtt_us, write_round_trip));
        }
        line.push(' ');
        self.write_coloured(line, reason_colour(*close_reason), |line| {
            line.push_str(close_reason_words(*close_reason));
        });
        if let Some(error) = record.error.as_ref().filter(|_| self.layout.is_roomy) {
            // A recording may have any text here.
            self.append_if_fits(line, &format!(", {}", escape_harmful(error)));
        }
    }
}

/// Returns the colour of what ended a connection.
const fn reason_colour(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::ResetReceived | CloseReason::Timeout | CloseReason::Refused => RED,
        CloseReason::ResetSent | CloseReason::Destroyed => YELLOW,
        CloseReason::LocalClose | CloseReason::PeerClose | CloseReason::Exit | CloseReason::Unknown => "",
    }
}
