//! Counts what is allocated: the allocator of the system, with a tally.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// What was allocated, now or since some time.
pub(crate) struct Tally {
    /// Calls of the allocator that asked for memory.
    pub(crate) allocations: usize,
    /// In use.
    pub(crate) bytes: usize,
    /// The most that was in use at any time.
    pub(crate) peak: usize,
}

/// The tally now; the peak begins anew.
pub(crate) fn start() -> Tally {
    let bytes = BYTES.load(Relaxed);
    PEAK.store(bytes, Relaxed);
    Tally { allocations: ALLOCATIONS.load(Relaxed), bytes, peak: bytes }
}

/// What has come to it since.
pub(crate) fn since(before: &Tally) -> Tally {
    Tally {
        allocations: ALLOCATIONS.load(Relaxed) - before.allocations,
        bytes: BYTES.load(Relaxed).saturating_sub(before.bytes),
        peak: PEAK.load(Relaxed).saturating_sub(before.bytes),
    }
}

struct Counting;

fn taken(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    PEAK.fetch_max(BYTES.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise about `layout` is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the pointer came from `alloc` or `realloc` above, hence from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        taken(new_size);
        BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as for `dealloc`; the caller's promise about `new_size` is the one that is asked for.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
