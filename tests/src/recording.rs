//! Keeps a recorded stream in a file.

use std::{fs, io::Write as _, path::PathBuf};

use crate::{TracerCommand, tracer::Finished};

/// A file with a recording. Dropping it removes the file.
#[derive(Debug)]
pub struct Recording(PathBuf);

impl Recording {
    /// Writes these lines to a file.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn new(name: &str, lines: &[String]) -> Self {
        let path = std::env::temp_dir().join(format!("tcptrace-replay-{}-{name}", std::process::id()));
        let mut file = fs::File::create(&path).expect("a file");
        for line in lines {
            writeln!(file, "{line}").expect("room on the disk");
        }
        Self(path)
    }

    /// Replays the recording with these arguments.
    ///
    /// # Panics
    /// If the path is not UTF-8.
    pub fn replay(&self, arguments: &[&str]) -> Finished {
        let path = self.0.to_str().expect("UTF-8");
        TracerCommand::exactly(&[&["--replay", path], arguments].concat()).run()
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}
