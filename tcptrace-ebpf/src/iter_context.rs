//! The context of an iterator program.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, bindings::seq_file, helpers::generated::bpf_seq_write};
use bytemuck::Pod;

use crate::pointers::non_null;

/// The context of an iterator: slots of eight bytes. The first leads to the `seq_file` that user
/// space reads.
pub(crate) struct IterContext(*mut c_void);

impl EbpfContext for IterContext {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

impl IterContext {
    /// Wraps the argument of an iterator program.
    #[inline(always)]
    pub(crate) const fn new(ctx: *mut c_void) -> Self {
        Self(ctx)
    }

    /// Returns the pointer in a slot. It is null in the call that ends the walk.
    #[inline(always)]
    pub(crate) fn slot_pointer(&self, slot: usize) -> Option<*const c_void> {
        // SAFETY: the verifier checks that the slot is one of the context's pointers.
        let pointer = unsafe { self.0.cast::<*const c_void>().add(slot).read() };
        non_null(pointer)
    }

    /// Returns the integer in a slot.
    #[inline(always)]
    pub(crate) fn slot_integer(&self, slot: usize) -> u32 {
        // SAFETY: the verifier checks that the slot is one of the context's integers.
        unsafe { self.0.cast::<u64>().add(slot).cast::<u32>().read() }
    }

    /// Appends a row to what user space reads.
    ///
    /// If the row does not fit the kernel's buffer any more, the kernel removes it and runs the
    /// program again for the same element, so no row is lost.
    #[inline(always)]
    pub(crate) fn write_row<T: Pod>(&self, row: &T) {
        // SAFETY: the first slot leads to a `struct bpf_iter_meta`, of which `seq` is the first
        // member (`include/linux/bpf.h`). It is never null.
        let seq = unsafe { self.0.cast::<*const *mut seq_file>().read().read() };
        // SAFETY: the helper reads the row, all of whose bytes are initialised: a `Pod` has no
        // padding.
        unsafe { bpf_seq_write(seq, core::ptr::from_ref(row).cast(), size_of_row::<T>()) };
    }
}

/// Returns the size of a row in the type that the helper takes.
const fn size_of_row<T>() -> u32 {
    size_of::<T>() as u32 // a row has less than 512 bytes: it lies on the stack
}
