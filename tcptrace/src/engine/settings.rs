//! What the engine is asked for.

use crate::{
    engine::{filter::Filter, tracker::Policy},
    events::Views,
};

/// What a run is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The views, each of which has records of its own.
    pub views: Views,
    /// What the tracker looks for.
    pub policy: Policy,
    /// What is reported.
    pub filter: Filter,
    /// The states, as a mask, of which `found` records tell what no transition has told.
    pub recorded_states: u32,
    /// Whether transitions name more of the process that acted than the kernel does. Text does not
    /// show it, and looking it up takes time.
    pub describes_actors: bool,
    /// Length of a jiffy, nanoseconds: the unit of the time stamps in sockets.
    pub jiffy_ns: u64,
}
