//! Walks the open sockets and their holders, in the way that this kernel supports.

use aya::programs::Iter;
use tcptrace_common::{
    WalkFilter,
    names::programs::{SOCKET_HOLDERS, TCP_SOCKETS},
};

use crate::{
    engine::walk::{Reach, Walk},
    host::{
        features::{Feature, is_used},
        kernel::Kernel,
        walk::{
            error::WalkError,
            iter::HolderReader,
            namespaces,
            socket_reader::SocketReader,
            walker::{add_holders, walk},
        },
    },
};

impl Kernel {
    /// Walks the open TCP sockets in one of `states` (a mask) as far as `reach` says, and their
    /// holders.
    ///
    /// # Errors
    /// See [`WalkError`]. Namespaces and processes that vanish meanwhile are no error.
    pub fn walk(&mut self, states: u32, reach: &Reach) -> Result<Walk, WalkError> {
        self.walk_holding(states, states, reach)
    }

    /// Walks the open TCP sockets like [`Self::walk`], and finds at least the holders of those in
    /// one of `held` (a part of `states`), which is faster if they are few.
    ///
    /// # Errors
    /// See [`Self::walk`].
    pub fn walk_holding(&mut self, states: u32, held: u32, reach: &Reach) -> Result<Walk, WalkError> {
        let sees_all = is_used(&self.statuses, Feature::Proc);
        if self.cookies.is_some() {
            self.walk_without_btf(states, reach, sees_all)
        } else {
            self.walk_with_btf(states, held, reach, sees_all)
        }
    }

    fn walk_without_btf(&mut self, states: u32, reach: &Reach, sees_all: bool) -> Result<Walk, WalkError> {
        // Transitions do not name the namespace of their socket.
        let reach = reach.clone().everywhere();
        let mut found = walk(SocketReader::SockDiag(states), None, &reach, sees_all)?;
        let is_complete = found.covers(0);
        if let Some(cookies) = &mut self.cookies {
            cookies.resolve_rows(&mut found.sockets, is_complete);
        }
        add_holders(&mut found)?;
        Ok(found)
    }

    fn walk_with_btf(
        &mut self,
        states: u32,
        held: u32,
        reach: &Reach,
        sees_all: bool,
    ) -> Result<Walk, WalkError> {
        let has_iterator = is_used(&self.statuses, Feature::TaskFile);
        let filter = WalkFilter {
            socket_states: states,
            holder_states: held,
            walked_netns: namespaces::own_netns().unwrap_or(0),
            // /proc/PID/fd identifies sockets by their inodes.
            needs_inode: (!has_iterator).into(),
        };
        self.walk_filter.set(0, bytemuck::must_cast::<_, [u32; 4]>(filter), 0)?;
        let (mut sockets, mut holders) = (None, None);
        for (name, program) in self.ebpf.programs_mut() {
            match name {
                TCP_SOCKETS => sockets = Some(<&mut Iter>::try_from(program)?),
                SOCKET_HOLDERS if has_iterator => {
                    let iterator = <&mut Iter>::try_from(program)?;
                    holders = Some(HolderReader { iterator, states: held });
                }
                _ => {}
            }
        }
        let sockets = sockets.unwrap_or_else(|| unreachable!("it was loaded when attaching"));
        let mut found = walk(SocketReader::Iterator(sockets), holders, reach, sees_all)?;
        if !has_iterator {
            add_holders(&mut found)?;
        }
        Ok(found)
    }
}
