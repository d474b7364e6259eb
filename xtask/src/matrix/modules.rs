//! Finds the kernel modules that the tests need, with those that they depend on, in the order of loading. What a
//! module depends on stands in the module itself, so neither depmod nor modprobe is needed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::vmlinux::unpack;

/// What the tests use that isn't in the kernel itself: `ss` asks tcp_diag, and veth joins two namespaces.
pub(crate) const NEEDED: [&str; 2] = ["tcp_diag", "veth"];

/// Copies the modules below `tree` (that of one kernel) to `to`, unpacked, with names that sort in loading order.
pub(crate) fn collect(tree: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut files = BTreeMap::new();
    find(tree, &mut files).with_context(|| format!("cannot search {}", tree.display()))?;
    let builtin = fs::read_to_string(tree.join("modules.builtin")).unwrap_or_default();
    let mut order = Vec::new();
    for name in NEEDED {
        visit(name, &mut order, &mut |name| {
            if let Some(file) = files.get(name) {
                let module = read(file, &to.join("unpacked"))?;
                return Ok(Some(module));
            }
            if builtin.lines().filter_map(module_name).any(|builtin| builtin == name) {
                return Ok(None);
            }
            bail!("the kernel has no module {name}, which the tests need")
        })?;
    }
    for (number, (name, module)) in order.iter().enumerate() {
        let path = to.join(format!("{number:02}-{name}.ko"));
        fs::write(&path, module).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Appends a module after those that it depends on. `load` has no module for what is built in.
fn visit(
    name: &str,
    order: &mut Vec<(String, Vec<u8>)>,
    load: &mut impl FnMut(&str) -> Result<Option<Vec<u8>>>,
) -> Result<()> {
    if order.iter().any(|(there, _)| there == name) {
        return Ok(());
    }
    let Some(module) = load(name)? else {
        return Ok(());
    };
    for dependency in dependencies(&module) {
        visit(&dependency, order, load)?;
    }
    order.push((name.to_owned(), module));
    Ok(())
}

/// What `modinfo --field depends` prints.
fn dependencies(module: &[u8]) -> Vec<String> {
    let depends = module.split(|&byte| byte == 0).find_map(|text| text.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    depends.split(',').filter(|name| !name.is_empty()).map(normal).collect()
}

fn read(file: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    unpack(program, file, scratch)?;
    let module = fs::read(scratch).with_context(|| format!("cannot read {}", scratch.display()))?;
    fs::remove_file(scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    Ok(module)
}

fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), files)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// The name of the module in a file, also if that is compressed.
fn module_name(path: &str) -> Option<String> {
    let (name, rest) = path.rsplit('/').next()?.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| normal(name))
}

/// Files may have a dash where the kernel has an underscore.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        assert_eq!(module_name("tcp_diag.ko"), Some("tcp_diag".into()));
        assert_eq!(module_name("kernel/net/nf-x.ko.xz"), Some("nf_x".into()));
        assert_eq!(module_name("modules.builtin"), None);
        assert_eq!(module_name("x.kofi"), None);
    }

    #[test]
    fn dependencies_are_in_the_module() {
        assert_eq!(
            dependencies(b"ELF\0license=GPL\0depends=inet_diag,nf-x\0name=tcp_diag\0"),
            ["inet_diag", "nf_x"]
        );
        assert!(dependencies(b"ELF\0depends=\0").is_empty());
        assert!(dependencies(b"ELF").is_empty());
    }

    #[test]
    fn dependencies_come_first_and_once() -> Result<()> {
        let mut order = Vec::new();
        let mut load = |name: &str| {
            Ok(match name {
                "tcp" | "udp" => Some(b"\0depends=diag\0".to_vec()),
                "diag" => Some(b"\0depends=builtin\0".to_vec()),
                _ => None,
            })
        };
        visit("tcp", &mut order, &mut load)?;
        visit("udp", &mut order, &mut load)?;
        let names: Vec<_> = order.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["diag", "tcp", "udp"]);
        Ok(())
    }
}
