//! The text of a second, kept while it lasts: most lines are of the same one as the line before, and a calendar is slow.

use jiff::Timestamp;

use super::record::Instant;

const SECOND_NS: i64 = 1_000_000_000;

/// The last second that was asked for, and its text.
#[derive(Debug, Default)]
pub(super) struct Second {
    since_1970: Option<i64>,
    text: String,
}

impl Second {
    /// The text of the second that an instant is in, as `format` makes it of any instant in it, and the nanoseconds from
    /// its beginning. All that `format` makes of an instant has to be the same until the next second begins; time zones
    /// change at the beginning of one.
    pub(super) fn of(&mut self, at: Instant, format: impl FnOnce(Timestamp) -> String) -> (&str, u32) {
        // 64 bits reach to the year 2262, and are divided much faster.
        let (second, nanosecond) = match i64::try_from(at.wall_ns) {
            Ok(ns) => (ns.div_euclid(SECOND_NS), ns.rem_euclid(SECOND_NS)),
            Err(_) => {
                let (ns, second_ns) = (at.timestamp().as_nanosecond(), i128::from(SECOND_NS));
                (ns.div_euclid(second_ns) as i64, ns.rem_euclid(second_ns) as i64)
            }
        };
        if self.since_1970 != Some(second) {
            (self.since_1970, self.text) = (Some(second), format(at.timestamp()));
        }
        (&self.text, nanosecond as u32)
    }
}

/// The first digits of the fraction of a second.
pub(super) fn fraction<const DIGITS: usize>(nanosecond: u32) -> [u8; DIGITS] {
    let mut rest = nanosecond / 10_u32.pow(9 - DIGITS as u32);
    let mut digits = [0; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}
