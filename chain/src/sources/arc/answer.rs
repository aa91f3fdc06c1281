//! What ARC and Arcade answer, read without believing it.

use serde::Deserialize;

use crate::merkle_path::MerklePath;
use crate::sources::http::{Read, json, tame};
use crate::sources::reject::{self, CODES, CONFLICT, GENERIC, Meaning};
use crate::sources::service::{FeeQuote, Report};
use crate::{FeeRate, Txid};

/// How many competing transactions are kept: one can have as many rivals as inputs, and a few are enough to look at.
const MAX_COMPETING: usize = 16;

/// A fee rate above which an answer is a mistake or a trap: a thousand satoshis for a byte, when today's miners take a
/// tenth of one.
const MAX_SAT_PER_KB: u64 = 1_000_000;

/// A status, or an error (RFC 7807, and Arcade's older form beside it).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    txid: Option<String>,
    tx_status: Option<String>,
    status: Option<i64>,
    title: Option<String>,
    detail: Option<String>,
    extra_info: Option<String>,
    reason: Option<String>,
    block_height: Option<u64>,
    merkle_path: Option<String>,
    competing_txs: Option<Vec<String>>,
}

impl Body {
    /// Refuses what is about another transaction.
    fn check(&self, txid: &Txid) -> Read<()> {
        match self.txid.as_deref().filter(|text| !text.is_empty()) {
            Some(text) if text.parse() != Ok(*txid) => {
                Err(format!("asked about {txid}, it answers about \"{}\"", tame(text)))
            }
            _ => Ok(()),
        }
    }

    /// ARC's code for the reason, wherever it stands.
    fn code(&self) -> Option<u16> {
        let code = self.status.and_then(|code| u16::try_from(code).ok()).filter(|code| CODES.contains(code));
        code.or_else(|| {
            let (_, rest) = self.extra_info.as_deref()?.split_once("arc error ")?;
            rest.get(..3)?.parse().ok().filter(|code| CODES.contains(code))
        })
    }

    /// The most telling of the texts, with its title.
    fn reason(&self) -> String {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let telling = said(&self.extra_info).or_else(|| said(&self.reason)).or_else(|| said(&self.detail));
        let title = said(&self.title).filter(|title| !title.eq_ignore_ascii_case("ok"));
        match (title, telling) {
            (Some(title), Some(telling)) => tame(&format!("{title}: {telling}")),
            (Some(text), None) | (None, Some(text)) => tame(&text),
            (None, None) => "no reason is given".into(),
        }
    }

    fn competing(&self, txid: &Txid) -> Vec<Txid> {
        let others = self.competing_txs.iter().flatten().filter_map(|text| text.parse().ok());
        others.filter(|other| other != txid).take(MAX_COMPETING).collect()
    }

    /// The transaction is refused, with this code if there is one; else by what the node says, which may mean less.
    fn refused(&self, code: Option<u16>, txid: &Txid) -> Report {
        let reason = self.reason();
        match (code, reject::meaning(&reason)) {
            (Some(CONFLICT), _) | (None, Some(Meaning::Conflict)) => {
                Report::DoubleSpent { competing: self.competing(txid) }
            }
            (Some(code), _) => Report::Rejected { txid: *txid, code, reason },
            (None, _) => reject::report(txid, &reason).unwrap_or(Report::Rejected {
                txid: *txid,
                code: GENERIC,
                reason,
            }),
        }
    }

    /// It is in a block. A path that is given has to prove it, and is cut down to what does.
    fn mined(&self, txid: &Txid) -> Read<Report> {
        match self.merkle_path.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => Ok(Report::Mined(path(text, txid)?)),
            None => Ok(self.unproven()),
        }
    }

    fn unproven(&self) -> Report {
        let height = self.block_height.and_then(|height| u32::try_from(height).ok());
        Report::MinedUnproven { height: height.filter(|height| *height > 0) }
    }
}

/// A BUMP in hex that proves `txid`.
fn path(text: &str, txid: &Txid) -> Read<MerklePath> {
    let bytes = hex::decode(text).map_err(|e| format!("merklePath is no hex: {e}"))?;
    let path = MerklePath::parse(&bytes).map_err(|e| format!("merklePath: {e}"))?;
    path.extract(&[*txid]).map_err(|e| format!("merklePath: {e}"))
}

/// Where `txid` stands, by the answer to a submission or to a question about it.
pub(in crate::sources) fn status(bytes: &[u8], txid: &Txid) -> Read<Report> {
    let body: Body = json(bytes)?;
    body.check(txid)?;
    if body.txid.as_deref().is_none_or(str::is_empty) {
        return Err("it does not say which transaction it is about (txid)".into());
    }
    let Some(status) = body.tx_status.as_deref() else {
        // A refusal inside a good answer is a refusal.
        let code = body.code().ok_or("it has neither txStatus nor a reason's code")?;
        return Ok(body.refused(Some(code), txid));
    };
    Ok(match status {
        "UNKNOWN"
        | "QUEUED"
        | "RECEIVED"
        | "STORED"
        | "ANNOUNCED_TO_NETWORK"
        | "REQUESTED_BY_NETWORK"
        | "SENT_TO_NETWORK"
        | "PENDING_RETRY" => Report::Pending,
        // The block lost. Whether the network still has the transaction is not said.
        "MINED_IN_STALE_BLOCK" => Report::Pending,
        "ACCEPTED_BY_NETWORK" | "SEEN_ON_NETWORK" | "SEEN_MULTIPLE_NODES" => Report::Seen,
        "SEEN_IN_ORPHAN_MEMPOOL" => Report::Orphan,
        "DOUBLE_SPEND_ATTEMPTED" => Report::DoubleSpent { competing: body.competing(txid) },
        "REJECTED" => body.refused(body.code(), txid),
        // Its block is known, its path is being built.
        "STUMP_PROCESSING" => body.unproven(),
        "MINED" | "CONFIRMED" | "IMMUTABLE" => body.mined(txid)?,
        other => {
            tracing::debug!(%txid, status = tame(other), "a status that is not known here counts as pending");
            Report::Pending
        }
    })
}

/// What an answer with HTTP status `http` says about `txid`; `None` if it is not about the transaction.
pub(in crate::sources) fn refusal(http: u16, bytes: &[u8], txid: &Txid) -> Read<Option<Report>> {
    let read = json::<Body>(bytes);
    let http_code = CODES.contains(&http).then_some(http);
    let body = match read {
        Ok(body) => body,
        // The code alone says enough; the text may be a proxy's.
        Err(_) if http_code.is_some() => {
            Body { detail: Some(String::from_utf8_lossy(bytes).into_owned()), ..Body::default() }
        }
        Err(_) => return Ok(None),
    };
    body.check(txid)?;
    // Arcade refuses with 400 and a reason, not always with a code beside it.
    let is_verdict = http_code.is_some() || body.code().is_some() || (http == 400 && body.reason.is_some());
    Ok(is_verdict.then(|| body.refused(body.code().or(http_code), txid)))
}

#[derive(Deserialize)]
struct PolicyAnswer {
    policy: Policy,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    mining_fee: MiningFee,
    #[serde(rename = "maxtxsizepolicy")]
    max_tx_size: Option<u64>,
}

#[derive(Deserialize)]
struct MiningFee {
    satoshis: u64,
    bytes: u64,
}

/// What transactions have to pay.
pub(in crate::sources) fn policy(bytes: &[u8]) -> Read<FeeQuote> {
    let PolicyAnswer { policy: Policy { mining_fee: MiningFee { satoshis, bytes }, max_tx_size } } =
        json(bytes)?;
    if bytes == 0 {
        return Err("its mining fee is for 0 bytes".into());
    }
    let rate = (u128::from(satoshis) * 1000).div_ceil(u128::from(bytes));
    match u64::try_from(rate) {
        Ok(sat_per_kb) if sat_per_kb <= MAX_SAT_PER_KB => {
            Ok(FeeQuote { rate: FeeRate::new(sat_per_kb), max_tx_size: max_tx_size.filter(|size| *size > 0) })
        }
        _ => Err(format!("its mining fee of {satoshis} satoshis for {bytes} bytes cannot be meant")),
    }
}

#[cfg(test)]
mod tests;
