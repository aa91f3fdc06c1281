//! Anchors: one transaction that binds the checkpoints of all streams of a seller to the chain.
//!
//! A reading is in a stream's log, the log's state is a signed [`Checkpoint`], the digests of the checkpoints are the leaves of an anchor tree
//! (RFC 9162 §2.1), and the tree's root is in a `SENSORA_PROOF` data output. The block that holds the transaction shows that
//! all of it existed by then.
//!
//! Version 2 of the output is one push of 83 bytes: `SENSORA_PROOF` (13) ‖ `0x02` ‖ the seller's public key (33) ‖ root (32) ‖ number of
//! checkpoints (u32, big-endian). Version 1, the 73-byte layout of an older system, is read ([`ProofV1`]) and never written.

use std::net::Ipv6Addr;

use sensora_chain::beef::{Beef, BeefError, BeefLimits};
use sensora_chain::contract::data_output::{data_output, parse_data_output};
use sensora_chain::header::HeaderView;
use sensora_chain::keys::PublicKey;
use sensora_chain::spv::{self, SpvError};
use sensora_chain::{Network, TxOut, Txid};
use serde::{Deserialize, Serialize};

use crate::id::Hash;
use crate::statement::{Signed, bytes_or_hex};
use crate::stream::checkpoint::Checkpoint;
use crate::stream::log::{
    InclusionProof, MakeError, MemoryLog, ProofError, inclusion_proof, verify_inclusion,
};

/// First bytes of an anchor's payload.
pub const PROOF_PREFIX: &[u8; 13] = b"SENSORA_PROOF";
/// Version that is written.
pub const PROOF_VERSION: u8 = 2;
/// Length of the version 2 payload.
pub const PROOF_LEN: usize = 13 + 1 + 33 + 32 + 4;
/// Most checkpoints under one anchor.
pub const MAX_CHECKPOINTS: u32 = 1 << 16;

/// The payload of a version 2 anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorPayload {
    /// Whose checkpoints they are.
    pub seller: PublicKey,
    /// Root of the anchor tree.
    pub root: Hash,
    /// Number of checkpoints in it.
    pub count: u32,
}

impl AnchorPayload {
    /// The bytes of the push.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PROOF_LEN);
        bytes.extend_from_slice(PROOF_PREFIX);
        bytes.push(PROOF_VERSION);
        bytes.extend_from_slice(&self.seller.to_bytes());
        bytes.extend_from_slice(self.root.as_bytes());
        bytes.extend_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// The data output that carries it.
    #[must_use]
    pub fn to_output(&self) -> TxOut {
        data_output(&[&self.to_bytes()])
    }

    /// Reads the bytes of a push; `None` if they are no version 2 anchor.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(PROOF_PREFIX)?.strip_prefix(&[PROOF_VERSION])?;
        let (key, rest) = rest.split_first_chunk::<33>()?;
        let (root, rest) = rest.split_first_chunk::<32>()?;
        let count = u32::from_be_bytes(rest.try_into().ok()?);
        if !(1..=MAX_CHECKPOINTS).contains(&count) {
            return None;
        }
        Some(Self { seller: PublicKey::from_bytes(key).ok()?, root: Hash(*root), count })
    }

    /// Reads an output; `None` if it is no version 2 anchor.
    #[must_use]
    pub fn from_output(output: &TxOut) -> Option<Self> {
        match parse_data_output(&output.locking)?.as_slice() {
            [payload] => Self::from_bytes(payload),
            _ => None,
        }
    }
}

/// The payload of a version 1 anchor: one reading, by an unsalted hash.
///
/// 73 bytes, big-endian: `SENSORA_PROOF` ‖ `0x01` ‖ device id type `0x01` ‖ IPv6 address (16) ‖ reading id = Unix time in seconds (u64) ‖ data type (u16)
/// ‖ SHA-256 of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofV1 {
    /// The sensor.
    pub device: Ipv6Addr,
    /// Id of the reading: its time in seconds since the Unix epoch.
    pub reading_id: u64,
    /// What it measures; 1 is temperature and humidity.
    pub data_type: u16,
    /// SHA-256 of the data.
    pub hash: Hash,
}

impl ProofV1 {
    /// Length of the payload.
    pub const LEN: usize = 73;

    /// Reads the bytes of a push; `None` if they are no version 1 proof.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(PROOF_PREFIX)?.strip_prefix(&[1, 1])?;
        let (device, rest) = rest.split_first_chunk::<16>()?;
        let (reading_id, rest) = rest.split_first_chunk::<8>()?;
        let (data_type, rest) = rest.split_first_chunk::<2>()?;
        Some(Self {
            device: Ipv6Addr::from(*device),
            reading_id: u64::from_be_bytes(*reading_id),
            data_type: u16::from_be_bytes(*data_type),
            hash: Hash::try_from(rest).ok()?,
        })
    }

    /// Whether the proof is of this temperature (°C) and humidity (%), each rounded to one decimal, as version 1 hashes them.
    #[must_use]
    pub fn matches(&self, temperature: f64, humidity: f64) -> bool {
        let data = format!("{}:{temperature:.1}:{humidity:.1}", self.reading_id);
        self.data_type == 1 && Hash::of(data.as_bytes()) == self.hash
    }
}

/// The checkpoints of one anchor and the tree over them.
#[derive(Debug, Clone)]
pub struct AnchorTree {
    log: MemoryLog,
}

/// The leaf of a checkpoint in the anchor tree: SHA-256(0x00 ‖ digest of the signed checkpoint).
#[must_use]
pub fn leaf(checkpoint: &Signed<Checkpoint>, network: Network) -> Hash {
    Hash::of_parts(&[&[0], checkpoint.digest(network).as_bytes()])
}

impl AnchorTree {
    /// The tree over these checkpoints, in this order.
    #[must_use]
    pub fn new(checkpoints: &[Signed<Checkpoint>], network: Network) -> Self {
        Self { log: MemoryLog::from_leaves(checkpoints.iter().map(|checkpoint| leaf(checkpoint, network))) }
    }

    /// What goes on chain.
    #[must_use]
    pub fn payload(&self, seller: &PublicKey) -> AnchorPayload {
        let count = u32::try_from(self.log.size()).unwrap_or(u32::MAX);
        AnchorPayload { seller: *seller, root: self.log.root(), count }
    }

    /// Proof that the checkpoint at `index` is under the root.
    ///
    /// # Errors
    /// When there is no such checkpoint.
    pub fn inclusion(
        &self,
        index: u32,
    ) -> Result<InclusionProof, MakeError<crate::stream::log::MissingNode>> {
        inclusion_proof(&self.log, u64::from(index), self.log.size())
    }
}

/// The way from a checkpoint to a transaction on chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorProof {
    /// Position of the checkpoint in the anchor tree.
    pub index: u32,
    /// Number of checkpoints in the anchor tree.
    pub count: u32,
    /// From the checkpoint's leaf to the root.
    pub path: InclusionProof,
    /// The anchor transaction: Atomic BEEF (BRC-95), with its Merkle path once it is mined.
    #[serde(with = "bytes_or_hex")]
    pub beef: Vec<u8>,
}

/// How firmly something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "standing")]
#[non_exhaustive]
pub enum Standing {
    /// The seller has signed it; nothing is on chain yet.
    Signed,
    /// A transaction that anchors it exists and verifies, but is not in a block yet.
    Broadcast {
        /// The transaction.
        txid: Txid,
    },
    /// It is anchored in a block of our header chain.
    Mined {
        /// The transaction.
        txid: Txid,
        /// Height of the block.
        height: u32,
    },
}

/// Why an anchor does not hold.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// The BEEF cannot be read.
    #[error("the anchor transaction: {0}")]
    Beef(#[from] BeefError),
    /// The BEEF holds no transaction.
    #[error("the anchor's BEEF holds no transaction")]
    NoTransaction,
    /// The transaction does not verify against our headers.
    #[error("the anchor transaction does not verify: {0}")]
    Spv(#[from] SpvError),
    /// The transaction has no anchor of this seller.
    #[error("transaction {txid} carries no anchor of {seller}: it is a foreign anchor")]
    Foreign {
        /// The transaction.
        txid: Txid,
        /// Peer id of the seller.
        seller: String,
    },
    /// The checkpoint is not under the anchor's root.
    #[error("the checkpoint of {size} readings is not under the anchor in {txid}: {source}")]
    NotIncluded {
        /// Size of the checkpoint.
        size: u64,
        /// The transaction.
        txid: Txid,
        /// What the tree says.
        source: ProofError,
    },
}

impl AnchorProof {
    /// Checks that the checkpoint is anchored, and how firmly.
    ///
    /// # Errors
    /// [`AnchorError`].
    pub fn verify<H: HeaderView>(
        &self,
        checkpoint: &Signed<Checkpoint>,
        network: Network,
        headers: &H,
    ) -> Result<Standing, AnchorError> {
        let beef = Beef::parse(&self.beef, &BeefLimits::default())?;
        let txid = beef.subject().ok_or(AnchorError::NoTransaction)?;
        let spv = spv::verify(&beef, &txid, headers)?;
        let foreign = || AnchorError::Foreign { txid, seller: crate::identity::peer_id(checkpoint.key()) };
        let transaction = beef.transaction(&txid).ok_or_else(foreign)?;
        let payload = transaction
            .outputs
            .iter()
            .filter_map(AnchorPayload::from_output)
            .find(|payload| &payload.seller == checkpoint.key() && payload.count == self.count)
            .ok_or_else(foreign)?;
        let leaf = leaf(checkpoint, network);
        verify_inclusion(&leaf, u64::from(self.index), u64::from(self.count), &self.path, &payload.root)
            .map_err(|source| AnchorError::NotIncluded { size: checkpoint.value().size, txid, source })?;
        Ok(match spv.is_mined() {
            Some(mined) => Standing::Mined { txid, height: mined.height },
            None => Standing::Broadcast { txid },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StreamId;
    use crate::identity::Identity;
    use sensora_chain::keys::PrivateKey;

    fn identity(seed: u8) -> Identity {
        Identity::new(PrivateKey::from_bytes([seed; 32]).unwrap())
    }

    fn checkpoints(n: u8) -> Vec<Signed<Checkpoint>> {
        (0..n)
            .map(|i| {
                let checkpoint =
                    Checkpoint { stream: StreamId([i; 16]), size: 7, root: Hash([i; 32]), issued_ms: 1 };
                Signed::sign(checkpoint, &identity(1), Network::Regtest).unwrap()
            })
            .collect()
    }

    #[test]
    fn a_payload_is_83_bytes_and_reads_back() {
        let tree = AnchorTree::new(&checkpoints(5), Network::Regtest);
        let payload = tree.payload(identity(1).public());
        let output = payload.to_output();
        assert_eq!(payload.to_bytes().len(), PROOF_LEN);
        assert_eq!(output.value.as_u64(), 0);
        assert_eq!(AnchorPayload::from_output(&output), Some(payload.clone()));
        let mut long = payload.to_bytes();
        long.push(0);
        assert_eq!(AnchorPayload::from_bytes(&long), None);
        for len in 0..PROOF_LEN {
            assert_eq!(AnchorPayload::from_bytes(&payload.to_bytes()[..len]), None);
        }
    }

    #[test]
    fn each_checkpoint_is_under_the_root_and_no_other() {
        let checkpoints = checkpoints(5);
        let tree = AnchorTree::new(&checkpoints, Network::Regtest);
        let root = tree.payload(identity(1).public()).root;
        for (i, checkpoint) in checkpoints.iter().enumerate() {
            let proof = tree.inclusion(i as u32).unwrap();
            let leaf_of = |network| leaf(checkpoint, network);
            verify_inclusion(&leaf_of(Network::Regtest), i as u64, 5, &proof, &root).unwrap();
            assert!(verify_inclusion(&leaf_of(Network::Main), i as u64, 5, &proof, &root).is_err());
            assert!(
                verify_inclusion(&leaf_of(Network::Regtest), (i as u64 + 1) % 5, 5, &proof, &root).is_err()
            );
        }
    }

    #[test]
    fn a_version_1_proof_is_read() {
        let data = "1750000000:21.5:48.2";
        let mut bytes = b"SENSORA_PROOF".to_vec();
        bytes.extend_from_slice(&[1, 1]);
        bytes.extend_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend_from_slice(&1_750_000_000_u64.to_be_bytes());
        bytes.extend_from_slice(&1_u16.to_be_bytes());
        bytes.extend_from_slice(Hash::of(data.as_bytes()).as_bytes());
        assert_eq!(bytes.len(), ProofV1::LEN);
        let proof = ProofV1::from_bytes(&bytes).unwrap();
        assert_eq!((proof.reading_id, proof.data_type), (1_750_000_000, 1));
        assert!(proof.matches(21.5, 48.2) && proof.matches(21.52, 48.16) && !proof.matches(21.6, 48.2));
        assert!(ProofV1::from_bytes(&bytes[..72]).is_none());
        assert!(AnchorPayload::from_bytes(&bytes).is_none());
    }
}
