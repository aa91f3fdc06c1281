//! Where answers come from. Each source is a variant here and a file of its own; all answers pass the same checks.

mod broadcast;
mod local;
mod services;
mod swarm;

use std::sync::Arc;

use sensora_chain::beef::Beef;
use sensora_chain::header::HeaderChain;
use sensora_chain::{OutPoint, Satoshis, Script, Txid};
use sensora_protocol::chain_access::message::ScanPosition;
use sensora_protocol::chain_access::{Answer, Request};
use tokio::time::Instant;

use super::error::{BroadcastError, ChainError, Failure};
use super::headers::Headers;
use super::{Scanned, SpentBy, TxStanding, blocking, check};

pub(super) use local::DevSource;
use services::Item;
pub(super) use services::ServicesSource;
pub use services::{Disagreement, MAX_SERVICES, ServiceCheck, ServiceState, ServicesOptions, TipWord};
pub use swarm::{ASK_DEADLINE, MAX_ASKED, REQUEST_DEADLINE};
pub(super) use swarm::{Part, SwarmSource};

/// A way to the chain.
pub(super) enum Source {
    /// The development chain in this process.
    Dev(DevSource),
    /// Configured services.
    Services(ServicesSource),
    /// Peers.
    Swarm(SwarmSource),
}

/// What makes an answer a believed one.
pub(super) trait Check<T>:
    Fn(&HeaderChain, Answer) -> Result<T, Failure> + Clone + Send + 'static
{
}

impl<T, F: Fn(&HeaderChain, Answer) -> Result<T, Failure> + Clone + Send + 'static> Check<T> for F {}

impl Source {
    /// Where transactions stand.
    pub(super) async fn proofs(
        &self,
        headers: &Arc<Headers>,
        txids: &[Txid],
    ) -> Result<Vec<(Txid, TxStanding)>, ChainError> {
        self.ask_about(headers, txids).await
    }

    /// What spends outputs.
    pub(super) async fn spent(
        &self,
        headers: &Arc<Headers>,
        outpoints: &[OutPoint],
    ) -> Result<Vec<(OutPoint, SpentBy)>, ChainError> {
        self.ask_about(headers, outpoints).await
    }

    async fn ask_about<I: Item>(
        &self,
        headers: &Arc<Headers>,
        items: &[I],
    ) -> Result<Vec<(I, I::Found)>, ChainError> {
        if let Self::Services(services) = self {
            return services.gather(headers, items).await;
        }
        let ask = |some: Arc<[I]>| {
            let request = I::request(&some);
            self.ask(headers, request, move |chain: &HeaderChain, answer| I::check(chain, &some, &answer))
        };
        in_halves(items, ask).await
    }

    /// A page of data outputs.
    pub(super) async fn scan(
        &self,
        headers: &Arc<Headers>,
        prefix: Arc<[u8]>,
        from: ScanPosition,
        max: usize,
    ) -> Result<(Vec<Scanned>, Option<ScanPosition>), ChainError> {
        let limit = u32::try_from(max).unwrap_or(u32::MAX);
        let request = Request::Scan { prefix: prefix.to_vec(), from, limit };
        if let Self::Services(services) = self {
            request.check()?;
            return services.scan(headers, prefix, from, max).await;
        }
        let check = move |chain: &_, answer| check::scan(chain, &prefix, from, max, answer);
        self.ask(headers, request, check).await
    }

    /// Coins from a faucet.
    pub(super) async fn faucet(
        &self,
        headers: &Arc<Headers>,
        locking: Script,
        sat: Satoshis,
    ) -> Result<Vec<u8>, ChainError> {
        let request = Request::Faucet { locking: locking.clone(), sat };
        let check = move |chain: &_, answer| check::funded(chain, &locking, sat, answer);
        self.ask(headers, request, check).await
    }

    /// Asks until an answer passes `check`.
    async fn ask<T: Send + 'static>(
        &self,
        headers: &Arc<Headers>,
        request: Request,
        check: impl Check<T>,
    ) -> Result<T, ChainError> {
        request.check()?;
        match self {
            Self::Dev(dev) => dev.ask(headers, request, check).await,
            Self::Services(services) => services.ask(headers, request, check).await,
            Self::Swarm(swarm) => swarm.ask(headers, &request, check).await,
        }
    }

    /// Sends a transaction.
    pub(super) async fn broadcast(
        &self,
        headers: &Arc<Headers>,
        parsed: Beef,
        bytes: &[u8],
    ) -> Result<(), BroadcastError> {
        match self {
            Self::Dev(dev) => dev.broadcast(headers, &parsed, bytes).await,
            Self::Services(services) => services.broadcast(headers, parsed, bytes).await,
            Self::Swarm(swarm) => swarm.broadcast(headers, parsed, bytes).await,
        }
    }

    /// Follows the source's headers.
    pub(super) async fn refresh(&self, headers: &Arc<Headers>) -> Result<(), ChainError> {
        match self {
            Self::Dev(dev) => dev.follow(headers).await,
            Self::Services(services) => services.refresh(headers).await,
            Self::Swarm(swarm) => swarm.refresh(headers).await,
        }
    }
}

/// Asks about items, and again in halves where the answer is longer than its frame. What is too large by itself is unknown, and hides nothing
/// else: whoever makes a spend large would else hide what spends all outputs that are asked about with it.
async fn in_halves<I: Item, F: Future<Output = Result<Vec<(I, I::Found)>, ChainError>>>(
    items: &[I],
    ask: impl Fn(Arc<[I]>) -> F,
) -> Result<Vec<(I, I::Found)>, ChainError> {
    let deadline = Instant::now() + ASK_DEADLINE;
    let mut found = Vec::with_capacity(items.len());
    let mut open = vec![items];
    while let Some(some) = open.pop() {
        match (ask(some.into()).await, some) {
            (Ok(lines), _) => found.extend(lines),
            (Err(error), [item]) if error.is_too_large() => {
                tracing::debug!(%error, "an answer is too large to be had");
                found.push((*item, I::unknown()));
            }
            (Err(error), [_, _, ..]) if error.is_too_large() && Instant::now() < deadline => {
                let (first, second) = some.split_at(some.len() / 2);
                open.extend([second, first]);
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(found)
}

/// Checks an answer against the headers as they are now. Hashing and signatures take milliseconds: not on this thread.
async fn judge<T: Send + 'static>(
    headers: &Arc<Headers>,
    answer: Answer,
    check: impl Check<T>,
) -> Result<T, Failure> {
    let snapshot = headers.snapshot();
    blocking(move || check(snapshot.chain(), answer)).await.ok_or(Failure::Stopped)?
}

/// Whether newer headers could make the answer true: it rests on a block that is too new, or that replaced ours.
fn may_be_newer(failure: &Failure) -> bool {
    matches!(failure, Failure::OutOfReach { .. } | Failure::False(_))
}
