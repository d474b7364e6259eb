//! A list in chunks of a fixed size, without gaps: what goes is replaced by the last.
//!
//! It grows and shrinks by a chunk at a time and copies nothing to do so. Its memory is that of its items and at most
//! two chunks.

use std::ops::{Index, IndexMut};

/// Items in a chunk: some 100 KB of sockets.
const CHUNK: usize = 1024;

/// All items; each is at a place from 0 to the number of them.
#[derive(Debug)]
pub(crate) struct Dense<T> {
    /// All but the last two are full; the last one is empty where the one before is not full, so that an item that
    /// comes and goes at the edge costs no allocation.
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Dense<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Dense<T> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds one, in the last place.
    pub(crate) fn push(&mut self, item: T) {
        let chunk = self.len / CHUNK;
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks[chunk].push(item);
        self.len += 1;
    }

    /// Takes one out; the last one takes its place.
    ///
    /// # Panics
    ///
    /// Where there is none.
    pub(crate) fn swap_remove(&mut self, at: usize) -> T {
        let last = self.len.checked_sub(1).expect("there is one to remove");
        let chunk = last / CHUNK;
        let item = self.chunks[chunk].pop().expect("the last one is in the last chunk in use");
        self.len = last;
        self.chunks.truncate(last.div_ceil(CHUNK) + 1);
        if at == last { item } else { std::mem::replace(&mut self[at], item) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

impl<T> Index<usize> for Dense<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.chunks[at / CHUNK][at % CHUNK]
    }
}

impl<T> IndexMut<usize> for Dense<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.chunks[at / CHUNK][at % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl<T> Dense<T> {
        pub(in crate::engine::tracker) const fn chunks(&self) -> usize {
            self.chunks.len()
        }
    }

    proptest! {
        #[test]
        fn it_is_a_vec_and_as_long_as_it_must_be(runs in proptest::collection::vec((0..3_000_usize, 0..3_000_usize), 0..6)) {
            let (mut dense, mut model, mut next) = (Dense::default(), Vec::new(), 0);
            for (come, go) in runs {
                for _ in 0..come {
                    dense.push(next);
                    model.push(next);
                    next += 1;
                }
                for turn in 0..go.min(model.len()) {
                    let at = (turn * 7_919) % model.len();
                    prop_assert_eq!(dense.swap_remove(at), model.swap_remove(at));
                }
                prop_assert_eq!(dense.len(), model.len());
                prop_assert!(dense.chunks() <= model.len().div_ceil(CHUNK) + 1);
                prop_assert!(dense.iter().eq(&model));
                prop_assert!((0..model.len()).all(|at| dense[at] == model[at]));
            }
        }
    }

    #[test]
    fn one_that_comes_and_goes_at_the_edge_of_a_chunk_finds_it_there() {
        let mut dense = Dense::default();
        (0..=CHUNK).for_each(|item| dense.push(item));
        let edge = dense.chunks[1].as_ptr();
        for _ in 0..3 {
            assert_eq!(dense.swap_remove(CHUNK), CHUNK);
            dense.push(CHUNK);
            assert_eq!(dense.chunks[1].as_ptr(), edge);
        }
    }
}
