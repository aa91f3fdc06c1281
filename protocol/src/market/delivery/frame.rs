//! What moves over `/sensora/delivery/1`: one stream for each order that is paid through a channel. The first frame of each side
//! begins; after that readings go one way and vouchers the other, and nobody waits for an answer.

use sensora_chain::keys::{PublicKey, Signature};
use sensora_chain::{Network, Satoshis};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, MAX_FRAME};
use crate::id::{ChannelId, OrderId};
use crate::market::delivery::Page;
use crate::market::delivery::terms::Offered;
use crate::market::order::Order;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes};

/// Protocol id.
pub const PROTOCOL: &str = "/sensora/delivery/1";
/// Longest frame to a seller in bytes: an offer and an order with room to spare.
pub const MAX_TO_SELLER_LEN: usize = 32 * 1024;
/// Longest frame to a buyer in bytes.
pub const MAX_TO_BUYER_LEN: usize = MAX_FRAME;

/// Which order is to be delivered, and from where on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The seller's signed offer, as it was received.
    pub offer: Offered,
    /// The buyer's signed order.
    pub order: SignedBytes,
    /// The channel that pays.
    pub channel: ChannelId,
    /// First sequence number that is missing: where the stream stopped before, it goes on.
    pub next: u64,
    /// The most that the order will pay in all: nothing is to be delivered beyond that.
    pub budget: Satoshis,
}

impl Begin {
    /// The order, signed by the peer that sends it.
    ///
    /// # Errors
    /// [`Refusal::InvalidOrder`].
    pub(super) fn order_of(&self, network: Network, peer: &PublicKey) -> Result<Signed<Order>, Refusal> {
        let order = self.order.clone().verify_by::<Order>(network, peer);
        let order = order.map_err(|error| Refusal::InvalidOrder { reason: error.to_string() })?;
        if &order.value().buyer != peer {
            let reason = "the buyer in it is not who sends it".into();
            return Err(Refusal::InvalidOrder { reason });
        }
        Ok(order)
    }

    /// The id of the order, which is the peer's that sends it: where a sale is stored under it, the order goes on.
    ///
    /// # Errors
    /// [`Refusal::InvalidOrder`].
    pub fn order_id(&self, network: Network, peer: &PublicKey) -> Result<OrderId, Refusal> {
        Ok(self.order_of(network, peer)?.id(network))
    }
}

/// A payment of one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderVoucher {
    /// What the order has paid with it, in all.
    pub paid: Satoshis,
    /// What the channel has paid with it, in all: the amount that is signed.
    pub amount: Satoshis,
    /// The buyer's signature of the close with that amount.
    pub signature: Signature,
}

/// From the buyer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSeller {
    /// The first frame.
    Begin(Box<Begin>),
    /// A payment.
    Voucher(OrderVoucher),
    /// No readings until [`ToSeller::Resume`].
    Pause,
    /// Readings again.
    Resume,
    /// No more readings: what was sent is paid, and the order ends with its receipt.
    Stop,
    /// Nothing to say, but there.
    Alive,
}

/// From the seller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToBuyer {
    /// The first frame: the order is taken, or goes on.
    Begun {
        /// What the order has paid, as far as the seller knows.
        paid: Satoshis,
        /// The most that the seller lets stand open in this order, or for which readings may be under way already. What it begins with may be less.
        credit: Satoshis,
    },
    /// Readings under the offer's checkpoint.
    Page(Page),
    /// Readings of a live stream: made by [`LivePages`](crate::market::delivery::trail::LivePages), read by
    /// [`Trail`](crate::market::delivery::trail::Trail).
    Live {
        /// The signed checkpoint that they are proven under; none where it is that of the frame before on this stream.
        checkpoint: Option<SignedBytes>,
        /// The readings. On a stream the first page has its whole proof; those that follow leave out the hashes left of the page, which are those of the
        /// readings before it.
        page: Page,
    },
    /// The last reading is sent, or chosen: after [`ToSeller::Stop`], or where budget or channel hold no more.
    Stopped {
        /// Sequence number after the last reading that was sent.
        end: u64,
        /// What is due in all.
        due: Satoshis,
    },
    /// All is paid: the signed receipt. The last frame.
    Ended {
        /// A [`ChannelReceipt`](crate::market::receipt::ChannelReceipt).
        receipt: SignedBytes,
    },
    /// The order is not delivered, or no further. The last frame.
    Refused(Refusal),
    /// Nothing new, but there.
    Alive,
}

macro_rules! frame {
    ($kind:ty, $max:expr) => {
        impl $kind {
            /// The bytes of the frame.
            ///
            /// # Errors
            /// [`CodecError::TooLong`].
            pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
                let bytes = codec::encode(self)?;
                if bytes.len() > $max {
                    return Err(CodecError::TooLong { len: bytes.len(), max: $max });
                }
                Ok(bytes)
            }
        }
    };
}

frame!(ToSeller, MAX_TO_SELLER_LEN);
frame!(ToBuyer, MAX_TO_BUYER_LEN);

impl ToSeller {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_exact(bytes, MAX_TO_SELLER_LEN)
    }

    /// What it is, in snake case: a label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Begin(_) => "begin",
            Self::Voucher(_) => "voucher",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
            Self::Alive => "alive",
        }
    }
}

impl ToBuyer {
    /// Reads a frame. The words of a refusal are a stranger's: they come [tamed](Refusal::tamed).
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(match codec::decode_exact(bytes, MAX_TO_BUYER_LEN)? {
            Self::Refused(refusal) => Self::Refused(refusal.tamed()),
            frame => frame,
        })
    }

    /// What it is, in snake case: a label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Begun { .. } => "begun",
            Self::Page(_) => "page",
            Self::Live { .. } => "live",
            Self::Stopped { .. } => "stopped",
            Self::Ended { .. } => "ended",
            Self::Refused(_) => "refused",
            Self::Alive => "alive",
        }
    }
}
