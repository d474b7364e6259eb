//! Judges which sockets are stuck: those that are due, by what was last heard of them.

use crate::engine::tracker::{NEVER, Socket, Tracker, finding::Finding, found::Found};
use crate::engine::walk::Walk;

/// How soon a socket is judged again whose namespace could not be walked, nanoseconds.
const SOONEST_NS: u64 = 20_000_000;

/// How late at most, likewise.
const LATEST_NS: u64 = 2_000_000_000;

impl Socket {
    /// Whether it has been found stuck in the state it is in.
    pub const fn is_stuck(&self) -> bool {
        self.is_reported
    }
}

impl Tracker {
    /// When the next socket is to be judged, `CLOCK_MONOTONIC` nanoseconds: a walk after that time, and then
    /// [`Self::judge`], tell whether it is stuck.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.sockets.next_due().map(|(due, _)| due)
    }

    /// The sockets that are due by then, with their namespaces; 0 where that is not known.
    pub fn due_sockets(&self, now_ns: u64) -> Vec<(u64, u32)> {
        self.sockets.due_by(now_ns).map(|(cookie, socket)| (cookie, socket.netns)).collect()
    }

    /// Judges every socket that was due before the walk began. The walk's rows, and the transitions that
    /// happened during it, have been taken in. A socket that the walk did not see is gone if the walk covers
    /// its namespace. Otherwise nothing is known of it, and it is due again soon.
    pub fn judge(&mut self, walk: &Walk, found: &mut impl FnMut(Finding)) {
        while let Some((_, cookie)) = self.sockets.next_due().filter(|(due, _)| *due <= walk.started_ns)
            && let Some(socket) = self.sockets.get(cookie).copied()
        {
            if socket.last_seen_ns < walk.started_ns {
                if walk.covers(socket.netns) {
                    self.vanish(cookie, walk.started_ns, found);
                } else {
                    self.postpone(cookie, socket, walk.started_ns);
                }
                continue;
            }
            self.find_stuck(cookie, socket, socket.last_seen_ns, 0, found);
        }
    }

    /// Has a socket judged again that could not be looked at: the later, the longer it has been due.
    fn postpone(&mut self, cookie: u64, socket: Socket, now_ns: u64) {
        let was_due_ns = match self.policy.remind_ns.filter(|_| socket.is_reported) {
            Some(remind_ns) => socket.last_seen_ns.saturating_add(remind_ns),
            None => socket.since.latest_ns().saturating_add(self.policy.threshold_ns),
        };
        let wait_ns = (now_ns.saturating_sub(was_due_ns) / 2).clamp(SOONEST_NS, LATEST_NS);
        self.replace(cookie, Socket { deadline_ns: now_ns.saturating_add(wait_ns), ..socket });
    }

    /// Finds a socket stuck, seen so then, and again after the interval of reminders, but not before `not_before_ns`.
    fn find_stuck(
        &mut self,
        cookie: u64,
        socket: Socket,
        seen_ns: u64,
        not_before_ns: u64,
        found: &mut impl FnMut(Finding),
    ) {
        let (origin, is_reminder) = (self.sockets.origin(cookie), socket.is_reported);
        found(Finding::Stuck(Found { cookie, socket, origin, seen_ns, is_reminder }));
        let again = |remind: u64| seen_ns.saturating_add(remind.max(1)).max(not_before_ns);
        let deadline_ns = self.policy.remind_ns.map_or(NEVER, again);
        self.replace(cookie, Socket { is_reported: true, deadline_ns, ..socket });
    }

    /// Judges every socket by what was last heard of it, without waiting for those whose time has yet to come: for one
    /// walk, taken in just before. Returns the cookies of those that are stuck, the longest first, and the sockets in a
    /// watched state that are not proven to be stuck there.
    pub fn judge_at_observation(&self) -> (Vec<u64>, Vec<(u64, Socket)>) {
        let (mut stuck, mut others) = (Vec::new(), Vec::new());
        for (cookie, socket) in self.sockets.iter().filter(|(_, socket)| socket.deadline_ns != NEVER) {
            if socket.deadline_ns <= socket.last_seen_ns {
                stuck.push((socket.deadline_ns, cookie));
            } else {
                others.push((cookie, *socket));
            }
        }
        stuck.sort_unstable();
        (stuck.into_iter().map(|(_, cookie)| cookie).collect(), others)
    }

    /// How a socket was last heard of.
    pub fn find_observed(&self, cookie: u64) -> Option<Found> {
        let (socket, origin) = self.sockets.known(cookie)?;
        Some(Found { cookie, socket, origin, seen_ns: socket.last_seen_ns, is_reminder: false })
    }

    /// Judges every socket that is due by then, each as of the time when it was: for a stream in which everything is
    /// told, where what is not told has not happened.
    pub fn judge_until(&mut self, until_ns: u64, found: &mut impl FnMut(Finding)) {
        while let Some((_, cookie)) = self.sockets.next_due()
            && self.judge_socket_until(cookie, until_ns, found)
        {}
    }

    /// Judges one socket in the same way, if it is due by then. Says whether it was.
    pub fn judge_socket_until(
        &mut self,
        cookie: u64,
        until_ns: u64,
        found: &mut impl FnMut(Finding),
    ) -> bool {
        let is_due = |socket: &Socket| socket.deadline_ns != NEVER && socket.deadline_ns <= until_ns;
        let Some(socket) = self.sockets.get(cookie).copied().filter(is_due) else { return false };
        // Where the stream is silent for long, one reminder is enough.
        let seen_ns = socket.deadline_ns.max(socket.last_seen_ns);
        self.find_stuck(cookie, socket, seen_ns, until_ns.saturating_add(1), found);
        true
    }

    /// Something was lost that nothing will make up for: judges no socket any more that is not heard of again.
    pub fn suspend_deadlines(&mut self) {
        self.sockets.clear_due();
    }
}
