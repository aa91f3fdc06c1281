//! A regtest node as a development chain: it mines when told to and pays who asks.

use std::sync::Arc;

use sensora_chain::beef::Beef;
use sensora_chain::sources::node_rpc::{NodeRpc, Regtest, RegtestError};
use sensora_chain::sources::service::{Report, Service, ServiceConfig, SourceError};
use sensora_chain::{PrivateKey, Satoshis, Transaction};
use sensora_protocol::chain_access::message::MAX_FAUCET_PER_DAY;
use sensora_protocol::chain_access::{Answer, Refusal, Request};
use serde_json::json;
use tokio::sync::OnceCell;

use super::ServicesSource;
use crate::chain_access::error::{ChainError, Failure, Tried};
use crate::chain_access::headers::Headers;
use crate::chain_access::source::{Check, judge, may_be_newer};

/// Longest answer about the mempool as a whole, in bytes: some numbers.
const MEMPOOL_ANSWER: usize = 4096;

/// The miner and faucet of a regtest node; made when it is first needed.
pub(super) struct Miner {
    /// Which of the services the node is.
    index: usize,
    config: ServiceConfig,
    key: PrivateKey,
    regtest: OnceCell<Regtest>,
}

impl Miner {
    pub(super) fn new(index: usize, config: ServiceConfig, key: PrivateKey) -> Self {
        Self { index, config, key, regtest: OnceCell::new() }
    }

    async fn get(&self) -> Result<&Regtest, ChainError> {
        let make = async || {
            let node = NodeRpc::new(self.config.clone())?;
            Regtest::new(node, self.key.clone()).await
        };
        self.regtest.get_or_try_init(make).await.map_err(failed)
    }
}

impl ServicesSource {
    /// What only a regtest node among the services can answer; else peers are asked.
    pub(in crate::chain_access::source) async fn ask<T: Send + 'static>(
        &self,
        headers: &Arc<Headers>,
        request: Request,
        check: impl Check<T>,
    ) -> Result<T, ChainError> {
        let (Some(miner), Request::Faucet { locking, sat }) = (&self.inner.miner, &request) else {
            return match &self.swarm {
                Some(swarm) => swarm.ask(headers, &request, check).await,
                None => Err(ChainError::NotDev),
            };
        };
        let paid = miner.get().await?.faucet(locking, *sat).await.map_err(failed)?;
        let unproven = |failure| ChainError::Unavailable {
            tried: vec![Tried { asked: self.asked(miner.index), failure }],
        };
        let beef = self.with_parents(miner.index, paid).await.map_err(unproven)?;
        let answer = Answer::Funded { beef };
        let judged = match judge(headers, answer.clone(), check.clone()).await {
            Err(failure) if may_be_newer(&failure) => {
                self.refresh(headers).await?;
                judge(headers, answer, check).await
            }
            judged => judged,
        };
        judged.map_err(unproven)
    }

    /// Atomic BEEF of a transaction whose parents are all mined.
    async fn with_parents(&self, index: usize, tx: Transaction) -> Result<Vec<u8>, Failure> {
        let service = self.service(index)?;
        let broken = |what: String| {
            Failure::from(SourceError::Malformed { service: service.name().to_owned(), reason: what })
        };
        let mut beef = Beef::new();
        for input in &tx.inputs {
            let parent = input.previous.txid;
            if beef.get(&parent).is_some() {
                continue;
            }
            let found = Service::transaction(service, &parent).await?;
            let found =
                found.ok_or_else(|| broken(format!("it does not know the faucet's coin {parent}")))?;
            let Report::Mined(path) = service.report(&parent).await? else {
                return Err(broken(format!("it has no proof of the faucet's coin {parent}")));
            };
            beef.add(found, Some(&path)).map_err(|error| broken(error.to_string()))?;
        }
        let txid = beef.add(tx, None).map_err(|error| broken(error.to_string()))?;
        beef.to_atomic(&txid).map_err(|error| broken(error.to_string()))
    }

    fn miner(&self) -> Result<&Miner, ChainError> {
        self.inner.miner.as_ref().ok_or(ChainError::NotDev)
    }

    /// Mines a block with everything that waits.
    pub(in crate::chain_access) async fn mine(&self) -> Result<(), ChainError> {
        let mined = self.miner()?.get().await?.mine(1).await.map_err(failed)?;
        tracing::debug!(height = mined.height, "mined a block on the regtest node");
        Ok(())
    }

    /// Whether a transaction waits for a block.
    pub(in crate::chain_access) async fn has_waiting(&self) -> Result<bool, ChainError> {
        let node = self.miner()?.get().await?.node();
        let said = node.call("getmempoolinfo", json!([]), MEMPOOL_ANSWER).await;
        let said = said.map_err(|error| failed(error.into()))?;
        Ok(said.get("size").and_then(serde_json::Value::as_u64).unwrap_or_default() > 0)
    }

    /// Prepares a new chain: coins for the faucet.
    pub(in crate::chain_access) async fn ensure_funded(&self) -> Result<(), ChainError> {
        self.miner()?.get().await?.ensure_funded(MAX_FAUCET_PER_DAY).await.map_err(failed)
    }
}

fn failed(error: RegtestError) -> ChainError {
    match error {
        RegtestError::FaucetEmpty { wanted, .. } => {
            ChainError::Invalid(Refusal::FaucetDry { asked: Satoshis::as_u64(wanted) })
        }
        error => ChainError::Regtest(Box::new(error)),
    }
}
