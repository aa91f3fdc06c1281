//! One way for byte-like types to meet serde: a byte string where the format is binary (CBOR), lower-case hex where
//! people read it (JSON, TOML).

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serializer};

/// The most bytes accepted where a length is not fixed and the format gives a sequence instead of a byte string.
const SEQUENCE_RESERVE: usize = 4096;

pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.serialize_str(&hex::encode(bytes))
    } else {
        serializer.serialize_bytes(bytes)
    }
}

/// Reads bytes in whichever of the two forms the format uses and hands them to `build`.
pub(crate) fn deserialize<'de, D, T>(
    deserializer: D,
    expecting: &'static str,
    build: fn(&[u8]) -> Result<T, String>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let visitor = BytesVisitor { expecting, build, marker: PhantomData };
    if deserializer.is_human_readable() {
        deserializer.deserialize_str(visitor)
    } else {
        deserializer.deserialize_bytes(visitor)
    }
}

struct BytesVisitor<T> {
    expecting: &'static str,
    build: fn(&[u8]) -> Result<T, String>,
    marker: PhantomData<T>,
}

impl<'de, T> Visitor<'de> for BytesVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        let bytes = hex::decode(text).map_err(|e| E::custom(format_args!("{}: {e}", self.expecting)))?;
        (self.build)(&bytes).map_err(E::custom)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
        (self.build)(bytes).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        let mut bytes = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(SEQUENCE_RESERVE));
        while let Some(byte) = seq.next_element::<u8>()? {
            bytes.push(byte);
        }
        (self.build)(&bytes).map_err(A::Error::custom)
    }
}

/// Implements both serde traits for a type, given what its errors call it, how it becomes bytes (`&T` to anything that
/// is `AsRef<[u8]>`) and how bytes become it (`&[u8]` to `Result<T, String>`).
macro_rules! impl_bytes_serde {
    ($type:ty, $expecting:literal, $to:expr, $from:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let bytes = ($to)(self);
                $crate::bytes_serde::serialize(bytes.as_ref(), serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::bytes_serde::deserialize(deserializer, $expecting, $from)
            }
        }
    };
}
pub(crate) use impl_bytes_serde;
