//! What holds of a channel after each action, and where every satoshi of it is in the end.

use sensora_chain::Satoshis;
use sensora_chain::contract::payment::pay_to_hash;
use sensora_protocol::OrderId;
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::channel::message::ChannelStanding;
use sensora_protocol::market::channel::seller::{Loss, SellerChannelState};

use super::market::{CAPACITY, FEE, Market, VALUE};
use crate::world::sat;

fn sum(parts: impl Iterator<Item = Satoshis>) -> Satoshis {
    Satoshis::sum(parts).unwrap()
}

impl Market {
    /// What the orders have paid: by the receipt where there is one, else by their vouchers.
    fn owed(&self) -> Satoshis {
        sum(self.paid_to.iter().map(|(order, paid)| self.receipts.get(order).copied().unwrap_or(*paid)))
    }

    /// What an order that has ended had paid ahead.
    fn ahead(&self, order: &OrderId) -> Satoshis {
        let receipted = self.receipts.get(order).copied();
        let paid = self.paid_to.get(order).copied().unwrap_or_default();
        receipted.map_or(Satoshis::ZERO, |receipted| paid.saturating_sub(receipted))
    }

    /// The most that vouchers are for beyond what the orders have paid.
    ///
    /// The next order uses up what the one before had paid ahead, so it is what *one* order had paid ahead, whatever number of them ended. A backup adds
    /// to that what the orders had paid ahead which run in it and have ended since: whoever has the backup counts with the vouchers of such an order, its
    /// receipt is forgotten, and the orders that follow pay on top of it. Each of them adds that once, for no later order is in the backup.
    fn most_ahead(&self) -> Satoshis {
        let one = self.receipts.keys().map(|order| self.ahead(order)).max().unwrap_or_default();
        one.checked_add(sum(self.reopened.iter().map(|order| self.ahead(order)))).unwrap()
    }

    /// What the seller has booked for orders beyond their receipts, because an old backup does not have them.
    pub(crate) fn stale(&self) -> Satoshis {
        let Some(channel) = &self.seller.channel else { return Satoshis::ZERO };
        let lanes = channel.earning.lanes.iter();
        sum(lanes.filter_map(|(order, paid)| Some(paid.saturating_sub(*self.receipts.get(order)?))))
    }

    pub(crate) fn check(&self) {
        if let Some(channel) = &self.seller.channel {
            assert!(channel.earning.highest <= self.signed, "nothing is booked that was not signed");
            assert!(channel.earning.highest <= sat(CAPACITY));
            assert!(channel.earning.paid().unwrap() <= channel.earning.highest);
            // I4: what was taken is not forgotten for a voucher that is for less.
            assert!(
                channel.earning.highest >= self.seller.sure,
                "{:?}, {}",
                channel.earning,
                self.seller.sure
            );
            // What is free at the buyer fits at the seller.
            if let (false, Ok(view)) = (self.restored, channel.view(ChannelStanding::Open)) {
                let free = view.free.checked_add(self.stale()).unwrap();
                assert!(free >= self.spending.record().free().unwrap());
            }
        }
        assert!(self.signed <= sat(CAPACITY));
        // I5: no crash and no backup of either side has the buyer pay an order twice.
        let most = self.owed().checked_add(self.most_ahead()).unwrap();
        assert!(self.signed <= most, "signed {}, paid and paid ahead {most}", self.signed);
        self.check_conclusions();
    }

    /// I6: what either side concludes is what the blocks say, and a reorganisation takes it back, whatever its depth; the close of a seller is out in time.
    fn check_conclusions(&self) {
        let outpoint = self.contract.outpoint();
        let spent = self.chain.spent(&outpoint).map(|(tx, height)| (tx.txid(), height));
        let ended = match self.buyer.channel.state {
            BuyerChannelState::Ended { txid, height, .. } => Some((txid, height)),
            _ => None,
        };
        assert_eq!(ended, spent, "the buyer concludes what is in the blocks");
        assert!(ended.is_some() || self.buyer.credited.is_zero(), "a coin that is in no block");
        let Some(channel) = &self.seller.channel else { return };
        match channel.state {
            SellerChannelState::Closed { txid, height } => assert_eq!(Some((txid, height)), spent),
            SellerChannelState::Gone { reason: Loss::Refunded(txid) | Loss::Spent(txid) } => {
                assert_eq!(Some(txid), spent.map(|(txid, _)| txid));
            }
            _ => {
                assert_eq!(spent, None, "the seller concludes what is in the blocks: {:?}", channel.state);
                assert!(self.seller.credited.is_zero(), "a coin that is in no block");
            }
        }
        let due = self.chain.tip() >= self.offer.value().closes_at();
        // A funding that the network takes late may open a channel as late; the next look closes it, and it takes nothing before.
        let standing = channel.standing(self.offer.value(), self.chain.tip());
        assert!(!due || channel.takes_vouchers(standing).is_err(), "it is too late for vouchers");
        let is_closing = channel.state == SellerChannelState::Closing && channel.signature.is_some();
        if due && is_closing && self.chain.output(&outpoint).is_some() {
            assert!(self.chain.spender(&outpoint).is_some(), "its close is not out");
        }
    }

    /// Where every satoshi of the channel is.
    pub(crate) fn check_end(&self) {
        let booked = self.seller.channel.as_ref().map_or(Satoshis::ZERO, |channel| channel.earning.highest);
        match &self.buyer.channel.state {
            BuyerChannelState::TakenBack { .. } => {
                assert_eq!((self.seller.credited, self.buyer.credited), (Satoshis::ZERO, Satoshis::ZERO));
                assert_eq!(booked, Satoshis::ZERO, "no voucher was taken for money that is not there");
            }
            BuyerChannelState::Ended { paid, .. } => {
                let script = pay_to_hash(&self.contract.close_terms().seller_hash, Satoshis::ZERO).locking;
                assert_eq!(*paid, self.chain.balance(&script));
                // A backup of before the channel has its coin nowhere, until it is found again from the key.
                let is_known = self.seller.channel.is_some() || !self.seller_restored;
                assert_eq!(self.seller.credited, if is_known { *paid } else { Satoshis::ZERO });
                // An old backup costs its seller the vouchers that it does not have, and that neither the buyer's next one nor its request to
                // close has brought back; where a close of before is out already, it also costs what is paid until that is seen in a block.
                let sure = booked.max(self.seller.sure);
                let least = self.forgotten_close.map_or(sure, |out| out.min(sure));
                assert!(*paid >= least, "the highest voucher is what the seller gets: {paid} of {least}");
                assert!(*paid <= self.signed, "and never more than was signed");
                let sum = self.buyer.credited.checked_add(*paid).unwrap();
                let fee = sat(VALUE).checked_sub(sum).unwrap();
                assert!(fee >= sat(FEE) && fee <= sat(60), "the rest is the miner's: {fee}");
                let over = paid.saturating_sub(self.owed());
                assert!(over <= self.most_ahead(), "taken beyond what was paid: {over}");
            }
            other => panic!("{other:?}"),
        }
        // A buyer that has its memory is told of no more than that. What one with an old backup is told of holds also what the record does not know.
        assert!(self.restored || self.overcharged <= self.most_ahead(), "{}", self.overcharged);
    }
}
