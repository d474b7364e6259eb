//! Makes the kernel skip BPF programs, and counts how often it did.

use std::{fs, path::Path, thread};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Has each connection's packets on the loopback interface of this network namespace processed by
/// the CPU that its hash selects (RPS, `Documentation/networking/scaling.rst`). That interrupts
/// the CPU, also in the middle of a BPF program.
///
/// # Panics
/// If this process is not root.
pub fn spread_packets() {
    // sysfs shows the network namespace of the thread that mounts it. The mount ends with the
    // thread.
    thread::scope(|scope| {
        let spreading = scope.spawn(|| {
            // SAFETY: the thread shares nothing with others that this changes, but for its root,
            // which it gets a copy of.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("root may");
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
                .expect("mounts of its own");
            mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).expect("sysfs");
            let cpus = thread::available_parallelism().expect("a number of CPUs").get().min(31);
            let mask = format!("{:x}", (1_u32 << cpus) - 1);
            fs::write("/sys/class/net/lo/queues/rx-0/rps_cpus", mask).expect("a kernel with CONFIG_RPS");
        });
        spreading.join().expect("it says why");
    });
}

/// Returns how often the kernel skipped each BPF program that a process holds, by descriptor. It
/// is empty if this kernel does not count that.
pub fn count_skips(pid: u32) -> Vec<u64> {
    let mut skips: Vec<(u32, u64)> = descriptors(pid)
        .filter_map(|(fd, text)| {
            let count = text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?;
            Some((fd, count.trim().parse().ok()?))
        })
        .collect();
    skips.sort_unstable();
    skips.into_iter().map(|(_, count)| count).collect()
}

fn descriptors(pid: u32) -> impl Iterator<Item = (u32, String)> {
    let folder = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let entries = fs::read_dir(folder).expect("it lives").filter_map(Result::ok);
    entries.filter_map(|entry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        Some((fd, fs::read_to_string(entry.path()).ok()?))
    })
}
