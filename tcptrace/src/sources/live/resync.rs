//! What a look at all sockets puts right: after a loss, and for a recording from the start.

use rustc_hash::FxHashMap;

use crate::sources::live::{Doubt, Failure, Session};
use crate::{
    engine::{
        ownership::walk_index::Evidence,
        tracker::{Socket, Unseen},
        walk::{Reach, Walk},
    },
    events::Resync,
};

impl Session {
    /// After a loss: looks at every socket and puts right what the lost transitions would have told. Where it
    /// cannot look, it looks again soon.
    pub(crate) fn resync(&mut self) -> Result<(), Failure> {
        let before = self.tracker.states_among(self.recorded);
        let reach = Reach::Everywhere(self.tracker.namespaces());
        let Some(walk) = self.walk(self.followed, &reach)? else { return Ok(()) };
        // What is lost from here on takes another look.
        let after_loss = std::mem::take(&mut self.resync_wanted);
        let doubt = if after_loss { std::mem::take(&mut self.doubt) } else { Doubt::default() };
        let mut repaired = self.take_in(&walk)?;
        let Self { tracker, sink, .. } = self;
        let Unseen { gone, unknown } =
            tracker.sweep_unseen(&walk, &mut |finding| sink.finding(&finding, &Evidence::default()));
        repaired += gone.len();
        let found = self.tell_found(&walk, &before, &gone);
        if after_loss {
            self.pace.lost();
        }
        self.pace_follow_up(unknown > 0 || !walk.left_out.is_empty());
        // A look at what the one before left out is told if it found anything.
        if let Some(repaired) = self.repaired_after_loss(&doubt, repaired, walk.started_ns) {
            let at = self.sink.at(walk.started_ns);
            let resync = Resync { sockets: walk.sockets.len(), repaired, found };
            let record = self.sink.reporter.resync(resync, at);
            self.sink.record(record);
        }
        self.judge(&walk);
        Ok(())
    }

    /// Tells what a walk has found and no transition has told, where that is to be recorded; and how much it was.
    pub(crate) fn tell_found(
        &mut self,
        walk: &Walk,
        before: &FxHashMap<u64, u8>,
        gone: &[(u64, Socket)],
    ) -> Option<u64> {
        if self.recorded == 0 {
            return None;
        }
        let found = self.tracker.found_since(self.recorded, before, gone, walk.started_ns);
        self.sink.found(&found, walk);
        Some(found.len() as u64)
    }
}
