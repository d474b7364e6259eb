//! How much room the lists of sockets have.

/// Returns for how many more items a full list of `len` items makes room. A sixteenth, so that
/// little is unused; doubling would leave half of it so.
pub(super) fn growth(len: usize) -> usize {
    (len / 16).max(16)
}

/// Returns the capacity to shrink to, if three quarters are unused. It leaves room for as many
/// items again, so that shrinking is rare. A capacity up to `kept` stays, so that a few sockets
/// that come and go cost no allocation.
pub(super) fn shrunk(len: usize, capacity: usize, kept: usize) -> Option<usize> {
    (capacity > kept && len < capacity / 4).then_some(2 * len)
}
