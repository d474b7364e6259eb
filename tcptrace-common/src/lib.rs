//! What crosses the boundary between the BPF programs and user space, and nothing else.
//!
//! Every type here is plain: integers and byte arrays, `repr(C)`, no implicit padding (`bytemuck::Pod`
//! refuses a type that has any) and a size pinned below. Both sides are built from this one file. Numbers
//! are in host byte order, addresses in network order.

#![no_std]

mod config;
mod records;
pub mod state;

pub use config::{ABSENT, Config, EventLayout, KernelLayout, step_bit};
pub use records::{
    ABORTED, ACCEPTED, ACTOR_KNOWN, COMPLETED, CONNECTED, Closing, Counters, Descriptor, EXITING, HAPPENED,
    HAS_FILE, HAS_ORIGIN, HAS_SEQUENCES, IN_ACCEPT_QUEUE, LISTENED, ORIGIN_KNOWN, Origin, PROCESS_NAMED,
    REPLACED, SEEN, STAND_IN, SocketRow, TAKEN_OVER, Task, Transition, Tuple, UNCOUNTED, UNKNOWN_ORIGIN,
    Wanted, is_of, opening,
};

/// Address families as the kernel numbers them (`include/linux/socket.h`).
pub const AF_INET: u16 = 2;
/// See [`AF_INET`].
pub const AF_INET6: u16 = 10;

/// Length of a task's name with its terminating NUL (`TASK_COMM_LEN`, `include/linux/sched.h`).
pub const COMM_LEN: usize = 16;

/// `::ffff:a.b.c.d` from the four bytes of an IPv4 address: the one form in which addresses cross the
/// boundary (RFC 4291, 2.5.5.2).
#[inline(always)]
pub const fn v4_mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// The same in two words of memory, from the four bytes as a word of memory.
#[inline(always)]
pub const fn v4_mapped_words(v4: u32) -> [u64; 2] {
    let v4 = v4 as u64;
    [0, if cfg!(target_endian = "little") { v4 << 32 | 0xffff_0000 } else { 0xffff << 32 | v4 }]
}

#[cfg(test)]
mod tests {
    use super::{v4_mapped, v4_mapped_words};

    #[test]
    fn an_address_in_words_is_the_one_in_bytes() {
        let address = [192, 0, 2, 7];
        let words = v4_mapped_words(u32::from_ne_bytes(address));
        assert_eq!(bytemuck::cast::<_, [u8; 16]>(words), v4_mapped(address));
    }
}
