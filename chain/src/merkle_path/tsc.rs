//! Merkle proofs in the form that nodes (`getmerkleproof2`) and explorers (`/proof/tsc`) give: the "TSC" format.
//!
//! Such a proof does not say how high its block is, only which block it is of, so the height comes from elsewhere.

use serde::Deserialize;

use super::{MAX_TREE_HEIGHT, MerklePath, MerklePathError, Node, parent};
use crate::encode::{DecodeError, sha256d};
use crate::id::{IdError, Txid};

/// Written in the place of a hash that is the same as the one it is joined with.
const COPY: &str = "*";

/// Why a proof in TSC form is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TscError {
    /// The proof is for something else.
    #[error("the Merkle proof is for transaction {found}, asked for was {wanted}")]
    OtherTransaction {
        /// What was asked for.
        wanted: Txid,
        /// What the proof names.
        found: Txid,
    },
    /// Neither a transaction's id nor its bytes.
    #[error("the Merkle proof names no transaction")]
    NoTransaction,
    /// A node of the tree is no hash.
    #[error("a node of the Merkle proof cannot be read: {0}")]
    BadNode(#[from] IdError),
    /// Place and hashes do not fit each other.
    #[error(transparent)]
    Path(#[from] MerklePathError),
}

/// One proof as it is written in JSON. Fields that are not needed here are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TscProof {
    /// The transaction's place in its block, 0 for the coinbase.
    pub index: u64,
    /// The transaction's id, or its bytes, in hex.
    #[serde(rename = "txOrId")]
    pub tx_or_id: String,
    /// The block's hash, its header or its Merkle root in hex, as was asked for.
    #[serde(default)]
    pub target: String,
    /// The hash beside the transaction's on each level from below, as people see it, or `*` for a copy.
    pub nodes: Vec<String>,
}

impl TscProof {
    /// The Merkle path of this proof for `txid` in a block at `block_height`. Its root is still to be compared.
    ///
    /// Some services write a copy's hash out instead of `*`; both give the same path.
    ///
    /// # Errors
    /// [`TscError`] if the proof is for another transaction, or does not fit together.
    pub fn path(&self, block_height: u32, txid: &Txid) -> Result<MerklePath, TscError> {
        let found = self.txid()?;
        if found != *txid {
            return Err(TscError::OtherTransaction { wanted: *txid, found });
        }
        if self.nodes.len() > usize::from(MAX_TREE_HEIGHT) {
            let (count, max) = (self.nodes.len() as u64, u64::from(MAX_TREE_HEIGHT));
            return Err(MerklePathError::from(DecodeError::TooMany { what: "levels", count, max }).into());
        }
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let (mut hash, mut place) = (txid.0, self.index);
        for text in &self.nodes {
            let node = if text == COPY { Node::Copy } else { Node::Hash(text.parse::<Txid>()?.0) };
            let beside = node.hash().unwrap_or(hash);
            let is_right = place & 1 == 1;
            // What stands to the left of its own copy; the path says so in one way only.
            let is_copy = !is_right && beside == hash;
            nodes.push(if is_copy { None } else { node.hash() });
            hash = if is_right { parent(&beside, &hash) } else { parent(&hash, &beside) };
            place >>= 1;
        }
        Ok(MerklePath::from_tsc(block_height, *txid, self.index, &nodes)?)
    }

    /// Which transaction it is for.
    fn txid(&self) -> Result<Txid, TscError> {
        if self.tx_or_id.len() == 64 {
            return self.tx_or_id.parse().map_err(|_| TscError::NoTransaction);
        }
        let bytes = hex::decode(&self.tx_or_id).map_err(|_| TscError::NoTransaction)?;
        if bytes.is_empty() { Err(TscError::NoTransaction) } else { Ok(Txid(sha256d(&bytes))) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merkle_path::{merkle_root, tree};

    fn txids(count: usize) -> Vec<Txid> {
        (0..count).map(|i| Txid(crate::encode::sha256(&(i as u64).to_le_bytes()))).collect()
    }

    /// The proof that a node gives, and the one of a service that writes copies out.
    fn proofs(txids: &[Txid], index: usize) -> [TscProof; 2] {
        let (mut starred, mut written) = (Vec::new(), Vec::new());
        let mut hash = txids[index].0;
        for (level, node) in tree::siblings(txids, index).into_iter().enumerate() {
            starred.push(node.map_or_else(|| COPY.to_owned(), |node| Txid(node).to_string()));
            let beside = node.unwrap_or(hash);
            written.push(Txid(beside).to_string());
            hash = if index >> level & 1 == 1 { parent(&beside, &hash) } else { parent(&hash, &beside) };
        }
        [starred, written].map(|nodes| TscProof {
            index: index as u64,
            tx_or_id: txids[index].to_string(),
            target: String::new(),
            nodes,
        })
    }

    proptest! {
        #[test]
        fn every_transaction_of_a_block_has_its_path(count in 1usize..70, at: prop::sample::Index) {
            let txids = txids(count);
            let index = at.index(count);
            let expected = MerklePath::for_block(9, &txids, index).unwrap();
            for proof in proofs(&txids, index) {
                let path = proof.path(9, &txids[index]).unwrap();
                prop_assert_eq!(path.root(), &merkle_root(&txids));
                prop_assert_eq!(&path, &expected);
            }
        }

        #[test]
        fn no_proof_makes_it_panic(index: u64, nodes in prop::collection::vec("[*]|[0-9a-f]{64}|.{0,4}", 0..70), id in "[0-9a-f]{64}|.{0,8}") {
            let proof = TscProof { index, tx_or_id: id.clone(), target: String::new(), nodes };
            let txid = id.parse().unwrap_or_default();
            if let Ok(path) = proof.path(1, &txid) {
                prop_assert_eq!(path.offset_of(&txid), Some(index));
            }
        }
    }

    /// The shape of BSV.md's node and of the explorers, with what else they write.
    #[test]
    fn the_shape_of_the_services_is_read() {
        let txids = txids(3);
        let [proof, _] = proofs(&txids, 2);
        let json = format!(
            r#"{{"flags":0,"index":2,"txOrId":"{}","target":"{}","targetType":"hash","nodes":["*","{}"]}}"#,
            txids[2], txids[0], proof.nodes[1]
        );
        let read: TscProof = serde_json::from_str(&json).unwrap();
        assert_eq!(read.path(5, &txids[2]), MerklePath::for_block(5, &txids, 2).map_err(Into::into));
    }

    #[test]
    fn the_whole_transaction_names_its_id() {
        let tx = crate::Transaction::default();
        let proof = TscProof { index: 0, tx_or_id: tx.to_string(), target: String::new(), nodes: Vec::new() };
        assert_eq!(proof.path(1, &tx.txid()).unwrap().root(), &tx.txid().0);
    }

    #[test]
    fn what_is_no_proof_is_refused() {
        let txids = txids(4);
        let [good, _] = proofs(&txids, 1);
        let change = |change: fn(&mut TscProof)| {
            let mut proof = good.clone();
            change(&mut proof);
            proof.path(1, &txids[1])
        };
        let other = good.path(1, &txids[0]);
        assert!(matches!(other, Err(TscError::OtherTransaction { wanted, .. }) if wanted == txids[0]));
        assert_eq!(change(|p| p.tx_or_id = String::new()), Err(TscError::NoTransaction));
        assert_eq!(change(|p| p.tx_or_id = "xy".into()), Err(TscError::NoTransaction));
        assert!(matches!(change(|p| p.nodes[0] = "12".into()), Err(TscError::BadNode(_))));
        assert!(matches!(change(|p| p.nodes = vec!["*".into(); 65]), Err(TscError::Path(_))));
        // The place is outside the tree, or the left one of a pair would be a copy of the right one.
        assert!(matches!(change(|p| p.index = 9), Err(TscError::Path(_))));
        assert!(matches!(change(|p| p.nodes[0] = "*".into()), Err(TscError::Path(_))));
    }
}
