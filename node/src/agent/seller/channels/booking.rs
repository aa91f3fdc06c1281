//! Vouchers: checked before anything follows from them, and booked with the orders that they pay for.

use std::sync::Arc;

use redb::WriteTransaction;
use sensora_chain::contract::channel::{Channel, Voucher};
use sensora_chain::{Network, Satoshis};
use sensora_protocol::OrderId;
use sensora_protocol::market::channel::seller::{SellerChannel, SellerChannelEvent};
use sensora_protocol::market::delivery::frame::OrderVoucher;
use sensora_protocol::market::delivery::supply::{ChannelSale, ChannelSaleState};
use sensora_protocol::market::reads::asked::AskedRun;
use sensora_protocol::market::refusal::Refusal;
use tokio::sync::oneshot;

use super::{Channels, ChannelsParts, InUse, Live, failed, lock};
use crate::store::{StoreError, channels, reads};

/// What an order changes on its channel, together with itself.
pub(in super::super) struct Entry {
    /// The sale to store.
    pub(in super::super) sale: ChannelSale,
    /// The voucher that pays for it.
    pub(in super::super) voucher: Option<Checked>,
    /// With what it has paid the order ends, where it does.
    pub(in super::super) ends: Option<Satoshis>,
    /// Of single readings: what was answered at which place.
    pub(in super::super) answered: Option<Vec<AskedRun>>,
}

/// A voucher that will be booked, whatever else is booked before it. Until then it counts against those that come after it.
pub(in super::super) struct Checked {
    channel: Arc<InUse>,
    order: OrderId,
    voucher: OrderVoucher,
    /// Whether its signature was verified. One that pays less than the highest voucher needs none.
    is_signed: bool,
}

impl Drop for Checked {
    fn drop(&mut self) {
        lock(&self.channel.checked).remove(&self.order);
    }
}

pub(super) struct Waiting {
    entry: Entry,
    done: oneshot::Sender<Result<(), Refusal>>,
}

impl Live {
    /// Checks a voucher of an order that runs, which has none that waits: what is not worth anything frees nothing.
    ///
    /// # Errors
    /// [`Refusal::VoucherInvalid`].
    pub(in super::super) fn check(&self, order: OrderId, voucher: OrderVoucher) -> Result<Checked, Refusal> {
        let invalid = |error: &dyn std::error::Error| Refusal::VoucherInvalid { reason: error.to_string() };
        self.is_of(order);
        let OrderVoucher { paid, amount, signature } = voucher;
        let is_signed = {
            let record = lock(&self.channel.record);
            record.earning.with(&order, paid, amount).map_err(|error| invalid(&error))?;
            amount > record.earning.highest
        };
        if is_signed {
            let voucher = Voucher { paid: amount, signature };
            self.channel.contract.verify_voucher(&voucher).map_err(|error| invalid(&error))?;
        }
        let mut checked = lock(&self.channel.checked);
        let mine = (order, paid, amount);
        let others = checked.iter().map(|(order, voucher)| (*order, voucher.paid, voucher.amount));
        let covered = lock(&self.channel.record).earning.covers(others.chain([mine]));
        covered.map_err(|error| invalid(&error))?;
        checked.insert(order, voucher);
        Ok(Checked { channel: self.channel.clone(), order, voucher, is_signed })
    }
}

impl Channels {
    /// Books what an order changes on its channel: on disk when this returns, with all that waits for the same channel.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing has changed then.
    pub(in super::super) async fn book(&self, live: &Arc<Live>, entry: Entry) -> Result<(), Refusal> {
        live.is_of(entry.sale.order);
        let (channel, (done, outcome)) = (&live.channel, oneshot::channel());
        lock(&channel.waiting).push(Waiting { entry, done });
        let turn = channel.turn.clone().lock_owned().await;
        let some = std::mem::take(&mut *lock(&channel.waiting));
        if !some.is_empty() {
            let (channels, live) = (self.clone(), channel.clone());
            // To its end, also where whoever has come first is dropped.
            tokio::spawn(async move {
                channels.book_all(&live, some).await;
                drop(turn);
            });
        }
        outcome.await.unwrap_or(Err(Refusal::StorageUnavailable))
    }

    /// Books one after the other, in turn, and stores all at once.
    async fn book_all(&self, live: &Arc<InUse>, mut some: Vec<Waiting>) {
        // The highest voucher first: its signature covers the others.
        some.sort_by_key(|waiting| {
            std::cmp::Reverse(waiting.entry.voucher.as_ref().map(|checked| checked.voucher.amount))
        });
        let is_current = self.is_current(live);
        let mut next = live.record();
        let mut good = Vec::with_capacity(some.len());
        for waiting in some {
            let entered = match is_current {
                true => enter(&mut next, &live.contract, &waiting.entry),
                // A settled channel's account is not touched any more; its orders still end.
                false if waiting.entry.voucher.is_none() => Ok(()),
                false => Err(Refusal::ChannelClosed { channel: next.id }),
            };
            match entered {
                Ok(()) => good.push(waiting),
                Err(refusal) => drop(waiting.done.send(Err(refusal))),
            }
        }
        if good.is_empty() {
            return;
        }
        let sales: Vec<_> =
            good.iter().map(|Waiting { entry, .. }| (entry.sale.clone(), entry.answered.clone())).collect();
        let record = is_current.then(|| next.clone());
        let ChannelsParts { store, network, clock, .. } = &self.inner.parts;
        let (network, now_ms) = (*network, clock.now_ms());
        let stored = store.commit(move |tx| {
            if let Some(record) = &record {
                channels::put_seller(tx, record, false)?;
            }
            sales.iter().try_for_each(|(sale, answered)| {
                // First: a sale that leaves nothing behind takes it along.
                if let Some(answered) = answered {
                    reads::put_answered(tx, &sale.order, answered)?;
                }
                keep(tx, sale, network, now_ms)
            })
        });
        let stored = stored.await.map_err(|error| failed(&error));
        if stored.is_ok() {
            let has_ended = next.has_ended(self.tip());
            *lock(&live.record) = next;
            if has_ended {
                // The owner waits for that, and not for the next block. Whoever is in turn now comes first.
                let (channels, live) = (self.clone(), live.clone());
                tokio::spawn(async move {
                    channels.take(&live, SellerChannelEvent::Tip(channels.tip()), None).await;
                });
            }
        }
        for Waiting { entry, done } in good {
            // What is booked waits no more when whoever waited hears of it.
            drop(entry);
            drop(done.send(stored.clone()));
        }
    }

    /// Stores an order whose channel is settled.
    pub(in super::super) async fn store_alone(&self, sale: ChannelSale) -> Result<(), StoreError> {
        let ChannelsParts { store, network, clock, .. } = &self.inner.parts;
        let (network, now_ms) = (*network, clock.now_ms());
        store.commit(move |tx| keep(tx, &sale, network, now_ms)).await
    }
}

/// Stores an order. One that has ended with nothing delivered and nothing paid leaves nothing behind: it would cost its buyer nothing to fill our disk with them.
fn keep(tx: &WriteTransaction, sale: &ChannelSale, network: Network, now_ms: i64) -> Result<(), StoreError> {
    let is_nothing = match sale.state {
        ChannelSaleState::LeftUnpaid { paid, unpaid } => paid.is_zero() && unpaid.is_zero(),
        _ => sale.receipt(network).is_some_and(|receipt| receipt.count == 0 && receipt.paid.is_zero()),
    };
    match is_nothing {
        true => channels::remove_sale(tx, &sale.order),
        false => channels::put_sale(tx, sale, now_ms),
    }
}

/// Enters what an order changes into its channel's record.
fn enter(record: &mut SellerChannel, contract: &Channel, entry: &Entry) -> Result<(), Refusal> {
    let Entry { sale, voucher, ends, .. } = entry;
    let mut next = record.clone();
    next.earning.begin(sale.order).map_err(|_| Refusal::Busy { retry_ms: 1_000 })?;
    if let Some(Checked { voucher, is_signed, .. }) = voucher {
        let booked = match is_signed {
            true => next.book_verified(&sale.order, voucher),
            false => next.book(contract, &sale.order, voucher),
        };
        next = booked.map_err(|error| Refusal::VoucherInvalid { reason: error.to_string() })?;
    }
    if let Some(paid) = ends {
        next.earning.end(&sale.order, *paid).map_err(|error| failed(&error))?;
    }
    *record = next;
    Ok(())
}
