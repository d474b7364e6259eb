//! The boundary between the BPF programs and user space: records, configuration and names.
//!
//! Every type here is plain data: integers and byte arrays, `repr(C)`, of an asserted size, without
//! implicit padding (`bytemuck::Pod` refuses a type that has any). Both sides are built from these
//! files. Numbers are in host byte order, addresses in network order.

#![no_std]

mod config;
mod flags;
pub mod names;
mod records;
pub mod state;

pub use config::{ABSENT, BpfConfig, EventLayout, KernelLayout, interest_bit};
pub use flags::{Bool32, OpenerFlags, RowFlags, TransitionFlags};
pub use records::{
    ClosingRecord, Counters, Descriptor, OpenCall, OpenerRecord, SocketRow, Task, TransitionRecord, Tuple,
    UNCOUNTED, WalkFilter,
};

/// The address family of IPv4 (`include/linux/socket.h`).
pub const AF_INET: u16 = 2;
/// The address family of IPv6 (`include/linux/socket.h`).
pub const AF_INET6: u16 = 10;

/// The length of a task's name with its terminating NUL (`TASK_COMM_LEN`, `include/linux/sched.h`).
pub const COMM_LEN: usize = 16;

/// Indices of the map [`names::maps::EVENT_COUNTS`].
pub mod event_count {
    /// The number of transitions that the program at the event has seen.
    pub const SEEN: u32 = 0;
    /// The number of transitions that have happened. It grows after [`SEEN`] for each transition.
    pub const HAPPENED: u32 = 1;
}

/// Maps an IPv4 address to `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), because records hold only IPv6
/// addresses.
#[inline(always)]
pub const fn v4_mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// Maps an IPv4 address that was loaded as one word to the two words of [`v4_mapped`].
#[inline(always)]
pub const fn v4_mapped_words(v4: u32) -> [u64; 2] {
    let v4 = v4 as u64; // lossless: `u64::from` is not const
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
