//! Tests of `plan.rs`: machines as they are met, and what each of them lacks.

use std::collections::BTreeSet;

use super::*;
use crate::facts::{Apt, Linker, Named};

const DEBIAN_RUSTC: Compiler = Compiler { llvm: 22, builds_core: false, has_core: true };
const BARE_RUSTC: Compiler = Compiler { llvm: 22, builds_core: false, has_core: false };

fn nightly(llvm: u32) -> Compiler {
    Compiler { llvm, builds_core: true, has_core: false }
}

fn linker(llvm: Option<u32>) -> Option<Linker> {
    Some(Linker { path: "/home/me/.cargo/bin/bpf-linker".into(), llvm })
}

/// A fresh Debian with rustup's stable.
fn fresh_debian() -> Facts {
    Facts {
        rustup: Some(Rustup { cargo_for_linked: true, ..Rustup::default() }),
        apt: Some(Apt { installed: BTreeSet::from(["zlib1g-dev".into()]), offers_compiler: true }),
        cc: true,
        rsyslog: true,
        promtool: true,
        duckdb: true,
        ..Facts::default()
    }
}

/// A machine without apt that lacks nothing.
fn complete(compiler: Compiler) -> Facts {
    Facts {
        rustup: Some(Rustup { nightly: Some(compiler), ..Rustup::default() }),
        linker: linker(Some(compiler.llvm)),
        cc: true,
        test_tools: true,
        rsyslog: true,
        promtool: true,
        duckdb: true,
        guest_tools: true,
        ..Facts::default()
    }
}

fn names(step: &Step) -> Vec<&str> {
    match step {
        Step::Packages(packages) => packages.iter().map(|(name, _)| name.as_str()).collect(),
        _ => Vec::new(),
    }
}

fn advice(facts: &Facts, failed: &[Step]) -> String {
    plan(facts, failed, Scope::Test).map_or_else(|error| format!("{error:#}"), |plan| format!("{plan:?}"))
}

#[test]
fn a_fresh_debian_gets_its_own_compiler() -> Result<()> {
    let plan = plan(&fresh_debian(), &[], Scope::Test)?;
    assert_eq!(plan.way, Way::Linked);
    let expected = [
        "rustc-web",
        "libstd-rust-web-dev-bpf",
        "llvm-22-dev",
        "libpolly-22-dev",
        "libzstd-dev",
        "iproute2",
        "jq",
        "systemd",
    ];
    assert_eq!(names(&plan.steps[0]), expected);
    assert_eq!(plan.steps[1..], [Step::Link, Step::Linker(debian_llvm(22))]);
    Ok(())
}

#[test]
fn a_toolchain_rustup_cannot_lend_from_needs_a_cargo() -> Result<()> {
    let mut facts = fresh_debian();
    facts.rustup = Some(Rustup::default());
    assert!(names(&plan(&facts, &[], Scope::Test)?.steps[0]).contains(&"cargo-web"));
    Ok(())
}

#[test]
fn building_needs_no_test_tools() -> Result<()> {
    assert!(!names(&plan(&fresh_debian(), &[], Scope::Build)?.steps[0]).contains(&"iproute2"));
    Ok(())
}

#[test]
fn what_only_tests_run_is_fetched_for_them_and_not_installed() -> Result<()> {
    let mut facts = complete(nightly(22));
    (facts.rsyslog, facts.promtool, facts.duckdb) = (false, false, false);
    facts.apt = Some(Apt { installed: BTreeSet::from(["rsyslog".into()]), offers_compiler: false });
    let steps = plan(&facts, &[], Scope::Test)?.steps;
    assert_eq!(names(&steps[0]), ["python3-pip"]);
    let Step::Rsyslog(packages) = &steps[1] else { panic!("{steps:?}") };
    let packages: Vec<_> = packages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(packages, ["rsyslog", "libestr0", "libfastjson4", "liblognorm5"]);
    let Step::Promtool(packages) = &steps[2] else { panic!("{steps:?}") };
    assert_eq!(packages.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["prometheus"]);
    assert_eq!(steps[3..], [Step::DuckDb]);
    facts.pip = true;
    assert_eq!(plan(&facts, &[], Scope::Test)?.steps, steps[1..]);
    assert_eq!(plan(&facts, &[], Scope::Build)?.steps, []);
    facts.apt = None;
    assert!(advice(&facts, &[]).contains("rsyslog (docs/pipelines.md"));
    Ok(())
}

#[test]
fn only_guests_need_what_boots_them() -> Result<()> {
    let has_qemu = |scope| -> Result<bool> {
        let plan = plan(&fresh_debian(), &[], scope)?;
        Ok(names(&plan.steps[0]).contains(&"qemu-system-x86"))
    };
    assert!(!has_qemu(Scope::Test)?);
    assert!(has_qemu(Scope::Guests)?);
    assert!(plan(&complete(nightly(22)), &[], Scope::Guests)?.steps.is_empty());
    Ok(())
}

#[test]
fn a_complete_machine_needs_nothing() -> Result<()> {
    let plan_of = |facts: &Facts| plan(facts, &[], Scope::Test).map(|plan| (plan.way, plan.steps));
    assert_eq!(plan_of(&complete(nightly(22)))?, (Way::Nightly, Vec::new()));

    let mut linked = complete(BARE_RUSTC);
    linked.rustup =
        Some(Rustup { nightly: Some(BARE_RUSTC), linked: Some(DEBIAN_RUSTC), cargo_for_linked: true });
    assert_eq!(plan_of(&linked)?, (Way::Linked, Vec::new()));

    let mut alone = complete(BARE_RUSTC);
    (alone.rustup, alone.path_rustc) = (None, Some(DEBIAN_RUSTC));
    assert_eq!(plan_of(&alone)?, (Way::Path, Vec::new()));
    Ok(())
}

#[test]
fn nightly_with_sources_comes_first() -> Result<()> {
    let mut facts = complete(nightly(22));
    facts.rustup =
        Some(Rustup { nightly: Some(nightly(22)), linked: Some(DEBIAN_RUSTC), cargo_for_linked: true });
    assert_eq!(plan(&facts, &[], Scope::Test)?.way, Way::Nightly);
    Ok(())
}

#[test]
fn a_nightly_without_sources_is_left_for_what_debian_has() -> Result<()> {
    let mut facts = fresh_debian();
    facts.rustup = Some(Rustup { nightly: Some(BARE_RUSTC), linked: None, cargo_for_linked: true });
    let plan = plan(&facts, &[], Scope::Test)?;
    assert_eq!(plan.way, Way::Linked);
    assert!(plan.steps.contains(&Step::Link));
    Ok(())
}

#[test]
fn without_an_offer_of_apt_a_nightly_is_completed_or_given_up() -> Result<()> {
    let mut facts = complete(BARE_RUSTC);
    facts.rustup = Some(Rustup { nightly: Some(BARE_RUSTC), ..Rustup::default() });
    let first = plan(&facts, &[], Scope::Test)?;
    assert_eq!((first.way, &first.steps[..]), (Way::Nightly, &[Step::RustSource][..]));
    let advice = advice(&facts, &[Step::RustSource]);
    assert!(advice.contains("rustup toolchain install nightly --component rust-src"), "{advice}");
    Ok(())
}

#[test]
fn without_an_offer_of_apt_nightly_is_installed() -> Result<()> {
    let mut facts = complete(BARE_RUSTC);
    facts.rustup = Some(Rustup::default());
    assert_eq!(plan(&facts, &[], Scope::Test)?.steps, [Step::Nightly]);
    let advice = advice(&facts, &[Step::Nightly]);
    assert!(advice.contains("rustup toolchain install nightly --component rust-src"), "{advice}");
    Ok(())
}

#[test]
fn nothing_to_install_from_is_an_error_that_helps() {
    let advice = advice(&Facts { cc: true, test_tools: true, ..Facts::default() }, &[]);
    assert!(advice.contains("Install rustup"), "{advice}");
}

#[test]
fn a_toolchain_that_is_named_is_used_or_refused() -> Result<()> {
    let mut facts = complete(nightly(22));
    facts.named = Some(Named { name: "mine".into(), rustc: Some(DEBIAN_RUSTC) });
    assert_eq!(plan(&facts, &[], Scope::Test)?.way, Way::Named);
    facts.named = Some(Named { name: "mine".into(), rustc: Some(BARE_RUSTC) });
    assert!(advice(&facts, &[]).contains("names the toolchain `mine`"));
    Ok(())
}

#[test]
fn a_linker_with_an_older_llvm_is_replaced() -> Result<()> {
    let mut facts = complete(nightly(23));
    facts.linker = linker(Some(22));
    facts.llvms = [21, 22, 23].map(debian_llvm).to_vec();
    assert_eq!(plan(&facts, &[], Scope::Test)?.steps, [Step::Linker(debian_llvm(23))]);

    facts.llvms.pop();
    assert!(advice(&facts, &[]).contains("is built with an LLVM older than 23"));
    Ok(())
}

#[test]
fn a_linker_with_a_newer_or_built_in_llvm_stays() -> Result<()> {
    let mut facts = complete(nightly(22));
    for llvm in [Some(23), None] {
        facts.linker = linker(llvm);
        assert_eq!(plan(&facts, &[], Scope::Test)?.steps, []);
    }
    Ok(())
}

#[test]
fn the_users_llvm_needs_no_packages() -> Result<()> {
    let mut facts = fresh_debian();
    facts.test_tools = true;
    facts.rustup = Some(Rustup { linked: Some(DEBIAN_RUSTC), nightly: None, cargo_for_linked: true });
    let own = Llvm { major: 22, prefix: "/opt/llvm".into() };
    facts.llvms = vec![own.clone()];
    assert_eq!(plan(&facts, &[], Scope::Test)?.steps, [Step::Linker(own)]);
    Ok(())
}

#[test]
fn without_apt_the_packages_are_named() {
    let mut facts = complete(nightly(22));
    facts.test_tools = false;
    assert!(advice(&facts, &[]).contains("iproute2 (`ss` and `ip`"));
}
