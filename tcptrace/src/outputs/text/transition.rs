//! The line of a transition: the two ends, the states, the time in the old state, and the process.

use tcptrace_common::state;

use crate::{
    events::{Instant, State, Transition},
    humanize::{name::ProcessName, span::write_span, width::display_width},
    outputs::{
        text::{
            canvas::{Canvas, YELLOW},
            column::{align_left, align_right, write_or_dash},
        },
        timestamp_cache::pad_number,
    },
};

impl Canvas {
    /// Writes the line of a transition. Milliseconds are shown if there is room.
    pub(crate) fn write_transition(&mut self, line: &mut String, at: Instant, record: &Transition) {
        let Transition { socket, old_state, new_state, in_old_state_ms, owner, .. } = record;
        let nanosecond = self.write_time(line, at);
        if self.layout.is_roomy {
            line.push('.');
            line.extend(pad_number::<3>(nanosecond / 1_000_000).map(char::from));
        }
        line.push(' ');
        self.write_socket_endpoints(line, socket);
        align_left(line, 10, |line| line.push_str(old_state.ss_name()));
        line.push(' ');
        self.write_coloured(line, state_colour(*new_state), |line| {
            align_left(line, 10, |line| line.push_str(new_state.ss_name()));
        });
        line.push(' ');
        align_right(line, 6, |line| write_or_dash(line, *in_old_state_ms, write_span));
        line.push(' ');
        let room = self.layout.width.map_or(usize::MAX, |width| width.saturating_sub(display_width(line)));
        write_or_dash(line, owner.as_ref(), |line, owner| ProcessName::from(owner).write_fitted(line, room));
    }
}

const fn state_colour(new_state: State) -> &'static str {
    match new_state.0 {
        state::CLOSE_WAIT => YELLOW,
        _ => "",
    }
}
