//! Driving one order: send, receive, verify, keep, or take the coins back, with each step on disk before the next message.

use std::time::Duration;

use sensora_chain::Txid;
use sensora_chain::wallet::{Wallet, WalletError};
use sensora_protocol::market::budget::Commitment;
use sensora_protocol::market::delivery::ProvenPage;
use sensora_protocol::market::message::{Request, Response};
use sensora_protocol::market::purchase::{
    Purchase, PurchaseAction, PurchaseError, PurchaseEvent, PurchaseState,
};
use sensora_protocol::{OrderId, StreamId};

use super::budget::settle;
use super::{ATTEMPTS, BuyError, Buyer, BuyerParts, Progress};
use crate::net::{Offence, peer_id_from_public_key};
use crate::store::bought::{self, BoughtRun};
use crate::store::{StoreError, budget, orders};
use crate::wallet::{Fate, WalletHandleError};

/// How often a delivery that does not verify is asked for again before the seller counts as a cheat.
const DELIVERY_ATTEMPTS: u32 = 2;

impl Buyer {
    /// Sends, receives and keeps until the purchase is complete or cannot go on.
    pub(super) async fn drive(
        &self,
        order: &OrderId,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Purchase, BuyError> {
        let order = *order;
        let _one_at_a_time = self.turns.take(&order).await;
        let mut purchase = self.purchase(&order)?;
        self.look_back(&mut purchase)?;
        let mut waits = 0;
        let mut bad_deliveries = 0;
        while let Some(action) = purchase.resume() {
            let action = match action {
                PurchaseAction::Send(request) if matches!(*request, Request::Purchase(_)) => {
                    self.prove_payment(&mut purchase)?;
                    let Some(action) = purchase.resume() else { break };
                    action
                }
                action => action,
            };
            let request = match action {
                PurchaseAction::Send(request) => request,
                PurchaseAction::TakeBack(txid) => {
                    self.take_back(&mut purchase, &txid).await?;
                    continue;
                }
                _ => break,
            };
            if let (Request::Purchase(_), Some(payment)) = (&*request, &purchase.payment) {
                self.inner.wallet.may_go_out(&payment.txid)?;
            }
            let response = self.ask(&purchase.seller, &request).await?;
            let actions = match self.take(&mut purchase, response) {
                Ok(actions) => actions,
                Err(BuyError::Purchase { source, .. })
                    if matches!(*source, PurchaseError::Delivery(_))
                        && bad_deliveries < DELIVERY_ATTEMPTS =>
                {
                    tracing::warn!(%order, error = %source, "a delivery does not verify, asking again");
                    bad_deliveries += 1;
                    continue;
                }
                Err(error) => {
                    // A full disk of ours is no fault of the seller's.
                    let peer = peer_id_from_public_key(&purchase.seller.to_bytes());
                    if let (Some(peer), BuyError::Purchase { .. }) = (peer, &error) {
                        self.inner.net.report(peer, Offence::InvalidProof).await;
                    }
                    return Err(error);
                }
            };
            let waiting = actions.into_iter().find_map(|action| match action {
                PurchaseAction::Wait { retry_ms, refusal } => Some((retry_ms, refusal)),
                _ => None,
            });
            if let Some((retry_ms, refusal)) = waiting {
                waits += 1;
                if waits > ATTEMPTS {
                    return Err(BuyError::Refused(refusal));
                }
                progress(Progress::Waiting { reason: refusal.to_string() });
                tokio::time::sleep(Duration::from_millis(retry_ms)).await;
                continue;
            }
            // A seller that goes on has all its patience again.
            waits = 0;
            if let PurchaseState::Withheld { refusal } = &purchase.state {
                return Err(BuyError::Withheld { order, refusal: refusal.clone() });
            }
            self.show(&purchase, progress)?;
        }
        match &purchase.state {
            PurchaseState::Complete { .. } => Ok(purchase),
            state => Err(BuyError::NotComplete { order, state: state.name() }),
        }
    }

    fn show(&self, purchase: &Purchase, progress: &mut impl FnMut(Progress)) -> Result<(), BuyError> {
        let offer = purchase.terms(self.inner.network)?;
        let terms = offer.value();
        if matches!(purchase.state, PurchaseState::Delivering { .. } | PurchaseState::Complete { .. }) {
            let done = purchase.next.saturating_sub(terms.first);
            progress(Progress::Received { done, total: terms.count });
        }
        Ok(())
    }

    /// Gives a response to the state machine, and stores all that follows from it in one step.
    fn take(&self, purchase: &mut Purchase, response: Response) -> Result<Vec<PurchaseAction>, BuyError> {
        let BuyerParts { wallet, network, clock, .. } = &*self.inner;
        let before = purchase.next;
        let mut next = purchase.clone();
        let actions = next
            .handle(PurchaseEvent::Response(Box::new(response)), *network)
            .map_err(|source| BuyError::Purchase { order: purchase.id, source: Box::new(source) })?;
        if next != *purchase {
            let offer = next.terms(*network)?;
            let terms = offer.value();
            wallet.update(|wallet, tx| {
                for action in &actions {
                    match action {
                        PurchaseAction::PaymentTaken(txid) => {
                            mark_taken(wallet, txid)?;
                        }
                        PurchaseAction::Keep(page) => {
                            keep(tx, &next.id, &terms.stream, terms.first, before, page)?;
                        }
                        _ => {}
                    }
                }
                settle(tx, &next, terms.total, clock.now_ms())?;
                orders::put_purchase(tx, &next)?;
                Ok::<_, BuyError>(())
            })?;
            *purchase = next;
            self.note_direct(purchase)?;
        }
        Ok(actions)
    }

    /// Spends the coins of a payment back to ourselves. `Ok` when the seller has the money of an order that was given up: then it is asked for
    /// the goods again.
    async fn take_back(&self, purchase: &mut Purchase, txid: &Txid) -> Result<(), BuyError> {
        let BuyerParts { wallet, .. } = &*self.inner;
        let order = purchase.id;
        let before = purchase.state.clone();
        let outcome = move |taken_back| match &before {
            PurchaseState::Refused { refusal } => {
                BuyError::PaymentRefused { order, refusal: refusal.clone(), taken_back }
            }
            _ => BuyError::GivenUp { order, taken_back },
        };
        let not_yet = |error: &dyn std::error::Error| {
            tracing::warn!(%order, %error, "the coins could not be taken back yet");
            Err(outcome(false))
        };
        let event = match wallet.take_back(txid).await {
            Ok(_) => PurchaseEvent::TakenBack,
            // Either the seller has the money all the same, or the coins went elsewhere, or somebody lies: the chain is asked which.
            Err(rejected @ WalletHandleError::Rejected { .. }) => match wallet.fate(txid).await {
                Ok(Fate::Taken) => PurchaseEvent::NotTakenBack,
                Ok(Fate::Impossible) => PurchaseEvent::TakenBack,
                Ok(Fate::Open) => return not_yet(&rejected),
                Err(error) => return not_yet(&error),
            },
            // It may have been taken back before a crash.
            Err(error) => match wallet.status(txid) {
                Some(status) if status.is_dead() => PurchaseEvent::TakenBack,
                Some(status) if status.is_settled() => PurchaseEvent::NotTakenBack,
                _ => return not_yet(&error),
            },
        };
        self.follow(purchase, event)?;
        match &purchase.state {
            PurchaseState::Paying => Ok(()),
            PurchaseState::Withheld { refusal } => {
                Err(BuyError::Withheld { order, refusal: refusal.clone() })
            }
            _ => Err(outcome(true)),
        }
    }

    /// Gives what has become of a payment to the state machine, and stores all that follows from it in one step.
    pub(super) fn follow(&self, purchase: &mut Purchase, event: PurchaseEvent) -> Result<(), BuyError> {
        let BuyerParts { wallet, network, clock, .. } = &*self.inner;
        let (order, seller) = (purchase.id, purchase.seller);
        let total = purchase.terms(*network)?.value().total;
        let had_returned = purchase.may_return();
        let mut next = purchase.clone();
        wallet.update(|wallet, tx| {
            let actions = next.handle(event, *network);
            let actions = actions.map_err(|source| BuyError::Purchase { order, source: Box::new(source) })?;
            for action in &actions {
                if let PurchaseAction::PaymentTaken(txid) = action {
                    mark_taken(wallet, txid)?;
                }
            }
            if had_returned && !next.state.is_final() {
                // What it had committed was given back with its coins.
                let commitment = Commitment { seller, at_ms: clock.now_ms(), amount: total };
                budget::commit_again(tx, &order, &commitment)?;
            }
            settle(tx, &next, total, clock.now_ms())?;
            orders::put_purchase(tx, &next)?;
            Ok::<_, BuyError>(())
        })?;
        *purchase = next;
        self.note_direct(purchase)
    }
}

/// The network has a payment. One that the wallet has let go was settled then, and needs no word.
fn mark_taken(wallet: &mut Wallet, txid: &Txid) -> Result<(), WalletHandleError> {
    match wallet.mark_broadcast(txid) {
        Ok(()) | Err(WalletError::UnknownTransaction(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Stores the runs of a verified page of an order, and what of its proof the whole order's proof needs: `begins` is where the order begins,
/// `first` where the page does.
pub(super) fn keep(
    tx: &redb::WriteTransaction,
    order: &OrderId,
    stream: &StreamId,
    begins: u64,
    first: u64,
    page: &ProvenPage,
) -> Result<(), StoreError> {
    for run in &page.runs {
        let count = run.count().map_err(|error| StoreError::Damaged(error.to_string()))?;
        let bought = BoughtRun { run: run.clone(), count, order: *order };
        bought::put_run(tx, stream, &bought)?;
    }
    let mut proof = bought::proof_in(tx, order)?;
    proof.page(first, first == begins, &page.proof);
    bought::put_proof(tx, order, &proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_that_the_wallet_has_let_go_stops_no_order() {
        let (mut wallet, txid) = (Wallet::new(), Txid([7; 32]));
        mark_taken(&mut wallet, &txid).unwrap();
        assert_eq!(wallet.status(&txid), None, "and it is not made up");
    }
}
