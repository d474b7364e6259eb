//! The views of a run.

/// Which views a run shows, and so which records it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Views {
    /// One record per transition.
    pub transitions: bool,
    /// One record when a socket becomes stuck, one when it clears.
    pub stuck: bool,
    /// One record per connection, when it is over.
    pub lives: bool,
}
