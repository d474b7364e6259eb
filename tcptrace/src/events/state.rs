//! TCP states by name: the kernel's names in JSON, those of `ss` for people and on the command
//! line.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tcptrace_common::state;

use crate::events::fields::Text;

/// A TCP state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u8);

/// (number, the kernel's name, the name `ss` prints)
const NAMES: [(u8, &str, &str); 12] = [
    (state::ESTABLISHED, "ESTABLISHED", "ESTAB"),
    (state::SYN_SENT, "SYN_SENT", "SYN-SENT"),
    (state::SYN_RECV, "SYN_RECV", "SYN-RECV"),
    (state::FIN_WAIT1, "FIN_WAIT1", "FIN-WAIT-1"),
    (state::FIN_WAIT2, "FIN_WAIT2", "FIN-WAIT-2"),
    (state::TIME_WAIT, "TIME_WAIT", "TIME-WAIT"),
    (state::CLOSE, "CLOSE", "CLOSED"),
    (state::CLOSE_WAIT, "CLOSE_WAIT", "CLOSE-WAIT"),
    (state::LAST_ACK, "LAST_ACK", "LAST-ACK"),
    (state::LISTEN, "LISTEN", "LISTEN"),
    (state::CLOSING, "CLOSING", "CLOSING"),
    (state::NEW_SYN_RECV, "NEW_SYN_RECV", "SYN-RECV"),
];

impl State {
    fn names(self) -> (&'static str, &'static str) {
        NAMES
            .iter()
            .find(|(number, ..)| *number == self.0)
            .map_or(("UNKNOWN", "UNKNOWN"), |(_, kernel, ss)| (kernel, ss))
    }

    /// As the kernel names it: `CLOSE_WAIT`.
    pub fn kernel_name(self) -> &'static str {
        self.names().0
    }

    /// As `ss` prints it: `CLOSE-WAIT`.
    pub fn ss_name(self) -> &'static str {
        self.names().1
    }

    /// Its bit in a mask.
    pub const fn bit(self) -> u32 {
        state::bit(self.0)
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.kernel_name())
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(name) = Text::deserialize(deserializer)?;
        let known = NAMES.iter().find(|(_, kernel, _)| *kernel == name);
        known.map(|(number, ..)| Self(*number)).ok_or_else(|| D::Error::custom(format!("no state: {name}")))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.ss_name())
    }
}

/// What can be watched, for the error message: states that a full socket stays in.
const WATCHABLE: &str =
    "established, syn-sent, fin-wait-1, fin-wait-2, close-wait, last-ack, closing, listen";

/// A name on the command line: as `ss` or the kernel spells it, any case, `-` and `_` alike or
/// left out.
impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let folded: String =
            text.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect();
        let fold = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
        let number = match folded.as_str() {
            "established" => Some(state::ESTABLISHED),
            "listening" => Some(state::LISTEN),
            "synrecv" => Some(state::SYN_RECV),
            "close" | "closed" | "unconnected" => Some(state::CLOSE),
            _ => NAMES
                .iter()
                .find(|(_, kernel, ss)| fold(kernel) == folded || fold(ss) == folded)
                .map(|(number, ..)| *number),
        };
        match number {
            Some(state::TIME_WAIT) => Err(format!(
                "a socket in time-wait belongs to no process any more, it cannot be stuck; can be watched: {WATCHABLE}"
            )),
            Some(state::SYN_RECV | state::NEW_SYN_RECV) => Err(format!(
                "`{text}` cannot be watched: half-open connections are request sockets, for which the kernel reports no \
                 state changes, so none would ever be found; list them with `ss -tn state syn-recv`; can be watched: {WATCHABLE}"
            )),
            Some(state::CLOSE) | None => {
                Err(format!("`{text}` is no state to watch; can be watched: {WATCHABLE}"))
            }
            Some(number) => Ok(Self(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_ss_and_as_the_kernel_spell_them() {
        for text in ["close-wait", "CLOSE_WAIT", "closewait", "Close-Wait", "close_wait"] {
            assert_eq!(text.parse(), Ok(State(state::CLOSE_WAIT)), "{text}");
        }
        for (text, number) in [
            ("estab", state::ESTABLISHED),
            ("established", state::ESTABLISHED),
            ("fin-wait-1", state::FIN_WAIT1),
            ("FIN_WAIT2", state::FIN_WAIT2),
            ("listening", state::LISTEN),
        ] {
            assert_eq!(text.parse(), Ok(State(number)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_watched_is_refused_with_a_list() {
        for text in
            ["", "time-wait", "syn-recv", "SYN_RECV", "synrecv", "closed", "closing!", "close-wait ", "8"]
        {
            let refusal = text.parse::<State>().expect_err(text);
            assert!(refusal.contains("close-wait, last-ack"), "{text}: {refusal}");
        }
    }

    #[test]
    fn half_open_connections_are_refused_with_the_reason() {
        for text in ["syn-recv", "SYN_RECV", "synrecv", "NEW_SYN_RECV"] {
            let refusal = text.parse::<State>().expect_err(text);
            assert!(refusal.contains("request sockets") && refusal.contains("ss -tn state"), "{refusal}");
        }
    }

    #[test]
    fn every_state_has_a_name() {
        for number in 1..=state::MAX {
            assert_ne!(State(number).kernel_name(), "UNKNOWN");
        }
    }
}
