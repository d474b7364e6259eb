//! Compares versions of packages and compilers.

/// The numbers in a version, by which versions are compared.
pub(crate) fn version_key(version: &str) -> Vec<u64> {
    let numbers = version.split(|character: char| !character.is_ascii_digit());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let sorted =
            ["5.10.0-9", "5.10.0-46", "6.1", "6.1.0-56", "6.12.95+deb12", "6.12.117+deb12", "7.3.4+deb13"];
        assert!(sorted.is_sorted_by_key(|version| version_key(version)));
    }
}
