//! Where answers come from. Each source is a variant here and a file of its own; all answers pass the same checks.

mod broadcast;
mod local;
mod swarm;

use std::sync::Arc;

use sensora_chain::beef::Beef;
use sensora_chain::header::HeaderChain;
use sensora_protocol::chain_access::{Answer, Request};

use super::blocking;
use super::error::{BroadcastError, ChainError, Failure};
use super::headers::Headers;

pub(super) use local::DevSource;
pub(super) use swarm::SwarmSource;
pub use swarm::{ASK_DEADLINE, MAX_ASKED, REQUEST_DEADLINE};

/// A way to the chain.
pub(super) enum Source {
    /// The development chain in this process.
    Dev(DevSource),
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
    /// Asks until an answer passes `check`.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        headers: &Arc<Headers>,
        request: Request,
        check: impl Check<T>,
    ) -> Result<T, ChainError> {
        request.check()?;
        match self {
            Self::Dev(dev) => dev.ask(headers, request, check).await,
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
            Self::Swarm(swarm) => swarm.broadcast(headers, parsed, bytes).await,
        }
    }

    /// Follows the source's headers.
    pub(super) async fn refresh(&self, headers: &Arc<Headers>) -> Result<(), ChainError> {
        match self {
            Self::Dev(dev) => dev.follow(headers).await,
            Self::Swarm(swarm) => swarm.refresh(headers).await,
        }
    }
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
