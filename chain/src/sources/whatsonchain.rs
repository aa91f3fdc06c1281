//! WhatsOnChain: everything a light client needs, a little at a time (three requests a second without a key).
//!
//! The configured address is the base with the network in it, as `https://api.whatsonchain.com/v1/bsv/main`.

pub(super) mod answer;

use std::ops::ControlFlow;

use serde_json::json;
use tokio::time::Instant;

use super::http::{Answer, Http};
use super::reject;
use super::service::{Report, ServiceConfig, SourceError, Spender, Submission, Unspent};
use crate::encode::sha256;
use crate::header::{Header, Tip};
use crate::{OutPoint, Script, Transaction, Txid};
use answer::{Mined, Standing};

/// The most headers of one question. Each is a request, and at three in a second this is as many as fit into the usual
/// deadline with some to spare. Who has many to catch up with asks a chaintracks server.
pub const MAX_HEADERS: usize = 20;

/// The largest transaction that is taken, in bytes; in hex it is twice as long. Far above what wallets make.
const MAX_TX: usize = 4_000_000;

/// One small object.
const MAX_SMALL: usize = 64 * 1024;

/// A page of a thousand unspent outputs, about 200 bytes each.
const MAX_PAGE: usize = 1024 * 1024;

/// Unspent outputs come in pages of a thousand. More than this is no script of ours, or somebody's dust.
const MAX_PAGES: usize = 20;

/// WhatsOnChain.
#[derive(Debug)]
pub struct WhatsOnChain {
    http: Http,
}

impl WhatsOnChain {
    /// A client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`SourceError::Config`], also where the address is that of another network.
    pub fn new(config: ServiceConfig) -> Result<Self, SourceError> {
        Ok(Self { http: Http::new(config, base)? })
    }

    pub(super) fn config(&self) -> &ServiceConfig {
        self.http.config()
    }

    pub(super) async fn tip(&self) -> Result<Tip, SourceError> {
        self.tip_by(self.http.deadline()).await
    }

    async fn tip_by(&self, by: Instant) -> Result<Tip, SourceError> {
        let answer = self.http.get("/chain/info", MAX_SMALL, by).await?;
        let answer = self.success(answer)?;
        let (tip, chain) = self.http.read(&answer, answer::chain_info)?;
        let network = self.config().network.name();
        match chain {
            Some(chain) if chain != network => Err(self.http.misconfigured(format!(
                "it follows the network \"{chain}\", this node is on \"{network}\"; correct chain.services.url"
            ))),
            _ => Ok(tip),
        }
    }

    pub(super) async fn headers(&self, height: u32, count: usize) -> Result<Vec<Header>, SourceError> {
        let by = self.http.deadline();
        let tip = self.tip_by(by).await?;
        let mut headers = Vec::new();
        for at in (height..=tip.height).take(count.min(MAX_HEADERS)) {
            match self.header(&at.to_string(), by).await {
                Ok(Some((header, found))) if found == at => headers.push(header),
                Ok(Some((_, found))) => {
                    let reason = format!("header {at} was asked for, it sends header {found}");
                    return Err(self.http.misfit(&reason));
                }
                Ok(None) => break,
                // What is there is worth having; the rest comes with the next question.
                Err(SourceError::Limited { .. } | SourceError::Timeout { .. }) if !headers.is_empty() => {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(headers)
    }

    /// A header with its height, by height or hash.
    async fn header(&self, which: &str, by: Instant) -> Result<Option<(Header, u32)>, SourceError> {
        let answer = self.http.get(&format!("/block/{which}/header"), MAX_SMALL, by).await?;
        let Some(answer) = self.found(answer)? else { return Ok(None) };
        self.http.read(&answer, answer::header).map(Some)
    }

    pub(super) async fn submit(&self, txs: &[Submission]) -> Result<Report, SourceError> {
        let by = self.http.deadline();
        let mut report = Report::Unknown;
        for (at, submission) in txs.iter().enumerate() {
            let (txid, is_last) = (submission.tx.txid(), at.saturating_add(1) == txs.len());
            let said = self.submit_one(&submission.tx, &txid, by).await?;
            match reject::go_on(said, &txid, is_last) {
                ControlFlow::Continue(said) => report = said,
                ControlFlow::Break(said) => return Ok(said),
            }
        }
        Ok(report)
    }

    async fn submit_one(&self, tx: &Transaction, txid: &Txid, by: Instant) -> Result<Report, SourceError> {
        let body = json!({ "txhex": tx.to_string() }).to_string().into_bytes();
        let answer = self.http.post("/tx/raw", ("application/json", body), &[], MAX_SMALL, by).await?;
        if answer.is_success() {
            self.http.read(&answer, |body| answer::sent(body, txid))?;
            return Ok(Report::Seen);
        }
        match reject::report(txid, &answer.text()) {
            // A node says the same of a transaction that is in a block already: what it spends is gone.
            Some(Report::Orphan) => match self.report_by(txid, by).await? {
                Report::Unknown => Ok(Report::Orphan),
                known => Ok(known),
            },
            Some(report) => Ok(self.http.quoted(report)),
            None => Err(self.http.failed(&answer)),
        }
    }

    pub(super) async fn report(&self, txid: &Txid) -> Result<Report, SourceError> {
        self.report_by(txid, self.http.deadline()).await
    }

    async fn report_by(&self, txid: &Txid, by: Instant) -> Result<Report, SourceError> {
        let body = json!({ "txids": [txid] }).to_string().into_bytes();
        let answer = self.http.post("/txs/status", ("application/json", body), &[], MAX_SMALL, by).await?;
        let Some(answer) = self.found(answer)? else { return Ok(Report::Unknown) };
        match self.http.read(&answer, |body| answer::standing(body, txid))? {
            Standing::Unknown => Ok(Report::Unknown),
            Standing::Waiting => Ok(Report::Seen),
            Standing::Mined(mined) => self.proof(txid, mined, by).await,
        }
    }

    /// The Merkle path of a mined transaction, if there is one for the block that was named.
    async fn proof(&self, txid: &Txid, mined: Mined, by: Instant) -> Result<Report, SourceError> {
        let unproven = Report::MinedUnproven { height: mined.height };
        let answer = self.http.get(&format!("/tx/{txid}/proof/tsc"), MAX_SMALL, by).await?;
        let Some(answer) = self.found(answer)? else { return Ok(unproven) };
        let proof = self.http.read(&answer, |body| answer::proof(body, mined.block.as_ref()))?;
        let Some((proof, block)) = proof else { return Ok(unproven) };
        // The proof does not say how high its block is.
        let height = match mined.height {
            Some(height) => height,
            None => match self.header(&block.to_string(), by).await? {
                Some((header, height)) if header.hash() == block => height,
                _ => return Ok(unproven),
            },
        };
        match proof.path(height, txid) {
            Ok(path) => Ok(Report::Mined(path)),
            Err(error) => Err(self.http.misfit(&error.to_string())),
        }
    }

    pub(super) async fn transaction(&self, txid: &Txid) -> Result<Option<Transaction>, SourceError> {
        self.transaction_by(txid, self.http.deadline()).await
    }

    async fn transaction_by(&self, txid: &Txid, by: Instant) -> Result<Option<Transaction>, SourceError> {
        let max = MAX_TX.saturating_mul(2).saturating_add(MAX_SMALL);
        let answer = self.http.get(&format!("/tx/{txid}/hex"), max, by).await?;
        let Some(answer) = self.found(answer)? else { return Ok(None) };
        self.http.read(&answer, |body| answer::transaction(body, txid)).map(Some)
    }

    pub(super) async fn spender(&self, outpoint: &OutPoint) -> Result<Spender, SourceError> {
        let by = self.http.deadline();
        let OutPoint { txid, vout } = outpoint;
        let answer = self.http.get(&format!("/tx/{txid}/{vout}/spent"), MAX_SMALL, by).await?;
        let Some(answer) = self.found(answer)? else {
            // Not spent, or no such output: it does not say which.
            let made = self.transaction_by(txid, by).await?;
            let exists = made.is_some_and(|tx| tx.outputs.len() > *vout as usize);
            return Ok(if exists { Spender::Unspent } else { Spender::Unknown });
        };
        let (by_txid, waits) = self.http.read(&answer, answer::spent)?;
        let Some(tx) = self.transaction_by(&by_txid, by).await? else { return Ok(Spender::Unknown) };
        if !tx.inputs.iter().any(|input| input.previous == *outpoint) {
            return Err(self.http.misfit(&format!("{by_txid} is said to spend {outpoint}, and does not")));
        }
        let path = match waits {
            true => None,
            false => match self.report_by(&by_txid, by).await? {
                Report::Mined(path) => Some(path),
                _ => None,
            },
        };
        Ok(Spender::SpentBy { tx, path })
    }

    pub(super) async fn unspent(&self, locking: &Script) -> Result<Vec<Unspent>, SourceError> {
        let by = self.http.deadline();
        let path = format!("/script/{}/unspent/all", script_hash(locking));
        let mut all = Vec::new();
        let mut page = path.clone();
        for _ in 0..MAX_PAGES {
            let answer = self.http.get(&page, MAX_PAGE, by).await?;
            let Some(answer) = self.found(answer)? else { return Ok(all) };
            let (outputs, next) = self.http.read(&answer, answer::unspent)?;
            all.extend(outputs);
            match next {
                Some(token) => page = format!("{path}?token={token}"),
                None => return Ok(all),
            }
        }
        // A part would look like all of it, and what is missing like lost.
        Err(self.http.too_large(MAX_PAGES.saturating_mul(MAX_PAGE)))
    }

    pub(super) async fn is_used(&self, locking: &Script) -> Result<bool, SourceError> {
        let path = format!("/script/{}/used", script_hash(locking));
        let answer = self.http.get(&path, MAX_SMALL, self.http.deadline()).await?;
        match self.found(answer)? {
            Some(answer) => self.http.read(&answer, answer::used),
            None => Ok(false),
        }
    }

    fn success(&self, answer: Answer) -> Result<Answer, SourceError> {
        if answer.is_success() { Ok(answer) } else { Err(self.http.failed(&answer)) }
    }

    /// `None` for what does not exist.
    fn found(&self, answer: Answer) -> Result<Option<Answer>, SourceError> {
        if answer.status == 404 { Ok(None) } else { self.success(answer).map(Some) }
    }
}

/// The base address has to be of our network.
fn base(config: &ServiceConfig, path: &str) -> Result<String, String> {
    let network = config.network.name();
    let last = path.rsplit('/').next().unwrap_or_default();
    match last {
        "main" | "test" | "stn" if last != network => Err(format!(
            "chain.services.url is that of the network \"{last}\", this node is on \"{network}\"; end it with /{network}, \
             or start the node with --network {last}"
        )),
        "" if config.url.contains("whatsonchain.com") => Err(
            "chain.services.url lacks the network; write it like https://api.whatsonchain.com/v1/bsv/main"
                .into(),
        ),
        _ => Ok(path.to_owned()),
    }
}

/// What addresses a script there: its SHA-256, reversed like all hashes that people see.
fn script_hash(locking: &Script) -> Txid {
    Txid(sha256(locking.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script and its hash, in an answer that the documentation shows.
    #[test]
    fn a_script_is_addressed_by_its_reversed_hash() {
        let script = Script::new(hex::decode("76a914d0a69b53d9a1e229b51a60cc24814f8750b7446188ac").unwrap());
        let expected = "b3005d46af31c4b5675b73c17579b7bd366dfe10635b7b43ac111aea5226efb6";
        assert_eq!(script_hash(&script).to_string(), expected);
    }
}
