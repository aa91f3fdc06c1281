//! The bytes of BEEF version 1 (BRC-62), version 2 (BRC-96) and Atomic BEEF (BRC-95).

use super::{Beef, BeefError, BeefLimits, BeefTx, Proof};
use crate::encode::{DecodeError, Reader, write_varint};
use crate::id::Txid;
use crate::merkle_path::MerklePath;
use crate::tx::Transaction;

/// `0100beef` as a little-endian number.
const VERSION_1: u32 = 0xefbe_0001;
/// `0200beef`.
const VERSION_2: u32 = 0xefbe_0002;
/// `01010101`.
const ATOMIC: u32 = 0x0101_0101;

/// What stands before a transaction of version 2, and (the first two) after one of version 1.
const RAW: u8 = 0;
const RAW_AND_BUMP: u8 = 1;
const TXID_ONLY: u8 = 2;

/// Height, tree height, one level with a single leaf.
const MIN_BUMP_SIZE: usize = 5;
/// Version, no inputs, no outputs, lock time; and the byte for its format.
const MIN_TX_SIZE: usize = 11;

impl Beef {
    /// Parses exactly one BEEF of any version, in which every transaction is there in full.
    ///
    /// # Errors
    /// [`BeefError`] if the bytes are no BEEF, exceed `limits`, or its shape is wrong: a proof that does not prove
    /// its transaction, a parent after its child, an Atomic BEEF with something unrelated in it.
    pub fn parse(bytes: &[u8], limits: &BeefLimits) -> Result<Self, BeefError> {
        Self::parse_with(bytes, limits, &|_| None)
    }

    /// As [`Beef::parse`], but a transaction may be there by its id only (version 2) if `known` has it. Only
    /// transactions that were verified before may be given: they count as proven.
    ///
    /// # Errors
    /// As [`Beef::parse`].
    pub fn parse_with(
        bytes: &[u8],
        limits: &BeefLimits,
        known: &dyn Fn(&Txid) -> Option<Transaction>,
    ) -> Result<Self, BeefError> {
        if bytes.len() > limits.max_bytes {
            return Err(BeefError::TooLarge { size: bytes.len(), max: limits.max_bytes });
        }
        let mut reader = Reader::new(bytes);
        let mut magic = reader.u32("a BEEF")?;
        let mut subject = None;
        if magic == ATOMIC {
            subject = Some(Txid(reader.array("the subject of an Atomic BEEF")?));
            magic = reader.u32("a BEEF")?;
        }
        if !matches!(magic, VERSION_1 | VERSION_2) {
            return Err(BeefError::Magic(magic.swap_bytes()));
        }
        let mut beef = Beef { subject, ..Beef::default() };
        let count = bounded(reader.count(MIN_BUMP_SIZE, "Merkle paths")?, limits.max_bumps, "Merkle paths")?;
        for index in 0..count {
            let bump =
                MerklePath::read(&mut reader).map_err(|source| BeefError::MerklePath { index, source })?;
            beef.bumps.push(bump);
        }
        let count = bounded(reader.count(MIN_TX_SIZE, "transactions")?, limits.max_txs, "transactions")?;
        for _ in 0..count {
            let entry = match magic {
                VERSION_1 => beef.read_v1(&mut reader)?,
                _ => beef.read_v2(&mut reader, known)?,
            };
            if beef.index.insert(entry.txid, beef.txs.len()).is_some() {
                return Err(BeefError::Duplicate(entry.txid));
            }
            beef.txs.push(entry);
        }
        reader.finish("the BEEF")?;
        beef.check_order()?;
        beef.check_closure()?;
        Ok(beef)
    }

    fn read_v1(&self, reader: &mut Reader<'_>) -> Result<BeefTx, BeefError> {
        let (txid, tx) = read_tx(reader)?;
        let proof = match reader.u8("the flag after a transaction")? {
            RAW => Proof::Unproven,
            RAW_AND_BUMP => {
                let index = reader.varint("the number of a Merkle path")?;
                self.proof_by(index, txid)?
            }
            flag => return Err(bad_flag(flag)),
        };
        Ok(BeefTx { txid, tx, proof })
    }

    fn read_v2(
        &self,
        reader: &mut Reader<'_>,
        known: &dyn Fn(&Txid) -> Option<Transaction>,
    ) -> Result<BeefTx, BeefError> {
        match reader.u8("the format of a transaction")? {
            RAW => {
                let (txid, tx) = read_tx(reader)?;
                Ok(BeefTx { txid, tx, proof: Proof::Unproven })
            }
            RAW_AND_BUMP => {
                let index = reader.varint("the number of a Merkle path")?;
                let (txid, tx) = read_tx(reader)?;
                Ok(BeefTx { txid, tx, proof: self.proof_by(index, txid)? })
            }
            TXID_ONLY => {
                let txid = Txid(reader.array("a transaction id")?);
                let tx = known(&txid).filter(|tx| tx.txid() == txid).ok_or(BeefError::UnknownTxid(txid))?;
                Ok(BeefTx { txid, tx, proof: Proof::Known })
            }
            flag => Err(bad_flag(flag)),
        }
    }

    fn proof_by(&self, index: u64, txid: Txid) -> Result<Proof, BeefError> {
        let bump = usize::try_from(index).ok().and_then(|at| self.bumps.get(at).map(|bump| (at, bump)));
        let (at, bump) = bump.ok_or(BeefError::NoSuchPath { txid, index })?;
        bump.offset_of(&txid).ok_or(BeefError::NotInPath(txid))?;
        Ok(Proof::Bump(at))
    }

    /// The bytes in version 1.
    ///
    /// # Errors
    /// [`BeefError::KnownInVersion1`] if a transaction is there by its id only.
    pub fn to_bytes_v1(&self) -> Result<Vec<u8>, BeefError> {
        if let Some(entry) = self.txs.iter().find(|entry| entry.proof == Proof::Known) {
            return Err(BeefError::KnownInVersion1(entry.txid));
        }
        let mut out = self.head(VERSION_1);
        for entry in &self.txs {
            entry.tx.write(&mut out);
            match entry.proof {
                Proof::Bump(at) => {
                    out.push(RAW_AND_BUMP);
                    write_varint(&mut out, at as u64);
                }
                Proof::Known | Proof::Unproven => out.push(RAW),
            }
        }
        Ok(out)
    }

    /// The bytes in version 2.
    pub fn to_bytes_v2(&self) -> Vec<u8> {
        let mut out = self.head(VERSION_2);
        for entry in &self.txs {
            match entry.proof {
                Proof::Bump(at) => {
                    out.push(RAW_AND_BUMP);
                    write_varint(&mut out, at as u64);
                    entry.tx.write(&mut out);
                }
                Proof::Unproven => {
                    out.push(RAW);
                    entry.tx.write(&mut out);
                }
                Proof::Known => {
                    out.push(TXID_ONLY);
                    out.extend_from_slice(&entry.txid.0);
                }
            }
        }
        out
    }

    /// An Atomic BEEF (BRC-95) of `subject` and what is needed to believe it; the rest is left out. Inside is
    /// version 1, which everybody reads, unless something is there by its id only.
    ///
    /// # Errors
    /// [`BeefError::NoSubject`] if it is not in this BEEF.
    pub fn to_atomic(&self, subject: &Txid) -> Result<Vec<u8>, BeefError> {
        let part = self.subset(subject)?;
        let mut out = ATOMIC.to_le_bytes().to_vec();
        out.extend_from_slice(&subject.0);
        out.extend(part.to_bytes_v1().unwrap_or_else(|_| part.to_bytes_v2()));
        Ok(out)
    }

    fn head(&self, version: u32) -> Vec<u8> {
        let mut out = version.to_le_bytes().to_vec();
        write_varint(&mut out, self.bumps.len() as u64);
        for bump in &self.bumps {
            bump.write(&mut out);
        }
        write_varint(&mut out, self.txs.len() as u64);
        out
    }
}

fn read_tx(reader: &mut Reader<'_>) -> Result<(Txid, Transaction), BeefError> {
    let tx = Transaction::read(reader)?;
    Ok((tx.txid(), tx))
}

fn bounded(count: usize, max: usize, what: &'static str) -> Result<usize, DecodeError> {
    if count > max {
        Err(DecodeError::TooMany { what, count: count as u64, max: max as u64 })
    } else {
        Ok(count)
    }
}

fn bad_flag(flag: u8) -> BeefError {
    DecodeError::OutOfRange { what: "the format of a transaction", value: u64::from(flag) }.into()
}
