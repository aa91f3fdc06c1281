//! What is checked before an answer is believed. Pure: an answer and our own headers in, what is true out.

use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::{parse_data_output, verify_input};
use sensora_chain::header::{HeaderChain, HeaderView};
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::spv::{self, SpvError, SpvProof};
use sensora_chain::{OutPoint, Satoshis, Script, SighashCache, Transaction, Txid};
use sensora_protocol::chain_access::Answer;
use sensora_protocol::chain_access::message::{
    ScanPage, ScanPosition, ScannedOutput, Spending, Standing, Tip as ClaimedTip,
};

use super::error::Failure;
use super::{Scanned, SpentBy, TxStanding};

/// A transaction of this length could be two hashes of a Merkle tree that look like one.
const AMBIGUOUS_SIZE: usize = 64;

/// Blocks below the tip of which two honest sources may have different ones.
const MAY_BE_FORKED: u32 = 6;

fn other(answer: &Answer) -> Failure {
    let kind = match answer {
        Answer::Tip(_) => "a tip",
        Answer::Headers { .. } => "headers",
        Answer::Accepted { .. } => "an acceptance",
        Answer::Proof { .. } => "proofs",
        Answer::Spent { .. } => "spendings",
        Answer::Scan(_) => "a scan",
        Answer::Funded { .. } => "coins",
    };
    Failure::Malformed(format!("it answers another question with {kind}"))
}

fn count(asked: usize, found: usize) -> Result<(), Failure> {
    if asked == found {
        return Ok(());
    }
    Err(Failure::Malformed(format!("{found} items answer a question about {asked}")))
}

/// The peer's tip: a claim, worth nothing until its headers are there.
pub(super) fn tip(answer: &Answer) -> Result<ClaimedTip, Failure> {
    match answer {
        Answer::Tip(tip) => Ok(*tip),
        answer => Err(other(answer)),
    }
}

/// A run of headers, still to be checked.
pub(super) fn headers(answer: Answer) -> Result<Vec<u8>, Failure> {
    match answer {
        Answer::Headers { headers } => Ok(headers),
        answer => Err(other(&answer)),
    }
}

/// That the peer took this transaction: its word.
pub(super) fn accepted(subject: &Txid, answer: &Answer) -> Result<(), Failure> {
    match answer {
        Answer::Accepted { txid } if txid == subject => Ok(()),
        Answer::Accepted { txid } => {
            Err(Failure::Malformed(format!("it accepted {txid} instead of {subject}")))
        }
        answer => Err(other(answer)),
    }
}

/// A Merkle path from `txid` to a header of ours.
fn path(chain: &HeaderChain, txid: &Txid, bytes: &[u8]) -> Result<MerklePath, Failure> {
    let path = MerklePath::parse(bytes)
        .map_err(|error| Failure::False(format!("for transaction {txid}: {error}")))?;
    let height = path.block_height();
    let root = path.root_for(txid);
    let root =
        root.ok_or_else(|| Failure::False(format!("the Merkle path does not prove transaction {txid}")))?;
    let header = chain.header_at(height).ok_or(Failure::OutOfReach { height })?;
    if header.merkle_root() == root {
        Ok(path)
    } else if chain.tip_height().saturating_sub(height) < MAY_BE_FORKED {
        // It may be of a branch that competes with ours: not believed, and no lie either.
        Err(Failure::OutOfReach { height })
    } else {
        Err(Failure::False(format!(
            "the Merkle path of {txid} leads to another root than block {height} has"
        )))
    }
}

/// Where transactions stand. That one is mined is proven; that it is not is the peer's word.
pub(super) fn proofs(
    chain: &HeaderChain,
    txids: &[Txid],
    answer: &Answer,
) -> Result<Vec<(Txid, TxStanding)>, Failure> {
    let Answer::Proof { standings } = answer else { return Err(other(answer)) };
    count(txids.len(), standings.len())?;
    let checked = txids.iter().zip(standings).map(|(txid, standing)| {
        let standing = match standing {
            Standing::Unknown => TxStanding::Unknown,
            Standing::Mempool => TxStanding::Mempool,
            Standing::Mined { path: bytes } => TxStanding::Mined(path(chain, txid, bytes)?),
        };
        Ok((*txid, standing))
    });
    checked.collect()
}

/// Where outputs stand. That one is spent by a mined transaction is proven; the rest is the peer's word.
pub(super) fn spent(
    chain: &HeaderChain,
    outpoints: &[OutPoint],
    answer: &Answer,
) -> Result<Vec<(OutPoint, SpentBy)>, Failure> {
    let Answer::Spent { spendings } = answer else { return Err(other(answer)) };
    count(outpoints.len(), spendings.len())?;
    let checked = outpoints.iter().zip(spendings).map(|(outpoint, spending)| {
        let spent = match spending {
            Spending::Unknown => SpentBy::Unknown,
            Spending::Unspent => SpentBy::Nothing,
            Spending::Spent { transaction, path } => spender(chain, outpoint, transaction, path.as_deref())?,
        };
        Ok((*outpoint, spent))
    });
    checked.collect()
}

fn spender(
    chain: &HeaderChain,
    outpoint: &OutPoint,
    transaction: &[u8],
    proof: Option<&[u8]>,
) -> Result<SpentBy, Failure> {
    let tx = Transaction::from_bytes(transaction)
        .map_err(|error| Failure::False(format!("what spends {outpoint} is no transaction: {error}")))?;
    if !tx.inputs.iter().any(|input| input.previous == *outpoint) {
        return Err(Failure::False(format!("transaction {} does not spend {outpoint}", tx.txid())));
    }
    let mined = match proof {
        Some(_) if transaction.len() == AMBIGUOUS_SIZE => {
            return Err(Failure::False("a transaction of 64 bytes is proven by no Merkle path".to_owned()));
        }
        Some(bytes) => Some(path(chain, &tx.txid(), bytes)?),
        None => None,
    };
    Ok(SpentBy::Transaction { tx, mined })
}

/// Whether `spent` shows a conflict with `subject`: another transaction that spends one of its inputs, and is mined or
/// satisfies the script of what it spends. `known` has the outputs that are spent.
pub(super) fn is_conflict(known: &Beef, subject: &Transaction, spent: &[(OutPoint, SpentBy)]) -> bool {
    let own = subject.txid();
    spent.iter().any(|(outpoint, spending)| {
        let SpentBy::Transaction { tx, mined } = spending else { return false };
        if tx.txid() == own || !subject.inputs.iter().any(|input| input.previous == *outpoint) {
            return false;
        }
        let signed = || {
            let index = tx.inputs.iter().position(|input| input.previous == *outpoint)?;
            let output =
                known.transaction(&outpoint.txid)?.outputs.get(usize::try_from(outpoint.vout).ok()?)?;
            verify_input(tx, &SighashCache::new(tx), index, output).ok()
        };
        mined.is_some() || signed().is_some()
    })
}

/// An Atomic BEEF whose subject is believed.
fn believed(chain: &HeaderChain, bytes: &[u8]) -> Result<(Beef, Transaction, SpvProof), Failure> {
    let beef = Beef::parse(bytes, &BeefLimits::DEFAULT).map_err(|error| Failure::False(error.to_string()))?;
    let subject = beef.subject().filter(|_| beef.is_atomic());
    let subject = subject.ok_or_else(|| Failure::False("the BEEF does not name its subject".to_owned()))?;
    let tx = beef.transaction(&subject).cloned();
    let tx = tx.ok_or_else(|| Failure::False("the BEEF does not hold its subject".to_owned()))?;
    let proof = spv::verify(&beef, &subject, chain).map_err(|error| match error {
        SpvError::NoHeader { height, .. } => Failure::OutOfReach { height },
        error => Failure::False(error.to_string()),
    })?;
    Ok((beef, tx, proof))
}

/// A page of data outputs from `from` on, each after the one before it. That each is there is proven; that none was left
/// out is not.
pub(super) fn scan(
    chain: &HeaderChain,
    prefix: &[u8],
    from: ScanPosition,
    limit: usize,
    answer: Answer,
) -> Result<(Vec<Scanned>, Option<ScanPosition>), Failure> {
    let Answer::Scan(ScanPage { outputs, next }) = answer else { return Err(other(&answer)) };
    if outputs.len() > limit {
        return Err(Failure::Malformed(format!("{} outputs on a page of at most {limit}", outputs.len())));
    }
    let mut found: Vec<Scanned> = Vec::with_capacity(outputs.len());
    let mut least = Some(from);
    for output in outputs {
        let output = scanned(chain, prefix, output)?;
        if least.is_none_or(|least| output.at < least) {
            return Err(Failure::False(format!(
                "output {} of {} is out of order",
                output.at.vout, output.txid
            )));
        }
        least = output.at.next();
        found.push(output);
    }
    let goes_on = |next| !found.is_empty() && least.is_some_and(|least| next >= least);
    if next.is_some_and(|next| !goes_on(next)) {
        return Err(Failure::Malformed("the next page does not come after this one".to_owned()));
    }
    Ok((found, next))
}

fn scanned(chain: &HeaderChain, prefix: &[u8], output: ScannedOutput) -> Result<Scanned, Failure> {
    let ScannedOutput { at, beef: bytes } = output;
    let (beef, tx, proof) = believed(chain, &bytes)?;
    let txid = proof.subject;
    let index = beef.bump_of(&txid).and_then(|path| path.offset_of(&txid));
    let mined_there = proof.is_mined().is_some_and(|mined| mined.height == at.height);
    if !mined_there || index != Some(u64::from(at.index)) {
        return Err(Failure::False(format!("transaction {txid} is not proven to be in block {}", at.height)));
    }
    let locking =
        usize::try_from(at.vout).ok().and_then(|vout| tx.outputs.get(vout)).map(|output| &output.locking);
    let pushes = locking.and_then(parse_data_output).unwrap_or_default();
    if !pushes.first().is_some_and(|first| first.starts_with(prefix)) {
        return Err(Failure::False(format!("output {} of {txid} is not what was looked for", at.vout)));
    }
    Ok(Scanned { height: at.height, at, txid, vout: at.vout, pushes, beef: bytes })
}

/// Coins from a faucet: an Atomic BEEF that pays.
pub(super) fn funded(
    chain: &HeaderChain,
    locking: &Script,
    sat: Satoshis,
    answer: Answer,
) -> Result<Vec<u8>, Failure> {
    let Answer::Funded { beef: bytes } = answer else { return Err(other(&answer)) };
    let (_, tx, proof) = believed(chain, &bytes)?;
    if tx.outputs.iter().any(|output| output.locking == *locking && output.value >= sat) {
        Ok(bytes)
    } else {
        Err(Failure::False(format!(
            "transaction {} does not pay {sat} to the script asked for",
            proof.subject
        )))
    }
}
