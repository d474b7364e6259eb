//! The record `start`.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap as _,
};

use crate::events::bounds;

/// tcptrace started: the first record of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Start {
    /// The version of tcptrace.
    pub version: Cow<'static, str>,
    /// The kernel's release (uname(2)).
    #[serde(serialize_with = "bounds::text")]
    pub kernel: String,
    /// The host's name (uname(2)).
    #[serde(serialize_with = "bounds::text")]
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`: the boot that `mono_ns` and `cookie` belong to; null if
    /// it cannot be read.
    #[serde(default, serialize_with = "bounds::text_or_null", deserialize_with = "readable")]
    pub boot_id: Option<String>,
    /// TCP sockets open at the start, in all namespaces that can be seen; timewait sockets and SYN
    /// queues not counted.
    #[serde(default, deserialize_with = "readable")]
    pub sockets: usize,
    /// The kernel features that tcptrace can use, by name (requirements.md lists them).
    #[serde(default, serialize_with = "by_name", deserialize_with = "readable_features")]
    #[cfg_attr(test, schemars(with = "std::collections::BTreeMap<String, KernelFeature>"))]
    pub sources: Vec<KernelFeature>,
}

/// Whether a kernel feature is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KernelFeature {
    /// The name of the feature.
    #[serde(skip)]
    pub name: Cow<'static, str>,
    /// Says whether the feature is in use.
    pub in_use: bool,
    /// Why it is not in use; null if it is.
    #[serde(serialize_with = "bounds::text_or_null")]
    pub why_not: Option<String>,
}

/// Serializes features as an object, in their order.
fn by_name<S: Serializer>(features: &[KernelFeature], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(features.len()))?;
    for feature in features {
        map.serialize_entry(&feature.name, feature)?;
    }
    map.end()
}

/// Deserializes a value that a reader can do without: one of another type reads as the default.
fn readable<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value<T> {
        Readable(T),
        Other(IgnoredAny),
    }
    Ok(match Value::deserialize(deserializer)? {
        Value::Readable(value) => value,
        Value::Other(_) => T::default(),
    })
}

/// Deserializes features, if a reader can read them.
fn readable_features<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<KernelFeature>, D::Error> {
    #[derive(Default, Deserialize)]
    struct Features(#[serde(deserialize_with = "named")] Vec<KernelFeature>);
    readable(deserializer).map(|Features(features)| features)
}

/// Deserializes features from an object, in its order.
fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<KernelFeature>, D::Error> {
    struct FeatureVisitor;
    impl<'de> Visitor<'de> for FeatureVisitor {
        type Value = Vec<KernelFeature>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("features by name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut features = Vec::new();
            while let Some((name, feature)) = map.next_entry::<String, KernelFeature>()? {
                features.push(KernelFeature { name: name.into(), ..feature });
            }
            Ok(features)
        }
    }
    deserializer.deserialize_map(FeatureVisitor)
}
