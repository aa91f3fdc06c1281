//! Each change of a purchase is on disk before what follows from it.

use std::collections::VecDeque;

use bytes::Bytes;
use sensora_chain::beef::BeefError;
use sensora_chain::header::HeaderView as _;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::Purpose;
use sensora_chain::{Satoshis, Script, Transaction, TxOut, Txid};
use sensora_protocol::OrderId;
use sensora_protocol::market::delivery::ProvenPage;
use sensora_protocol::market::key_release::buy::{
    BatchPurchase, BatchPurchaseState, BuyAction, BuyEvent, BuyerAt,
};
use sensora_protocol::market::key_release::coin::{CoinView, SETTLED};
use sensora_protocol::market::key_release::frame::ToSeller;
use sensora_protocol::market::key_release::offer::BatchTerms;
use sensora_protocol::market::purchase::SignedPayment;
use sensora_protocol::market::refusal::Refusal;

use crate::buyer::budget::settle_release;
use crate::buyer::drive::keep;
use crate::buyer::{BuyError, Buyer, BuyerParts, Progress};
use crate::chain_access::BroadcastError;
use crate::net::{DeliveryError, DeliverySender, Offence, peer_id_from_public_key};
use crate::outgoing::beef_of_spend;
use crate::release::{Earned, credit};
use crate::store::{StoreError, release as records};
use crate::wallet::{Fate, WalletHandle, WalletHandleError};

/// Parts that are opened in one stored step: some tens of thousands of readings at the most.
const OPEN_AT_ONCE: usize = 48;

/// What is left to do when all actions are carried out.
#[derive(Debug, Default)]
pub(super) struct Then {
    /// Something is to be said to the seller, and there was no stream.
    pub(super) wants_stream: bool,
    /// The seller says: later.
    pub(super) wait: Option<(u64, Refusal)>,
}

/// What opening some parts leaves to do, and how many readings are here then, of how many.
type Opened = (Vec<BuyAction>, Option<(u64, u64)>);

/// Why actions were not carried out to the end.
pub(super) enum Stopped {
    /// The stream ended.
    Stream(DeliveryError),
    /// Something else.
    Failed(BuyError),
}

impl<E: Into<BuyError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Whether a purchase is looked after any longer.
fn is_watched(
    wallet: &WalletHandle,
    purchase: &BatchPurchase,
    terms: &BatchTerms,
    tip: u32,
    view: Option<&CoinView>,
) -> bool {
    match &purchase.state {
        BatchPurchaseState::Dropped | BatchPurchaseState::Refunded => false,
        // That somebody has taken the conflicting transaction is no block: the coin may still win, and its key opens the parts.
        BatchPurchaseState::TakenBack { .. } => match &purchase.coin {
            Some(coin) if wallet.status(&coin.txid).is_some() => {
                // What cannot be read is looked after.
                !wallet.is_outdone(&coin.txid, SETTLED).unwrap_or(false)
            }
            // One that this wallet has never built; after its refund height no honest seller takes it.
            _ => !terms.may_refund(tip),
        },
        // Until what took the coin is settled: the wallet is told, and who was cheated may have it back.
        BatchPurchaseState::Complete | BatchPurchaseState::Cheated { .. } => {
            let spend = view.and_then(|view| Some((view, view.spend.as_ref()?)));
            purchase.coin.is_some()
                && spend.is_none_or(|(view, spend)| view.confirmations(spend.height) < SETTLED)
        }
        _ => true,
    }
}

impl Buyer {
    /// Gives an event to a purchase and stores what it makes of it. What remains to be done comes back.
    pub(super) async fn release_event(
        &self,
        id: &OrderId,
        event: BuyEvent,
        path: Option<&MerklePath>,
    ) -> Result<Vec<BuyAction>, BuyError> {
        let _one_at_a_time = self.releases.steps.lock(id).await;
        let BuyerParts { wallet, chain, .. } = &*self.inner;
        let purchase = self.release_purchase(id)?;
        let terms = self.release_terms(&purchase)?;
        let view = match &event {
            BuyEvent::View(view) => Some((**view).clone()),
            _ => None,
        };
        let mut next = purchase.clone();
        let actions = self.handle(&mut next, event, &terms)?;
        let tip = chain.headers().tip_height();
        let watched = is_watched(wallet, &next, &terms, tip, view.as_ref());
        if next != purchase || !watched || actions.iter().any(is_stored) {
            wallet.update(|wallet, tx| {
                for action in &actions {
                    self.store_action(wallet, tx, (&next, &terms), action, path)?;
                }
                let may_return = watched && matches!(next.state, BatchPurchaseState::TakenBack { .. });
                if next.state.is_final() && !may_return {
                    records::remove_parts(tx, id, terms.parts)?;
                }
                settle_release(tx, &next, terms.total, watched, self.inner.clock.now_ms())?;
                records::put_purchase(tx, &next, watched)?;
                Ok::<_, BuyError>(())
            })?;
            self.note_release(&next, &terms, watched);
        }
        let mut rest = Vec::new();
        for action in actions {
            match action {
                BuyAction::Lock { locking, value } => {
                    rest.extend(self.lock_coin(&mut next, &terms, locking, value)?);
                }
                action if is_stored(&action) => {}
                action => rest.push(action),
            }
        }
        Ok(rest)
    }

    fn handle(
        &self,
        purchase: &mut BatchPurchase,
        event: BuyEvent,
        terms: &BatchTerms,
    ) -> Result<Vec<BuyAction>, BuyError> {
        let BuyerParts { identity, network, wallet, .. } = &*self.inner;
        let at = BuyerAt { buyer: identity, network: *network, rate: wallet.fees().rate };
        let order = purchase.id;
        let handled = purchase.handle(event, terms, &at);
        handled.map_err(|source| BuyError::Release { order, source: Box::new(source) })
    }

    /// What of an action belongs to the stored step.
    fn store_action(
        &self,
        wallet: &mut sensora_chain::wallet::Wallet,
        tx: &redb::WriteTransaction,
        (purchase, terms): (&BatchPurchase, &BatchTerms),
        action: &BuyAction,
        path: Option<&MerklePath>,
    ) -> Result<(), BuyError> {
        let BuyerParts { identity, clock, .. } = &*self.inner;
        match action {
            BuyAction::KeepPart(part) => records::put_part(tx, &purchase.id, part)?,
            BuyAction::Keep(page) => keep_page(tx, purchase, terms, page)?,
            BuyAction::PaymentTaken(txid) => match wallet.status(txid) {
                Some(_) => wallet.mark_broadcast(txid).map_err(WalletHandleError::from)?,
                // The seller had it from before this home was restored; the wallet learns of it from the chain.
                None => {
                    tracing::warn!(order = %purchase.id, %txid, "the coin was built by an older copy of this home");
                }
            },
            BuyAction::Credit { transaction, invoice } => {
                let earned = Earned {
                    transaction: transaction.clone(),
                    path: path.cloned(),
                    counterparty: purchase.seller,
                    invoice: invoice.clone(),
                    purpose: Purpose::Reclaimed,
                    label: format!("order {}, taken back", purchase.id),
                    now_ms: clock.now_ms(),
                };
                credit(wallet, tx, identity.key(), earned)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Builds the coin: it, its reservation and the purchase that has it are on disk in one step.
    fn lock_coin(
        &self,
        purchase: &mut BatchPurchase,
        terms: &BatchTerms,
        locking: Script,
        value: Satoshis,
    ) -> Result<Vec<BuyAction>, BuyError> {
        let BuyerParts { wallet, identity, clock, .. } = &*self.inner;
        let spec = wallet.spec(vec![TxOut { value, locking }], &format!("order {}", purchase.id))?;
        let mut next = purchase.clone();
        let actions = wallet.update(|wallet, tx| {
            let built =
                wallet.build(identity.key(), spec, clock.now_ms()).map_err(WalletHandleError::from)?;
            let payment = SignedPayment { txid: built.txid, beef: built.beef };
            let actions = self.handle(&mut next, BuyEvent::Paid(payment), terms)?;
            records::put_purchase(tx, &next, true)?;
            Ok::<_, BuyError>(actions)
        })?;
        *purchase = next;
        Ok(actions)
    }

    /// Does what stored changes ask for.
    pub(super) async fn carry_out_release(
        &self,
        id: &OrderId,
        actions: Vec<BuyAction>,
        mut sender: Option<&mut DeliverySender>,
        coin_path: Option<&MerklePath>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Then, Stopped> {
        let mut then = Then::default();
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                BuyAction::Send(frame) => match sender.as_deref_mut() {
                    Some(sender) => {
                        if matches!(frame, ToSeller::Lock(_)) {
                            self.inner.wallet.freeze().check()?;
                        }
                        let bytes = frame.to_bytes().map_err(BuyError::from)?;
                        sender.send(Bytes::from(bytes)).await.map_err(Stopped::Stream)?;
                    }
                    None => then.wants_stream = true,
                },
                BuyAction::TakeBack(txid) => {
                    if let Some(event) = self.take_back_coin(id, &txid).await {
                        actions.extend(self.release_event(id, event, None).await?);
                    }
                }
                BuyAction::Broadcast(beef) => self.send_coin(id, beef).await,
                BuyAction::Refund(refund) => self.send_refund(id, &refund, coin_path).await?,
                BuyAction::Open(_) => actions.extend(self.open_parts(id, progress).await?),
                BuyAction::Accuse(proof) => {
                    tracing::error!(order = %id, part = proof.part.part.index, "the seller has cheated: a part is not what was sold; the proof is kept");
                    if let Some(peer) = peer_id_from_public_key(&proof.seller.to_bytes()) {
                        self.inner.net.report(peer, Offence::InvalidProof).await;
                    }
                }
                BuyAction::Wait { retry_ms, refusal } => then.wait = Some((retry_ms, refusal)),
                BuyAction::Finished => tracing::info!(order = %id, "all readings of a batch are here"),
                BuyAction::Lock { .. }
                | BuyAction::KeepPart(_)
                | BuyAction::Keep(_)
                | BuyAction::PaymentTaken(_)
                | BuyAction::Credit { .. } => {}
            }
        }
        Ok(then)
    }

    /// What becomes of the coin's inputs when they are taken back; nothing where that is not known yet.
    async fn take_back_coin(&self, id: &OrderId, txid: &Txid) -> Option<BuyEvent> {
        let wallet = &self.inner.wallet;
        let not_yet = |error: &dyn std::error::Error| {
            tracing::warn!(order = %id, %error, "the coins could not be taken back yet");
            None
        };
        match wallet.take_back(txid).await {
            Ok(_) => Some(BuyEvent::TakenBack),
            // Either the network has the coin all the same, or its inputs went elsewhere, or somebody lies: the chain is asked which.
            Err(rejected @ WalletHandleError::Rejected { .. }) => match wallet.fate(txid).await {
                Ok(Fate::Taken) => Some(BuyEvent::NotTakenBack),
                Ok(Fate::Impossible) => Some(BuyEvent::TakenBack),
                Ok(Fate::Open) => not_yet(&rejected),
                Err(error) => not_yet(&error),
            },
            // The seller's word was all there was of it, and the chain has never heard of it: nothing of ours is in it.
            Err(error) if wallet.status(txid).is_none() => match wallet.fate(txid).await {
                Ok(Fate::Taken) => Some(BuyEvent::NotTakenBack),
                Ok(Fate::Open | Fate::Impossible) if self.may_refund(id) => Some(BuyEvent::TakenBack),
                Ok(_) => not_yet(&error),
                Err(error) => not_yet(&error),
            },
            // It may have been taken back before a crash.
            Err(error) => match wallet.status(txid) {
                Some(status) if status.is_dead() => Some(BuyEvent::TakenBack),
                Some(status) if status.is_settled() => Some(BuyEvent::NotTakenBack),
                _ => not_yet(&error),
            },
        }
    }

    /// Whether the refund height of an order has come.
    fn may_refund(&self, id: &OrderId) -> bool {
        let terms = self.release_purchase(id).and_then(|purchase| self.release_terms(&purchase));
        terms.is_ok_and(|terms| terms.may_refund(self.inner.chain.headers().tip_height()))
    }

    /// Brings the coin to the network again: a reorganisation, or a service that forgets, has lost it.
    async fn send_coin(&self, id: &OrderId, beef: Vec<u8>) {
        let BuyerParts { wallet, chain, .. } = &*self.inner;
        if let Err(error) = wallet.freeze().check() {
            tracing::warn!(order = %id, %error, "the coin of a batch does not go out again");
            return;
        }
        let txid = self.release_purchase(id).ok().and_then(|purchase| Some(purchase.coin?.txid));
        // The wallet's has the newest proofs of what it spends.
        let fresh = txid.and_then(|txid| wallet.beef_for(&txid).ok());
        if let Err(error) = chain.broadcast(&fresh.unwrap_or(beef)).await {
            tracing::warn!(order = %id, %error, "the coin of a batch is not taken again yet");
        }
    }

    async fn send_refund(
        &self,
        id: &OrderId,
        refund: &[u8],
        coin_path: Option<&MerklePath>,
    ) -> Result<(), BuyError> {
        let purchase = self.release_purchase(id)?;
        let Some(coin) = &purchase.coin else { return Ok(()) };
        let damaged = |reason: String| BuyError::from(StoreError::Damaged(reason));
        let refund = Transaction::from_bytes(refund).map_err(|error| damaged(error.to_string()))?;
        let txid = refund.txid();
        let beef = beef_of_spend(&coin.beef, coin_path, refund);
        let beef = beef.map_err(|error: BeefError| damaged(error.to_string()))?;
        match self.inner.chain.broadcast(&beef).await {
            Ok(()) => tracing::info!(order = %id, %txid, "the refund of a batch is out"),
            Err(error @ BroadcastError::Rejected { .. }) => {
                tracing::warn!(order = %id, %txid, %error, "the refund of a batch is not taken");
            }
            Err(error) => {
                tracing::debug!(order = %id, %txid, %error, "the refund of a batch goes out again with the next block");
            }
        }
        Ok(())
    }

    /// Opens the parts that are here with the key, some at a time, and keeps what is in them. Answers what remains to be done.
    async fn open_parts(
        &self,
        id: &OrderId,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Vec<BuyAction>, BuyError> {
        loop {
            let opened = {
                let turn = self.releases.steps.lock(id).await;
                let (buyer, id) = (self.clone(), *id);
                // Decompressing, hashing and writing to disk block; the runtime's threads do not. The turn goes along: this thread goes on when the
                // caller is dropped, and what it stores is of the purchase as it was when it began.
                let opening = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    buyer.open_some(&id)
                });
                opening.await
            };
            let (rest, done) = opened.map_err(|error| StoreError::Damaged(error.to_string()))??;
            if let Some((done, total)) = done {
                progress(Progress::Received { done, total });
            }
            if !rest.iter().any(|action| matches!(action, BuyAction::Open(_))) {
                return Ok(rest);
            }
        }
    }

    /// One stored step of [`Buyer::open_parts`]; with how many readings are here now, of how many.
    fn open_some(&self, id: &OrderId) -> Result<Opened, BuyError> {
        let BuyerParts { store, .. } = &*self.inner;
        let purchase = self.release_purchase(id)?;
        let terms = self.release_terms(&purchase)?;
        let mut next = purchase.clone();
        let (mut pages, mut rest) = (Vec::new(), Vec::new());
        for _ in 0..OPEN_AT_ONCE {
            let BatchPurchaseState::Revealed { opened } = next.state else { break };
            let part = match store.read(|tx| records::part(tx, id, opened)) {
                Ok(part) => part,
                // Damaged here: the seller sends it again.
                Err(StoreError::Record { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            rest.clear();
            for action in self.handle(&mut next, BuyEvent::Stored(part.map(Box::new)), &terms)? {
                match action {
                    BuyAction::Keep(page) => pages.push(page),
                    action => rest.push(action),
                }
            }
            if !rest.iter().any(|action| matches!(action, BuyAction::Open(_))) {
                break;
            }
        }
        let done = pages
            .last()
            .map(|page| (page.end().saturating_sub(terms.first), terms.end.saturating_sub(terms.first)));
        if next != purchase {
            let opened = match next.state {
                BatchPurchaseState::Revealed { opened } => opened,
                _ => terms.parts,
            };
            store
                .write(|tx| {
                    for page in &pages {
                        keep_page(tx, &next, &terms, page)?;
                    }
                    records::remove_parts(tx, id, opened)?;
                    settle_release(tx, &next, terms.total, true, self.inner.clock.now_ms())?;
                    records::put_purchase(tx, &next, true)
                })
                .map_err(|error: StoreError| BuyError::from(error))?;
            self.note_release(&next, &terms, true);
        }
        Ok((rest, done))
    }
}

/// Whether an action is done by the stored step itself.
fn is_stored(action: &BuyAction) -> bool {
    matches!(
        action,
        BuyAction::KeepPart(_) | BuyAction::Keep(_) | BuyAction::PaymentTaken(_) | BuyAction::Credit { .. }
    )
}

fn keep_page(
    tx: &redb::WriteTransaction,
    purchase: &BatchPurchase,
    terms: &BatchTerms,
    page: &ProvenPage,
) -> Result<(), StoreError> {
    let first = page.readings.first().map_or(terms.first, |reading| reading.seq);
    keep(tx, &purchase.id, &terms.stream, terms.first, first, page)
}
