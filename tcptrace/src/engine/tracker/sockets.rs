//! The sockets that are followed, by cookie and by when they are due.
//!
//! They lie side by side in a `Dense` list; a small hash table says where each is, and a heap which is due first. What
//! one of them takes in memory is the same however many there are, and is given back when it leaves; the task that opened
//! it is kept elsewhere, once for all that it opened.

use crate::engine::{
    state_change::Origin,
    tracker::{
        NEVER, Socket,
        dense::Dense,
        due::{Due, NOWHERE},
        lives::Course,
        origins::{NOBODY, Origins},
        places::Places,
    },
};

/// A socket in its place.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) cookie: u64,
    pub(crate) socket: Socket,
    /// When it was opened, `CLOCK_MONOTONIC` nanoseconds, where it is known by whom.
    opened_ns: u64,
    /// The place of the task that opened it.
    opener: u32,
    /// Where it is in the heap of what is due.
    pub(crate) due_at: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// The place in `kept` of each.
    places: Places,
    kept: Dense<Kept>,
    /// The course of each, in the same place, where lives are to be told.
    courses: Option<Dense<Course>>,
    due: Due,
    origins: Origins,
}

impl Sockets {
    pub(crate) fn new(with_courses: bool) -> Self {
        Self { courses: with_courses.then(Dense::default), ..Self::default() }
    }

    pub(crate) const fn len(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn get(&self, cookie: u64) -> Option<&Socket> {
        Some(&self.kept[self.find(cookie)?].socket)
    }

    /// What is known of a socket, and where it came from.
    pub(crate) fn known(&self, cookie: u64) -> Option<(Socket, Option<Origin>)> {
        let Kept { socket, opened_ns, opener, .. } = &self.kept[self.find(cookie)?];
        let origin = self.origins.get(*opener).map(|actor| Origin { actor, at_ns: *opened_ns });
        Some((*socket, origin))
    }

    /// Where a socket came from, if that is known.
    pub(crate) fn origin(&self, cookie: u64) -> Option<Origin> {
        self.known(cookie)?.1
    }

    /// Notes where a socket came from, if it is kept.
    pub(crate) fn set_origin(&mut self, cookie: u64, origin: Option<Origin>) {
        let Some(place) = self.find(cookie) else { return };
        let Kept { opened_ns, opener, .. } = &mut self.kept[place];
        self.origins.leave(*opener);
        (*opened_ns, *opener) =
            origin.map_or((0, NOBODY), |origin| (origin.at_ns, self.origins.enter(origin.actor)));
    }

    /// The course of a socket; an empty one where none is kept.
    pub(crate) fn course(&self, cookie: u64) -> Course {
        let courses = self.courses.as_ref();
        courses.and_then(|courses| Some(courses[self.find(cookie)?])).unwrap_or_default()
    }

    pub(crate) fn course_mut(&mut self, cookie: u64) -> Option<&mut Course> {
        let place = self.find(cookie)?;
        self.courses.as_mut().map(|courses| &mut courses[place])
    }

    fn find(&self, cookie: u64) -> Option<usize> {
        self.places.find(cookie, |place| self.kept[at(place)].cookie).map(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Socket)> {
        self.kept.iter().map(|kept| (kept.cookie, &kept.socket))
    }

    /// Puts in a socket. Returns what was known of it before.
    pub(crate) fn insert(&mut self, cookie: u64, socket: Socket) -> Option<Socket> {
        let Self { places, kept, courses, due, .. } = self;
        let last = kept.len();
        if let Some(place) = places.find_or_insert(cookie, place_of(last), |place| kept[at(place)].cookie) {
            let place = at(place);
            let before = std::mem::replace(&mut kept[place].socket, socket);
            if before.deadline_ns != socket.deadline_ns {
                due.settle(place, kept);
            }
            return Some(before);
        }
        kept.push(Kept { cookie, socket, opened_ns: 0, opener: NOBODY, due_at: NOWHERE });
        if let Some(courses) = courses {
            courses.push(Course::default());
        }
        due.settle(last, kept);
        None
    }

    /// Takes out a socket. Returns what was known of it.
    pub(crate) fn remove(&mut self, cookie: u64) -> Option<Socket> {
        let Self { places, kept, courses, due, origins } = self;
        let place = at(places.remove(cookie, |place| kept[at(place)].cookie)?);
        due.remove(place, kept);
        let last = kept.len() - 1;
        let removed = kept.swap_remove(place);
        origins.leave(removed.opener);
        if let Some(courses) = courses {
            courses.swap_remove(place);
        }
        if place < last {
            places.moved(kept[place].cookie, place_of(last), place_of(place));
            due.moved(place, kept);
        }
        Some(removed.socket)
    }

    /// When the next one is to be judged, and which: `(deadline_ns, cookie)`.
    pub(crate) fn next_due(&self) -> Option<(u64, u64)> {
        let Kept { cookie, socket, .. } = &self.kept[self.due.first()?];
        Some((socket.deadline_ns, *cookie))
    }

    /// Those that are to be judged by then, in no order.
    pub(crate) fn due_by(&self, now_ns: u64) -> impl Iterator<Item = (u64, &Socket)> {
        let places = self.due.by(now_ns, &self.kept);
        places.into_iter().map(|place| (self.kept[place].cookie, &self.kept[place].socket))
    }

    /// None is to be judged any more.
    pub(crate) fn clear_due(&mut self) {
        for place in self.due.clear() {
            let kept = &mut self.kept[at(place)];
            (kept.socket.deadline_ns, kept.due_at) = (NEVER, NOWHERE);
        }
    }
}

/// A socket takes this, 5 to 20 bytes in `places`, 4 to 8 more where it is to be judged, and its part of the task that opened
/// it.
const _: () = assert!(size_of::<Kept>() <= 104 && size_of::<Course>() <= 48);

/// A place as a number that takes little room.
pub(crate) fn place_of(index: usize) -> u32 {
    u32::try_from(index).expect("fewer sockets than memory for them")
}

/// The same as an index.
pub(crate) const fn at(place: u32) -> usize {
    place as usize
}

#[cfg(test)]
mod tests;
