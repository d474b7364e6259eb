//! Boots a guest in QEMU and waits for its end. Its output goes to files, which `report.rs` reads.
//!
//! Never with KVM, even where there is `/dev/kvm`: inside some virtual machines a guest under KVM
//! is emulated badly and stops on instructions that are not. QEMU's own emulation boots
//! everywhere, in a few seconds.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use fs_err::{self as fs, File};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::shell;

/// Time after which a guest is killed and has failed. Emulation makes the tests about ten times
/// slower.
const LIMIT: Duration = Duration::from_mins(20);
/// How often to check whether the guest has ended.
const PAUSE: Duration = Duration::from_millis(50);
/// Memory for the kernel and the tests' processes.
const MEMORY_MIB: u64 = 1024;
/// The kernel's command line. `lsm`: 5.10 uses BPF as a security module only when asked.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off lsm=lockdown,bpf rdinit=/xtask -- guest";

/// The guest's first file system, its console, and what it sends, in its directory.
pub(super) const IMAGE: &str = "image.cpio";
pub(super) const CONSOLE: &str = "console.log";
pub(super) const RESULTS: &str = "tests.log";

/// Runs a guest until it turns itself off or panics. Returns what went wrong otherwise, and how
/// long it took.
pub(super) fn run(kernel: &Path, directory: &Path) -> Result<(Option<String>, Duration)> {
    let start = Instant::now();
    let complaints = directory.join("qemu.log");
    let mut qemu = start_qemu(kernel, directory, File::create(&complaints)?)?;
    let trouble = loop {
        if let Some(status) = qemu.try_wait().context("cannot wait for QEMU")? {
            let said = fs::read_to_string(&complaints).unwrap_or_default();
            break (!status.success()).then(|| format!("QEMU failed ({status}): {}", said.trim()));
        }
        if start.elapsed() > LIMIT {
            qemu.kill().context("cannot kill QEMU")?;
            qemu.wait().context("cannot wait for QEMU")?;
            break Some("it had to be killed at its time limit".to_owned());
        }
        thread::sleep(PAUSE);
    };
    Ok((trouble, start.elapsed()))
}

fn start_qemu(kernel: &Path, directory: &Path, complaints: File) -> Result<Child> {
    let image = directory.join(IMAGE);
    // The archive and what is unpacked from it are in memory at the same time, and a file system
    // in memory may fill half of it.
    let memory = MEMORY_MIB + 3 * fs::metadata(&image)?.len().div_ceil(1 << 20);
    let mut qemu = shell::command("qemu-system-x86_64");
    // A processor without AVX: emulating that takes a sixth more time.
    qemu.args(["-machine", "pc", "-accel", "tcg,thread=single", "-cpu", "Nehalem", "-smp", "1"]);
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-m",
        &memory.to_string(),
    ]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(&image);
    qemu.args(["-append", COMMAND_LINE]);
    for (number, log) in [CONSOLE, RESULTS].into_iter().enumerate() {
        let path = directory.join(log);
        // What an earlier run left there must not pass for this one's.
        fs::write(&path, "")?;
        // In QEMU's options a comma in a value is written twice.
        let path = path.display().to_string().replace(',', ",,");
        qemu.args(["-chardev", &format!("file,id=serial{number},path={path}")]);
        qemu.args(["-device", &format!("isa-serial,chardev=serial{number},index={number}")]);
    }
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints.into_file());
    // However xtask ends, by Ctrl-C too, no guest stays behind. The thread that starts it waits
    // for its end. SAFETY: between fork and exec this makes one system call, prctl(2), which
    // touches no memory.
    unsafe { qemu.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    qemu.spawn().context("cannot run qemu-system-x86_64")
}
