//! What is said under an order of single readings, once it has begun.
//!
//! The first frame of the buyer is a [`Begin`](crate::market::delivery::frame::Begin), as for every delivery. After that a reading is worth a few dozen bytes, so the frames here are arrays
//! that begin with one number for what it is and for which question (`word` = id · 8 + kind) in place of a map with a name, and say nothing that the other side knows. Answers come in the order of the questions. The
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

/// Where a stream is: sequence numbers and times are sent as steps from the ones before, beginning with 0, which for readings in order are short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor(u64);

impl Cursor {
    /// Goes to `at`, and says by which step.
    pub const fn step_to(&mut self, at: u64) -> i64 {
        let step = at.wrapping_sub(self.0).cast_signed();
        self.0 = at;
        step
    }

    /// Makes a step, and says where it leads. Any step leads somewhere: what is there is for the caller to check.
    pub const fn take(&mut self, step: i64) -> u64 {
        self.0 = self.0.wrapping_add(step.cast_unsigned());
        self.0
    }
}

/// From the buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToSeller {
    /// `[word, step, levels]`: one reading, with the hashes beside the way up from it.
    Read {
        /// Comes back in the answer.
        id: u16,
        /// Its sequence number, as a step from the one that was asked for before; see [`Cursor`].
        step: i64,
        /// How many hashes.
        levels: u8,
    },
    /// `[word, size, levels]`: the newest reading.
    Latest {
        /// Comes back in the answer.
        id: u16,
        /// Readings in the log, as far as the buyer knows.
        size: u64,
        /// Hashes for the last reading of that log, if it still is the newest; none where the buyer has it.
        levels: Option<u8>,
    },
    /// `[word, size]`: how the log has grown.
    Grow {
        /// Comes back in the answer.
        id: u16,
        /// Readings in the log, as far as the buyer knows.
        size: u64,
    },
    /// `[word, paid, amount, signature]`: a payment.
    Voucher(OrderVoucher),
    /// `[word]`: no more questions; what was answered is paid, and the order ends with its receipt.
    Stop,
    /// `[word]`: nothing to say, but there.
    Alive,
}

/// The values of a reading, and the hashes that prove it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// When it was measured, nanoseconds since the Unix epoch, as a step from the time of the reading that was sent before; see [`Cursor`].
    pub step: i64,
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
    /// `[word, step, values, proof]`: the reading that was asked for.
    Row {
        /// Of the question.
        id: u16,
        /// The reading, with hashes from its leaf up.
        row: Row,
    },
    /// `[word, size, issued, signature, step, values, proof]`: the newest reading, which the buyer's log does not have yet: the last one of this one.
    Newest {
        /// Of the question.
        id: u16,
        /// The log it is in.
        signing: Signing,
        /// The reading, with the roots of the subtrees between the buyer's log and it.
        row: Row,
    },
    /// `[word]`: the newest reading is the one the buyer has.
    Same {
        /// Of the question.
        id: u16,
    },
    /// `[word, size, issued, signature, proof]`: the log as it is now.
    Grown {
        /// Of the question.
        id: u16,
        /// The log.
        signing: Signing,
        /// The roots of the subtrees that it has grown by.
        hashes: Vec<Hash>,
    },
    /// `[word, runs]`: what was answered at the places that the buyer has not, as first sequence numbers and counts. Ask for it again.
    Owed(Vec<(u64, u64)>),
    /// What is said in every delivery.
    Order(delivery::ToBuyer),
}

type Voucher<'a> = (u32, Satoshis, Satoshis, &'a Signature);

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

fn row_of(step: i64, values: Vec<Value>, proof: &[u8]) -> Result<Row, CodecError> {
    let (salt, rest) =
        proof.split_first_chunk::<SALT_LEN>().ok_or_else(|| of_type("proof", "it begins with a salt"))?;
    Ok(Row { step, values, salt: *salt, hashes: hashes_of(rest)? })
}

/// What a frame is, in the lower three bits of the number that it begins with; the rest is the question's id.
mod kind {
    pub(super) const READ: u32 = 0;
    pub(super) const LATEST: u32 = 1;
    pub(super) const GROW: u32 = 2;
    pub(super) const VOUCHER: u32 = 3;
    pub(super) const STOP: u32 = 4;
    pub(super) const ALIVE: u32 = 5;

    pub(super) const ROW: u32 = 0;
    pub(super) const NEWEST: u32 = 1;
    pub(super) const SAME: u32 = 2;
    pub(super) const GROWN: u32 = 3;
    pub(super) const OWED: u32 = 4;
}

fn word(kind: u32, id: u16) -> u32 {
    u32::from(id) << 3 | kind
}

/// The id in a frame's first number.
fn id_of(word: u32) -> Result<u16, CodecError> {
    u16::try_from(word >> 3).map_err(|_| of_type("id of a question", "it is above 65535"))
}

/// A frame without a question has no id.
fn no_id(word: u32) -> Result<(), CodecError> {
    if word >> 3 == 0 {
        Ok(())
    } else {
        Err(of_type("frame of single readings", "it has an id and needs none"))
    }
}

/// The kind of a frame, from the number that an array begins with; `None` for what is no array.
fn kind_of(bytes: &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first()?;
    if head >> 5 != 4 {
        return None;
    }
    // The lower bits of an unsigned integer are in its last byte; whether it is one is seen when all is decoded.
    let info = usize::from(*rest.first()?);
    let last = match info {
        0..=23 => 0,
        24 => 1,
        25 => 2,
        26 => 4,
        _ => return Some(u32::MAX),
    };
    Some(rest.get(last).map_or(u32::MAX, |last| u32::from(last & 7)))
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
            Self::Read { id, step, levels } => codec::encode(&(word(kind::READ, *id), step, levels)),
            Self::Latest { id, size, levels } => codec::encode(&(word(kind::LATEST, *id), size, levels)),
            Self::Grow { id, size } => codec::encode(&(word(kind::GROW, *id), size)),
            Self::Voucher(OrderVoucher { paid, amount, signature }) => {
                let voucher: Voucher<'_> = (kind::VOUCHER, *paid, *amount, signature);
                codec::encode(&voucher)
            }
            Self::Stop => codec::encode(&(kind::STOP,)),
            Self::Alive => codec::encode(&(kind::ALIVE,)),
        };
        up_to(bytes?, MAX_TO_SELLER_LEN)
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        const MAX: usize = MAX_TO_SELLER_LEN;
        Ok(match kind_of(bytes) {
            Some(kind::READ) => {
                let (word, step, levels): (u32, _, _) = codec::decode_exact(bytes, MAX)?;
                Self::Read { id: id_of(word)?, step, levels }
            }
            Some(kind::LATEST) => {
                let (word, size, levels): (u32, _, _) = codec::decode_exact(bytes, MAX)?;
                Self::Latest { id: id_of(word)?, size, levels }
            }
            Some(kind::GROW) => {
                let (word, size): (u32, _) = codec::decode_exact(bytes, MAX)?;
                Self::Grow { id: id_of(word)?, size }
            }
            Some(kind::VOUCHER) => {
                let (word, paid, amount, signature): (u32, _, _, _) = codec::decode_exact(bytes, MAX)?;
                no_id(word)?;
                Self::Voucher(OrderVoucher { paid, amount, signature })
            }
            Some(kind::STOP) => {
                no_id(codec::decode_exact::<(u32,)>(bytes, MAX)?.0)?;
                Self::Stop
            }
            Some(kind::ALIVE) => {
                no_id(codec::decode_exact::<(u32,)>(bytes, MAX)?.0)?;
                Self::Alive
            }
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
                let proof = proof(Some(&row.salt), &row.hashes);
                codec::encode(&(word(kind::ROW, *id), row.step, &row.values, proof))
            }
            Self::Newest { id, signing: Signing { size, issued_ms, signature }, row } => {
                let (word, proof) = (word(kind::NEWEST, *id), proof(Some(&row.salt), &row.hashes));
                codec::encode(&(word, size, issued_ms, signature, row.step, &row.values, proof))
            }
            Self::Same { id } => codec::encode(&(word(kind::SAME, *id),)),
            Self::Grown { id, signing: Signing { size, issued_ms, signature }, hashes } => {
                codec::encode(&(word(kind::GROWN, *id), size, issued_ms, signature, proof(None, hashes)))
            }
            Self::Owed(runs) => codec::encode(&(kind::OWED, runs)),
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
        Ok(match kind_of(bytes) {
            None => Self::Order(delivery::ToBuyer::from_bytes(bytes)?),
            Some(kind::ROW) => {
                let (word, step, values, proof): (u32, _, _, ByteBuf) = codec::decode_exact(bytes, MAX)?;
                Self::Row { id: id_of(word)?, row: row_of(step, values, &proof)? }
            }
            Some(kind::NEWEST) => {
                let (word, size, issued_ms, signature, step, values, proof): (u32, _, _, _, _, _, ByteBuf) =
                    codec::decode_exact(bytes, MAX)?;
                let signing = Signing { size, issued_ms, signature };
                Self::Newest { id: id_of(word)?, signing, row: row_of(step, values, &proof)? }
            }
            Some(kind::SAME) => {
                let (word,): (u32,) = codec::decode_exact(bytes, MAX)?;
                Self::Same { id: id_of(word)? }
            }
            Some(kind::GROWN) => {
                let (word, size, issued_ms, signature, proof): (u32, _, _, _, ByteBuf) =
                    codec::decode_exact(bytes, MAX)?;
                let signing = Signing { size, issued_ms, signature };
                Self::Grown { id: id_of(word)?, signing, hashes: hashes_of(&proof)? }
            }
            Some(kind::OWED) => {
                let (word, runs): (u32, _) = codec::decode_exact(bytes, MAX)?;
                no_id(word)?;
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
