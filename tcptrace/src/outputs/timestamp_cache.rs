//! The text of a second, kept while it lasts: most lines are of the same one as the line before,
//! and a calendar is slow.

use jiff::Timestamp;

use crate::events::Instant;

const SECOND_NS: i128 = 1_000_000_000;

/// The last second that was asked for, and its text.
#[derive(Debug, Default)]
pub(crate) struct SecondCache {
    /// When it began, nanoseconds since 1970.
    began_ns: Option<i128>,
    text: String,
}

impl SecondCache {
    /// The text of the second that an instant is in, as `format` makes it of any instant in it, and
    /// the nanoseconds from its beginning. All that `format` makes of an instant has to be the same
    /// until the next second begins; time zones change at the beginning of one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within a second")]
    pub(crate) fn format_second(
        &mut self,
        at: Instant,
        format: impl FnOnce(Timestamp) -> String,
    ) -> (&str, u32) {
        let is_within = |ns: &i128| (0..SECOND_NS).contains(ns);
        let since_then = self.began_ns.and_then(|began| at.wall_ns.checked_sub(began));
        if let Some(nanosecond) = since_then.filter(is_within) {
            return (&self.text, nanosecond as u32);
        }
        let timestamp = at.timestamp();
        let nanosecond = timestamp.as_nanosecond().rem_euclid(SECOND_NS);
        (self.began_ns, self.text) = (Some(timestamp.as_nanosecond() - nanosecond), format(timestamp));
        (&self.text, nanosecond as u32)
    }
}

/// The digits of a number that has no more than so many, nine at the most, behind as many zeros as
/// it has fewer.
#[expect(clippy::cast_possible_truncation, reason = "nine at the most")]
pub(crate) fn pad_number<const DIGITS: usize>(number: u32) -> [u8; DIGITS] {
    // With a one before them, no zeros are left out.
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(10_u32.pow(DIGITS as u32) + number).as_bytes();
    digits.last_chunk().copied().unwrap_or([b'0'; DIGITS])
}
