//! How long a connection was in each of its states: a short list in place, of which one is made for each life.

/// Five states can be left for another one than CLOSE, and it ends in one more.
const MOST: usize = 6;

/// How long a connection was in each of its states, nanoseconds, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    states: [u8; MOST],
    len: u8,
    ns: [u64; MOST],
}

impl Spent {
    /// Adds a state, and how long it was in that, if there is room, as there is for those of a life. Says whether.
    pub fn push(&mut self, state: u8, ns: u64) -> bool {
        let at = usize::from(self.len);
        if at == MOST {
            return false;
        }
        (self.states[at], self.ns[at]) = (state, ns);
        self.len += 1;
        true
    }

    /// Each state, and how long it was in that, nanoseconds.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u8, u64)> {
        (0..usize::from(self.len)).map(|at| (self.states[at], self.ns[at]))
    }
}

impl FromIterator<(u8, u64)> for Spent {
    /// Of the first six: a life has no more.
    fn from_iter<I: IntoIterator<Item = (u8, u64)>>(all: I) -> Self {
        let mut spent = Self::default();
        for (state, ns) in all.into_iter().take(MOST) {
            spent.push(state, ns);
        }
        spent
    }
}
