//! Questions to services: one after the other, until what is asked is answered.

use std::sync::Arc;

use sensora_chain::header::HeaderChain;
use sensora_chain::sources::service::{FeeQuote, Need, Service};
use sensora_chain::{OutPoint, Txid};
use sensora_protocol::chain_access::Answer;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::items::{Item, Says};
use super::{ServicesSource, lock};
use crate::chain_access::error::{ChainError, Failure, Tried};
use crate::chain_access::headers::Headers;
use crate::chain_access::source::swarm::ASK_DEADLINE;
use crate::chain_access::source::{in_halves, may_be_newer};
use crate::chain_access::{SpentBy, blocking};

/// Requests that one question has under way at one service: a few hide the way there, more would be a burst.
const AT_A_TIME: usize = 4;

/// A transaction that is said to wait for so many blocks is asked about at the other services too: that it was seen is a word, and
/// one of them may have its proof.
const BELIEVED_TO_WAIT: u32 = 2;

/// What one service says of some items.
struct Said<I: Item> {
    items: Vec<I>,
    words: Vec<I::Word>,
    /// Items whose answers are longer than is taken, where others are answered.
    too_large: Vec<I>,
    /// Why the others are missing.
    outcome: Result<(), Failure>,
}

impl ServicesSource {
    /// Asks one service after the other about the items of which those before it could not say enough, and then peers about those of
    /// which no service knows anything. One line for each item, in their order.
    pub(in crate::chain_access) async fn gather<I: Item>(
        &self,
        headers: &Arc<Headers>,
        items: &[I],
    ) -> Result<Vec<(I, I::Found)>, ChainError> {
        let deadline = Instant::now() + ASK_DEADLINE;
        let mut found: Vec<(I, Option<I::Found>)> = items.iter().map(|item| (*item, None)).collect();
        let mut tried: Vec<Tried> = Vec::new();
        let candidates = self.candidates(I::NEED);
        // Items that a second service has been asked about.
        let mut asked_twice: Vec<I> = Vec::new();
        for index in candidates {
            let height = headers.snapshot().tip().height;
            let is_doubted = |(item, found): &&(I, Option<I::Found>)| {
                let unspent = found.as_ref().and_then(|found| item.unspent(found));
                unspent.is_some_and(|outpoint| self.is_doubted(&outpoint, height))
                    && !asked_twice.contains(item)
            };
            let is_open = |(item, found): &&(I, Option<I::Found>)| match found {
                None => true,
                Some(found) => match I::says(found) {
                    Says::Nothing => true,
                    Says::Word => item.waits(found).is_some_and(|txid| self.waits_too_long(txid, height)),
                    Says::All => false,
                },
            };
            let doubted: Vec<I> = found.iter().filter(is_doubted).map(|(item, _)| *item).collect();
            let open = found.iter().filter(|line| is_open(line) || is_doubted(line));
            let open: Vec<I> = open.map(|(item, _)| *item).collect();
            if open.is_empty() || Instant::now() >= deadline {
                break;
            }
            let Said { items, words, too_large, outcome } = self.ask_each(index, &open, deadline).await;
            let denied: Vec<_> =
                items.iter().zip(&words).filter_map(|(item, word)| item.denied(word)).collect();
            let judged = timeout_at(deadline, self.judge(headers, index, items, &words)).await;
            let outcome = match judged.unwrap_or_else(|_| Err(self.too_late(index))) {
                Ok(lines) => {
                    self.remember(index, &denied, &lines, height);
                    merge(&mut found, lines);
                    for (_, found) in found.iter_mut().filter(|(item, _)| too_large.contains(item)) {
                        found.get_or_insert_with(I::unknown);
                    }
                    outcome
                }
                Err(failure) => Err(failure),
            };
            self.note(index, &outcome);
            match outcome {
                Ok(()) => asked_twice.extend(doubted),
                Err(failure) if failure.is_stopped() => return Err(ChainError::Stopped),
                Err(failure) => tried.push(Tried { asked: self.asked(index), failure }),
            }
        }
        self.believe(&asked_twice, &found, headers.snapshot().tip().height);
        let failed = self.ask_peers(headers, &mut found).await;
        let is_answered = found.iter().all(|(_, found)| found.is_some());
        let is_proven = |(_, found): &(I, Option<I::Found>)| found.as_ref().map(I::says) == Some(Says::All);
        if is_answered || found.iter().any(is_proven) {
            let line = |(item, found): (I, Option<I::Found>)| (item, found.unwrap_or_else(I::unknown));
            return Ok(found.into_iter().map(line).collect());
        }
        Err(self.nobody(I::NEED, tried, failed))
    }

    /// The error where nobody has an answer.
    pub(super) fn nobody(&self, need: Need, mut tried: Vec<Tried>, peers: Option<ChainError>) -> ChainError {
        match peers {
            Some(ChainError::Unavailable { tried: more }) => tried.extend(more),
            Some(error @ ChainError::Stopped) => return error,
            _ => {}
        }
        if !tried.is_empty() {
            return ChainError::Unavailable { tried };
        }
        if self.of(need).is_empty() { ChainError::NoService { need } } else { self.all_rest(need) }
    }

    /// All of them rest, because they have lied or ask for it.
    fn all_rest(&self, need: Need) -> ChainError {
        let now = Instant::now();
        let memory = lock(&self.inner.memory);
        let rest = |index: &usize| {
            let rests_for = memory.rest_left(index, now).unwrap_or_default();
            Tried { asked: self.asked(*index), failure: Failure::Resting(rests_for) }
        };
        ChainError::Unavailable { tried: self.of(need).iter().map(rest).collect() }
    }

    /// Asks peers about the items of which no service knows anything.
    async fn ask_peers<I: Item>(
        &self,
        headers: &Arc<Headers>,
        found: &mut [(I, Option<I::Found>)],
    ) -> Option<ChainError> {
        let swarm = self.swarm.as_ref()?;
        let is_unknown =
            |found: &Option<I::Found>| found.as_ref().is_none_or(|f| I::says(f) == Says::Nothing);
        let unknown: Vec<I> = found.iter().filter(|(_, f)| is_unknown(f)).map(|(item, _)| *item).collect();
        if unknown.is_empty() {
            return None;
        }
        let asked = in_halves(&unknown, |some| {
            let request = I::request(&some);
            let check = move |chain: &HeaderChain, answer: Answer| I::check(chain, &some, &answer);
            async move { swarm.ask(headers, &request, check).await }
        });
        match asked.await {
            Ok(lines) => {
                merge(found, lines);
                None
            }
            Err(error) => Some(error),
        }
    }

    /// Asks one service about each of these, a few at a time, until one request fails. An answer that is too large is no such failure where
    /// others come: whoever makes a spend large would hide what spends all the others.
    async fn ask_each<I: Item>(&self, index: usize, items: &[I], deadline: Instant) -> Said<I> {
        let service = match self.service(index) {
            Ok(service) => service.clone(),
            Err(failure) => {
                let (items, words, too_large) = (Vec::new(), Vec::new(), Vec::new());
                return Said { items, words, too_large, outcome: Err(failure) };
            }
        };
        let mut words: Vec<(usize, I::Word)> = Vec::with_capacity(items.len());
        let mut left = items.iter().copied().enumerate();
        let mut running: JoinSet<(usize, Result<I::Word, Failure>)> = JoinSet::new();
        let mut outcome = Ok(());
        let mut passed_over: Vec<(usize, Failure)> = Vec::new();
        loop {
            while running.len() < AT_A_TIME && outcome.is_ok() {
                let Some((at, item)) = left.next() else { break };
                let service = service.clone();
                running.spawn(async move { (at, item.ask(service).await.map_err(Failure::from)) });
            }
            match timeout_at(deadline, running.join_next()).await {
                Ok(Some(Ok((at, Ok(word))))) => words.push((at, word)),
                Ok(Some(Ok((at, Err(failure))))) if failure.is_too_large() => passed_over.push((at, failure)),
                Ok(Some(Ok((_, Err(failure))))) => outcome = outcome.and(Err(failure)),
                Ok(Some(Err(_))) => outcome = outcome.and(Err(Failure::Stopped)),
                Ok(None) => break,
                Err(_) => {
                    outcome = outcome.and(Err(self.too_late(index)));
                    break;
                }
            }
        }
        let mut too_large = Vec::new();
        for (at, failure) in passed_over {
            tracing::debug!(service = %self.asked(index), %failure, "an answer is not taken");
            if words.is_empty() {
                // Its answers may have no end, whatever it is asked.
                outcome = outcome.and(Err(failure));
            } else {
                too_large.extend(items.get(at).copied());
            }
        }
        words.sort_by_key(|(at, _)| *at);
        let items = words.iter().filter_map(|(at, _)| items.get(*at).copied()).collect();
        let words = words.into_iter().map(|(_, word)| word).collect();
        Said { items, words, too_large, outcome }
    }

    /// Checks what a service says, if need be against newer headers.
    async fn judge<I: Item>(
        &self,
        headers: &Arc<Headers>,
        index: usize,
        items: Vec<I>,
        words: &[I::Word],
    ) -> Result<Vec<(I, I::Found)>, Failure> {
        let (answer, items): (_, Arc<[I]>) = (Arc::new(I::answer(words)), items.into());
        let check = |snapshot: crate::chain_access::HeaderSnapshot| {
            let (answer, items) = (answer.clone(), items.clone());
            async move {
                let checked = blocking(move || I::check(snapshot.chain(), &items, &answer)).await;
                checked.ok_or(Failure::Stopped)?
            }
        };
        match check(headers.snapshot()).await {
            Err(failure) if may_be_newer(&failure) => match self.catch_up(headers, index).await {
                Ok(()) => check(headers.snapshot()).await,
                // Its headers may be a lie, too; that they did not come is no excuse for the first.
                Err(second) => Err(if second.offence().is_some() { second } else { failure }),
            },
            judged => judged,
        }
    }

    /// Follows the headers of this service, or of the others where it has none.
    async fn catch_up(&self, headers: &Arc<Headers>, index: usize) -> Result<(), Failure> {
        if self.service(index)?.config().kind.can(Need::Headers) {
            return self.walk(headers, index).await;
        }
        let before = headers.snapshot().tip();
        for other in self.candidates(Need::Headers) {
            let outcome = self.walk(headers, other).await;
            self.note(other, &outcome);
            if outcome.is_ok() && headers.snapshot().tip() != before {
                break;
            }
        }
        Ok(())
    }

    fn waits_too_long(&self, txid: Txid, height: u32) -> bool {
        let since = lock(&self.inner.ledger).waits_since(&txid);
        since.is_some_and(|since| height.saturating_sub(since) >= BELIEVED_TO_WAIT)
    }

    /// Whether a second service is to be asked about an output that the first calls unspent: once for each block, because questions are counted.
    fn is_doubted(&self, outpoint: &OutPoint, height: u32) -> bool {
        lock(&self.inner.ledger).unspent_at(outpoint) != Some(height)
    }

    /// What two call unspent is so until the next block.
    fn believe<I: Item>(&self, asked_twice: &[I], found: &[(I, Option<I::Found>)], height: u32) {
        let mut ledger = lock(&self.inner.ledger);
        for (item, found) in found.iter().filter(|(item, _)| asked_twice.contains(item)) {
            if let Some(outpoint) = found.as_ref().and_then(|found| item.unspent(found)) {
                ledger.is_unspent(outpoint, height);
            }
        }
    }

    /// Keeps who said what, and reports who is contradicted by a proof.
    fn remember<I: Item>(&self, index: usize, denied: &[Txid], lines: &[(I, I::Found)], height: u32) {
        let prover = self.asked(index);
        let mut contradicted = Vec::new();
        {
            let mut ledger = lock(&self.inner.ledger);
            for (item, found) in lines {
                if let Some(txid) = item.waits(found) {
                    ledger.waits(txid, height);
                }
                if let Some(txid) = item.proven(found) {
                    ledger.waits_no_more(&txid);
                    contradicted.extend(ledger.denied_by(&txid).map(|by| (by, txid)));
                }
            }
            for txid in denied {
                ledger.deny(*txid, index);
            }
        }
        for (by, txid) in contradicted.into_iter().filter(|(by, _)| *by != index) {
            let what =
                format!("says that transaction {txid} is refused, but {prover} proves that it is mined");
            self.disagree(&self.asked(by), &prover, what);
        }
    }

    /// What spends these outputs in the word of one service, or of those that can be asked for it where it cannot; checked.
    pub(in crate::chain_access::source) async fn spent_by_word_of(
        &self,
        headers: &Arc<Headers>,
        index: usize,
        outpoints: &[OutPoint],
    ) -> Vec<(OutPoint, SpentBy)> {
        let able = self.service(index).is_ok_and(|service| service.config().kind.can(Need::Outputs));
        let asked = if able { vec![index] } else { self.candidates(Need::Outputs) };
        let deadline = Instant::now() + ASK_DEADLINE;
        for index in asked {
            let Said { items, words, outcome, .. } = self.ask_each(index, outpoints, deadline).await;
            let judged = self.judge(headers, index, items, &words).await;
            self.note(index, &judged.as_ref().map(|_| ()).map_err(Clone::clone).and(outcome));
            let Ok(lines) = judged else { continue };
            if lines.iter().any(|(_, spent)| matches!(spent, SpentBy::Transaction { .. })) {
                return lines;
            }
        }
        Vec::new()
    }

    /// What miners ask for, by the first service that says so, with its name.
    pub(in crate::chain_access) async fn fee_quote(&self) -> Result<(String, FeeQuote), ChainError> {
        let mut tried = Vec::new();
        for index in self.candidates(Need::Fees) {
            let asked: Result<FeeQuote, Failure> = match self.service(index) {
                Ok(service) => Service::fee_quote(service).await.map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            self.note(index, &asked);
            match asked {
                Ok(quote) => return Ok((self.asked(index).to_string(), quote)),
                Err(failure) => tried.push(Tried { asked: self.asked(index), failure }),
            }
        }
        Err(self.nobody(Need::Fees, tried, None))
    }
}

/// Takes what says more than what is there.
fn merge<I: Item>(found: &mut [(I, Option<I::Found>)], lines: Vec<(I, I::Found)>) {
    let mut lines = lines.into_iter().peekable();
    for (item, known) in found {
        // Both are in the same order, and `lines` has some of them.
        let Some((_, new)) = lines.next_if(|(of, _)| *of == *item) else { continue };
        if known.as_ref().is_none_or(|known| I::says(known) < I::says(&new)) {
            *known = Some(new);
        }
    }
}
