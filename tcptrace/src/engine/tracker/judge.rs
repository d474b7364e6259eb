//! Judges which sockets are stuck: those whose deadline has passed, by how they were last seen.

use crate::engine::{
    tracker::{
        Tracker,
        finding::{Finding, Found},
        socket::{NEVER, Socket},
    },
    walk::Walk,
};

/// The shortest time until a socket whose namespace could not be walked is judged again,
/// nanoseconds.
const MIN_POSTPONE_NS: u64 = 20_000_000;

/// The longest such time, nanoseconds.
const MAX_POSTPONE_NS: u64 = 2_000_000_000;

impl Tracker {
    /// Returns when the next socket is to be judged, `CLOCK_MONOTONIC` nanoseconds. A walk after
    /// that time, and then [`Self::judge_due`], decide whether it is stuck.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.sockets.next_deadline().map(|(deadline_ns, _)| deadline_ns)
    }

    /// Returns the sockets whose deadline is not after `now_ns`, with their namespaces; 0 if a
    /// namespace is unknown.
    pub fn due_sockets(&self, now_ns: u64) -> Vec<(u64, u32)> {
        self.sockets.due_by(now_ns).map(|(cookie, socket)| (cookie, socket.netns)).collect()
    }

    /// Judges every socket whose deadline passed before the walk began. The walk's rows, and the
    /// transitions that happened during it, have been applied. A socket that the walk did not see
    /// is gone if the walk covers its namespace. Otherwise it is unknown whether it is still
    /// open, and it is judged again soon.
    pub fn judge_due(&mut self, walk: &Walk, report: &mut impl FnMut(Finding)) {
        let is_due = |(deadline_ns, _): &(u64, u64)| *deadline_ns <= walk.started_ns;
        while let Some((_, cookie)) = self.sockets.next_deadline().filter(is_due)
            && let Some(socket) = self.sockets.get(cookie).copied()
        {
            if socket.last_seen_ns >= walk.started_ns {
                self.report_stuck(cookie, socket, socket.last_seen_ns, 0, report);
            } else if walk.covers(socket.netns) {
                self.remove_gone(cookie, walk.started_ns, report);
            } else {
                self.postpone_judgement(cookie, socket, walk.started_ns);
            }
        }
    }

    /// Sets a new deadline for a socket that could not be looked at: the later, the longer its
    /// deadline has passed.
    fn postpone_judgement(&mut self, cookie: u64, socket: Socket, now_ns: u64) {
        let was_due_ns = match self.policy.remind_ns.filter(|_| socket.is_reported) {
            Some(remind_ns) => socket.last_seen_ns.saturating_add(remind_ns),
            None => socket.since.latest_ns().saturating_add(self.policy.threshold_ns),
        };
        let wait_ns = (now_ns.saturating_sub(was_due_ns) / 2).clamp(MIN_POSTPONE_NS, MAX_POSTPONE_NS);
        self.store_as_is(cookie, Socket { deadline_ns: now_ns.saturating_add(wait_ns), ..socket });
    }

    /// Reports a socket that was seen stuck at `seen_ns`. It is judged again after the interval of
    /// reminders, but not before `not_before_ns`.
    fn report_stuck(
        &mut self,
        cookie: u64,
        socket: Socket,
        seen_ns: u64,
        not_before_ns: u64,
        report: &mut impl FnMut(Finding),
    ) {
        let (origin, is_reminder) = (self.sockets.origin_of(cookie), socket.is_reported);
        report(Finding::Stuck(Found { cookie, socket, origin, seen_ns, is_reminder }));
        let again = |remind_ns: u64| seen_ns.saturating_add(remind_ns.max(1)).max(not_before_ns);
        let deadline_ns = self.policy.remind_ns.map_or(NEVER, again);
        self.store_as_is(cookie, Socket { is_reported: true, deadline_ns, ..socket });
    }

    /// Judges every socket by how one walk, applied just before, saw it, without waiting for
    /// deadlines. Returns the cookies of the stuck ones, the longest first, and the sockets in a
    /// watched state that are not proven to be stuck there.
    pub fn judge_at_observation(&self) -> (Vec<u64>, Vec<(u64, Socket)>) {
        let (mut stuck, mut undecided) = (Vec::new(), Vec::new());
        for (cookie, socket) in self.sockets.iter().filter(|(_, socket)| socket.deadline_ns != NEVER) {
            if socket.deadline_ns <= socket.last_seen_ns {
                stuck.push((socket.deadline_ns, cookie));
            } else {
                undecided.push((cookie, *socket));
            }
        }
        stuck.sort_unstable();
        (stuck.into_iter().map(|(_, cookie)| cookie).collect(), undecided)
    }

    /// Returns a socket as it was last seen.
    pub fn find_observed(&self, cookie: u64) -> Option<Found> {
        let (socket, origin) = self.sockets.get_with_origin(cookie)?;
        Some(Found { cookie, socket, origin, seen_ns: socket.last_seen_ns, is_reminder: false })
    }

    /// Judges every socket whose deadline is not after `until_ns`, each as of its deadline. This
    /// is for a complete stream: what it does not tell has not happened.
    pub fn judge_until(&mut self, until_ns: u64, report: &mut impl FnMut(Finding)) {
        while let Some((_, cookie)) = self.sockets.next_deadline()
            && self.judge_socket_until(cookie, until_ns, report)
        {}
    }

    /// Judges one socket in the way of [`Self::judge_until`]. Returns whether it was due.
    pub fn judge_socket_until(
        &mut self,
        cookie: u64,
        until_ns: u64,
        report: &mut impl FnMut(Finding),
    ) -> bool {
        let is_due = |socket: &Socket| socket.deadline_ns != NEVER && socket.deadline_ns <= until_ns;
        let Some(socket) = self.sockets.get(cookie).copied().filter(is_due) else { return false };
        let seen_ns = socket.deadline_ns.max(socket.last_seen_ns);
        // One reminder is enough, however long the stream was silent.
        self.report_stuck(cookie, socket, seen_ns, until_ns.saturating_add(1), report);
        true
    }

    /// Removes all deadlines, after a loss that nothing repairs: a socket is judged again only
    /// after a later record mentions it.
    pub fn suspend_deadlines(&mut self) {
        self.sockets.clear_deadlines();
    }

    /// Sets the deadlines again, after a walk of all sockets has repaired what a loss had left
    /// wrong.
    pub fn resume_deadlines(&mut self, now_ns: u64) {
        let without = self.sockets.iter().filter(|(_, socket)| socket.deadline_ns == NEVER);
        let without: Vec<_> = without.map(|(cookie, socket)| (cookie, *socket)).collect();
        for (cookie, socket) in without {
            let remind_ns = self.policy.remind_ns.filter(|_| socket.is_reported);
            let deadline_ns = remind_ns.map_or(NEVER, |remind_ns| now_ns.saturating_add(remind_ns));
            self.store(cookie, Socket { deadline_ns, ..socket });
        }
    }
}
