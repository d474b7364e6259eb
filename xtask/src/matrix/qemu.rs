//! Boots a guest in QEMU and waits for its end. What the guest says goes to files; what it means, `report.rs` knows.
//!
//! Never with KVM, even where there is `/dev/kvm`: inside some virtual machines a guest under KVM is emulated badly
//! and stops on instructions that are not. QEMU's own emulation boots everywhere, in a few seconds.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::shell;

/// After that a guest is killed, and has failed. Emulation makes the tests about ten times slower.
const LIMIT: Duration = Duration::from_secs(1200);
/// Between two looks whether the guest has ended.
const PAUSE: Duration = Duration::from_millis(50);
/// What a guest has for the kernel and the tests' processes.
const MEMORY_MIB: u64 = 1024;
/// `lsm`: 5.10 has BPF in its list of security modules only when asked.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off lsm=lockdown,bpf rdinit=/xtask -- guest";

/// Where the files of a guest are.
#[derive(Debug)]
pub(crate) struct Files {
    /// The kernel proper, an ELF file.
    pub(crate) vmlinux: PathBuf,
    /// Its first file system.
    pub(crate) image: PathBuf,
    /// What the kernel says.
    pub(crate) console: PathBuf,
    /// What the guest tells of the tests.
    pub(crate) results: PathBuf,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself: turned off, or panicked.
    Off,
    /// By us, when its time was up.
    TimeLimit,
    /// QEMU failed, and said this.
    Failed(String),
}

/// Runs a guest; the result is how it ended, and how long it took.
pub(crate) fn run(files: &Files) -> Result<(End, Duration)> {
    let start = Instant::now();
    let complaints = files.console.with_file_name("qemu.log");
    let mut qemu = spawn(files, &complaints)?;
    let end = loop {
        if let Some(status) = qemu.try_wait().context("cannot wait for QEMU")? {
            break end(status, &complaints);
        }
        if start.elapsed() > LIMIT {
            qemu.kill().context("cannot kill QEMU")?;
            qemu.wait().context("cannot wait for QEMU")?;
            break End::TimeLimit;
        }
        thread::sleep(PAUSE);
    };
    Ok((end, start.elapsed()))
}

fn spawn(files: &Files, complaints: &Path) -> Result<Child> {
    let image = fs::metadata(&files.image).context("the guest's file system is gone")?.len();
    // The archive and what is unpacked from it are in memory at the same time, and a file system in memory may fill half
    // of it.
    let memory = MEMORY_MIB + 3 * image.div_ceil(1 << 20);
    let mut qemu = shell::command("qemu-system-x86_64");
    // A processor without AVX: emulating that takes a sixth more time.
    qemu.args(["-machine", "pc", "-accel", "tcg,thread=single", "-cpu", "Nehalem", "-smp", "1"]);
    qemu.args([
        "-m",
        &memory.to_string(),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    qemu.arg("-kernel").arg(&files.vmlinux).arg("-initrd").arg(&files.image);
    qemu.args(["-append", COMMAND_LINE]);
    for (number, path) in [&files.console, &files.results].into_iter().enumerate() {
        // In QEMU's options a comma in a value is written twice.
        let path = path.display().to_string().replace(',', ",,");
        qemu.args(["-chardev", &format!("file,id=serial{number},path={path}")]);
        qemu.args(["-device", &format!("isa-serial,chardev=serial{number},index={number}")]);
    }
    let log = File::create(complaints).with_context(|| format!("cannot write {}", complaints.display()))?;
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // However we end, by Ctrl-C too: no guest stays behind. The thread that starts it waits for its end.
    // SAFETY: between fork and exec this makes one system call, prctl(2), which touches no memory.
    unsafe { qemu.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    qemu.spawn().context("cannot run qemu-system-x86_64")
}

fn end(status: ExitStatus, complaints: &Path) -> End {
    if status.success() {
        return End::Off;
    }
    let said = fs::read_to_string(complaints).unwrap_or_default();
    End::Failed(format!("{status}: {}", said.trim()))
}
