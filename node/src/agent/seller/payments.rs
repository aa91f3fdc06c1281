//! Orders that are paid with a transaction of their own: admitted, brought to the network, credited and receipted.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use sensora_chain::Txid;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::keys::PublicKey;
use sensora_chain::wallet::{KeySource, OwnedOutput, Purpose, Received, WalletError};
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::{Admission, PurchaseRequest, Sale, SaleAction, SaleEvent, order_of};
use sensora_protocol::{OrderId, SignedBytes};
use tokio::sync::OwnedMutexGuard;

use super::{LOOK_EVERY, Seller, SellerParts, is_full, storage};
use crate::chain_access::BroadcastError;
use crate::clock::Stopwatch;
use crate::store::{self, orders};
use crate::wallet::WalletHandleError;

/// An order is worked on by one at a time. Goes along to each thread that works on it: that one goes on when whoever asked has gone.
type Turn = Arc<OwnedMutexGuard<()>>;

/// What became of a sale.
struct Settled {
    answer: Result<SignedBytes, Refusal>,
    /// The chain cannot be reached, for this payment or another.
    holds_for_all: bool,
}

/// Why a sale is not concluded.
enum NotBooked {
    /// This is the answer.
    Refused(Refusal),
    /// To the wallet this transaction stands, which spends what the payment spends.
    Conflict(Txid),
}

impl From<Refusal> for NotBooked {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Seller {
    pub(super) async fn purchase(
        &self,
        peer: &PublicKey,
        request: PurchaseRequest,
    ) -> Result<SignedBytes, Refusal> {
        let peer = *peer;
        let network = self.inner.parts.network;
        let id = order_of(&request, network, &peer)?.id(network);
        let turn: Turn = Arc::new(self.inner.orders.lock(&id).await);
        let (mine, again) = (turn.clone(), request.clone());
        let admitted = self.blocking(move |seller| {
            let _turn = mine;
            seller.admit(&peer, &id, request)
        });
        let sale = match admitted.await {
            // Our headers are what is behind, not the buyer: look, and judge again.
            Err(Refusal::HeadersBehind { .. }) if self.may_look() => {
                if let Err(error) = self.inner.parts.chain.refresh().await {
                    tracing::debug!(%error, "the headers could not be brought up to date");
                }
                let mine = turn.clone();
                let admitted = self.blocking(move |seller| {
                    let _turn = mine;
                    seller.admit(&peer, &id, again)
                });
                admitted.await?
            }
            sale => sale?,
        };
        self.settle(sale, turn).await.answer
    }

    /// The stored sale of an order, or a new one, stored.
    fn admit(&self, peer: &PublicKey, id: &OrderId, request: PurchaseRequest) -> Result<Sale, Refusal> {
        let SellerParts { chain, store, identity, network, clock, home, .. } = &self.inner.parts;
        let stored = store.read(|tx| orders::sale(tx, id)).map_err(|error| storage(error.into()))?;
        if let Some(mut sale) = stored {
            if sale.prove(request.payment, &chain.headers()) {
                store.write(|tx| orders::put_sale(tx, &sale)).map_err(|error| storage(error.into()))?;
            }
            return Ok(sale);
        }
        if is_full(home.as_deref()) {
            return Err(Refusal::StorageUnavailable);
        }
        let headers = chain.headers();
        let now_ms = clock.now_ms();
        let at = Admission { seller: identity, network: *network, peer, headers: &headers, now_ms };
        let sale = Sale::admit(request, &at)?;
        self.inner.admitted.take(sale.order, *peer)?;
        if let Err(error) = store.write(|tx| orders::put_sale(tx, &sale)) {
            self.inner.admitted.leave(&sale.order);
            return Err(storage(error.into()));
        }
        Ok(sale)
    }

    pub(super) fn may_look(&self) -> bool {
        let mut looked = self.inner.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let may = looked.is_none_or(|last| last.elapsed() >= LOOK_EVERY);
        if may {
            *looked = Some(Stopwatch::start());
        }
        may
    }

    /// Brings a stored sale to its receipt, or to a refusal.
    async fn settle(&self, sale: Sale, turn: Turn) -> Settled {
        if let SaleAction::Receipt(receipt) = sale.resume() {
            return Settled { answer: Ok(receipt), holds_for_all: false };
        }
        let (order, mut holds_for_all) = (sale.order, false);
        let chain = &self.inner.parts.chain;
        let stands = {
            let (sale, turn) = (sale.clone(), turn.clone());
            let judged = self.blocking(move |seller| {
                let (_turn, headers) = (turn, seller.inner.parts.chain.headers());
                Ok((sale.is_mined(&headers), sale.is_unproven(&headers)))
            });
            judged.await
        };
        let (is_mined, is_unproven) = match stands {
            Ok(stands) => stands,
            Err(refusal) => return Settled { answer: Err(refusal), holds_for_all: false },
        };
        // Whoever would refuse what is in a block has nothing to say about it.
        let taken = match is_mined {
            true => Ok(()),
            false => chain.broadcast(&sale.request.payment).await,
        };
        let event = match taken {
            Ok(()) => SaleEvent::Accepted,
            Err(error @ BroadcastError::Rejected { double_spent: false, .. }) if is_unproven => {
                tracing::warn!(%order, %error, "the block that proved a payment was replaced: it waits for another, or for its buyer");
                self.inner.admitted.waits(&order);
                SaleEvent::Unavailable
            }
            Err(BroadcastError::Rejected { double_spent, reason, .. }) => {
                SaleEvent::Rejected { double_spent, reason }
            }
            Err(error) => {
                tracing::warn!(%order, %error, "a payment could not be broadcast yet");
                holds_for_all = error.holds_for_all();
                if !holds_for_all {
                    self.inner.admitted.waits(&order);
                }
                SaleEvent::Unavailable
            }
        };
        let concluded = self.conclude_with(&sale, &event, &turn).await;
        let answer = match concluded {
            Err(NotBooked::Conflict(other)) => {
                // The network has taken what contradicts a payment that was booked before: the chain says which of them stands.
                if let Err(error) = self.inner.parts.wallet.fate(&other).await {
                    tracing::debug!(%order, %other, %error, "what has become of a payment is not known");
                }
                self.conclude_with(&sale, &event, &turn).await
            }
            concluded => concluded,
        };
        let answer = answer.map_err(|not_booked| match not_booked {
            NotBooked::Refused(refusal) => refusal,
            NotBooked::Conflict(other) => {
                tracing::warn!(%order, %other, "a payment is not booked as long as another one stands that spends the same");
                self.inner.admitted.waits(&order);
                Refusal::ChainUnavailable
            }
        });
        Settled { answer, holds_for_all }
    }

    async fn conclude_with(
        &self,
        sale: &Sale,
        event: &SaleEvent,
        turn: &Turn,
    ) -> Result<SignedBytes, NotBooked> {
        let (sale, event, turn) = (sale.clone(), event.clone(), turn.clone());
        let concluded = self.blocking(move |seller| {
            let _turn = turn;
            Ok(seller.conclude(sale, event))
        });
        concluded.await.unwrap_or_else(|refusal| Err(refusal.into()))
    }

    /// Stores what the network's word makes of a sale, and answers it.
    fn conclude(&self, mut sale: Sale, event: SaleEvent) -> Result<SignedBytes, NotBooked> {
        let SellerParts { identity, network, clock, wallet, .. } = &self.inner.parts;
        let before = sale.clone();
        let actions = sale.handle(event, identity, *network, clock.now_ms());
        let stored = wallet.update(|wallet, tx| {
            if sale == before && !actions.contains(&SaleAction::Forget) {
                return Ok(());
            }
            if actions.contains(&SaleAction::Forget) {
                orders::remove_sale(tx, &sale.order)?;
            } else {
                orders::put_sale(tx, &sale)?;
            }
            for action in &actions {
                let SaleAction::Credit { invoice } = action else { continue };
                // A payment that the wallet has had and let go is not a new one.
                if store::wallet::is_archived_in(tx, &sale.txid)? {
                    continue;
                }
                let beef = Beef::parse(&sale.request.payment, &BeefLimits::default())?;
                let paid = beef.transaction(&sale.txid).cloned().ok_or(WalletHandleError::NoTransaction)?;
                let label = format!("sale {}", sale.order);
                let output = OwnedOutput {
                    vout: sale.vout,
                    key: KeySource::peer(sale.buyer, invoice.clone()),
                    purpose: Purpose::Payment { label: label.clone() },
                };
                let received = Received {
                    tx: paid,
                    outputs: vec![output],
                    ancestors: Some(&beef),
                    path: beef.bump_of(&sale.txid).cloned(),
                    broadcast: true,
                    label,
                    now_ms: clock.now_ms(),
                };
                wallet.receive(identity.key(), received)?;
            }
            Ok::<_, WalletHandleError>(())
        });
        match stored {
            Ok(()) => {}
            Err(WalletHandleError::Wallet(WalletError::Conflict { other, .. })) => {
                return Err(NotBooked::Conflict(other));
            }
            Err(error) => {
                tracing::error!(order = %sale.order, %error, "a sale could not be stored");
                return Err(Refusal::StorageUnavailable.into());
            }
        }
        if actions.iter().any(|action| matches!(action, SaleAction::Credit { .. })) {
            self.inner.sold.fetch_add(1, Ordering::Relaxed);
        }
        if sale.is_sold() || actions.contains(&SaleAction::Forget) {
            self.inner.admitted.leave(&sale.order);
        }
        let answer = actions.into_iter().find_map(|action| match action {
            SaleAction::Receipt(receipt) => Some(Ok(receipt)),
            SaleAction::Refuse(refusal) => Some(Err(refusal.into())),
            SaleAction::Broadcast | SaleAction::Credit { .. } | SaleAction::Forget => None,
        });
        answer.unwrap_or(Err(Refusal::ChainUnavailable.into()))
    }

    pub(super) async fn settle_admitted(&self) {
        for order in self.inner.admitted.due() {
            let turn: Turn = Arc::new(self.inner.orders.lock(&order).await);
            let sale = match self.inner.parts.store.read(|tx| orders::sale(tx, &order)) {
                Ok(Some(sale)) => sale,
                Ok(None) => {
                    self.inner.admitted.leave(&order);
                    continue;
                }
                Err(error) => {
                    tracing::error!(%order, %error, "an order could not be read");
                    return;
                }
            };
            let settled = self.settle(sale, turn).await;
            match settled.answer {
                Ok(_) => tracing::info!(%order, "an order is paid whose buyer has not waited for it"),
                Err(refusal) => {
                    tracing::info!(%order, %refusal, "an order that waits for the network is not paid");
                    // Whoever cannot be reached for one cannot be reached for the next.
                    if settled.holds_for_all {
                        return;
                    }
                }
            }
        }
    }
}
