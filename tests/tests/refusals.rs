//! Hosts that cannot be traced, and users without permission: exit status 3, and a message that
//! says what is missing, why it is needed and what to do.

use std::{ffi::CStr, io, os::unix::process::CommandExt as _};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use tests::{
    TracerCommand,
    container::{self, contain, mount_proc},
    scene::Scene,
    tracer::Finished,
    user::{CapabilitySet, Copied},
    witness,
};

const ARGUMENTS: [&str; 4] = ["--stuck", "1h", "--duration", "1ms"];

/// Asserts a refusal: exit status 3, nothing on stdout, and these words on stderr.
fn assert_refused(run: &Finished, words: &[&str]) {
    assert_eq!(run.status.code(), Some(3), "{}", run.stderr);
    assert_eq!(run.lines, [""; 0]);
    assert!(run.stderr.starts_with("tcptrace: "), "{}", run.stderr);
    for word in ["why:", "do:"].iter().chain(words) {
        assert!(run.stderr.contains(word), "nothing of {word}: {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

/// Runs the tracer after `prepare` has run in its process.
fn run_after(prepare: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Finished {
    let mut command = TracerCommand::exactly(&ARGUMENTS);
    // SAFETY: all closures given are nothing but system calls: no allocation, no locks.
    unsafe { command.command.pre_exec(prepare) };
    command.run()
}

#[test]
fn a_user_who_is_not_root_is_told_which_capabilities_are_missing() {
    let copied = Copied::new();
    let command = copied.run_by_user(TracerCommand::exactly(&ARGUMENTS), CapabilitySet::empty());
    assert_refused(&command.run(), &["CAP_BPF", "CAP_PERFMON", "sudo", "setcap"]);
}

#[test]
fn root_without_the_capabilities_is_told_which_are_missing() {
    // CAP_SYS_ADMIN 21, CAP_PERFMON 38, CAP_BPF 39 (linux/capability.h): what root in a container
    // lacks.
    let run = run_after(|| {
        for capability in [21, 38, 39] {
            // SAFETY: prctl(2) with integers only.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    });
    assert_refused(&run, &["CAP_BPF", "CAP_PERFMON"]);
}

/// Runs the tracer in new namespaces, continuously and with `--once`: it refuses both.
fn run_contained(kinds: i32, inside: fn() -> io::Result<()>, words: &[&str]) {
    for arguments in [&ARGUMENTS[..], &["--stuck", "1s", "--once", "--json"], &["--without", "btf"]] {
        let mut command = TracerCommand::exactly(arguments);
        contain(&mut command, kinds, || Ok(()), inside);
        assert_refused(&command.run(), words);
    }
}

#[test]
fn in_a_pid_namespace_the_refusal_says_how_to_share_the_hosts() {
    let words = ["in a pid namespace", "--pid=host", "hostPID: true"];
    run_contained(libc::CLONE_NEWPID | libc::CLONE_NEWNS, mount_proc, &words);
    run_contained(libc::CLONE_NEWPID, || Ok(()), &words); // the host's /proc
}

#[test]
fn in_a_user_namespace_the_refusal_says_that_its_root_is_not_the_hosts() {
    let become_root = || {
        container::write(c"/proc/self/uid_map", b"0 0 1")?;
        container::write(c"/proc/self/setgroups", b"deny")?;
        container::write(c"/proc/self/gid_map", b"0 0 1")
    };
    let words = ["in a user namespace", "rootless", "sudo"];
    run_contained(libc::CLONE_NEWUSER, become_root, &words);
    // As rootless containers are: what is to be shared is said at once.
    run_contained(
        libc::CLONE_NEWUSER | libc::CLONE_NEWPID,
        become_root,
        &[&words[..], &["--pid=host"]].concat(),
    );
}

#[test]
fn without_a_proc_of_its_own_the_refusal_says_what_to_mount() {
    assert_refused(&run_after(|| hide(&[c"/proc"])), &["/proc is not mounted", "mount -t proc"]);
    // That of a pid namespace that has ended since, and which this process never was in.
    let of_another = || {
        // SAFETY: it concerns this process, which is about to become another program; the child
        // makes system calls only.
        let child = unsafe {
            match libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS) {
                0 => libc::fork(),
                failed => failed,
            }
        };
        match child {
            0 => {
                let is_mounted = mount_proc().is_ok();
                // SAFETY: a number only.
                unsafe { libc::_exit(i32::from(!is_mounted)) }
            }
            1.. => {
                // SAFETY: nothing is written.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
                Ok(())
            }
            _ => Err(io::Error::last_os_error()),
        }
    };
    assert_refused(&run_after(of_another), &["another pid namespace", "nsenter -t 1 -a"]);
}

#[test]
fn a_kernel_without_type_information_and_without_tracefs_is_told_what_would_do() {
    let run = run_after(|| {
        hide(&[c"/sys/kernel/btf", c"/sys/kernel/tracing", c"/sys/kernel/debug"])?;
        answer(libc::SYS_mount, libc::EPERM) // the tracer would mount it for itself
    });
    assert_refused(&run, &["/sys/kernel/btf/vmlinux", "tracefs", "BTF"]);
}

#[test]
fn a_kernel_without_type_information_is_traced_by_its_event_and_the_start_says_so() {
    let mut scene = Scene::new();
    let mut command = TracerCommand::exactly(&["--stuck", "300ms", "--json"]);
    // SAFETY: nothing but system calls.
    unsafe { command.command.pre_exec(|| hide(&[c"/sys/kernel/btf"])) };
    let tracer = command.start();
    let start = tracer.await_record("the start", |record| record.is("start"));
    let typed = &start.get("sources")["tp_btf/inet_sock_set_state"];
    assert_eq!(typed["in_use"], false, "{start:?}");
    assert!(
        typed["why_not"].as_str().is_some_and(|why| why.contains("/sys/kernel/btf/vmlinux")),
        "{start:?}"
    );
    let leak = scene.leak();
    let stuck = tracer.await_stuck(&leak.socket);
    assert_eq!(stuck.holders(), [(leak.socket.pid, leak.socket.fd)], "{stuck:?}");
    assert_eq!(witness::find(&leak.socket).map(|seen| seen.holders), Some(stuck.holders()));
    let age_ms = (stuck.mono_ns() - leak.not_before_ns) as f64 / 1e6;
    assert!(stuck.number("age_ms") <= age_ms, "{stuck:?} is {age_ms} ms old");
    scene.server.close(&leak.socket);
    tracer.await_cleared(&leak.socket);
    tracer.stop();
}

/// Hides directories behind empty ones, for this process alone.
fn hide(folders: &[&CStr]) -> io::Result<()> {
    // SAFETY: unshare(2) with this flag changes nothing but which mounts this process sees.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for folder in folders {
        match mount(c"none", *folder, c"tmpfs", MountFlags::empty(), None) {
            Err(Errno::NOENT) => {}
            done => done?,
        }
    }
    Ok(())
}

#[test]
fn a_kernel_without_bpf_is_told_what_to_be_built_with() {
    let run = run_after(|| answer(libc::SYS_bpf, libc::ENOSYS));
    assert_refused(&run, &["bpf(2)", "CONFIG_BPF_SYSCALL"]);
}

#[test]
fn a_container_that_forbids_bpf_is_told_where_to_look() {
    let run = run_after(|| answer(libc::SYS_bpf, libc::EPERM));
    assert_refused(&run, &["bpf(2)", "forbidden", "seccomp", "lockdown"]);
}

/// Installs a seccomp filter like that of container runtimes: one system call fails with `errno`,
/// all others are allowed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "codes, numbers of system calls and lengths are small"
)]
fn answer(call: libc::c_long, errno: i32) -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        // The number of the system call: the first word of `struct seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32) },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live until prctl(2) has copied them.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
