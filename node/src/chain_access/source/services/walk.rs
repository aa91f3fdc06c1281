//! Following the headers of services, and comparing their ends.

use std::sync::{Arc, Mutex};

use sensora_chain::BlockHash;
use sensora_chain::header::Header;
use sensora_chain::sources::service::{Need, Service};
use sensora_protocol::chain_access::message::Tip as ClaimedTip;
use sensora_protocol::chain_access::{Answer, Refusal, Request};

use tokio::time::Instant;

use super::health::{TipWord, stands};
use super::{ServicesSource, lock};
use crate::chain_access::error::{Asked, ChainError, Failure, Tried};
use crate::chain_access::headers::Headers;
use crate::chain_access::source::swarm::ASK_DEADLINE;
use crate::chain_access::{HeaderSnapshot, sync};

/// Blocks of the locator that the first question after a reorganisation goes back: deeper ones are rare.
const BACK_AT_FIRST: usize = 8;
/// Blocks of the locator for each further question; its steps double, so each goes back sixteen times as far.
const BACK_AFTER: usize = 4;
/// Requests that one run may take to be filled: a service that sends headers one by one is followed with the next look.
const MAX_FILLS: usize = 64;

/// What this service has said in this conversation.
#[derive(Debug, Default)]
struct Heard {
    /// The last header that it has sent, which need not be on our best chain yet.
    last: Option<(BlockHash, u32)>,
    /// The height of its chain.
    tip: u32,
}

impl ServicesSource {
    /// Follows the headers of one service.
    pub(in crate::chain_access) async fn walk(
        &self,
        headers: &Arc<Headers>,
        index: usize,
    ) -> Result<(), Failure> {
        let service = self.service(index)?.clone();
        let heard = Mutex::new(Heard::default());
        let ask = async |request: Request| match request {
            Request::Tip => {
                let tip = service.tip().await?;
                lock(&self.inner.ledger).has_tip(index, tip);
                lock(&heard).tip = tip.height;
                Ok(Answer::Tip(ClaimedTip { height: tip.height, hash: tip.hash }))
            }
            Request::Headers { locator, count } => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                run_after(&service, headers.snapshot(), &locator, count, &heard).await
            }
            _ => Err(Failure::Stopped),
        };
        sync::follow(headers, ask).await
    }

    /// Follows the headers of all services that do not rest, one after the other: the first brings what is new, the others then only
    /// say whether they agree. Whether one of them answered.
    pub(in crate::chain_access) async fn follow_all(&self, headers: &Arc<Headers>) -> bool {
        let mut answered = false;
        for index in self.rested(Need::Headers) {
            let outcome = self.walk(headers, index).await;
            self.note(index, &outcome);
            answered |= outcome.is_ok();
        }
        self.compare(headers);
        answered
    }

    /// Follows the headers of the first service that has some, or of peers.
    pub(in crate::chain_access::source) async fn refresh(
        &self,
        headers: &Arc<Headers>,
    ) -> Result<(), ChainError> {
        let mut tried = Vec::new();
        for index in self.candidates(Need::Headers) {
            let outcome = self.walk(headers, index).await;
            self.note(index, &outcome);
            match outcome {
                Ok(()) => return Ok(()),
                Err(failure) if failure.is_stopped() => return Err(ChainError::Stopped),
                Err(failure) => tried.push(Tried { asked: self.asked(index), failure }),
            }
        }
        let peers = match &self.swarm {
            None => None,
            Some(swarm) => match swarm.refresh(headers).await {
                Ok(()) => return Ok(()),
                Err(error) => Some(error),
            },
        };
        Err(self.nobody(Need::Headers, tried, peers))
    }

    /// Reports services whose chain ends with another block than ours has at that height, although its headers were heard.
    fn compare(&self, headers: &Arc<Headers>) {
        let snapshot = headers.snapshot();
        let tips = lock(&self.inner.ledger).tips();
        let agrees = |index: &usize| {
            tips.iter()
                .any(|(of, tip)| of == index && matches!(stands(&snapshot, tip), TipWord::Agrees { .. }))
        };
        let agreeing = self.of(Need::Headers).iter().find(|index| agrees(index));
        for (index, tip) in &tips {
            if stands(&snapshot, tip) != TipWord::Differs {
                continue;
            }
            let other =
                agreeing.map_or_else(|| Asked::Service("this node's headers".into()), |i| self.asked(*i));
            let what = format!(
                "has block {} at height {}, {other} has another one there, on the chain with more work",
                tip.hash, tip.height
            );
            self.disagree(&self.asked(*index), &other, what);
        }
    }
}

/// The service's headers after the first block of the locator that it has.
async fn run_after(
    service: &Service,
    own: HeaderSnapshot,
    locator: &[BlockHash],
    count: usize,
    heard: &Mutex<Heard>,
) -> Result<Answer, Failure> {
    let (known, tip) = {
        let heard = lock(heard);
        (heard.last, heard.tip)
    };
    let height_of = |hash: &BlockHash| {
        let sent = known.filter(|(of, _)| of == hash).map(|(_, height)| height);
        sent.or_else(|| own.height_of(hash)).map(|height| (*hash, height))
    };
    let places: Vec<(BlockHash, u32)> = locator.iter().filter_map(height_of).collect();
    let end = places.len().saturating_sub(1);
    let mut probe = 0;
    while let Some((_, height)) = places.get(probe) {
        let run = service.headers(*height, count.saturating_add(1)).await?;
        let shared = places.iter().find_map(|(hash, of)| {
            let at = usize::try_from(of.checked_sub(*height)?).ok()?;
            run.get(at).filter(|header| header.hash() == *hash).map(|_| (at, *of))
        });
        if let Some((at, of)) = shared {
            let mut found: Vec<Header> = run.into_iter().skip(at.saturating_add(1)).take(count).collect();
            fill(service, &mut found, of, count, tip).await;
            if let Some(header) = found.last() {
                lock(heard).last = Some((header.hash(), height_after(of, found.len())));
            }
            return Ok(Answer::Headers { headers: found.iter().flat_map(|Header(bytes)| *bytes).collect() });
        }
        if probe >= end {
            break;
        }
        probe = probe.saturating_add(if probe == 0 { BACK_AT_FIRST } else { BACK_AFTER }).min(end);
    }
    Err(Failure::Refused(Refusal::NoCommonBlock))
}

fn height_after(height: u32, headers: usize) -> u32 {
    height.saturating_add(u32::try_from(headers).unwrap_or(u32::MAX))
}

/// Asks on until there are `count` headers or no more: a run that is shorter than asked for would look like the end of the chain.
async fn fill(service: &Service, found: &mut Vec<Header>, below: u32, count: usize, tip: u32) {
    // A service that drips is left with what has come, and asked on with the next look: others wait behind it.
    let by = Instant::now() + ASK_DEADLINE;
    for _ in 0..MAX_FILLS {
        if Instant::now() >= by {
            return;
        }
        let missing = count.saturating_sub(found.len());
        let Some(last) = found.last().map(Header::hash).filter(|_| missing > 0) else { return };
        let next = height_after(below, found.len()).saturating_add(1);
        if next > tip {
            return;
        }
        // What is there already is worth taking, whatever becomes of the rest.
        let Ok(more) = service.headers(next, missing).await else { return };
        // After a reorganisation between two questions the rest belongs to another chain.
        if more.first().is_none_or(|first| first.previous() != last) {
            return;
        }
        found.extend(more.into_iter().take(missing));
    }
}
