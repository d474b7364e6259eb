//! A line of a recording as its fields, split before they are read.
//!
//! Records share fields: each record about a socket has those of [`SocketId`](super::SocketId).
//! `#[serde(flatten)]` writes them well, but reads slowly, because it holds back every value of
//! the shared parts in a form of its own. So a line is split once, and each part of a record reads
//! its own fields.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IntoDeserializer as _, MapAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::value::RawValue;

/// Most fields that a record has.
const MOST_FIELDS: usize = 32;

/// A text that is borrowed unless it has escapes. `Cow` alone always copies.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// The fields of a line.
pub struct Fields<'a> {
    line: &'a [u8],
    fields: Vec<(Text<'a>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Splits a line. It may have fields that no record has.
    ///
    /// # Errors
    /// The line is not one JSON object.
    pub fn split(line: &'a [u8]) -> serde_json::Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let fields = deserializer.deserialize_map(SplitVisitor)?;
        deserializer.end()?;
        Ok(Self { line, fields })
    }

    /// Reads what has some of the fields, and passes over the others.
    ///
    /// # Errors
    /// A field is missing, or has a value of another kind.
    pub fn read<T: Deserialize<'a>>(&self) -> serde_json::Result<T> {
        // A value that was split off has no position. Read from the line, the error has one.
        T::deserialize(self).or_else(|_| serde_json::from_slice(self.line))
    }
}

/// A record, or a part of one, that is read from the fields of a line.
pub trait FromFields: Sized {
    /// Reads the part from the fields.
    ///
    /// # Errors
    /// A field is missing, or has a value of another kind.
    fn from_fields(fields: &Fields<'_>) -> serde_json::Result<Self>;
}

impl<T: for<'a> Deserialize<'a>> FromFields for T {
    fn from_fields(fields: &Fields<'_>) -> serde_json::Result<Self> {
        fields.read()
    }
}

/// Defines a record that shares fields with others: `..socket: SocketId` stands for the fields of
/// `SocketId`. They come first, or last, in the order in which they are written.
macro_rules! record {
    (
        $(#[$record_attribute:meta])*
        pub struct $record:ident {
            $(..$first:ident: $first_type:ty,)*
            $($(#[$attribute:meta])* pub $field:ident: $type:ty,)+
            $(..$last:ident: $last_type:ty,)*
        }
    ) => {
        $(#[$record_attribute])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        pub struct $record {
            $(
                #[doc = concat!("The fields of [`", stringify!($first_type), "`].")]
                #[serde(flatten)]
                pub $first: $first_type,
            )*
            $($(#[$attribute])* pub $field: $type,)+
            $(
                #[doc = concat!("The fields of [`", stringify!($last_type), "`].")]
                #[serde(flatten)]
                pub $last: $last_type,
            )*
        }

        impl $crate::events::fields::FromFields for $record {
            fn from_fields(fields: &$crate::events::fields::Fields<'_>) -> serde_json::Result<Self> {
                #[derive(serde::Deserialize)]
                struct Own {
                    $($(#[$attribute])* $field: $type,)+
                }
                $(let $first = fields.read()?;)*
                let Own { $($field),+ } = fields.read()?;
                $(let $last = fields.read()?;)*
                Ok(Self { $($first,)* $($field,)+ $($last,)* })
            }
        }
    };
}
pub(crate) use record;

/// Splits an object.
struct SplitVisitor;

impl<'a> Visitor<'a> for SplitVisitor {
    type Value = Vec<(Text<'a>, &'a RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(MOST_FIELDS);
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

impl<'a> Deserializer<'a> for &Fields<'a> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(Entries { fields: self.fields.iter(), names: None, value: None })
    }

    /// Leaves out what the structure has no field for: its value need not even be skipped.
    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_map(Entries { fields: self.fields.iter(), names: Some(names), value: None })
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Iterates over fields, as serde does.
struct Entries<'fields, 'a> {
    fields: std::slice::Iter<'fields, (Text<'a>, &'a RawValue)>,
    /// The fields that are read; `None` for all.
    names: Option<&'static [&'static str]>,
    /// The value of the field whose name was handed out last.
    value: Option<&'a RawValue>,
}

impl<'a> MapAccess<'a> for Entries<'_, 'a> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> serde_json::Result<Option<K::Value>> {
        let is_read = |name: &str| self.names.is_none_or(|names| names.contains(&name));
        let Some((Text(name), value)) = self.fields.find(|(Text(name), _)| is_read(name)) else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(name.as_ref().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> serde_json::Result<V::Value> {
        let value = self.value.take().map_or("null", RawValue::get);
        seed.deserialize(&mut serde_json::Deserializer::from_str(value))
    }
}

#[cfg(test)]
mod tests;
