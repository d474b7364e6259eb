//! The systemd unit and the Kubernetes pod that a cgroup's path belongs to.

use crate::engine::filter::values::UNIT_SUFFIXES;

/// Returns the system unit of a path: what is below the slices, as `ps -o unit` shows it. That of a
/// user's process is the user's manager, `user@1000.service`: users name their own units as they
/// like.
pub(crate) fn unit_name(cgroup: &[u8]) -> Option<String> {
    let mut parts = cgroup.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let part = parts.find(|part| !part.ends_with(b".slice"))?;
    let name = std::str::from_utf8(part).ok()?;
    // systemd puts `_` before a name that the kernel, or a hidden file, could have.
    let name = name.strip_prefix('_').unwrap_or(name);
    let is_unit = |suffix: &&str| name.strip_suffix(*suffix).is_some_and(|stem| !stem.is_empty());
    UNIT_SUFFIXES.iter().any(is_unit).then(|| name.to_owned())
}

/// Returns the uid of the innermost pod in the path: the kubelet names a pod's cgroup after it,
/// with `_` for `-` where systemd makes the cgroup.
pub(crate) fn pod_uid(cgroup: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(cgroup).ok()?;
    let (_, below) = path.split_once("kubepods")?;
    below.rsplit('/').find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let uid = part.rsplit_once("-pod").map(|(_, uid)| uid).or_else(|| part.strip_prefix("pod"))?;
        is_uid(uid).then(|| uid.replace('_', "-"))
    })
}

/// Whether this is the uid of a pod: a UUID, or for a static pod the hash of its configuration.
fn is_uid(text: &str) -> bool {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match text.len() {
        32 => text.bytes().all(|byte| is_digit(&byte)),
        36 => text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
            _ => is_digit(&byte),
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "3f6e0c9d-2a7f-5e8c-3b6a-1d0e9f8c7b6a";

    #[test]
    fn the_unit_is_what_is_below_the_slices() {
        for (path, unit) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/nginx.service/worker-1", Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
                Some("user@1000.service"),
            ),
            ("/user.slice/user-0.slice/session-3.scope", Some("session-3.scope")),
            ("/machine.slice/systemd-nspawn@web.service/payload", Some("systemd-nspawn@web.service")),
            ("/init.scope", Some("init.scope")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/docker/4b1f6e", None),
            ("/kubepods/besteffort/pod1/x.service", None),
            ("/system.slice", None),
            ("/.service", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(unit_name(path.as_bytes()).as_deref(), unit, "{path}");
        }
    }

    #[test]
    fn the_pod_is_known_by_its_uid() {
        for path in [
            "/kubepods/besteffort/podUID/4b1f6e",
            "/kubepods/podUID",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_ID.slice/cri-containerd-x.scope",
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_ID.slice/crio-x.scope/container",
            "/system.slice/k3s/kubepods/burstable/podUID/x",
        ] {
            let path = path.replace("U_ID", &UID.replace('-', "_")).replace("UID", UID);
            assert_eq!(pod_uid(path.as_bytes()).as_deref(), Some(UID), "{path}");
        }
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(pod_uid(format!("/kubepods/pod{hash}/x").as_bytes()).as_deref(), Some(hash));
    }

    #[test]
    fn what_is_in_no_pod_has_none() {
        for path in
            ["/", "/machine.slice/libpod-UID.scope", "/kubepods/besteffort", "/kubepods/podx", "/podUID"]
        {
            assert_eq!(pod_uid(path.replace("UID", UID).as_bytes()), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_has_a_unit_and_a_pod_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            for path in [&bytes[..], &[b"/kubepods/pod", &bytes[..]].concat()] {
                prop_assert!(unit_name(path).is_none_or(|unit| !unit.is_empty() && !unit.contains('/')));
                prop_assert!(pod_uid(path).is_none_or(|uid| is_uid(&uid)));
            }
        }
    }
}
