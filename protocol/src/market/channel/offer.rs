//! The channel's offer: a seller's signed word on the channel that it takes from one buyer, and the keys that follow from it.

use sensora_chain::contract::channel::{Channel, ChannelError, ChannelTerms, CloseTerms};
use sensora_chain::contract::height_lock::RefundHeight;
use sensora_chain::keys::{PrivateKey, PublicKey};
use sensora_chain::wallet::KeySource;
use sensora_chain::{Network, OutPoint, Satoshis, Script};
use serde::{Deserialize, Serialize};

use crate::ad::CLOCK_TOLERANCE_MS;
use crate::id::{ChannelId, Hash};
use crate::market::offer::MAX_LIFETIME_MS;
use crate::statement::{Signed, Statement, StatementError, bytes_or_hex};

/// The least blocks between the moment from which a seller closes a channel by itself and the refund height: six hours on a public
/// network, for a close that is not mined at once, and for reorganisations.
pub const MIN_MARGIN: u32 = 36;

/// Blocks before a seller closes a channel by itself in which no order begins on it and those that run are brought to their end: half an hour on a
/// public network, for the last vouchers and receipts. Blocks come faster than that for a while, and then what is open stays unpaid: at most the exposure.
pub const LAST_ORDERS: u32 = 3;

/// What a seller offers to one buyer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelOffer {
    /// Who may open it.
    pub buyer: PublicKey,
    /// What is to be put into it.
    pub value: Satoshis,
    /// From this height on the buyer needs no seller to have its money back.
    pub refund_height: RefundHeight,
    /// So many blocks before the refund height the seller takes no more vouchers and closes.
    pub margin: u32,
    /// What its close leaves to the miner.
    pub close_fee: Satoshis,
    /// Whether it is used only when its funding is in a block.
    pub when_mined: bool,
    /// Makes each offer one of its kind, and with it the keys.
    #[serde(with = "bytes_or_hex")]
    pub nonce: [u8; 16],
    /// When it was signed, milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// Last moment at which the channel is opened, milliseconds since the Unix epoch.
    pub expires_ms: i64,
}

impl Statement for ChannelOffer {
    const NAME: &'static str = "sensora/channel-offer";
    const MAX_LEN: usize = 320;
}

/// What a buyer lets itself in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Most that is put into one channel.
    pub max_value: Satoshis,
    /// Longest time, in blocks, for which money is locked if the seller never answers again.
    pub max_blocks: u32,
    /// Most that the close may cost.
    pub max_close_fee: Satoshis,
}

/// Why a channel's offer is not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelOfferError {
    /// Not signed by who must have signed it.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// For somebody else.
    #[error("the channel is offered to buyer {0}, not to this node")]
    Buyer(String),
    /// Another value than was asked for, or above the limit.
    #[error(
        "a channel of {asked} was asked for, {offered} is offered, and at most {max} are put into one by this buyer's limits"
    )]
    Value {
        /// What was asked for.
        asked: Satoshis,
        /// What is offered.
        offered: Satoshis,
        /// The buyer's limit.
        max: Satoshis,
    },
    /// Locked for too long, or for no time at all.
    #[error(
        "the money would be locked until block {refund_height}, now is {tip}, and {margin} blocks before the end the seller closes: allowed are {MIN_MARGIN} or more of those and {max} in all"
    )]
    Height {
        /// When it could be had back.
        refund_height: RefundHeight,
        /// The newest block.
        tip: u32,
        /// The seller's margin.
        margin: u32,
        /// The buyer's limit.
        max: u32,
    },
    /// The close costs too much.
    #[error("the close would cost {fee}, above {max}")]
    CloseFee {
        /// What it would cost.
        fee: Satoshis,
        /// The buyer's limit.
        max: Satoshis,
    },
    /// Already over, too long, or signed in the future.
    #[error(
        "the offer holds until {expires_ms} ms, now is {now_ms} ms: it is over, holds longer than an hour, or one of the two clocks is wrong"
    )]
    Lifetime {
        /// When it ends.
        expires_ms: i64,
        /// Now.
        now_ms: i64,
    },
    /// No voucher on it could be worth anything.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// The keys of one channel: each is derived from both parties' identities and the offer, none is used twice, and nobody else can tell whose
/// they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelKeys {
    /// Signs vouchers, and the refund.
    pub buyer: PublicKey,
    /// Signs the close.
    pub seller: PublicKey,
    /// The seller is paid to it.
    pub seller_pays: PublicKey,
    /// The rest goes back to it.
    pub buyer_rest: PublicKey,
}

/// The invoice number under which a channel's signing keys are derived.
#[must_use]
pub fn signing_invoice(id: &ChannelId) -> String {
    format!("2-sensora channel-{id}")
}

/// The invoice number under which the keys are derived that a close pays to.
#[must_use]
pub fn payout_invoice(id: &ChannelId) -> String {
    format!("2-sensora channel payout-{id}")
}

impl ChannelKeys {
    /// As the buyer derives them.
    #[must_use]
    pub fn for_buyer(id: &ChannelId, buyer: &PrivateKey, seller: &PublicKey) -> Self {
        let (signing, payout) = (signing_invoice(id), payout_invoice(id));
        Self {
            buyer: buyer.child(seller, &signing).public(),
            seller: seller.child(buyer, &signing),
            seller_pays: seller.child(buyer, &payout),
            buyer_rest: buyer.child(seller, &payout).public(),
        }
    }

    /// As the seller derives them.
    #[must_use]
    pub fn for_seller(id: &ChannelId, seller: &PrivateKey, buyer: &PublicKey) -> Self {
        let (signing, payout) = (signing_invoice(id), payout_invoice(id));
        Self {
            buyer: buyer.child(seller, &signing),
            seller: seller.child(buyer, &signing).public(),
            seller_pays: seller.child(buyer, &payout).public(),
            buyer_rest: buyer.child(seller, &payout),
        }
    }

    /// How either side finds the key again that its part of a close pays to.
    #[must_use]
    pub fn payout_source(id: &ChannelId, counterparty: &PublicKey) -> KeySource {
        KeySource::peer(*counterparty, payout_invoice(id))
    }
}

impl ChannelOffer {
    /// The contract that the offer describes, for these keys.
    #[must_use]
    pub fn contract(&self, keys: &ChannelKeys) -> (ChannelTerms, CloseTerms) {
        let terms =
            ChannelTerms { buyer: keys.buyer, seller: keys.seller, refund_height: self.refund_height };
        let (seller_hash, buyer_hash) = (keys.seller_pays.hash160(), keys.buyer_rest.hash160());
        (terms, CloseTerms { seller_hash, buyer_hash, fee: self.close_fee })
    }

    /// The script that the buyer pays [`ChannelOffer::value`] to.
    #[must_use]
    pub fn locking(&self, keys: &ChannelKeys) -> Script {
        self.contract(keys).0.locking()
    }

    /// The channel, funded at this outpoint.
    ///
    /// # Errors
    /// [`ChannelError`] where no voucher on it could be worth anything.
    pub fn channel(&self, keys: &ChannelKeys, outpoint: OutPoint) -> Result<Channel, ChannelError> {
        let (terms, close) = self.contract(keys);
        Channel::new(terms, close, outpoint, self.value)
    }

    /// The first height of the chain at which the seller takes no more vouchers and closes.
    #[must_use]
    pub fn closes_at(&self) -> u32 {
        self.refund_height.get().saturating_sub(self.margin)
    }

    /// The first height of the chain at which no order begins on the channel, and both sides stop those that run: [`LAST_ORDERS`] blocks before
    /// [`ChannelOffer::closes_at`].
    #[must_use]
    pub fn orders_end_at(&self) -> u32 {
        self.closes_at().saturating_sub(LAST_ORDERS)
    }

    /// Checks an offer against what was asked for and the buyer's limits. After this the buyer may fund it.
    ///
    /// # Errors
    /// [`ChannelOfferError`] names the first thing that does not fit.
    pub fn accept(
        signed: &Signed<Self>,
        network: Network,
        buyer: &PrivateKey,
        asked: Satoshis,
        limits: ChannelLimits,
        tip: u32,
        now_ms: i64,
    ) -> Result<(), ChannelOfferError> {
        let offer = signed.value();
        let id = signed.channel_id(network);
        if offer.buyer != buyer.public() {
            return Err(ChannelOfferError::Buyer(crate::identity::peer_id(&offer.buyer)));
        }
        if offer.value != asked || offer.value > limits.max_value {
            let (offered, max) = (offer.value, limits.max_value);
            return Err(ChannelOfferError::Value { asked, offered, max });
        }
        let latest = tip.saturating_add(limits.max_blocks);
        let open = offer.margin >= MIN_MARGIN && tip < offer.orders_end_at();
        if !open || offer.refund_height.get() > latest {
            let (refund_height, margin, max) = (offer.refund_height, offer.margin, limits.max_blocks);
            return Err(ChannelOfferError::Height { refund_height, tip, margin, max });
        }
        if offer.close_fee > limits.max_close_fee {
            return Err(ChannelOfferError::CloseFee { fee: offer.close_fee, max: limits.max_close_fee });
        }
        let (expires_ms, lifetime) = (offer.expires_ms, offer.expires_ms.saturating_sub(offer.issued_ms));
        let ahead_ms = offer.issued_ms.saturating_sub(now_ms);
        let holds = expires_ms > now_ms && ahead_ms <= CLOCK_TOLERANCE_MS;
        if !holds || !(1..=MAX_LIFETIME_MS).contains(&lifetime) {
            return Err(ChannelOfferError::Lifetime { expires_ms, now_ms });
        }
        offer.channel(&ChannelKeys::for_buyer(&id, buyer, signed.key()), OutPoint::NULL)?;
        Ok(())
    }
}

impl Signed<ChannelOffer> {
    /// The channel's id: the digest that the seller signs.
    #[must_use]
    pub fn channel_id(&self, network: Network) -> ChannelId {
        let Hash(digest) = self.digest(network);
        ChannelId(digest)
    }
}
