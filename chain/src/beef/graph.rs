//! Who spends whom in a BEEF. All walks use a list of what is still to visit, so a long chain costs no stack.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Beef, BeefError, Proof};
use crate::id::Txid;
use crate::merkle_path::{MerklePath, MerklePathError};

impl Beef {
    /// Parents that are in the BEEF come before an unproven child. What is missing is for the verifier to see.
    pub(super) fn check_order(&self) -> Result<(), BeefError> {
        for (at, entry) in self.txs.iter().enumerate() {
            if entry.proof != Proof::Unproven {
                continue;
            }
            for input in &entry.tx.inputs {
                if self.index.get(&input.previous.txid).is_some_and(|parent| *parent >= at) {
                    return Err(BeefError::ParentAfterChild {
                        child: entry.txid,
                        parent: input.previous.txid,
                    });
                }
            }
        }
        Ok(())
    }

    /// Everything in an Atomic BEEF is its subject or an ancestor of it (BRC-95).
    pub(super) fn check_closure(&self) -> Result<(), BeefError> {
        let Some(subject) = self.subject else { return Ok(()) };
        let reached = self.reach(&subject, false)?;
        match (0..self.txs.len()).find(|at| !reached.contains(at)).and_then(|at| self.txs.get(at)) {
            Some(entry) => Err(BeefError::Unrelated(entry.txid)),
            None => Ok(()),
        }
    }

    /// The positions of `subject` and what is needed to believe it, parents first.
    pub(crate) fn needed_for(&self, subject: &Txid) -> Result<Vec<usize>, BeefError> {
        let mut needed: Vec<usize> = self.reach(subject, true)?.into_iter().collect();
        needed.sort_unstable();
        Ok(needed)
    }

    /// A BEEF of `subject` and what is needed to believe it; Merkle paths are cut down to what remains.
    ///
    /// # Errors
    /// [`BeefError::NoSubject`] if it is not in this BEEF.
    pub fn subset(&self, subject: &Txid) -> Result<Beef, BeefError> {
        let needed = self.needed_for(subject)?;
        let entries = || needed.iter().filter_map(|at| self.txs.get(*at));
        let mut part = Beef::new();
        // The new position of each Merkle path, once it has one.
        let mut moved: HashMap<usize, usize> = HashMap::new();
        for entry in entries() {
            let mut entry = entry.clone();
            if let Proof::Bump(old) = entry.proof
                && let Some(bump) = self.bumps.get(old)
            {
                let index = part.bumps.len();
                let new = *moved.entry(old).or_insert(index);
                if new == index {
                    let proven_by_it = entries().filter(|e| e.proof == Proof::Bump(old));
                    let wanted: Vec<Txid> = proven_by_it.map(|e| e.txid).collect();
                    part.bumps
                        .push(cut(bump, &wanted).map_err(|source| BeefError::MerklePath { index, source })?);
                }
                entry.proof = Proof::Bump(new);
            }
            part.index.insert(entry.txid, part.txs.len());
            part.txs.push(entry);
        }
        Ok(part)
    }

    /// The positions reached from `subject` through inputs. A proven transaction needs no parents, so a walk for
    /// what is needed stops there.
    fn reach(&self, subject: &Txid, stop_at_proven: bool) -> Result<HashSet<usize>, BeefError> {
        let start = *self.index.get(subject).ok_or(BeefError::NoSubject(*subject))?;
        let mut reached = HashSet::from([start]);
        let mut to_visit = vec![start];
        while let Some(entry) = to_visit.pop().and_then(|at| self.txs.get(at)) {
            if stop_at_proven && entry.proof != Proof::Unproven {
                continue;
            }
            for input in &entry.tx.inputs {
                if let Some(&parent) = self.index.get(&input.previous.txid)
                    && reached.insert(parent)
                {
                    to_visit.push(parent);
                }
            }
        }
        Ok(reached)
    }
}

/// The path for these transactions alone; as it is if it proves no others.
fn cut(bump: &MerklePath, wanted: &[Txid]) -> Result<MerklePath, MerklePathError> {
    let marked: BTreeSet<Txid> = bump.txids().into_iter().collect();
    if marked.iter().eq(&wanted.iter().copied().collect::<BTreeSet<_>>()) {
        Ok(bump.clone())
    } else {
        bump.extract(wanted)
    }
}
