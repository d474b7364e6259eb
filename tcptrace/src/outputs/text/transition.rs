//! A transition as a line: between which ends, from which state to which, after how long, and by whom.

use tcptrace_common::state;

use crate::outputs::text::{Instant, Text, YELLOW, left, named, right};
use crate::{
    events::{State, Transition},
    outputs::{
        text::{
            columns::{or_dash, span},
            words::{add_process, visible},
        },
        timestamp_cache::padded,
    },
};

impl Text {
    pub(crate) fn transition(&mut self, line: &mut String, at: Instant, record: &Transition) {
        let Transition { socket, old_state, new_state, in_old_state_ms, owner, .. } = record;
        // Milliseconds and the whole name are for those who have room.
        let nanosecond = self.time(line, at);
        if self.layout.is_roomy {
            line.push('.');
            line.extend(padded::<3>(nanosecond / 1_000_000).map(char::from));
        }
        line.push(' ');
        self.ends(line, socket);
        left(line, 10, |line| line.push_str(old_state.ss_name()));
        line.push(' ');
        self.paint(line, state_colour(*new_state), |line| {
            left(line, 10, |line| line.push_str(new_state.ss_name()));
        });
        line.push(' ');
        right(line, 6, |line| or_dash(line, *in_old_state_ms, span));
        line.push(' ');
        let room = self.layout.width.map_or(usize::MAX, |width| width.saturating_sub(visible(line)));
        or_dash(line, owner.as_ref(), |line, owner| add_process(line, named(owner), room));
    }
}

const fn state_colour(new_state: State) -> &'static str {
    match new_state.0 {
        state::CLOSE_WAIT => YELLOW,
        _ => "",
    }
}
