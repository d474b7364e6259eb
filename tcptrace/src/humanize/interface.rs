//! Names of network interfaces.

use crate::events::Name;

/// Looks up the names of interfaces in one network namespace. A record has an interface's index
/// only.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceNames {
    /// The network namespace that the names are valid in, by its inode number.
    pub netns: u32,
    /// Returns the name of the interface with this index, or `None` if there is no such interface.
    pub name: fn(u16) -> Option<Name>,
}
