//! Finds source files that no module names: rustc does not read them, and their tests never run.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cargo_metadata::MetadataCommand;
use fs_err as fs;

use crate::shell;

#[test]
fn every_source_file_is_part_of_a_target() -> Result<()> {
    let manifest = shell::workspace_root().join("Cargo.toml");
    let workspace = MetadataCommand::new().manifest_path(manifest).no_deps().exec()?;
    let (mut there, mut linked) = (BTreeSet::new(), BTreeSet::new());
    for package in workspace.workspace_packages() {
        let directory = package.manifest_path.parent().context("a manifest is in a directory")?;
        add_sources(directory.as_std_path(), &mut there)?;
        for target in &package.targets {
            add_modules(target.src_path.as_std_path(), true, &mut linked)?;
        }
    }
    let unlinked: Vec<_> = there.difference(&linked).collect();
    assert!(unlinked.is_empty(), "no module names these: add a `mod`, or remove them: {unlinked:#?}");
    Ok(())
}

#[test]
fn a_file_is_linked_by_a_module_of_its_name_or_a_path() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let files = [
        ("main.rs", "mod a;\npub(crate) mod b;\n// mod unlinked;\nmod inline {}\n"),
        ("a.rs", "#[cfg(test)]\nmod tests;\n"),
        ("a/tests.rs", ""),
        ("b/mod.rs", "#[path = \"../other.rs\"]\nmod c;\n"),
        ("other.rs", ""),
        ("unlinked.rs", ""),
        ("a/b.rs", ""),
    ];
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().context("it is in a directory")?)?;
        fs::write(path, text)?;
    }
    let (mut there, mut linked) = (BTreeSet::new(), BTreeSet::new());
    add_sources(directory.path(), &mut there)?;
    add_modules(&directory.path().join("main.rs"), true, &mut linked)?;
    let unlinked: Vec<_> =
        there.difference(&linked).map(|path| path.strip_prefix(directory.path())).collect();
    assert_eq!(unlinked, [Ok(Path::new("a/b.rs")), Ok(Path::new("unlinked.rs"))]);
    Ok(())
}

/// Adds all source files in a directory and below it.
fn add_sources(directory: &Path, there: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            add_sources(&path, there)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            there.insert(path.canonicalize()?);
        }
    }
    Ok(())
}

/// Adds a file, and those that its lines `mod NAME;` name.
fn add_modules(file: &Path, is_root: bool, linked: &mut BTreeSet<PathBuf>) -> Result<()> {
    linked.insert(file.canonicalize()?);
    let directory = file.parent().context("a file is in a directory")?;
    let is_whole_directory = is_root || file.ends_with("mod.rs");
    let below = if is_whole_directory { directory.to_owned() } else { file.with_extension("") };
    let mut path = None;
    for line in fs::read_to_string(file)?.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            path = rest.split('"').next().map(|path| directory.join(path));
        } else if let Some(name) = parse_module(line) {
            let candidates = [below.join(format!("{name}.rs")), below.join(name).join("mod.rs")];
            let module = path.take().or_else(|| candidates.into_iter().find(|path| path.is_file()));
            let module = module.with_context(|| format!("{}: no file for {name}", file.display()))?;
            add_modules(&module, false, linked)?;
        }
    }
    Ok(())
}

/// The name in a line `mod NAME;`, with or without `pub`.
fn parse_module(line: &str) -> Option<&str> {
    let (visibility, name) = line.strip_suffix(';')?.split_once("mod ")?;
    let is_module = visibility.is_empty() || visibility.starts_with("pub") && visibility.ends_with(' ');
    is_module.then_some(name)
}
