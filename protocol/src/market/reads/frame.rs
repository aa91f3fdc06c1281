//! What is said under an order of single readings, once it has begun.
//!
//! The first frame of the buyer is a [`Begin`](crate::market::delivery::frame::Begin), as for every delivery. After that a reading is worth a few dozen bytes, so the frames here are arrays
//! that begin with a number in place of a map with a word, and say nothing that the other side knows. Answers come in the order of the questions. The
//! seller's [`begun`](delivery::ToBuyer::Begun), [`stopped`](delivery::ToBuyer::Stopped), [`ended`](delivery::ToBuyer::Ended),
//! [`refused`](delivery::ToBuyer::Refused) and `alive` are those of every delivery.

use sensora_chain::Satoshis;
use sensora_chain::keys::Signature;
use serde_bytes::ByteBuf;

use crate::codec::{self, CodecError};
use crate::id::Hash;
use crate::market::delivery::frame::{self as delivery, OrderVoucher};
use crate::stream::leaf::{SALT_LEN, Salt};
use crate::stream::reading::Value;

/// Longest frame to a seller in bytes, after the first one.
pub const MAX_TO_SELLER_LEN: usize = 256;
/// Longest frame to a buyer in bytes: the places of a whole order, 4,096 runs of them, after a crash. A reading is far below.
pub const MAX_TO_BUYER_LEN: usize = 96 * 1024;

/// From the buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToSeller {
    /// `[0, id, seq, levels]`: one reading, with the hashes beside the way up from it.
    Read {
        /// Comes back in the answer.
        id: u16,
        /// Sequence number.
        seq: u64,
        /// How many hashes.
        levels: u8,
    },
    /// `[1, id, size, levels]`: the newest reading.
    Latest {
        /// Comes back in the answer.
        id: u16,
        /// Readings in the log, as far as the buyer knows.
        size: u64,
        /// Hashes for the last reading of that log, if it still is the newest; none where the buyer has it.
        levels: Option<u8>,
    },
    /// `[2, id, size]`: how the log has grown.
    Grow {
        /// Comes back in the answer.
        id: u16,
        /// Readings in the log, as far as the buyer knows.
        size: u64,
    },
    /// `[3, paid, amount, signature]`: a payment.
    Voucher(OrderVoucher),
    /// `[4]`: no more questions; what was answered is paid, and the order ends with its receipt.
    Stop,
    /// `[5]`: nothing to say, but there.
    Alive,
}

/// The values of a reading, and the hashes that prove it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// When it was measured, nanoseconds since the Unix epoch.
    pub time: i64,
    /// One for each field.
    pub values: Vec<Value>,
    /// What its leaf is salted with.
    pub salt: Salt,
    /// Hashes, from the leaf up or from left to right.
    pub hashes: Vec<Hash>,
}

/// A checkpoint without what its reader knows or computes: stream and root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signing {
    /// Readings in the log.
    pub size: u64,
    /// When it was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// The seller's signature of the checkpoint, compact.
    pub signature: Signature,
}

/// From the seller.
#[derive(Debug, Clone, PartialEq)]
pub enum ToBuyer {
    /// `[0, id, time, values, proof]`: the reading that was asked for.
    Row {
        /// Of the question.
        id: u16,
        /// The reading, with hashes from its leaf up.
        row: Row,
    },
    /// `[1, id, size, issued, signature, time, values, proof]`: the newest reading, which the buyer's log does not have yet: the last one of this one.
    Newest {
        /// Of the question.
        id: u16,
        /// The log it is in.
        signing: Signing,
        /// The reading, with the roots of the subtrees between the buyer's log and it.
        row: Row,
    },
    /// `[2, id]`: the newest reading is the one the buyer has.
    Same {
        /// Of the question.
        id: u16,
    },
    /// `[3, id, size, issued, signature, proof]`: the log as it is now.
    Grown {
        /// Of the question.
        id: u16,
        /// The log.
        signing: Signing,
        /// The roots of the subtrees that it has grown by.
        hashes: Vec<Hash>,
    },
    /// `[4, runs]`: what was answered at the places that the buyer has not, as first sequence numbers and counts. Ask for it again.
    Owed(Vec<(u64, u64)>),
    /// What is said in every delivery.
    Order(delivery::ToBuyer),
}

type Seller3<'a> = (u8, Satoshis, Satoshis, &'a Signature);

/// The salt, where there is one, and the hashes in one string.
fn proof(salt: Option<&Salt>, hashes: &[Hash]) -> ByteBuf {
    let mut bytes = Vec::with_capacity(SALT_LEN.saturating_add(hashes.len().saturating_mul(Hash::LEN)));
    bytes.extend(salt.into_iter().flatten());
    hashes.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
    ByteBuf::from(bytes)
}

fn of_type(what: &'static str, reason: &str) -> CodecError {
    CodecError::Type { what, reason: reason.to_owned() }
}

fn hashes_of(bytes: &[u8]) -> Result<Vec<Hash>, CodecError> {
    match bytes.as_chunks::<{ Hash::LEN }>() {
        (hashes, []) => Ok(hashes.iter().map(|hash| Hash(*hash)).collect()),
        _ => Err(of_type("proof", "hashes have 32 bytes each")),
    }
}

fn row_of(time: i64, values: Vec<Value>, proof: &[u8]) -> Result<Row, CodecError> {
    let (salt, rest) =
        proof.split_first_chunk::<SALT_LEN>().ok_or_else(|| of_type("proof", "it begins with a salt"))?;
    Ok(Row { time, values, salt: *salt, hashes: hashes_of(rest)? })
}

/// The number that an array begins with; `None` for what is no array.
fn tag(bytes: &[u8]) -> Option<u8> {
    let (head, rest) = bytes.split_first()?;
    if head >> 5 == 4 { rest.first().copied() } else { None }
}

fn up_to(bytes: Vec<u8>, max: usize) -> Result<Vec<u8>, CodecError> {
    if bytes.len() > max { Err(CodecError::TooLong { len: bytes.len(), max }) } else { Ok(bytes) }
}

impl ToSeller {
    /// The bytes of the frame.
    ///
    /// # Errors
    /// [`CodecError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        let bytes = match self {
            Self::Read { id, seq, levels } => codec::encode(&(0_u8, id, seq, levels)),
            Self::Latest { id, size, levels } => codec::encode(&(1_u8, id, size, levels)),
            Self::Grow { id, size } => codec::encode(&(2_u8, id, size)),
            Self::Voucher(OrderVoucher { paid, amount, signature }) => {
                let voucher: Seller3<'_> = (3, *paid, *amount, signature);
                codec::encode(&voucher)
            }
            Self::Stop => codec::encode(&(4_u8,)),
            Self::Alive => codec::encode(&(5_u8,)),
        };
        up_to(bytes?, MAX_TO_SELLER_LEN)
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        const MAX: usize = MAX_TO_SELLER_LEN;
        Ok(match tag(bytes) {
            Some(0) => {
                let (_, id, seq, levels): (u8, _, _, _) = codec::decode_exact(bytes, MAX)?;
                Self::Read { id, seq, levels }
            }
            Some(1) => {
                let (_, id, size, levels): (u8, _, _, _) = codec::decode_exact(bytes, MAX)?;
                Self::Latest { id, size, levels }
            }
            Some(2) => {
                let (_, id, size): (u8, _, _) = codec::decode_exact(bytes, MAX)?;
                Self::Grow { id, size }
            }
            Some(3) => {
                let (_, paid, amount, signature): (u8, _, _, _) = codec::decode_exact(bytes, MAX)?;
                Self::Voucher(OrderVoucher { paid, amount, signature })
            }
            Some(4) => codec::decode_exact::<(u8,)>(bytes, MAX).map(|_| Self::Stop)?,
            Some(5) => codec::decode_exact::<(u8,)>(bytes, MAX).map(|_| Self::Alive)?,
            _ => {
                return Err(of_type(
                    "frame to a seller of single readings",
                    "it begins with none of their numbers",
                ));
            }
        })
    }

    /// What it is, in snake case: a label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Latest { .. } => "latest",
            Self::Grow { .. } => "grow",
            Self::Voucher(_) => "voucher",
            Self::Stop => "stop",
            Self::Alive => "alive",
        }
    }
}

impl ToBuyer {
    /// The bytes of the frame.
    ///
    /// # Errors
    /// [`CodecError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        let bytes = match self {
            Self::Row { id, row } => {
                codec::encode(&(0_u8, id, row.time, &row.values, proof(Some(&row.salt), &row.hashes)))
            }
            Self::Newest { id, signing: Signing { size, issued_ms, signature }, row } => {
                let proof = proof(Some(&row.salt), &row.hashes);
                codec::encode(&(1_u8, id, size, issued_ms, signature, row.time, &row.values, proof))
            }
            Self::Same { id } => codec::encode(&(2_u8, id)),
            Self::Grown { id, signing: Signing { size, issued_ms, signature }, hashes } => {
                codec::encode(&(3_u8, id, size, issued_ms, signature, proof(None, hashes)))
            }
            Self::Owed(runs) => codec::encode(&(4_u8, runs)),
            Self::Order(frame) => frame.to_bytes(),
        };
        up_to(bytes?, MAX_TO_BUYER_LEN)
    }

    /// Reads a frame. The words of a refusal are a stranger's: they come tamed.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        const MAX: usize = MAX_TO_BUYER_LEN;
        if bytes.len() > MAX {
            return Err(CodecError::TooLong { len: bytes.len(), max: MAX });
        }
        Ok(match tag(bytes) {
            None => Self::Order(delivery::ToBuyer::from_bytes(bytes)?),
            Some(0) => {
                let (_, id, time, values, proof): (u8, _, _, _, ByteBuf) = codec::decode_exact(bytes, MAX)?;
                Self::Row { id, row: row_of(time, values, &proof)? }
            }
            Some(1) => {
                let (_, id, size, issued_ms, signature, time, values, proof): (
                    u8,
                    _,
                    _,
                    _,
                    _,
                    _,
                    _,
                    ByteBuf,
                ) = codec::decode_exact(bytes, MAX)?;
                let signing = Signing { size, issued_ms, signature };
                Self::Newest { id, signing, row: row_of(time, values, &proof)? }
            }
            Some(2) => {
                let (_, id): (u8, _) = codec::decode_exact(bytes, MAX)?;
                Self::Same { id }
            }
            Some(3) => {
                let (_, id, size, issued_ms, signature, proof): (u8, _, _, _, _, ByteBuf) =
                    codec::decode_exact(bytes, MAX)?;
                Self::Grown {
                    id,
                    signing: Signing { size, issued_ms, signature },
                    hashes: hashes_of(&proof)?,
                }
            }
            Some(4) => {
                let (_, runs): (u8, _) = codec::decode_exact(bytes, MAX)?;
                Self::Owed(runs)
            }
            Some(_) => {
                return Err(of_type(
                    "frame to a buyer of single readings",
                    "it begins with none of their numbers",
                ));
            }
        })
    }

    /// What it is, in snake case: a label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Row { .. } => "row",
            Self::Newest { .. } => "newest",
            Self::Same { .. } => "same",
            Self::Grown { .. } => "grown",
            Self::Owed(_) => "owed",
            Self::Order(frame) => frame.name(),
        }
    }
}
