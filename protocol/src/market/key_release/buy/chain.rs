//! What a buyer does with what it sees of its coin.

use sensora_chain::contract::key_release::{KEY_SIZE, KeyReleaseSpend};
use sensora_chain::script::Op;
use sensora_chain::{Transaction, Txid};

use super::{Actions, BatchPurchase, BatchPurchaseState, BuyAction, BuyError, BuyerAt};
use crate::market::key_release::coin::{CoinView, SETTLED, Spend, Standing};
use crate::market::key_release::key::BatchKey;
use crate::market::key_release::offer::BatchTerms;
use crate::market::order::Order;
use crate::market::payment;

/// The key, wherever a transaction pushes it: what counts is that it is the one.
pub(super) fn key_in(transaction: &Transaction, terms: &BatchTerms) -> Option<BatchKey> {
    let pushes = transaction.inputs.iter().flat_map(|input| input.unlocking.pushes().map_while(Result::ok));
    let pushed = pushes.filter_map(|op: Op<'_>| <[u8; KEY_SIZE]>::try_from(op.data()?).ok());
    pushed.map(BatchKey::from_bytes).find(|key| key.hash() == terms.key_hash)
}

impl BatchPurchase {
    /// The network has the coin. Said to the wallet once.
    pub(super) fn note_taken(&mut self) -> Option<BuyAction> {
        let txid = self.coin.as_ref()?.txid;
        (!std::mem::replace(&mut self.taken, true)).then_some(BuyAction::PaymentTaken(txid))
    }

    /// Takes what is seen of the coin.
    pub(super) fn view(&mut self, view: &CoinView, terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        let Some(coin) = self.coin.clone() else {
            // The seller would not show its key any more, so nothing is begun.
            return Ok(if terms.may_claim(view.tip) { Vec::new() } else { self.give_up(None) });
        };
        let (contract, _) = self.contract(terms, at)?;
        let release = coin.release(&contract);
        let spend = view.spend.as_ref();
        let spend = spend.and_then(|spend| Some((release.spend_in(&spend.transaction)?, spend)));
        let mut actions = Vec::new();
        if view.coin != Standing::Unknown || spend.is_some() {
            actions.extend(self.note_taken());
            if self.state.is_before_network() {
                self.state = BatchPurchaseState::Waiting;
            }
        }
        match spend {
            Some((KeyReleaseSpend::Claim { key }, _)) if self.key.is_none() => {
                actions.extend(self.reveal(BatchKey::from_bytes(key), terms));
            }
            Some((KeyReleaseSpend::Refund, spend)) => actions.extend(self.refunded(spend, view, at)?),
            Some((KeyReleaseSpend::Other, spend)) if view.confirmations(spend.height) >= SETTLED => {
                if self.key.is_none() {
                    self.state = BatchPurchaseState::Unreadable { claim: spend.transaction.to_bytes() };
                }
            }
            // A cheat whose claim is in no block yet may still lose the race.
            Some((_, spend)) if spend.height.is_none() && self.may_race(terms, view.tip) => {
                actions.push(BuyAction::Refund(self.refund(terms, at)?));
            }
            Some(_) => {}
            None => actions.extend(self.unspent(view, terms, at)?),
        }
        Ok(actions)
    }

    /// Nobody says what spends the coin. What is due goes out all the same: the network refuses it where the seller was first. That changes no state,
    /// because the key may have been shown, and whoever knows it is still asked.
    pub(super) fn blind(&self, tip: u32, terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        let is_due = (self.awaits_key() && self.key.is_none()) || self.may_race(terms, tip);
        if is_due && terms.may_refund(tip) {
            return Ok(vec![BuyAction::Refund(self.refund(terms, at)?)]);
        }
        Ok(Vec::new())
    }

    /// Nothing is known to spend the coin.
    fn unspent(&mut self, view: &CoinView, terms: &BatchTerms, at: &BuyerAt<'_>) -> Actions {
        let unknown = view.coin == Standing::Unknown;
        match &self.state {
            // The seller would not show its key any more: the coin's inputs are free again.
            BatchPurchaseState::Locking if unknown && !self.taken && !terms.may_claim(view.tip) => {
                Ok(self.give_up(None))
            }
            _ if self.awaits_key() => {
                let coin = self.coin.as_ref().filter(|_| unknown);
                let mut actions: Vec<_> =
                    coin.map(|coin| BuyAction::Broadcast(coin.beef.clone())).into_iter().collect();
                if terms.may_refund(view.tip) {
                    if !matches!(self.state, BatchPurchaseState::Refunding { .. }) {
                        let refund = self.refund(terms, at)?;
                        self.state = BatchPurchaseState::Refunding { refund };
                    }
                    actions.extend(self.resume());
                }
                Ok(actions)
            }
            // The seller has shown its key without bringing the coin to the network: it is owed all the same.
            BatchPurchaseState::Revealed { .. } | BatchPurchaseState::Complete if unknown => {
                Ok(self.coin.iter().map(|coin| BuyAction::Broadcast(coin.beef.clone())).collect())
            }
            _ if self.may_race(terms, view.tip) => Ok(vec![BuyAction::Refund(self.refund(terms, at)?)]),
            _ => Ok(Vec::new()),
        }
    }

    /// Whether the network has the coin, and neither key nor refund has ended that. Parts may be missing: a buyer that was restored learns of its
    /// coin from the seller, which may never send them.
    const fn awaits_key(&self) -> bool {
        match self.state {
            BatchPurchaseState::Waiting | BatchPurchaseState::Refunding { .. } => true,
            BatchPurchaseState::Receiving | BatchPurchaseState::Received => self.taken,
            _ => false,
        }
    }

    /// Whether the seller has cheated and the coin may be had back all the same. A buyer that has what it paid for takes nothing back.
    const fn may_race(&self, terms: &BatchTerms, tip: u32) -> bool {
        matches!(self.state, BatchPurchaseState::Cheated { .. }) && terms.may_refund(tip)
    }

    /// The network has the refund.
    fn refunded(&mut self, spend: &Spend, view: &CoinView, at: &BuyerAt<'_>) -> Actions {
        let txid: Option<Txid> = spend.height.map(|_| spend.transaction.txid());
        let mut actions = Vec::new();
        if txid.is_some() && txid != self.credited {
            let order = self.order.clone().verify::<Order>(at.network)?;
            let (transaction, invoice) = (spend.transaction.clone(), payment::invoice(order.value()));
            actions.push(BuyAction::Credit { transaction, invoice });
            self.credited = txid;
        }
        if self.awaits_key() {
            self.state = if view.confirmations(spend.height) >= SETTLED {
                BatchPurchaseState::Refunded
            } else {
                BatchPurchaseState::Refunding { refund: spend.transaction.to_bytes() }
            };
        }
        Ok(actions)
    }

    fn refund(&self, terms: &BatchTerms, at: &BuyerAt<'_>) -> Result<Vec<u8>, BuyError> {
        let order = self.id;
        let wrong = |reason: &str| BuyError::Coin { order, reason: reason.into() };
        let coin = self.coin.as_ref().ok_or_else(|| wrong("there is none"))?;
        let (contract, own) = self.contract(terms, at)?;
        let refund = coin.release(&contract).refund(&own, &own.public().hash160(), at.rate);
        Ok(refund.map_err(|source| BuyError::Refund { order, source })?.to_bytes())
    }
}

impl BatchPurchaseState {
    /// Whether the coin is signed, and as far as the state says the network does not have it.
    const fn is_before_network(&self) -> bool {
        matches!(self, Self::Locking | Self::TakingBack { .. } | Self::TakenBack { .. })
    }
}
