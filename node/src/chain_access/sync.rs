//! One conversation with one source about its headers: the driver of [`Walk`], which has the rules.

use std::future::Future;
use std::sync::Arc;

use sensora_protocol::chain_access::sync::Walk;
use sensora_protocol::chain_access::{Answer, Request};

use super::error::Failure;
use super::headers::Headers;
use super::{blocking, check};

/// Asks for the tip, and where it is unknown for headers until there are no more.
pub(super) async fn follow<Ask, Answered>(headers: &Arc<Headers>, ask: Ask) -> Result<(), Failure>
where
    Ask: Fn(Request) -> Answered,
    Answered: Future<Output = Result<Answer, Failure>>,
{
    let tip = check::tip(&ask(Request::Tip).await?)?;
    if headers.knows(&tip) {
        return Ok(());
    }
    let mut walk = Walk::new();
    loop {
        let request = headers.ask(&mut walk);
        let run = check::headers(ask(request).await?)?;
        let shared = headers.clone();
        let took = blocking(move || {
            let taken = shared.take(&mut walk, &run);
            (walk, taken)
        });
        let taken;
        (walk, taken) = took.await.ok_or(Failure::Stopped)?;
        let taken = taken?;
        if let Some(reorg) = &taken.connected.reorged {
            let (depth, tip) = (reorg.disconnected.len(), taken.connected.tip);
            tracing::info!(depth, fork = reorg.fork_height, height = tip.height, "the chain was reorganised");
        }
        if !taken.more {
            return Ok(());
        }
    }
}
