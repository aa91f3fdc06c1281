//! The development chain in this process.

use std::sync::{Arc, Mutex, PoisonError};

use sensora_chain::beef::Beef;
use sensora_chain::sources::dev::DevChain;
use sensora_protocol::chain_access::{Answer, Refusal, Request};

use super::{Check, judge, may_be_newer};
use crate::chain_access::dev::{self, NoAnswer};
use crate::chain_access::error::{BroadcastError, ChainError, Failure};
use crate::chain_access::headers::Headers;
use crate::chain_access::{blocking, check, dev_failed, sync};
use crate::clock::Clock;

/// The development chain as a source. Its answers are checked like a stranger's: what holds here holds everywhere.
pub(in crate::chain_access) struct DevSource {
    chain: DevChain,
    clock: Clock,
}

impl DevSource {
    pub(in crate::chain_access) fn new(chain: DevChain, clock: Clock) -> Self {
        Self { chain, clock }
    }

    pub(in crate::chain_access) fn chain(&self) -> &DevChain {
        &self.chain
    }

    async fn answer(&self, request: Request) -> Result<Answer, ChainError> {
        let chain = self.chain.clone();
        let answer = blocking(move || dev::answer(&chain, &request)).await.ok_or(ChainError::Stopped)?;
        answer.map_err(|error| match error {
            NoAnswer::Refused(refusal) => ChainError::Invalid(refusal),
            NoAnswer::Failed(error) => dev_failed(error),
        })
    }

    pub(super) async fn ask<T: Send + 'static>(
        &self,
        headers: &Arc<Headers>,
        request: Request,
        check: impl Check<T>,
    ) -> Result<T, ChainError> {
        let answer = self.answer(request).await?;
        let judged = match judge(headers, answer.clone(), check.clone()).await {
            Err(failure) if may_be_newer(&failure) => {
                self.follow(headers).await?;
                judge(headers, answer, check).await
            }
            judged => judged,
        };
        judged.map_err(|failure| match failure {
            Failure::Stopped => ChainError::Stopped,
            failure => ChainError::Contradiction(failure),
        })
    }

    pub(super) async fn broadcast(
        &self,
        headers: &Arc<Headers>,
        parsed: &Beef,
        bytes: &[u8],
    ) -> Result<(), BroadcastError> {
        let subject = parsed.subject().unwrap_or_default();
        let check = move |_: &_, answer: Answer| check::accepted(&subject, &answer);
        match self.ask(headers, Request::Broadcast { beef: bytes.to_vec() }, check).await {
            Ok(()) => Ok(()),
            Err(ChainError::Invalid(Refusal::Rejected { double_spent, code, reason })) => {
                Err(BroadcastError::Rejected { double_spent, code, reason })
            }
            Err(error) => Err(BroadcastError::Failed(error)),
        }
    }

    /// Follows the chain's headers.
    pub(in crate::chain_access) async fn follow(&self, headers: &Arc<Headers>) -> Result<(), ChainError> {
        let failed = Mutex::new(None);
        let ask = async |request| {
            self.answer(request).await.map_err(|error| {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Failure::Stopped
            })
        };
        let followed = sync::follow(headers, ask).await;
        match (failed.into_inner().unwrap_or_else(PoisonError::into_inner), followed) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(()),
            (None, Err(Failure::Stopped)) => Err(ChainError::Stopped),
            (None, Err(failure)) => Err(ChainError::Contradiction(failure)),
        }
    }

    /// Mines a block with everything that waits.
    pub(in crate::chain_access) async fn mine(&self) -> Result<(), ChainError> {
        let (chain, now_ms) = (self.chain.clone(), self.clock.now_ms());
        let mined = blocking(move || chain.mine(now_ms)).await.ok_or(ChainError::Stopped)?;
        let block = mined.map_err(dev_failed)?;
        tracing::debug!(height = block.height, transactions = block.txids.len(), "mined a block");
        Ok(())
    }

    /// Whether a transaction waits for a block.
    pub(in crate::chain_access) async fn has_waiting(&self) -> Result<bool, ChainError> {
        let chain = self.chain.clone();
        let waiting = blocking(move || chain.mempool()).await.ok_or(ChainError::Stopped)?;
        Ok(!waiting.map_err(dev_failed)?.is_empty())
    }

    /// Prepares a new chain: coins for the faucet.
    pub(in crate::chain_access) async fn ensure_funded(&self) -> Result<(), ChainError> {
        let (chain, now_ms) = (self.chain.clone(), self.clock.now_ms());
        blocking(move || chain.ensure_funded(now_ms)).await.ok_or(ChainError::Stopped)?.map_err(dev_failed)
    }
}
