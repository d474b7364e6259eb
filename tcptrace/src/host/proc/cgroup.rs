//! The cgroup of a process: reads `/proc/PID/cgroup` (cgroups(7)).

/// Returns the path in a process's cgroup file: the one in the unified hierarchy (`0::`), or
/// systemd's if all processes are in the root of the unified one.
pub(crate) fn cgroup_path(file: &[u8]) -> Option<&[u8]> {
    let lines = || file.split(|byte| *byte == b'\n');
    let unified = lines().find_map(|line| line.strip_prefix(b"0::"));
    let systemd = || {
        lines().find_map(|line| {
            let controllers = line.iter().position(|byte| *byte == b':')? + 1;
            line.get(controllers..)?.strip_prefix(b"name=systemd:")
        })
    };
    match unified {
        Some(b"/") => systemd().or(unified),
        Some(path) => Some(path),
        None => systemd(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_unified_hierarchy_counts_unless_it_says_nothing() {
        let path = |file: &[u8]| cgroup_path(file).map(|path| String::from_utf8_lossy(path).into_owned());
        assert_eq!(path(b"0::/app.slice/x.service\n").as_deref(), Some("/app.slice/x.service"));
        assert_eq!(path(b"5:cpu:/x\n1:name=systemd:/user.slice\n0::/\n").as_deref(), Some("/user.slice"));
        assert_eq!(path(b"1:name=systemd:/init.scope\n").as_deref(), Some("/init.scope"));
        assert_eq!(path(b"0::/\n").as_deref(), Some("/"));
        assert_eq!(path(b""), None);
        assert_eq!(path(b"nonsense\n:\n").as_deref(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_path_of_one_line_or_none(
            bytes in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            if let Some(path) = cgroup_path(&bytes) {
                prop_assert!(!path.contains(&b'\n'));
            }
            let unified = [b"0::/", &bytes[..]].concat();
            prop_assert!(cgroup_path(&unified).is_some_and(|path| path.starts_with(b"/")));
        }
    }
}
