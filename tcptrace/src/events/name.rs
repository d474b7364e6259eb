//! A task's name.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tcptrace_common::COMM_LEN;

use crate::events::fields::Text;

/// A task's name as the kernel keeps it: any bytes, NUL-padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub [u8; COMM_LEN]);

impl Name {
    /// Takes the bytes of `/proc/PID/comm`, cut where the kernel would cut them.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut name = [0; COMM_LEN];
        let length = bytes.len().min(COMM_LEN - 1);
        name[..length].copy_from_slice(&bytes[..length]);
        Self(name)
    }

    /// Returns the name without its padding.
    pub fn bytes(&self) -> &[u8] {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
        &self.0[..length]
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.bytes()) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.serialize_str(&String::from_utf8_lossy(self.bytes())),
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        Ok(Self::from_bytes(text.as_bytes()))
    }
}
