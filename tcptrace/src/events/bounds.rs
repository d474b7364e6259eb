//! How long a record can get. An unprivileged user chooses how many descriptors a socket has and
//! how long a path is, so lists and strings have a limit, and [`LONGEST_RECORD`] holds for every
//! record.

use std::borrow::Cow;

use serde::{Serialize as _, Serializer};

/// Owners that a list names at most.
pub const LISTED: usize = 16;

/// Bytes that a string has at most, before JSON escapes any of them.
pub const TEXT_BYTES: usize = 512;

/// Bytes that a line of JSON has at most, its end included. A test holds the largest record
/// against it.
pub const LONGEST_RECORD: usize = 1 << 20;

/// Stands for the rest of a text that was cut.
const CUT: &str = "…";

/// A text of at most [`TEXT_BYTES`]: a longer one is cut between two characters, and ends with
/// `…`.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_BYTES {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(TEXT_BYTES - CUT.len());
    Cow::Owned([&text[..end], CUT].concat())
}

/// Serializes a text with its limit.
pub(crate) fn text<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shortened(text))
}

/// Serializes a text that may be missing, with its limit.
#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
pub(crate) fn text_or_null<S: Serializer>(
    text: &Option<impl AsRef<str>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    text.as_ref().map(|text| shortened(text.as_ref())).serialize(serializer)
}

/// What a list of at most [`LISTED`] shows of many: for each item whether it is shown, in the
/// order of `items`.
///
/// The first of each group of equal keys comes before further ones, so that a process with
/// thousands of descriptors does not push out the others. `items` are in order of their keys. What
/// is left out is the same in every run.
pub(crate) fn listed<T, K: PartialEq>(items: &[T], key: impl Fn(&T) -> K) -> Vec<bool> {
    let is_first = |at: usize| at == 0 || key(&items[at - 1]) != key(&items[at]);
    let mut shown = vec![false; items.len()];
    let firsts = (0..items.len()).filter(|at| is_first(*at));
    let others = (0..items.len()).filter(|at| !is_first(*at));
    firsts.chain(others).take(LISTED).for_each(|at| shown[at] = true);
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let short = "x".repeat(TEXT_BYTES);
        assert_eq!(shortened(&short), short);
        assert_eq!(shortened(&format!("{short}x")), format!("{}…", "x".repeat(TEXT_BYTES - 3)));
        let wide = "é".repeat(300);
        assert_eq!(shortened(&wide), format!("{}…", "é".repeat(254)));
    }

    #[test]
    fn every_process_comes_before_a_second_descriptor() {
        let shown = |pids: &[u32]| -> Vec<usize> {
            let shown = listed(pids, |pid| *pid);
            (0..pids.len()).filter(|at| shown[*at]).collect()
        };
        assert_eq!(shown(&[]), [0_usize; 0]);
        assert_eq!(shown(&[1, 1, 2]), [0, 1, 2]);
        // 1 has a hundred descriptors, 2 and 3 have one each.
        let mut pids = vec![1; 100];
        pids.extend([2, 3]);
        assert_eq!(shown(&pids), (0..14).chain([100, 101]).collect::<Vec<_>>());
        let forty: Vec<u32> = (0..40).flat_map(|pid| [pid, pid]).collect();
        assert_eq!(shown(&forty), (0..16).map(|nth| 2 * nth).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn any_text_stays_within_its_limit(text in ".{0,700}") {
            let cut = shortened(&text);
            prop_assert!(cut.len() <= TEXT_BYTES);
            let rest = cut.strip_suffix(CUT).unwrap_or(&cut);
            prop_assert!(text.starts_with(rest));
        }
    }
}
