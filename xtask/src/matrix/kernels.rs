//! Which kernels and guests there are, and which test programs run in guests.
//!
//! Data and choice only: `cache.rs` fetches what was chosen.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};

use crate::version::version_key;

/// One of Debian's archives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Archive {
    /// What its addresses end with.
    pub(super) directory: &'static str,
    /// The variable with which a user gives its address.
    pub(super) variable: &'static str,
}

/// The archive of releases and backports.
const MAIN: Archive = Archive { directory: "debian", variable: "TCPTRACE_DEBIAN_MIRROR" };
/// The archive of security updates.
const SECURITY: Archive =
    Archive { directory: "debian-security", variable: "TCPTRACE_DEBIAN_SECURITY_MIRROR" };

/// A kernel of the matrix: the newest of its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    pub(super) label: &'static str,
    /// How its versions begin, as the packages' names have them.
    pub(super) line: &'static str,
    /// Where its packages are.
    pub(super) archive: Archive,
    pub(super) suite: &'static str,
    /// Debian no longer supports the suite: nothing renews the date up to which its index is
    /// valid.
    pub(super) is_past_support: bool,
}

/// A guest of the matrix: a kernel, and the way in which the tracer is tested there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    /// What it is called on the command line and in the summary.
    pub(super) label: &'static str,
    pub(super) kernel: Kernel,
    /// Features that the tracer has to do without there, as its option `--without` names them.
    pub(super) without: Option<&'static str>,
}

const V5_10: Kernel =
    Kernel { is_past_support: true, ..Kernel::new("5.10", "5.10.0-", SECURITY, "bullseye-security") };
const V6_1: Kernel = Kernel::new("6.1", "6.1.0-", SECURITY, "bookworm-security");
const V6_12: Kernel = Kernel::new("6.12", "6.12.", SECURITY, "bookworm-security");
const V6_18: Kernel = Kernel::new("6.18", "6.18.", MAIN, "trixie-backports");
const V7: Kernel = Kernel::new("7.x", "7.", MAIN, "trixie-backports");

/// All guests: each kernel as it is, and one that has BTF with the tracer doing without.
pub(super) const GUESTS: [Guest; 6] = [
    Guest::new(V5_10),
    Guest::new(V6_1),
    Guest::new(V6_12),
    Guest::new(V6_18),
    Guest::new(V7),
    // A kernel that does not count the program runs that it skips.
    Guest { label: "6.1-nobtf", without: Some("btf"), ..Guest::new(V6_1) },
];

/// Test programs that do not run in guests, and why no kernel version changes what they test.
const HOST_ONLY: [(&str, &str); 12] = [
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

/// The flavour for virtual machines: small, with all that BPF needs.
const FLAVOUR: &str = "-cloud-amd64";

impl Kernel {
    const fn new(label: &'static str, line: &'static str, archive: Archive, suite: &'static str) -> Self {
        Self { label, line, archive, suite, is_past_support: false }
    }

    /// The newest kernel of this line among package names: its version, and the packages that hold
    /// kernel and modules.
    pub(super) fn choose(&self, packages: &BTreeSet<String>) -> Result<(String, Vec<String>)> {
        let package = |prefix: &str, version: &str| format!("{prefix}{version}{FLAVOUR}");
        let versions = packages.iter().filter_map(|name| {
            let name = name.strip_prefix("linux-image-").or_else(|| name.strip_prefix("linux-binary-"))?;
            name.strip_suffix(FLAVOUR).filter(|version| version.starts_with(self.line))
        });
        let kernels = versions.map(|version| {
            // From 7.2 on kernel and modules have packages of their own. Of some kernels Debian
            // publishes no modules.
            let binary = package("linux-binary-", version);
            let names = if packages.contains(&binary) {
                vec![binary, package("linux-modules-", version)]
            } else {
                vec![package("linux-image-", version)]
            };
            (version.to_owned(), names)
        });
        let complete = kernels.filter(|(_, names)| names.iter().all(|name| packages.contains(name)));
        complete.max_by_key(|(version, _)| version_key(version)).with_context(|| {
            format!(
                "the suite {} has no kernel {}*{FLAVOUR}: look for another one, and change the entry in \
                 xtask/src/matrix/kernels.rs",
                self.suite, self.line
            )
        })
    }
}

impl Guest {
    const fn new(kernel: Kernel) -> Self {
        Self { label: kernel.label, kernel, without: None }
    }
}

/// The programs among `names` that run in guests: all of them if the user selects tests by
/// `arguments`.
///
/// # Errors
/// A name in [`HOST_ONLY`] belongs to no program: the list would hide nothing, or the wrong thing.
pub(super) fn guest_programs<'a>(names: &[&'a str], arguments: &[String]) -> Result<Vec<&'a str>> {
    if let Some((unknown, _)) = HOST_ONLY.iter().find(|(name, _)| !names.contains(name)) {
        bail!(
            "HOST_ONLY in xtask/src/matrix/kernels.rs names the test program {unknown}, which does not exist"
        );
    }
    let is_host_only = |name: &str| HOST_ONLY.iter().any(|(host_only, _)| *host_only == name);
    Ok(names.iter().copied().filter(|name| !arguments.is_empty() || !is_host_only(name)).collect())
}

/// The guests of these labels, in the order of the list; all of them if there is no label.
pub(super) fn select_guests(labels: &[String]) -> Result<Vec<Guest>> {
    for label in labels {
        ensure!(
            GUESTS.iter().any(|guest| guest.label == label),
            "no kernel {label} in the matrix; there are {}",
            GUESTS.map(|guest| guest.label).join(", ")
        );
    }
    let is_selected = |guest: &Guest| labels.is_empty() || labels.iter().any(|label| label == guest.label);
    Ok(GUESTS.into_iter().filter(is_selected).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_complete_kernel_of_the_line_is_chosen() -> Result<()> {
        let packages = [
            "linux-binary-7.1.3+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.9.9+deb13-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.118+deb12-amd64",
            "linux-image-6.12.118+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.95+deb12-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-image-7.9.9+deb13-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-modules-7.1.3+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
        ];
        let packages = packages.map(str::to_owned).into();
        assert_eq!(V6_1.choose(&packages)?.0, "6.1.0-56");
        assert_eq!(V6_12.choose(&packages)?.0, "6.12.117+deb12");
        let (version, names) = V7.choose(&packages)?;
        assert_eq!((version.as_str(), names.len()), ("7.3.4+deb13", 2));
        assert!(V6_18.choose(&packages).is_err_and(|error| error.to_string().contains("no kernel 6.18.*")));
        Ok(())
    }

    #[test]
    fn guests_are_selected_by_label() -> Result<()> {
        let select = |labels: &[&str]| {
            let labels: Vec<_> = labels.iter().map(|&label| label.to_owned()).collect();
            Ok::<_, anyhow::Error>(
                select_guests(&labels)?.iter().map(|guest| guest.label).collect::<Vec<_>>(),
            )
        };
        assert_eq!(select(&[])?.len(), GUESTS.len());
        assert_eq!(select(&["6.12", "5.10"])?, ["5.10", "6.12"]);
        assert!(select(&["4.19"]).is_err_and(|error| error.to_string().contains("5.10, 6.1,")));
        Ok(())
    }

    #[test]
    fn what_no_kernel_changes_runs_on_the_host_alone() -> Result<()> {
        let names: Vec<_> = HOST_ONLY.iter().map(|(name, _)| *name).chain(["stuck", "loss"]).collect();
        assert_eq!(guest_programs(&names, &[])?, ["stuck", "loss"]);
        assert_eq!(guest_programs(&names, &["colour".into()])?, names, "tests selected by name all run");
        let unknown = guest_programs(&["stuck"], &[]).map_err(|error| error.to_string());
        assert!(unknown.is_err_and(|error| error.contains(HOST_ONLY[0].0)));
        Ok(())
    }
}
