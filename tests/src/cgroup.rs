//! Control groups that a test makes for itself (cgroups(7)).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::process::poll_until;

/// A group in the unified hierarchy or, where that is not there, systemd's. Dropping it removes it, once the
/// processes in it have ended.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    path: String,
}

impl Cgroup {
    /// Makes the group `path`, such as `/a/b`.
    ///
    /// # Errors
    /// There is no hierarchy here in which groups can be made; why each there is cannot be used.
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

    /// Its path in its hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The file through which processes are moved into it.
    pub fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Moves a process into it.
    ///
    /// # Panics
    /// The kernel refuses it.
    pub fn admit(&self, pid: u32) {
        fs::write(self.procs(), pid.to_string()).expect("root may move a process");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let levels = Path::new(&self.path).components().count() - 1;
        for folder in self.folder.ancestors().take(levels) {
            // A process that ended just now may still be in it, and another test may use what is above it.
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
