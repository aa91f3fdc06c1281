//! What was earned: which order was paid by whom, when and by what, and what is open and why.

use sensora_chain::keys::PublicKey;
use sensora_chain::{Network, Satoshis, Transaction, Txid};
use sensora_protocol::market::channel::seller::{SellerChannel, SellerChannelState};
use sensora_protocol::market::delivery::supply::{ChannelSale, ChannelSaleState};
use sensora_protocol::market::key_release::sell::{BatchSale, BatchSaleState};
use sensora_protocol::market::receipt::{ChannelReceipt, Receipt};
use sensora_protocol::market::sale::{Sale, SaleState};
use sensora_protocol::{ChannelId, OrderId, SignedBytes, StreamId};

use super::{Seller, SellerParts};
use crate::store::{Store, StoreError, channels as records, orders, reads, release};

/// One order, as its seller's books have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earned {
    /// The order.
    pub order: OrderId,
    /// Who has ordered.
    pub buyer: PublicKey,
    /// The stream.
    pub stream: StreamId,
    /// First sequence number.
    pub first: u64,
    /// Whether it is of single readings, which need not follow each other: `first` says nothing of them.
    pub is_reads: bool,
    /// Readings that were sold; none while a live stream runs.
    pub count: Option<u64>,
    /// What was paid.
    pub paid: Satoshis,
    /// What may have been delivered and is not paid: of an order that was left unpaid, what never can be.
    pub open: Satoshis,
    /// How far it has come, in lower case: `complete` or `ended` is over and paid.
    pub state: &'static str,
    /// By what it is paid.
    pub by: EarnedBy,
    /// When it was admitted, milliseconds since the Unix epoch.
    pub admitted_ms: i64,
    /// When its receipt was signed, milliseconds since the Unix epoch.
    pub receipted_ms: Option<i64>,
    /// Why it is not paid to the end.
    pub why: Option<String>,
}

/// By what an order is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarnedBy {
    /// A transaction of its own.
    Transaction {
        /// The transaction.
        txid: Txid,
    },
    /// The vouchers of a channel.
    Channel {
        /// The channel.
        channel: ChannelId,
        /// Its highest voucher, which pays for all orders on it.
        voucher: Satoshis,
        /// The close that brought it to the chain, where it is in a block.
        closed_by: Option<Txid>,
    },
    /// The claim of a coin, which shows the key.
    Claim {
        /// The claim, once it is made.
        txid: Option<Txid>,
    },
}

impl Seller {
    /// [`Earned::stored`].
    ///
    /// # Errors
    /// As there.
    pub fn earnings(&self) -> Result<Vec<Earned>, StoreError> {
        let SellerParts { store, network, identity, .. } = &self.inner.parts;
        Earned::stored(store, *network, identity.public())
    }
}

impl Earned {
    /// All orders that the books have, oldest first: those that are answered for, and those that are not paid.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Damaged`] for a record that does not verify any more.
    pub fn stored(store: &Store, network: Network, seller: &PublicKey) -> Result<Vec<Self>, StoreError> {
        let mut earned = Vec::new();
        for sale in store.read(orders::sales)? {
            earned.push(Self::directly(&sale, network, seller)?);
        }
        for sale in store.read(records::sales)? {
            let channel = store.read(|tx| records::seller(tx, &sale.channel))?;
            let answered = store.read(|tx| reads::answered(tx, &sale.order))?;
            let answered = answered.iter().map(|run| run.count).sum();
            earned.push(Self::on_channel(&sale, answered, channel.as_ref(), network, seller)?);
        }
        earned.extend(Self::stored_batches(store, network, seller)?);
        earned.sort_by_key(|order| order.admitted_ms);
        Ok(earned)
    }

    /// Those of them whose key is released on the chain, in no order.
    ///
    /// # Errors
    /// As for [`Earned::stored`].
    pub fn stored_batches(
        store: &Store,
        network: Network,
        seller: &PublicKey,
    ) -> Result<Vec<Self>, StoreError> {
        let sales = store.read(release::sales)?;
        sales.iter().map(|sale| Self::by_release(sale, network, seller)).collect()
    }

    fn directly(sale: &Sale, network: Network, seller: &PublicKey) -> Result<Self, StoreError> {
        let offer = sale.offer(network).map_err(|error| damaged(&sale.order, &error))?;
        let terms = offer.value();
        let (state, paid, receipted_ms, why) = match &sale.state {
            SaleState::Sold { receipt } => {
                let receipt = receipt.clone().verify_by::<Receipt>(network, seller);
                let receipt = receipt.map_err(|error| damaged(&sale.order, &error))?;
                ("complete", receipt.value().paid, Some(receipt.value().issued_ms), None)
            }
            SaleState::Admitted => {
                let why = "the network has not answered the payment";
                ("admitted", Satoshis::ZERO, None, Some(why.to_owned()))
            }
        };
        Ok(Self {
            order: sale.order,
            buyer: sale.buyer,
            stream: terms.stream,
            first: terms.first,
            is_reads: false,
            count: Some(terms.count),
            paid,
            open: Satoshis::ZERO,
            state,
            by: EarnedBy::Transaction { txid: sale.txid },
            admitted_ms: sale.admitted_ms,
            receipted_ms,
            why,
        })
    }

    fn on_channel(
        sale: &ChannelSale,
        answered: u64,
        channel: Option<&SellerChannel>,
        network: Network,
        seller: &PublicKey,
    ) -> Result<Self, StoreError> {
        let terms = sale.offer.terms(network, seller);
        let terms = terms.map_err(|error| damaged(&sale.order, &error))?;
        let lane = channel.map(|record| record.earning.paid_by(&sale.order)).unwrap_or_default();
        let range = match sale.offer.is_reads() {
            true => Some(answered),
            false => terms.end.map(|end| end.saturating_sub(terms.first)),
        };
        let is_to_end = channel.is_some_and(|record| record.earning.is_to_end(&sale.order));
        let open = sale.open(lane);
        let running = |why: &str| (range, lane, open, None, Some(why.to_owned()));
        let (state, (count, paid, open, receipted_ms, why)) = match &sale.state {
            ChannelSaleState::Ended { receipt } => {
                let receipt = receipt.clone().verify_by::<ChannelReceipt>(network, seller);
                let receipt = receipt.map_err(|error| damaged(&sale.order, &error))?;
                let receipt = receipt.value();
                let state = match terms.end {
                    Some(end) if receipt.count < end.saturating_sub(terms.first) => "ended early",
                    Some(_) => "complete",
                    None => "ended",
                };
                (state, (Some(receipt.count), receipt.paid, Satoshis::ZERO, Some(receipt.issued_ms), None))
            }
            ChannelSaleState::LeftUnpaid { paid, unpaid } => {
                let why = format!("its channel was closed with up to {unpaid} unpaid");
                ("left unpaid", (range, *paid, *unpaid, None, Some(why)))
            }
            ChannelSaleState::Running if is_to_end => {
                ("ending", running("it is to end, and its buyer has not been here since"))
            }
            ChannelSaleState::Running => ("running", running("it runs")),
            ChannelSaleState::Stopped { end, due } => {
                let why = format!("it is stopped, and {due} is due in all");
                ("stopped", (Some(end.saturating_sub(terms.first)), lane, open, None, Some(why)))
            }
        };
        let closed_by = channel.and_then(|record| match record.state {
            SellerChannelState::Closed { txid, .. } => Some(txid),
            _ => None,
        });
        let voucher = channel.map(|record| record.earning.highest).unwrap_or_default();
        Ok(Self {
            order: sale.order,
            buyer: sale.buyer,
            stream: terms.stream,
            first: terms.first,
            is_reads: sale.offer.is_reads(),
            count,
            paid,
            open,
            state,
            by: EarnedBy::Channel { channel: sale.channel, voucher, closed_by },
            admitted_ms: sale.admitted_ms,
            receipted_ms,
            why,
        })
    }

    fn by_release(sale: &BatchSale, network: Network, seller: &PublicKey) -> Result<Self, StoreError> {
        let terms = sale.terms(network).map_err(|error| damaged(&sale.order, &error))?;
        let not_yet = (None, None, Satoshis::ZERO);
        let ((txid, receipted_ms, paid), open, why) = match &sale.state {
            BatchSaleState::Delivering => (not_yet, Satoshis::ZERO, Some("no coin has come yet")),
            BatchSaleState::Locked { .. } => {
                (not_yet, Satoshis::ZERO, Some("the coin is not firm yet, and the key is not shown"))
            }
            BatchSaleState::Claimed { claim, receipt, credited, .. } => {
                let (txid, receipted_ms, paid) = claimed(&sale.order, claim, receipt, network, seller)?;
                match credited {
                    Some(_) => ((txid, receipted_ms, paid), Satoshis::ZERO, None),
                    None => (
                        (txid, receipted_ms, Satoshis::ZERO),
                        paid,
                        Some("the key is shown, and the claim is in no block yet"),
                    ),
                }
            }
            BatchSaleState::Done { claim, receipt, .. } => {
                (claimed(&sale.order, claim, receipt, network, seller)?, Satoshis::ZERO, None)
            }
            BatchSaleState::Lapsed { .. } => {
                (not_yet, Satoshis::ZERO, Some("the coin came too late; the key is never shown"))
            }
            BatchSaleState::TakenBack { shown: false } => {
                (not_yet, Satoshis::ZERO, Some("the buyer has its coin back; the key was not shown"))
            }
            BatchSaleState::TakenBack { shown: true } => (
                not_yet,
                Satoshis::ZERO,
                Some("the buyer has its coin back though the key was shown: the batch is lost"),
            ),
        };
        Ok(Self {
            order: sale.order,
            buyer: sale.buyer,
            stream: terms.stream,
            first: terms.first,
            is_reads: false,
            count: Some(terms.end.saturating_sub(terms.first)),
            paid,
            open,
            state: sale.state.name(),
            by: EarnedBy::Claim { txid },
            admitted_ms: sale.admitted_ms,
            receipted_ms,
            why: why.map(str::to_owned),
        })
    }
}

/// The claim, when the receipt was signed, and what it says was paid.
type Claimed = (Option<Txid>, Option<i64>, Satoshis);

fn claimed(
    order: &OrderId,
    claim: &[u8],
    receipt: &SignedBytes,
    network: Network,
    seller: &PublicKey,
) -> Result<Claimed, StoreError> {
    let claim = Transaction::from_bytes(claim).map_err(|error| damaged(order, &error))?;
    let receipt = receipt.clone().verify_by::<Receipt>(network, seller);
    let receipt = receipt.map_err(|error| damaged(order, &error))?;
    Ok((Some(claim.txid()), Some(receipt.value().issued_ms), receipt.value().paid))
}

fn damaged(order: &OrderId, error: &dyn std::error::Error) -> StoreError {
    StoreError::Damaged(format!("the sale {order} does not verify any more: {error}"))
}

#[cfg(test)]
mod tests {
    use sensora_chain::keys::PrivateKey;
    use sensora_protocol::market::delivery::meter::Meter;
    use sensora_protocol::market::delivery::supply::Mark;
    use sensora_protocol::market::delivery::terms::Offered;
    use sensora_protocol::market::reads::offer::ReadsOffer;
    use sensora_protocol::stream::schema::{Field, Kind, Schema};
    use sensora_protocol::{Identity, Signed};

    use super::*;

    const NETWORK: Network = Network::Regtest;

    fn sat(amount: u64) -> Satoshis {
        Satoshis::from_sat(amount)
    }

    /// What the books say of an order for which readings worth 17 sat may have gone out, and 10 of it were paid before its channel closed.
    fn earned(state: ChannelSaleState) -> Earned {
        let key = |byte| Identity::new(PrivateKey::from_bytes([byte; 32]).unwrap());
        let (seller, buyer) = (key(3), key(4));
        let schema = Schema::new(vec![Field::new("value", Kind::Float)]).unwrap();
        let offer = ReadsOffer {
            stream: StreamId::derive(NETWORK, seller.public(), "machine", &schema).unwrap(),
            name: "machine".to_owned(),
            schema,
            buyer: *buyer.public(),
            price: "1".parse().unwrap(),
            licence: "CC-BY-4.0".to_owned(),
            nonce: [2; 16],
            issued_ms: 1_000,
            expires_ms: 2_000,
        };
        let offer = Signed::sign(offer, &seller, NETWORK).unwrap().into_bytes();
        let sale = ChannelSale {
            order: OrderId([5; 32]),
            buyer: *buyer.public(),
            offer: Offered::Reads(offer.clone()),
            // The books do not look at it.
            signed_order: offer,
            channel: ChannelId([6; 32]),
            granted: sat(17),
            mark: Mark { next: 0, meter: Meter::default() },
            admitted_ms: 1_000,
            state,
        };
        Earned::on_channel(&sale, 12, None, NETWORK, seller.public()).unwrap()
    }

    #[test]
    fn what_was_left_unpaid_is_told_as_open_and_with_why() {
        let left = earned(ChannelSaleState::LeftUnpaid { paid: sat(10), unpaid: sat(7) });
        assert_eq!((left.state, left.paid, left.open), ("left unpaid", sat(10), sat(7)));
        assert!(left.why.unwrap().contains("7 sat"));
        let running = earned(ChannelSaleState::Running);
        assert_eq!((running.state, running.open, running.count), ("running", sat(17), Some(12)));
    }
}
