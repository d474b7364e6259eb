//! Numbers: exact, or in the width of a column.

use std::fmt::{Display, Write as _};

/// Drops the fraction of a number. A negative number becomes 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
pub(crate) const fn truncate(number: f64) -> u64 {
    number as u64
}

/// Appends a whole number.
pub(crate) fn write_number(line: &mut String, number: impl itoa::Integer) {
    line.push_str(itoa::Buffer::new().format(number));
}

/// Appends what `{:.1}` makes of a number below a thousand, but several times as fast.
pub(crate) fn write_tenths(line: &mut String, amount: f64, unit: &str) {
    let thousandths = truncate(amount * 1_000.0 + 0.5);
    // Halfway between two tenths, it takes every digit of the number to tell which one is nearer.
    if amount > 0.0 && thousandths % 100 != 50 {
        let nearest = (thousandths + 50) / 100;
        write_number(line, nearest / 10);
        line.push('.');
        write_number(line, nearest % 10);
    } else {
        let _infallible = write!(line, "{amount:.1}");
    }
    line.push_str(unit);
}

/// Formats a count with its noun: `1 socket`, `2 sockets`.
pub(crate) fn count_of<N: Copy + Display + From<u8> + PartialEq>(count: N, noun: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Appends a count in at most four columns: `9999`, `10k`, `999M`, `4G`.
pub(crate) fn write_count(line: &mut String, count: u32) {
    let _infallible = match count {
        0..10_000 => return write_number(line, count),
        10_000..1_000_000 => write!(line, "{}k", count / 1_000),
        1_000_000..1_000_000_000 => write!(line, "{}M", count / 1_000_000),
        _ => write!(line, "{}G", count / 1_000_000_000),
    };
}

/// Formats how many sockets a line stands for, in the width of a descriptor: `×412`, `×12k`,
/// `×3M`.
pub(crate) fn format_multiplier(count: usize) -> String {
    match count {
        0..10_000 => format!("×{count}"),
        10_000..1_000_000 => format!("×{}k", count / 1_000),
        _ => format!("×{}M", count / 1_000_000),
    }
}

/// Appends a number of bytes in at most five columns: `512B`, `1.5K`, `999K`, `1.0M`. A K is 1024
/// bytes.
pub(crate) fn write_bytes(line: &mut String, count: u64) {
    #[expect(clippy::cast_precision_loss, reason = "it is rounded to three digits")]
    let mut scaled = count as f64;
    let mut unit = 'B';
    for larger in ['K', 'M', 'G', 'T', 'P', 'E'] {
        if scaled < 1023.5 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, larger);
    }
    let _infallible = match unit {
        'B' => write!(line, "{count}B"),
        _ if scaled < 9.95 => write!(line, "{scaled:.1}{unit}"),
        _ => write!(line, "{scaled:.0}{unit}"),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenths_of(amount: f64) -> String {
        let mut line = String::new();
        write_tenths(&mut line, amount, "s");
        line
    }

    #[test]
    fn every_thousandth_is_rounded_as_format_does() {
        for thousandths in 0..100_000 {
            let amount = f64::from(thousandths) / 1_000.0;
            assert_eq!(tenths_of(amount), format!("{amount:.1}s"));
        }
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([0_u64, 1, 2].map(|count| count_of(count, "byte")), ["0 bytes", "1 byte", "2 bytes"]);
    }

    #[test]
    fn bytes_have_a_unit_and_five_columns() {
        for (count, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (10_188, "9.9K"),
            (10_189, "10K"),
            (1_048_063, "1023K"),
            (1_048_064, "1.0M"),
            (1_048_576, "1.0M"),
            (5 << 30, "5.0G"),
            (u64::MAX, "16E"),
        ] {
            let mut line = String::new();
            write_bytes(&mut line, count);
            assert_eq!(line, text, "{count}");
            assert!(text.len() <= 5);
        }
    }

    proptest! {
        #[test]
        fn numbers_next_to_a_half_are_rounded_as_format_does(amount in -1.0..1_000.0, twentieth in 0_u32..20_000) {
            let half = f64::from(twentieth) / 20.0;
            for amount in [amount, half, half.next_up(), half.next_down()] {
                prop_assert_eq!(tenths_of(amount), format!("{amount:.1}s"));
            }
        }
    }
}
