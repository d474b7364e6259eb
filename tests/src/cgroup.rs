//! Makes control groups for a test (cgroups(7)).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::process::poll_until;

/// A group in the unified hierarchy or, if there is none, in systemd's. Dropping it removes the
/// group, once the processes in it have ended.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    path: String,
}

impl Cgroup {
    /// Makes the group `path`, such as `/a/b`.
    ///
    /// # Errors
    /// If groups can be made in no hierarchy; the reason for each.
    pub fn new(path: &str) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let mut why = vec!["no hierarchy is mounted".to_owned()];
        for (kind, wanted) in [("cgroup2", ""), ("cgroup", "name=systemd")] {
            for mount in mounts.lines() {
                // proc_pid_mounts(5)
                let fields: Vec<&str> = mount.split(' ').collect();
                let [_, mounted, is, options, ..] = fields[..] else { continue };
                if is != kind || !options.split(',').any(|option| wanted.is_empty() || option == wanted) {
                    continue;
                }
                match make(mounted, path) {
                    Ok(folder) => return Ok(Self { folder, path: path.to_owned() }),
                    Err(error) => why.push(format!("{mounted}: {error}")),
                }
            }
        }
        Err(why.split_off(usize::from(why.len() > 1)).join("; "))
    }

    /// Makes the group `path` in the hierarchy of a controller such as `pids`.
    ///
    /// # Errors
    /// As with [`Cgroup::new`].
    pub fn controlled_by(controller: &str, path: &str) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        for mount in mounts.lines() {
            let fields: Vec<&str> = mount.split(' ').collect();
            let [_, mounted, is, options, ..] = fields[..] else { continue };
            let controls = match is {
                "cgroup" => options.split(',').any(|option| option == controller),
                "cgroup2" => {
                    let switch = Path::new(mounted).join("cgroup.subtree_control");
                    fs::write(switch, format!("+{controller}")).is_ok()
                }
                _ => false,
            };
            if controls {
                let folder = make(mounted, path).map_err(|error| format!("{mounted}: {error}"))?;
                return Ok(Self { folder, path: path.to_owned() });
            }
        }
        Err(format!("no hierarchy has the controller {controller}"))
    }

    /// Writes to one of the group's files, such as `pids.max`.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn set(&self, file: &str, value: &str) {
        fs::write(self.folder.join(file), value).expect("root may limit a group");
    }

    /// Returns the group's path in its hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the file that moves processes into the group.
    pub fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Moves a process into the group.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn admit(&self, pid: u32) {
        fs::write(self.procs(), pid.to_string()).expect("root may move a process");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let levels = Path::new(&self.path).components().count() - 1;
        for folder in self.folder.ancestors().take(levels) {
            // A process that ended just now may still be in it, and another test may use what is
            // above it.
            if folder == self.folder {
                poll_until("a cgroup to be empty", || fs::remove_dir(folder).ok());
            } else {
                let _in_use = fs::remove_dir(folder);
            }
        }
    }
}

fn make(mounted: &str, path: &str) -> io::Result<PathBuf> {
    let folder = Path::new(mounted).join(path.trim_start_matches('/'));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
