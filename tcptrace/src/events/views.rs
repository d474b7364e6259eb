//! The views of a run.

/// The views of a run, and so the records that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Views {
    /// One record per transition.
    pub transitions: bool,
    /// One record when a socket becomes stuck, one when it clears.
    pub stuck: bool,
    /// One record per connection, when it is over.
    pub lives: bool,
}
