//! From a reading to the leaf of its log, and the salts that keep a leaf's hash from giving the reading away.
//!
//! A leaf is SHA-256(0x00 ‖ row), as in RFC 9162 §2.1.1, where the row is the deterministic CBOR (RFC 8949 §4.2) of the array
//! `[seq, time, values, salt]`: definite lengths, the shortest integers, floats always in 64 bits, null where the device gave
//! no value, and the salt as a byte string of 16 bytes.
//!
//! Proofs are public and a temperature has a few thousand likely values, so without a salt whoever sees a leaf's hash could
//! find the reading by trying them all. The salts of a chunk follow from the chunk's secret, in one of two ways ([`Salting`]): as the
//! leaves of a [tree of seeds](super::seeds), or, in streams that were begun earlier, as 16-byte pieces of the ChaCha20
//! keystream (RFC 8439 §2.4, zero nonce, counter from 0). Either way one reading's salt says nothing of another's, and the secret
//! stands for the salts of the whole chunk. In a tree some seeds stand for the salts of a part of it.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use super::chunk::CHUNK_LEN;
use super::reading::{MAX_ROW_LEN, Reading, Value};
use super::seeds::{self, Seed};
use crate::id::Hash;

/// Length of a salt in bytes: 128 bits cannot be guessed.
pub const SALT_LEN: usize = 16;

/// The salt of one reading.
pub type Salt = [u8; SALT_LEN];

/// Domain of the derivation of a chunk's secret; a secret derived for anything else can never be equal to one.
const CHUNK_SECRET_DOMAIN: &[u8] = b"sensora/1/chunk-secret";

/// Domain of the derivation of the seed that a chunk's salts grow from.
const CHUNK_SEED_DOMAIN: &[u8] = b"sensora/1/chunk-seed";

/// Prefix of a leaf in the tree's hash (RFC 9162 §2.1.1); an inner node has 0x01.
const LEAF_PREFIX: u8 = 0x00;

/// How the salts of a stream follow from its secret. A stream keeps the way it was begun with: its log commits to its salts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Salting {
    /// From a keystream under each chunk's secret: a part of a chunk is handed over with a salt for each reading.
    #[default]
    Keystream,
    /// From a tree of seeds under each chunk's seed: a part of a chunk is handed over with a few seeds.
    Tree,
}

/// The secret of one stream, from which the secrets of all its chunks follow. It never leaves the seller.
#[derive(Clone)]
pub struct StreamSecret {
    bytes: [u8; 32],
    salting: Salting,
}

/// The secret of one chunk, from which the salts of its readings follow. It is handed over with the whole chunk.
#[derive(Clone, PartialEq, Eq)]
pub struct ChunkSecret(Root);

#[derive(Clone, PartialEq, Eq)]
enum Root {
    Key([u8; 32]),
    Seed(Seed),
}

impl StreamSecret {
    /// A secret of 32 random bytes, with salts from keystreams.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self::new(bytes, Salting::Keystream)
    }

    /// A secret of 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32], salting: Salting) -> Self {
        Self { bytes, salting }
    }

    /// The bytes, to store them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The secret of the chunk with this index: SHA-256 of the domain, the stream's secret and the index (big-endian); of a seed
    /// the first 16 bytes.
    #[must_use]
    pub fn chunk(&self, index: u64) -> ChunkSecret {
        let derive = |domain: &[u8]| -> [u8; 32] {
            let hasher = Sha256::new().chain_update(domain).chain_update(self.bytes);
            hasher.chain_update(index.to_be_bytes()).finalize().into()
        };
        match self.salting {
            Salting::Keystream => ChunkSecret::from_bytes(derive(CHUNK_SECRET_DOMAIN)),
            Salting::Tree => {
                let [seed @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = derive(CHUNK_SEED_DOMAIN);
                ChunkSecret::from_seed(seed)
            }
        }
    }
}

impl ChunkSecret {
    /// The secret of a keystream with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Root::Key(bytes))
    }

    /// The seed that all salts of a chunk grow from.
    #[must_use]
    pub const fn from_seed(seed: Seed) -> Self {
        Self(Root::Seed(seed))
    }

    /// The secret that was handed over as these bytes: 32 of a keystream, or 16 of a seed.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let key = || bytes.try_into().ok().map(Self::from_bytes);
        bytes.try_into().ok().map(Self::from_seed).or_else(key)
    }

    /// The bytes, to hand them over.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Root::Key(bytes) => bytes,
            Root::Seed(seed) => seed,
        }
    }

    /// The salts of `count` consecutive readings of the chunk, from sequence number `first` on.
    ///
    /// Only the position inside the chunk matters: it is up to the caller that this is the secret of the chunk. Never more than
    /// are left in the chunk.
    #[must_use]
    pub fn salts(&self, first: u64, count: usize) -> Vec<Salt> {
        let position = first % CHUNK_LEN;
        let left = usize::try_from(CHUNK_LEN - position).unwrap_or(0);
        let count = count.min(left);
        match &self.0 {
            Root::Key(key) => {
                let mut salts = vec![[0; SALT_LEN]; count];
                let mut keystream = ChaCha20::new(&(*key).into(), &[0; 12].into());
                keystream.seek(position * SALT_LEN as u64);
                keystream.apply_keystream(salts.as_flattened_mut());
                salts
            }
            Root::Seed(seed) => seeds::salts(seed, position, count),
        }
    }

    /// The seeds that the salts of these readings of the chunk grow from, and no others; `None` where the salts do not grow on a tree, or not all of the readings are of one
    /// chunk.
    #[must_use]
    pub fn seeds(&self, first: u64, count: usize) -> Option<Vec<Seed>> {
        match &self.0 {
            Root::Key(_) => None,
            Root::Seed(seed) => seeds::cover(seed, first % CHUNK_LEN, count),
        }
    }

    /// The salt of one reading.
    #[must_use]
    pub fn salt(&self, seq: u64) -> Salt {
        self.salts(seq, 1).first().copied().unwrap_or_default()
    }
}

impl Drop for StreamSecret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Drop for ChunkSecret {
    fn drop(&mut self) {
        match &mut self.0 {
            Root::Key(bytes) => bytes.zeroize(),
            Root::Seed(seed) => seed.zeroize(),
        }
    }
}

impl std::fmt::Debug for StreamSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamSecret(…)")
    }
}

impl std::fmt::Debug for ChunkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkSecret(…)")
    }
}

/// The row of a reading: deterministic CBOR of `[seq, time, values, salt]`.
#[must_use]
pub fn row(reading: &Reading, salt: &Salt) -> Vec<u8> {
    let mut row = Vec::with_capacity(row_len(reading));
    write_row(reading, salt, &mut row);
    row
}

/// The leaf hash of a reading.
#[must_use]
pub fn hash(reading: &Reading, salt: &Salt) -> Hash {
    LeafHasher::new().hash(reading, salt)
}

/// Leaf hashes of many readings, with one buffer for all.
#[derive(Debug)]
pub struct LeafHasher {
    buffer: Vec<u8>,
}

impl LeafHasher {
    /// A hasher with room for the longest row.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: Vec::with_capacity(1 + MAX_ROW_LEN) }
    }

    /// The leaf hash of a reading.
    pub fn hash(&mut self, reading: &Reading, salt: &Salt) -> Hash {
        self.buffer.clear();
        self.buffer.push(LEAF_PREFIX);
        write_row(reading, salt, &mut self.buffer);
        Hash(Sha256::digest(&self.buffer).into())
    }
}

impl Default for LeafHasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Length of the row of a reading in bytes, without building it.
#[must_use]
pub fn row_len(reading: &Reading) -> usize {
    let values: usize = reading.values.iter().map(value_len).sum();
    let fixed = head_len(4) + head_len(SALT_LEN as u64) + SALT_LEN;
    fixed
        + head_len(reading.seq)
        + head_len(magnitude(reading.time))
        + head_len(reading.values.len() as u64)
        + values
}

fn value_len(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 1,
        Value::Int(number) => head_len(magnitude(*number)),
        Value::Float(_) => 9,
        Value::Text(text) => head_len(text.len() as u64) + text.len(),
    }
}

/// Major types of RFC 8949 §3.1, in the upper three bits of the head.
mod major {
    pub(super) const UNSIGNED: u8 = 0 << 5;
    pub(super) const NEGATIVE: u8 = 1 << 5;
    pub(super) const BYTES: u8 = 2 << 5;
    pub(super) const TEXT: u8 = 3 << 5;
    pub(super) const ARRAY: u8 = 4 << 5;
}

const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const FLOAT64: u8 = 0xfb;

fn write_row(reading: &Reading, salt: &Salt, out: &mut Vec<u8>) {
    write_head(major::ARRAY, 4, out);
    write_head(major::UNSIGNED, reading.seq, out);
    write_int(reading.time, out);
    write_head(major::ARRAY, reading.values.len() as u64, out);
    for value in &reading.values {
        match value {
            Value::Null => out.push(NULL),
            Value::Bool(false) => out.push(FALSE),
            Value::Bool(true) => out.push(TRUE),
            Value::Int(number) => write_int(*number, out),
            Value::Float(number) => {
                out.push(FLOAT64);
                out.extend_from_slice(&number.to_bits().to_be_bytes());
            }
            Value::Text(text) => {
                write_head(major::TEXT, text.len() as u64, out);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
    write_head(major::BYTES, SALT_LEN as u64, out);
    out.extend_from_slice(salt);
}

/// What stands in the head of an integer: n, or -1 - n for a negative one, which is the complement of its bits.
const fn magnitude(number: i64) -> u64 {
    (if number < 0 { !number } else { number }).cast_unsigned()
}

fn write_int(number: i64, out: &mut Vec<u8>) {
    let major = if number < 0 { major::NEGATIVE } else { major::UNSIGNED };
    write_head(major, magnitude(number), out);
}

const fn head_len(argument: u64) -> usize {
    match argument {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "each arm is bounded by its pattern")]
fn write_head(major: u8, argument: u64, out: &mut Vec<u8>) {
    match argument {
        0..=23 => out.push(major | argument as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, argument as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading {
            seq: 1000,
            time: 1_386_018_900_000_000_000,
            values: vec![
                Value::Float(73.967_322_07),
                Value::Int(-1),
                Value::Null,
                Value::Bool(true),
                Value::Text("é".into()),
            ],
        }
    }

    #[test]
    fn a_row_is_this_cbor() {
        let expected = concat!(
            "84",
            "1903e8",
            "1b133c20d89a7a4800",
            "85",
            "fb40527de89ad3d656",
            "20",
            "f6",
            "f5",
            "62c3a9",
            "50000102030405060708090a0b0c0d0e0f"
        );
        let salt = std::array::from_fn(|i| i as u8);
        assert_eq!(hex::encode(row(&reading(), &salt)), expected);
        let mut leaf = vec![0];
        leaf.extend(hex::decode(expected).unwrap());
        assert_eq!(hash(&reading(), &salt), Hash::of(&leaf));
    }

    #[test]
    fn a_row_is_what_the_codec_writes() {
        let salt = [7; SALT_LEN];
        for number in [0, 23, 24, 255, 256, 65_535, 65_536, 1 << 32, i64::MAX, -1, -24, -25, -257, i64::MIN] {
            let mut reading = reading();
            reading.seq = number.unsigned_abs();
            reading.time = number;
            reading.values.push(Value::Int(number));
            reading.values.push(Value::Float(-0.0));
            let fields = (reading.seq, reading.time, &reading.values, serde_bytes::Bytes::new(&salt));
            let row = row(&reading, &salt);
            assert_eq!(row, crate::codec::encode(&fields).unwrap());
            assert_eq!(row.len(), row_len(&reading));
        }
    }

    #[test]
    fn salts_are_the_keystream_of_rfc_8439() {
        // RFC 8439 appendix A.1, test vector 1: zero key and nonce, counter 0.
        let zero = ChunkSecret::from_bytes([0; 32]);
        let keystream = hex::decode(
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7\
             da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        )
        .unwrap();
        assert_eq!(zero.salts(0, 4).as_flattened(), keystream);
        assert_eq!(zero.salts(CHUNK_LEN, 4), zero.salts(0, 4));
        assert_eq!(zero.salt(CHUNK_LEN + 2).as_slice(), &keystream[32..48]);
        assert_eq!(zero.salts(1000, 100).len(), 24);
    }

    #[test]
    fn chunks_have_secrets_of_their_own() {
        let stream = StreamSecret::from_bytes([1; 32]);
        assert!(stream.chunk(0) != stream.chunk(1));
        assert!(stream.chunk(0) == stream.chunk(0));
        assert!(stream.chunk(0) != StreamSecret::from_bytes([2; 32]).chunk(0));
        assert_eq!(format!("{stream:?} {:?}", stream.chunk(0)), "StreamSecret(…) ChunkSecret(…)");
    }
}
