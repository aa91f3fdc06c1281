//! The broadcasters ARC (for SV nodes) and Arcade (for Teranode): taking a transaction, where it stands, what it costs.
//!
//! Both speak the same language (`arc.yaml`, `arcade.openapi.yaml`), ARC under `/v1`. A transaction is sent in Extended
//! Format (BRC-30), because neither has to look up what it spends then. An answer with HTTP 200 says only that the
//! broadcaster has understood; its field `txStatus` says what became of the transaction.

pub(super) mod answer;

use std::ops::ControlFlow;

use reqwest::header::HeaderName;
use tokio::time::Instant;

use super::http::Http;
use super::reject;
use super::service::{FeeQuote, Report, ServiceConfig, ServiceKind, SourceError, Submission};
use crate::Txid;

/// A status with its Merkle path, which may prove other transactions of the block too. A path for one transaction in
/// a block of four billion has 1 kB.
const MAX_STATUS: usize = 1024 * 1024;

/// A policy has a few numbers.
const MAX_POLICY: usize = 64 * 1024;

/// How long ARC may hold an answer back until the network has seen the transaction, in seconds: what it does by
/// itself.
const MAX_WAIT_S: u64 = 5;

/// ARC and Arcade.
#[derive(Debug)]
pub struct ArcClient {
    http: Http,
}

impl ArcClient {
    /// A client. Nothing is sent yet. The address is that of the service, for ARC with or without `/v1`.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn new(config: ServiceConfig) -> Result<Self, SourceError> {
        let http = Http::new(config, |config, path| match (config.kind, path.strip_suffix("/v1")) {
            (ServiceKind::Arcade, Some(_)) => Err(
                "Arcade has no /v1 in its paths; leave it out of chain.services.url, or write kind = \"arc\""
                    .into(),
            ),
            (ServiceKind::Arcade, None) => Ok(path.to_owned()),
            (_, Some(_)) => Ok(path.to_owned()),
            (_, None) => Ok(format!("{path}/v1")),
        })?;
        Ok(Self { http })
    }

    pub(super) fn config(&self) -> &ServiceConfig {
        self.http.config()
    }

    pub(super) async fn submit(&self, txs: &[Submission]) -> Result<Report, SourceError> {
        let by = self.http.deadline();
        let mut report = Report::Unknown;
        for (at, submission) in txs.iter().enumerate() {
            let left = txs.len().saturating_sub(at);
            let txid = submission.tx.txid();
            let said = self.submit_one(submission, &txid, left, by).await?;
            match reject::go_on(said, &txid, left == 1) {
                ControlFlow::Continue(said) => report = said,
                ControlFlow::Break(said) => return Ok(said),
            }
        }
        Ok(report)
    }

    async fn submit_one(
        &self,
        submission: &Submission,
        txid: &Txid,
        left: usize,
        by: Instant,
    ) -> Result<Report, SourceError> {
        let Some(bytes) = submission.tx.to_extended(&submission.spent) else {
            let (inputs, spent) = (submission.tx.inputs.len(), submission.spent.len());
            let reason = format!(
                "it has {inputs} inputs, and {spent} outputs that they spend are known; give all of them"
            );
            return Ok(Report::Rejected { txid: *txid, code: 460, reason });
        };
        // All of them have to be through by the deadline, so none may take more than its part.
        let seconds = by.saturating_duration_since(Instant::now()).as_secs();
        let wait = seconds.checked_div(left as u64).unwrap_or_default().clamp(1, MAX_WAIT_S);
        let headers = match self.config().kind {
            ServiceKind::Arc => &[(HeaderName::from_static("x-maxtimeout"), wait)][..],
            _ => &[],
        };
        let body = ("application/octet-stream", bytes);
        let answer = self.http.post("/tx", body, headers, MAX_STATUS, by).await?;
        if answer.is_success() {
            return self
                .http
                .read(&answer, |body| answer::status(body, txid))
                .map(|said| self.http.quoted(said));
        }
        match self.http.read(&answer, |body| answer::refusal(answer.status, body, txid))? {
            Some(report) => Ok(self.http.quoted(report)),
            None => Err(self.http.failed(&answer)),
        }
    }

    pub(super) async fn report(&self, txid: &Txid) -> Result<Report, SourceError> {
        let path = format!("/tx/{txid}");
        let answer = self.http.get(&path, MAX_STATUS, self.http.deadline()).await?;
        match answer.status {
            200..=299 => {
                self.http.read(&answer, |body| answer::status(body, txid)).map(|said| self.http.quoted(said))
            }
            404 => Ok(Report::Unknown),
            _ => Err(self.http.failed(&answer)),
        }
    }

    pub(super) async fn fee_quote(&self) -> Result<FeeQuote, SourceError> {
        let answer = self.http.get("/policy", MAX_POLICY, self.http.deadline()).await?;
        if answer.is_success() {
            self.http.read(&answer, answer::policy)
        } else {
            Err(self.http.failed(&answer))
        }
    }
}
