//! The configuration: a read-only global that user space fills in before it loads the programs.

use tcptrace_common::BpfConfig;

/// The configuration. The loader replaces the values of the object file, and nothing changes them
/// after that.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: BpfConfig = BpfConfig::UNSET;

/// Reads one value of [`CONFIG`].
///
/// The read is volatile, so that the compiler does not fold the zeros of the object file into the
/// code. To the verifier the value is still a constant, because the map behind it is frozen.
#[inline(always)]
pub(crate) fn read_constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is aligned and points to an initialised `T`, and `T` is `Copy`.
    unsafe { core::ptr::read_volatile(value) }
}

/// Reads the field of this path in [`CONFIG`].
macro_rules! config {
    ($($field:ident).+) => {
        $crate::config::read_constant(&$crate::config::CONFIG.$($field).+)
    };
}

pub(crate) use config;
