//! Names of things on the chain: transaction ids, block hashes and outpoints.
//!
//! They are kept in the order in which they are hashed and sent ("internal"). People and JSON see the reversed hex
//! that block explorers show; binary formats carry the internal bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::encode::{DecodeError, Reader};

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {what} is 64 hexadecimal digits, this is \"{text}\"")]
pub struct IdError {
    what: &'static str,
    text: String,
}

macro_rules! hash_id {
    ($name:ident, $what:literal) => {
        impl $name {
            /// The bytes in internal order.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight digits of what people see: enough for a log line.
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut reversed = self.0;
                reversed.reverse();
                f.pad(&hex::encode(reversed))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0u8; 32];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| IdError { what: $what, text: text.chars().take(80).collect() })?;
                bytes.reverse();
                Ok($name(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // The text form is reversed; `deserialize` undoes the hex and leaves the order to us.
                let human = deserializer.is_human_readable();
                let mut id = crate::bytes_serde::deserialize(deserializer, $what, |bytes| {
                    bytes
                        .try_into()
                        .map($name)
                        .map_err(|_| format!("a {} has 32 bytes, this has {}", $what, bytes.len()))
                })?;
                if human {
                    id.0.reverse();
                }
                Ok(id)
            }
        }
    };
}

/// A transaction's id: the double SHA-256 of its bytes, in internal order.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(pub [u8; 32]);
hash_id!(Txid, "transaction id");

/// A block's hash: the double SHA-256 of its 80-byte header, in internal order.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub [u8; 32]);
hash_id!(BlockHash, "block hash");

/// One output of one transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutPoint {
    /// The transaction that made the output.
    pub txid: Txid,
    /// The output's position in it, from 0.
    pub vout: u32,
}

impl OutPoint {
    /// Bytes of an outpoint on the wire.
    pub const SIZE: usize = 36;

    /// What a coinbase input refers to: no transaction.
    pub const NULL: OutPoint = OutPoint { txid: Txid([0; 32]), vout: u32::MAX };

    /// Reads 36 bytes.
    ///
    /// # Errors
    /// [`DecodeError::UnexpectedEnd`] if fewer are left.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(OutPoint { txid: Txid(reader.array("an outpoint")?), vout: reader.u32("an outpoint")? })
    }

    /// Appends 36 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.txid.0);
        out.extend_from_slice(&self.vout.to_le_bytes());
    }
}

impl fmt::Display for OutPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.txid, self.vout)
    }
}

/// The text is not `txid:vout`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an outpoint is written as transaction id, colon, output number; this is \"{0}\"")]
pub struct OutPointError(String);

impl FromStr for OutPoint {
    type Err = OutPointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || OutPointError(text.chars().take(80).collect());
        let (txid, vout) = text.split_once(':').ok_or_else(refuse)?;
        Ok(OutPoint { txid: txid.parse().map_err(|_| refuse())?, vout: vout.parse().map_err(|_| refuse())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_the_reversed_hex_and_binary_formats_the_bytes() {
        let mut bytes = [0u8; 32];
        bytes[0] = 0xab;
        let txid = Txid(bytes);
        let text = format!("{}ab", "00".repeat(31));
        assert_eq!(txid.to_string(), text);
        assert_eq!(text.parse::<Txid>().unwrap(), txid);
        let json = serde_json::to_string(&txid).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Txid>(&json).unwrap(), txid);
        let cbor = cbor4ii::serde::to_vec(Vec::new(), &txid).unwrap();
        assert_eq!(cbor[..3], [0x58, 32, 0xab]);
        assert_eq!(cbor4ii::serde::from_slice::<Txid>(&cbor).unwrap(), txid);
        assert!(cbor4ii::serde::from_slice::<Txid>(&[0x41, 0]).is_err());
    }

    #[test]
    fn outpoint_text_round_trips() {
        let outpoint = OutPoint { txid: Txid([7; 32]), vout: 3 };
        assert_eq!(outpoint.to_string().parse::<OutPoint>().unwrap(), outpoint);
        assert!("07:3".parse::<OutPoint>().is_err());
        let json = serde_json::to_string(&outpoint).unwrap();
        assert_eq!(serde_json::from_str::<OutPoint>(&json).unwrap(), outpoint);
    }
}
