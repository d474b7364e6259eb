//! The container that a cgroup's path belongs to. Nothing else names it without asking the
//! container manager.

/// What container managers put before the id or name, as in `docker-ID.scope`.
const PREFIXES: [&str; 9] = [
    "docker-",         // Docker, by systemd
    "cri-containerd-", // containerd under Kubernetes, by systemd
    "nerdctl-",        // containerd by itself
    "crio-",           // CRI-O
    "libpod-",         // podman
    "buildkit-",
    "lxc.payload.",    // LXC
    "machine-",        // systemd-machined: machines that a manager registered
    "systemd-nspawn@", // systemd-nspawn
];
/// The prefixes of cgroups of processes that watch over a container.
const MONITORS: [&str; 3] = ["crio-conmon-", "libpod-conmon-", "lxc.monitor."];
/// The length of the ids of Docker, containerd, CRI-O and podman, hexadecimal digits.
const ID_LENGTH: usize = 64;

/// Returns the id of the innermost container in the path: 64 hexadecimal digits, or the machine's
/// name for systemd-nspawn, machined and LXC.
pub(crate) fn container_id(cgroup: &[u8]) -> Option<String> {
    cgroup.split(|byte| *byte == b'/').rev().find_map(|part| of_part(std::str::from_utf8(part).ok()?))
}

fn of_part(part: &str) -> Option<String> {
    if MONITORS.iter().any(|monitor| part.starts_with(monitor)) {
        return None;
    }
    let unit = [".scope", ".service"].into_iter().find_map(|suffix| part.strip_suffix(suffix));
    if is_id(part) {
        // Without systemd, the manager names the cgroup by the container's id.
        return Some(part.to_owned());
    }
    let prefix = PREFIXES.into_iter().find(|prefix| part.starts_with(prefix))?;
    let name = &unit.unwrap_or(part)[prefix.len()..];
    match prefix {
        "machine-" | "systemd-nspawn@" => unit.and_then(|_| unescape(name)),
        "lxc.payload." => Some(name.to_owned()).filter(|name| !name.is_empty()),
        _ => Some(name.to_owned()).filter(|name| is_id(name)),
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Decodes a name in the name of a unit, in which `-` and other bytes are written as `\x2d`
/// (systemd-escape(1)).
fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4b1f6e0c9d2a7f5e8c3b6a1d0e9f8c7b6a5d4e3f2c1b0a9f8e7d6c5b4a3f2e1d";

    fn of(path: &str) -> Option<String> {
        container_id(path.replace("ID", ID).as_bytes())
    }

    #[test]
    fn each_managers_path_has_its_id() {
        for path in [
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3f6e.slice/cri-containerd-ID.scope",
            "/kubepods/besteffort/pod3f6e0c9d-2a7f-5e8c/ID",
            "/kubepods.slice/kubepods-pod3f6e.slice/crio-ID.scope",
            "/kubepods.slice/kubepods-pod3f6e.slice/crio-ID.scope/container",
            "/machine.slice/libpod-ID.scope",
            "/machine.slice/libpod-ID.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "/libpod_parent/libpod-ID",
            "/default/ID",
            "/system.slice/nerdctl-ID.scope",
            "/ecs/8f2c/ID",
            "/docker/ID/init.scope",
        ] {
            assert_eq!(of(path).as_deref(), Some(ID), "{path}");
        }
    }

    #[test]
    fn machines_are_known_by_their_name() {
        assert_eq!(of("/machine.slice/systemd-nspawn@web\\x2d1.service/payload").as_deref(), Some("web-1"));
        assert_eq!(of("/machine.slice/machine-deb\\x2d12.scope").as_deref(), Some("deb-12"));
        assert_eq!(of("/lxc.payload.web-1/system.slice/ssh.service").as_deref(), Some("web-1"));
    }

    #[test]
    fn the_innermost_container_counts() {
        let inner = ID.replace('4', "5");
        assert_eq!(of(&format!("/docker/ID/docker/{inner}")), Some(inner));
    }

    #[test]
    fn what_is_no_container_has_none() {
        for path in [
            "/",
            "",
            "/user.slice/user-0.slice/session-3.scope",
            "/system.slice/docker.service",
            "/system.slice/containerd.service",
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/crio-conmon-ID.scope",
            "/lxc.monitor.web-1",
            "/system.slice/docker-abc.scope",
            "/machine.slice/systemd-nspawn@.service",
            "/machine.slice/machine-a\\x2.scope",
            "/system.slice/machine-qemu.slice",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(container_id(b"/docker/\xff\xfe"), None);
    }

    #[test]
    fn two_hexadecimal_digits_follow_a_backslash() {
        assert_eq!(of("/machine.slice/machine-a\\x+1b.scope"), None);
        assert_eq!(of("/machine.slice/machine-a\\xä1.scope"), None);
    }

    proptest! {
        #[test]
        fn any_path_has_an_id_a_name_or_none(
            name in "[\\PC\\\\x0-9a-f./-]{0,80}", at in 0..PREFIXES.len(), suffix in "(\\.scope|\\.service|/payload)?"
        ) {
            let prefix = PREFIXES[at];
            if let Some(container) = container_id(format!("/a/{prefix}{name}{suffix}").as_bytes()) {
                prop_assert!(!container.is_empty());
                let is_named = ["machine-", "systemd-nspawn@", "lxc.payload."].contains(&prefix);
                prop_assert!(is_named || is_id(&container), "{}", container);
            }
            prop_assert!(container_id(name.as_bytes()).is_none_or(|container| !container.is_empty()));
        }
    }
}
