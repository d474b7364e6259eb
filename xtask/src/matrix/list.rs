//! Which kernels the tests run under and in which guests, and which of an archive's packages such a kernel is. Data
//! and choice only; `archive.rs` asks the archives, `cache.rs` keeps what was chosen.

use std::{cmp::Ordering, collections::BTreeSet};

use anyhow::{Result, bail};

/// Which of Debian's archives a suite is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Archive {
    /// Releases and backports.
    Main,
    /// Security updates.
    Security,
}

/// A kernel of the matrix: the newest of its line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// What it is called here.
    pub(crate) label: &'static str,
    /// How its versions begin, as the packages' names have them.
    pub(crate) line: &'static str,
    /// Where its packages are.
    pub(crate) archive: Archive,
    /// The suite of that archive.
    pub(crate) suite: &'static str,
    /// Debian no longer supports the suite: nothing renews the date up to which its index is valid.
    pub(crate) past_support: bool,
    /// That it cannot be had fails no run. Never so by default: a matrix that shrinks unseen tests nothing.
    pub(crate) may_miss: bool,
}

/// A guest of the matrix: a kernel, and the way in which the tracer is tested there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    /// What it is called on the command line and in the summary.
    pub(crate) label: &'static str,
    /// The kernel it boots.
    pub(crate) kernel: Kernel,
    /// Features that the tracer has to do without there, as its option `--without` names them.
    pub(crate) without: Option<&'static str>,
}

/// All kernels.
pub(crate) const KERNELS: [Kernel; 5] = [
    Kernel { past_support: true, ..supported("5.10", "5.10.0-", Archive::Security, "bullseye-security") },
    supported("6.1", "6.1.0-", Archive::Security, "bookworm-security"),
    supported("6.12", "6.12.", Archive::Security, "bookworm-security"),
    supported("6.18", "6.18.", Archive::Main, "trixie-backports"),
    supported("7.x", "7.", Archive::Main, "trixie-backports"),
];

/// All guests. Every kernel as it is, and what a kernel without BTF leaves to the tracer, on one that does not count what
/// it skips.
pub(crate) const GUESTS: [Guest; 6] = [
    as_it_is(KERNELS[0]),
    as_it_is(KERNELS[1]),
    as_it_is(KERNELS[2]),
    as_it_is(KERNELS[3]),
    as_it_is(KERNELS[4]),
    Guest { label: "6.1-nobtf", without: Some("btf"), ..as_it_is(KERNELS[1]) },
];

/// Test programs that do not run in guests, each with the reason. What they test is the program's own work on text, files
/// and arguments, which no kernel version changes; this machine's kernel runs them once.
pub(crate) const HOST_ONLY: [(&str, &str); 12] = [
    ("alerts", "rules, and promtool, which guests do not have"),
    ("command_line", "arguments, signals and pipes"),
    ("contract", "documents against definitions"),
    ("filters", "a choice among finished facts"),
    ("hostile", "names on a terminal and in JSON"),
    ("json_stream", "the form of the stream"),
    ("metrics", "HTTP, and figures that other tests see as records"),
    ("output", "files, signals and readers that go"),
    ("pipelines", "tools that guests do not have"),
    ("pipelines_sql", "tools that guests do not have"),
    ("tests", "the unit tests of the package itself"),
    ("text", "columns on a terminal"),
];

/// The flavour for virtual machines: small, and all that BPF needs is in it.
const FLAVOUR: &str = "-cloud-amd64";
/// The variable that names the kernels that may be missing, separated by commas.
pub(crate) const MAY_MISS_VARIABLE: &str = "TCPTRACE_KERNELS_MAY_MISS";

const fn supported(label: &'static str, line: &'static str, archive: Archive, suite: &'static str) -> Kernel {
    Kernel { label, line, archive, suite, past_support: false, may_miss: false }
}

const fn as_it_is(kernel: Kernel) -> Guest {
    Guest { label: kernel.label, kernel, without: None }
}

/// The programs among `names` that run in guests: all of them where the user asks for tests by `arguments`.
///
/// # Errors
/// A name in [`HOST_ONLY`] belongs to no program: the list would hide nothing, or the wrong thing.
pub(crate) fn guest_programs<'a>(names: &[&'a str], arguments: &[String]) -> Result<Vec<&'a str>> {
    if let Some((unknown, _)) = HOST_ONLY.iter().find(|(name, _)| !names.contains(name)) {
        bail!("HOST_ONLY in xtask/src/matrix/list.rs names the test program {unknown}, which does not exist");
    }
    let is_host_only = |name: &&str| HOST_ONLY.iter().any(|(host_only, _)| host_only == name);
    Ok(names.iter().copied().filter(|name| !arguments.is_empty() || !is_host_only(name)).collect())
}

/// The guests of these labels, in the order of the list; all of them if there is no label.
///
/// `may_miss` is the value of [`MAY_MISS_VARIABLE`].
pub(crate) fn select(labels: &[String], may_miss: &str) -> Result<Vec<Guest>> {
    let may_miss: Vec<_> =
        may_miss.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned).collect();
    check(labels, &GUESTS.map(|guest| guest.label))?;
    check(&may_miss, &KERNELS.map(|kernel| kernel.label))?;
    let is_named = |list: &[String], wanted: &str| list.iter().any(|label| label == wanted);
    let selected = GUESTS.into_iter().filter(|guest| labels.is_empty() || is_named(labels, guest.label));
    Ok(selected
        .map(|guest| {
            let may_miss = guest.kernel.may_miss || is_named(&may_miss, guest.kernel.label);
            Guest { kernel: Kernel { may_miss, ..guest.kernel }, ..guest }
        })
        .collect())
}

fn check(labels: &[String], known: &[&str]) -> Result<()> {
    match labels.iter().find(|label| !known.contains(&label.as_str())) {
        Some(label) => bail!("no kernel {label} in the matrix; there are {}", known.join(", ")),
        None => Ok(()),
    }
}

/// A kernel that an archive has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its version, as its packages' names have it: `uname -r` without the flavour.
    pub(crate) version: String,
    /// The packages that hold kernel and modules.
    pub(crate) packages: Vec<String>,
}

/// The kernels among an archive's packages.
pub(crate) fn candidates(names: &BTreeSet<String>) -> Vec<Candidate> {
    let version = |name: &str, prefix| {
        let version = name.strip_prefix(prefix)?.strip_suffix(FLAVOUR)?;
        version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
    };
    let mut found = Vec::new();
    for name in names {
        // From 7.2 on the modules have a package of their own. Of some kernels Debian publishes no modules.
        if let Some(version) = version(name, "linux-binary-") {
            let modules = format!("linux-modules-{version}{FLAVOUR}");
            if names.contains(&modules) {
                found.push(Candidate { version, packages: vec![name.clone(), modules] });
            }
        } else if let Some(version) = version(name, "linux-image-")
            && !names.contains(&format!("linux-binary-{version}{FLAVOUR}"))
        {
            found.push(Candidate { version, packages: vec![name.clone()] });
        }
    }
    found
}

/// The newest candidate of a kernel's line.
pub(crate) fn choose(kernel: &Kernel, mut candidates: Vec<Candidate>) -> Result<Candidate> {
    candidates.sort_by(|one, other| compare(&one.version, &other.version));
    if let Some(at) = candidates.iter().rposition(|candidate| candidate.version.starts_with(kernel.line)) {
        return Ok(candidates.swap_remove(at));
    }
    let above =
        candidates.iter().position(|candidate| compare(&candidate.version, kernel.line) == Ordering::Greater);
    let nearest = match above {
        Some(above) => candidates.get(above.saturating_sub(1)),
        None => candidates.last(),
    };
    let nearest = nearest.map_or_else(
        || "it has no kernels at all".to_owned(),
        |nearest| format!("the nearest it has is {}", nearest.version),
    );
    bail!(
        "the suite {} no longer has a kernel {}*{FLAVOUR}; {nearest}. Change its entry in xtask/src/matrix/list.rs",
        kernel.suite,
        kernel.line
    )
}

/// Compares versions: runs of digits as numbers, the rest as text.
pub(crate) fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    while !one.is_empty() && !other.is_empty() {
        let (text, one_rest) = split(one, |character| !character.is_ascii_digit());
        let (other_text, other_rest) = split(other, |character| !character.is_ascii_digit());
        let (number, one_rest) = split(one_rest, |character| character.is_ascii_digit());
        let (other_number, other_rest) = split(other_rest, |character| character.is_ascii_digit());
        let value = |digits: &str| digits.parse::<u64>().unwrap_or(0);
        let order = text.cmp(other_text).then(value(number).cmp(&value(other_number)));
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (one_rest, other_rest);
    }
    one.len().cmp(&other.len())
}

fn split(text: &str, is_in: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|character| !is_in(character)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn versions(list: &[&str]) -> Vec<Candidate> {
        list.iter().map(|&version| Candidate { version: version.into(), packages: Vec::new() }).collect()
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let sorted = ["5.10.0-9", "5.10.0-46", "6.1.0-56", "6.12.95+deb12", "6.12.117+deb12", "7.3.4+deb13"];
        assert!(sorted.is_sorted_by(|one, other| compare(one, other) == Ordering::Less));
        assert_eq!(compare("6.1.0-56", "6.1.0-56"), Ordering::Equal);
        assert_eq!(compare("6.1", "6.1.0"), Ordering::Less);
    }

    #[test]
    fn both_layouts_of_packages_are_understood() {
        let list = names(&[
            "linux-binary-7.1.3+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-image-6.18.15+deb13-amd64",
            "linux-image-6.18.15+deb13-cloud-amd64",
            "linux-image-6.18.15+deb13-cloud-amd64-unsigned",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
        ]);
        let found: Vec<_> =
            candidates(&list).into_iter().map(|found| (found.version, found.packages.len())).collect();
        assert_eq!(found, [("7.3.4+deb13".to_owned(), 2), ("6.18.15+deb13".to_owned(), 1)]);
    }

    #[test]
    fn the_newest_of_the_line_is_chosen() -> Result<()> {
        let list = versions(&["6.1.0-56", "6.12.95+deb12", "6.12.117+deb12", "6.1.0-9"]);
        assert_eq!(choose(&KERNELS[2], list)?.version, "6.12.117+deb12");
        let list = versions(&["6.1.0-56", "6.12.95+deb12", "6.1.0-9"]);
        assert_eq!(choose(&KERNELS[1], list)?.version, "6.1.0-56");
        Ok(())
    }

    #[test]
    fn of_a_line_that_is_gone_the_nearest_is_named() {
        let message = |list: &[&str]| {
            choose(&KERNELS[3], versions(list)).map_or_else(|error| error.to_string(), |found| found.version)
        };
        let expected = "no longer has a kernel 6.18.*-cloud-amd64; the nearest it has is 6.17.13";
        assert!(message(&["7.2.6", "6.17.13", "6.16.3"]).contains(expected));
        assert!(message(&["7.2.6"]).contains("the nearest it has is 7.2.6"));
        assert!(message(&["6.1"]).contains("the nearest it has is 6.1"));
        assert!(message(&[]).contains("no kernels at all"));
    }

    #[test]
    fn guests_are_selected_by_label() -> Result<()> {
        let labels = |selected: Vec<Guest>| selected.iter().map(|guest| guest.label).collect::<Vec<_>>();
        assert_eq!(labels(select(&[], "")?).len(), GUESTS.len());
        assert_eq!(labels(select(&["6.1-nobtf".into()], "")?), ["6.1-nobtf"]);
        assert_eq!(labels(select(&["6.12".into(), "5.10".into()], "")?), ["5.10", "6.12"]);
        assert!(select(&["4.19".into()], "").is_err_and(|error| error.to_string().contains("5.10, 6.1,")));
        Ok(())
    }

    #[test]
    fn only_what_is_named_may_be_missing() -> Result<()> {
        assert!(select(&[], "")?.iter().all(|guest| !guest.kernel.may_miss));
        let selected = select(&[], "5.10, 7.x")?;
        let may_miss = selected.iter().filter(|guest| guest.kernel.may_miss).map(|guest| guest.label);
        assert_eq!(may_miss.collect::<Vec<_>>(), ["5.10", "7.x"]);
        assert!(select(&[], "5.9").is_err());
        Ok(())
    }

    #[test]
    fn what_no_kernel_changes_runs_on_the_host_alone() -> Result<()> {
        let names: Vec<_> = HOST_ONLY.iter().map(|(name, _)| *name).chain(["stuck", "loss"]).collect();
        assert_eq!(guest_programs(&names, &[])?, ["stuck", "loss"]);
        assert_eq!(
            guest_programs(&names, &["colour".into()])?,
            names,
            "who asks for tests by name gets them"
        );
        assert!(
            guest_programs(&["stuck"], &[]).is_err_and(|error| error.to_string().contains(HOST_ONLY[0].0))
        );
        Ok(())
    }
}
