//! What a recording holds, and which questions it cannot answer for want of it: silence would read
//! as "nothing there".

use tcptrace_common::state;

use crate::{config::Config, events::Event};

/// What there is in a recording.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    transitions: u64,
    lives: u64,
    found: u64,
    stuck: u64,
    /// The states of stuck sockets, as a mask.
    stuck_states: u32,
    /// The lowest threshold at which sockets were recorded as stuck, nanoseconds.
    threshold_ns: Option<u64>,
}

impl Recorded {
    /// Counts a record.
    pub(crate) fn note_event(&mut self, event: &Event) {
        match event {
            Event::Transition(_) => self.transitions += 1,
            Event::Life(_) => self.lives += 1,
            Event::Found(_) => self.found += 1,
            Event::Stuck(stuck) => {
                self.stuck += 1;
                self.stuck_states |= state::bit(stuck.state.0);
                let threshold_ns = stuck.threshold_ms.map(crate::events::nanoseconds);
                self.threshold_ns = match (self.threshold_ns, threshold_ns) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
            _ => {}
        }
    }

    /// What was asked for and cannot be event from this recording, in words.
    pub(crate) fn shortcomings(&self, config: &Config) -> Vec<String> {
        let mut words = Vec::new();
        let views = config.views;
        if views.transitions && self.transitions + self.found == 0 {
            words.push(
                "no transition is in this recording: it was made without --transitions, or nothing happened"
                    .to_owned(),
            );
        }
        if views.lives && self.lives == 0 {
            words.push(
                "no life is in this recording: it was made without --lives, or no connection ended"
                    .to_owned(),
            );
        }
        // Transitions tell of any state and any time; else there is what was recorded as stuck, and
        // nothing else.
        if views.stuck && self.transitions + self.found == 0 {
            let asked = config.format_watched();
            match self.threshold_ns {
                None => words.push(format!(
                    "neither transitions nor stuck sockets are in this recording: it cannot tell what was stuck for {asked}"
                )),
                Some(threshold_ns) if threshold_ns > config.policy.threshold_ns => {
                    let recorded = std::time::Duration::from_nanos(threshold_ns);
                    words.push(format!(
                        "this recording has only what was stuck for {}: what was stuck for less than that is missing \
                         (record with --transitions to choose the threshold later)",
                        humantime::format_duration(recorded)
                    ));
                }
                Some(_) if self.stuck_states & config.policy.watched == 0 => words.push(format!(
                    "no socket in {} is in this recording: it was made with another --state, or none was stuck",
                    config.state_names()
                )),
                Some(_) => {}
            }
        }
        words
    }
}

#[cfg(test)]
mod tests;
