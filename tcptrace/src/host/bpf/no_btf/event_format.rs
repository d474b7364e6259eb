//! Reads from tracefs at which offsets the event `sock:inet_sock_set_state` has its fields, on
//! kernels without BTF.
//!
//! The offsets differ between kernels: RHEL 9 and real-time kernels have longer common fields.

use std::{fs, io, path::Path, thread};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use tcptrace_common::EventLayout;

/// The usual mount point of tracefs.
const TRACEFS: &str = "/sys/kernel/tracing";
/// The place of tracefs on hosts that only mount debugfs.
const IN_DEBUGFS: &str = "/sys/kernel/debug/tracing";

/// The format of the event could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    /// The file could not be read.
    #[error("tracefs cannot be read: {0}")]
    Tracefs(#[from] io::Error),
    /// The event has no such field, or one of another size.
    #[error("the event sock:inet_sock_set_state has no field `{name}` of {size} bytes")]
    Field { name: &'static str, size: u32 },
}

/// Runs `action` with tracefs mounted: here, or else in a thread with a mount namespace of its
/// own, so that the host stays as it is.
///
/// # Errors
/// tracefs cannot be mounted.
pub(crate) fn with_tracefs<T: Send>(action: impl FnOnce() -> T + Send) -> io::Result<T> {
    if [TRACEFS, IN_DEBUGFS].into_iter().any(|path| Path::new(path).join("events").is_dir()) {
        return Ok(action());
    }
    let in_own_mounts = || {
        // SAFETY: this thread only runs `action`, which relies on no mount that others make later.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None)?;
        Ok(action())
    };
    thread::scope(|scope| scope.spawn(in_own_mounts).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads the event's format. Call it inside [`with_tracefs`].
///
/// # Errors
/// See [`FormatError`].
pub(crate) fn read_format() -> Result<EventLayout, FormatError> {
    let path = "events/sock/inet_sock_set_state/format";
    let at = |tracefs: &str| fs::read_to_string(Path::new(tracefs).join(path));
    // The error at the usual place says more than the one at the other place.
    let format = at(TRACEFS).or_else(|error| at(IN_DEBUGFS).map_err(|_| error))?;
    parse_format(&format)
}

fn parse_format(format: &str) -> Result<EventLayout, FormatError> {
    let find = |name: &'static str, size: u32| {
        field_offset(format, name, size).ok_or(FormatError::Field { name, size })
    };
    Ok(EventLayout {
        socket: find("skaddr", 8)?,
        old_state: find("oldstate", 4)?,
        new_state: find("newstate", 4)?,
        local_port: find("sport", 2)?,
        remote_port: find("dport", 2)?,
        family: find("family", 2)?,
        protocol: find("protocol", 2)?,
        local_v4: find("saddr", 4)?,
        remote_v4: find("daddr", 4)?,
        local_v6: find("saddr_v6", 16)?,
        remote_v6: find("daddr_v6", 16)?,
    })
}

/// Returns the offset of a field, from a line such as
/// `field:__u8 saddr[4]; offset:32; size:4; signed:0;` (with tabs).
fn field_offset(format: &str, name: &str, size: u32) -> Option<u32> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declaration = parts.next()?.strip_prefix("field:")?;
        let declared = declaration.rsplit([' ', '*']).next()?;
        if declared.split('[').next()? != name {
            return None;
        }
        let number = |part: Option<&str>, key: &str| part?.strip_prefix(key)?.parse::<u32>().ok();
        let offset = number(parts.next(), "offset:")?;
        (number(parts.next(), "size:")? == size).then_some(offset)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Formats the event as Linux 6.12 does, with all but the common fields moved by `shift`.
    fn format(shift: u32) -> String {
        let fields = [
            ("const void * skaddr", 8, 8),
            ("int oldstate", 16, 4),
            ("int newstate", 20, 4),
            ("__u16 sport", 24, 2),
            ("__u16 dport", 26, 2),
            ("__u16 family", 28, 2),
            ("__u16 protocol", 30, 2),
            ("__u8 saddr[4]", 32, 4),
            ("__u8 daddr[4]", 36, 4),
            ("__u8 saddr_v6[16]", 40, 16),
            ("__u8 daddr_v6[16]", 56, 16),
        ];
        let mut text =
            "name: inet_sock_set_state\nID: 1\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
                .to_owned();
        for (field, offset, size) in fields {
            let offset = offset + shift;
            text += &format!("\tfield:{field};\toffset:{offset};\tsize:{size};\tsigned:0;\n");
        }
        text
    }

    #[test]
    fn fields_are_found_where_this_kernel_has_them() {
        for shift in [0, 8] {
            let layout = parse_format(&format(shift)).expect("complete");
            assert_eq!((layout.socket, layout.remote_v6), (8 + shift, 56 + shift));
            assert_eq!((layout.local_v4, layout.local_v6), (32 + shift, 40 + shift));
        }
    }

    #[test]
    fn a_field_of_another_size_or_none_is_an_error_that_names_it() {
        let narrow =
            format(0).replace("__u16 protocol;\toffset:30;\tsize:2", "__u8 protocol;\toffset:30;\tsize:1");
        let error = parse_format(&narrow).expect_err("protocol is one byte").to_string();
        assert!(error.contains("`protocol` of 2 bytes"), "{error}");
        for broken in ["", "field:", "field:const void * skaddr;", "field:skaddr; offset:x; size:8;"] {
            assert!(parse_format(broken).is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_error_or_a_format_of_all_fields(
            cut in 0_usize..900, with in "[\\PC\\t\\n]{0,40}", skipped in 0_usize..40
        ) {
            let whole = format(0);
            let from = whole.len().min(cut);
            let broken = format!("{}{with}{}", &whole[..from], &whole[whole.len().min(from + skipped)..]);
            match parse_format(&broken) {
                Ok(layout) => {
                    let declared = format!("offset:{}", layout.socket);
                    prop_assert!(broken.contains(&declared));
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
            prop_assert!(parse_format(&with).is_err());
        }

        #[test]
        fn any_order_and_any_offsets_are_read_as_they_are(
            offsets in prop::array::uniform11(any::<u32>()),
            order in Just((0..11).collect::<Vec<_>>()).prop_shuffle(),
            foreign in "[a-z_]{1,12}",
        ) {
            let lines: Vec<String> = format(0).lines().map(str::to_owned).collect();
            let (head, fields) = lines.split_at(lines.len() - 11);
            let mut text = head.join("\n");
            for at in order {
                let (before, rest) = fields[at].split_once("offset:").expect("each field has one");
                let (_, after) = rest.split_once(';').expect("it ends");
                text += &format!("\n{before}offset:{};{after}", offsets[at]);
                text += &format!("\n\tfield:__u32 x{foreign};\toffset:7;\tsize:4;\tsigned:0;");
            }
            let layout = parse_format(&text).expect("all are there");
            let EventLayout { socket, old_state, new_state, local_port, remote_port, family, protocol, .. } = layout;
            let EventLayout { local_v4, remote_v4, local_v6, remote_v6, .. } = layout;
            prop_assert_eq!(offsets, [
                socket, old_state, new_state, local_port, remote_port, family, protocol, local_v4, remote_v4, local_v6,
                remote_v6,
            ]);
        }
    }
}
