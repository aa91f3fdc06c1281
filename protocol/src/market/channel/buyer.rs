//! A channel at its buyer, as a state machine.
//!
//! ```text
//!  offer ──open──▶ Funding ──Report──▶ Open ──CloseAsked──▶ Closing
//!                   │    ▲              │                      │
//!  Refused, GiveUp, │    └ no answer:   │ the tip is at the    │
//!  the tip is there │      send again   │ refund height        │
//!                   ▼                   └──────────┬───────────┤
//!                Refused                           ▼           │ Spent
//!                   │ TakenBack                Refunding       │
//!                   ▼                              │ Spent     │
//!               TakenBack                          └────▶ Ended ◀
//!
//!  Refused ──NotTakenBack, Mined──▶ Closing    TakenBack ──Mined──▶ Closing    Ended ──Unspent──▶ Closing
//! ```
//!
//! Below are the ways back: the network has taken a funding that was not to be one any more, or a reorganisation has undone what spent the channel. A spend
//! that is in a block ends it from `Funding`, `Open` and `Refused`, too.
//!
//! The buyer can always have back what it has not paid: with the seller by the close, without it from the refund height on, by itself. Any old
//! record of this is harmless (I5): vouchers that are forgotten are learned again from the seller, proven by our own signature.

#![warn(clippy::arithmetic_side_effects)]

use sensora_chain::contract::channel::{Channel, ChannelSpend, Voucher, VoucherError};
use sensora_chain::contract::refund::RefundError;
use sensora_chain::keys::PublicKey;
use sensora_chain::{FeeRate, Network, OutPoint, Satoshis, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::message::{AskChannel, ChannelReport, CloseChannel, OpenChannel};
use super::offer::{ChannelKeys, ChannelOffer, signing_invoice};
use super::spending::{Claim, SpendingError, SpendingRecord};
use crate::id::{ChannelId, OrderId};
use crate::identity::Identity;
use crate::market::purchase::SignedPayment;
use crate::market::refusal::Refusal;
use crate::statement::{Signed, SignedBytes, Statement as _, StatementError, bytes_or_hex};

/// A channel at its buyer. This is the durable record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuyerChannel {
    /// The channel.
    pub id: ChannelId,
    /// Who is paid with it.
    pub seller: PublicKey,
    /// The seller's signed offer of it.
    pub offer: SignedBytes,
    /// Its funding.
    pub funding: SignedPayment,
    /// The output of the funding that is the channel.
    pub vout: u32,
    /// What was promised and paid.
    pub spending: SpendingRecord,
    /// When it was made, milliseconds since the Unix epoch.
    pub opened_ms: i64,
    /// The last restore from a backup, milliseconds since the Unix epoch, after which its seller has said what was paid; none where there was none.
    #[serde(default)]
    pub learned_after: Option<i64>,
    /// How far it has come.
    pub state: BuyerChannelState,
}

/// How far a channel has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuyerChannelState {
    /// The funding is signed and its coins are reserved. It is sent until it is answered.
    Funding,
    /// Orders can be paid with it.
    Open,
    /// It is to be closed.
    Closing,
    /// The seller refused the funding, or the buyer waits no longer for an answer; the coins are being taken back.
    Refused {
        /// Why; none where the buyer gave up.
        refusal: Option<Refusal>,
    },
    /// The coins of the funding are back.
    TakenBack {
        /// Why the seller refused; none where the buyer gave up.
        refusal: Option<Refusal>,
    },
    /// The refund is out.
    Refunding {
        /// The refund: always the same one, whatever rates do, so that it does not conflict with itself.
        #[serde(with = "bytes_or_hex")]
        refund: Vec<u8>,
    },
    /// It is spent, in a block.
    Ended {
        /// By this transaction.
        txid: Txid,
        /// In this block.
        height: u32,
        /// What the seller got.
        paid: Satoshis,
    },
}

/// What has happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum BuyerChannelEvent {
    /// The seller has answered.
    Report(ChannelReport),
    /// The seller refuses.
    Refused(Refusal),
    /// The buyer does not want to wait for an answer to its funding any longer. At the refund height it gives up by itself.
    GiveUp,
    /// The network has taken the transaction that takes the funding's coins back.
    TakenBack,
    /// The coins cannot be taken back: the network has the funding.
    NotTakenBack,
    /// The funding is in a block.
    Mined,
    /// Somebody wants it closed.
    CloseAsked,
    /// The newest block has this height, and a refund would pay at this rate.
    Tip {
        /// The height.
        height: u32,
        /// The rate.
        rate: FeeRate,
    },
    /// The output was spent, in the block at this height.
    Spent {
        /// By this transaction.
        transaction: Box<Transaction>,
        /// In this block.
        height: u32,
    },
    /// It is unspent again, after a reorganisation.
    Unspent,
}

/// What the driver is to do, after storing the channel.
#[derive(Debug, Clone, PartialEq)]
pub enum BuyerChannelAction {
    /// Send the funding to the seller.
    Open(Box<OpenChannel>),
    /// Ask the seller to close.
    Close(CloseChannel),
    /// Spend the funding's inputs back to ourselves.
    TakeBack(Txid),
    /// The network has the funding: tell the wallet, in the same stored step.
    FundingTaken(Txid),
    /// Give the refund to the network; it is repeated until it is in a block.
    BroadcastRefund(Box<Transaction>),
    /// Take our part of the mined close or refund into the wallet, in the same stored step as the channel.
    Credit {
        /// The transaction.
        transaction: Box<Transaction>,
        /// Its block.
        height: u32,
    },
    /// The wallet's coin of it is void, in the same stored step as the channel: it left its block.
    Uncredit(Txid),
    /// The seller took more than the orders on the channel were promised and have paid by their receipts: what was paid ahead when it closed by itself, at
    /// most the buyer's exposure; or this record is older than the last orders.
    Overcharged {
        /// What it took.
        taken: Satoshis,
        /// What was paid.
        paid: Satoshis,
    },
}

/// Why an event is not followed. The channel is as it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuyerChannelError {
    /// The stored record was altered.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The seller's report has a signature that is not ours.
    #[error(
        "the seller says that {said} was paid on channel {channel}, and cannot show our signature for it"
    )]
    Unproven {
        /// The channel.
        channel: ChannelId,
        /// What it says.
        said: Satoshis,
    },
    /// The report does not fit what was promised.
    #[error(transparent)]
    Spending(#[from] SpendingError),
    /// A voucher cannot be signed.
    #[error(transparent)]
    Voucher(#[from] VoucherError),
    /// The refund cannot be made.
    #[error(transparent)]
    Refund(#[from] RefundError),
}

impl BuyerChannel {
    /// A channel that [`ChannelOffer::accept`] has passed, with its funding signed and reserved.
    #[must_use]
    pub fn new(
        offer: &Signed<ChannelOffer>,
        funding: SignedPayment,
        vout: u32,
        network: Network,
        now_ms: i64,
    ) -> Self {
        let capacity = offer.value().value.saturating_sub(offer.value().close_fee);
        Self {
            id: offer.channel_id(network),
            seller: *offer.key(),
            offer: offer.bytes().clone(),
            funding,
            vout,
            spending: SpendingRecord::new(capacity),
            opened_ms: now_ms,
            learned_after: None,
            state: BuyerChannelState::Funding,
        }
    }

    /// The output that is the channel.
    #[must_use]
    pub const fn outpoint(&self) -> OutPoint {
        OutPoint { txid: self.funding.txid, vout: self.vout }
    }

    /// The offer, and the channel as the chain knows it.
    ///
    /// # Errors
    /// Only when the stored record was altered.
    pub fn contract(
        &self,
        buyer: &Identity,
        network: Network,
    ) -> Result<(ChannelOffer, Channel), StatementError> {
        let offer = self.offer.clone().verify_by::<ChannelOffer>(network, &self.seller)?;
        let keys = ChannelKeys::for_buyer(&self.id, buyer.key(), &self.seller);
        let altered = |_| StatementError::Signature {
            name: ChannelOffer::NAME,
            signer: crate::identity::peer_id(&self.seller),
            network,
        };
        let channel = offer.value().channel(&keys, self.outpoint()).map_err(altered)?;
        Ok((offer.value().clone(), channel))
    }

    /// Signs the voucher for `amount`. What may be paid is for the channel's account to say.
    ///
    /// # Errors
    /// [`VoucherError::TooMuch`] above the capacity.
    pub fn sign(
        &self,
        channel: &Channel,
        amount: Satoshis,
        buyer: &Identity,
    ) -> Result<Voucher, VoucherError> {
        channel.sign_voucher(amount, &buyer.key().child(&self.seller, &signing_invoice(&self.id)))
    }

    /// Whether a new order may be paid with it, when the newest block is at `tip`. Those that run are told
    /// [`ReceiveEvent::Closing`](crate::market::delivery::receive::ReceiveEvent::Closing) where it is not so.
    #[must_use]
    pub fn takes_orders(&self, offer: &ChannelOffer, tip: u32) -> bool {
        self.is_open() && tip < offer.orders_end_at()
    }

    /// Whether no order on it will be paid or get a receipt any more: those that run are told
    /// [`ReceiveEvent::Closed`](crate::market::delivery::receive::ReceiveEvent::Closed).
    #[must_use]
    pub const fn leaves_orders(&self) -> bool {
        matches!(
            self.state,
            BuyerChannelState::Refunding { .. }
                | BuyerChannelState::Ended { .. }
                | BuyerChannelState::Refused { .. }
                | BuyerChannelState::TakenBack { .. }
        )
    }

    /// Whether orders can be paid with it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == BuyerChannelState::Open
    }

    /// What to ask the seller before the first order after a restart: what has been paid.
    #[must_use]
    pub fn question(&self) -> AskChannel {
        AskChannel { channel: self.id, orders: self.spending.lanes.keys().copied().collect() }
    }

    /// Takes the seller's answer to [`BuyerChannel::question`]: what the vouchers that are out have paid. `asked` are the orders of the question,
    /// each with what is due for it by the buyer's record, and `exposure` is the buyer's with this seller; see [`SpendingRecord::learn`]. What
    /// is paid to no order that is known is returned.
    ///
    /// `restored` is when this home was last put back from a backup, milliseconds since the Unix epoch. Orders may be missing from a channel that was in the
    /// backup, once: the first answer after it counts, and no later one.
    ///
    /// # Errors
    /// [`BuyerChannelError::Unproven`], [`BuyerChannelError::Spending`]; the channel is as it was.
    pub fn learn(
        &mut self,
        asked: &[(OrderId, Satoshis)],
        report: &ChannelReport,
        exposure: Satoshis,
        restored: Option<i64>,
        channel: &Channel,
    ) -> Result<Satoshis, BuyerChannelError> {
        let unproven = BuyerChannelError::Unproven { channel: self.id, said: report.highest };
        if !report.highest.is_zero() {
            let signature = report.signature.ok_or(unproven.clone())?;
            let voucher = Voucher { paid: report.highest, signature };
            channel.verify_voucher(&voucher).map_err(|_| unproven)?;
        }
        // An order that the seller leaves out has paid nothing, as it says.
        let paid = report.paid.iter().copied().chain(std::iter::repeat(Satoshis::ZERO));
        let claims = asked.iter().zip(paid).map(|(&(order, due), paid)| Claim { order, paid, due });
        let claims: Vec<_> = claims.collect();
        let is_old = restored.is_some_and(|at| self.opened_ms <= at && self.learned_after != Some(at));
        let unclaimed = self.spending.learn(report.highest, report.booked, &claims, exposure, is_old)?;
        self.learned_after = restored.or(self.learned_after);
        Ok(unclaimed)
    }

    /// What to do now, given the state alone: at the beginning, after a crash, and to try again.
    ///
    /// # Errors
    /// [`BuyerChannelError::Voucher`].
    pub fn resume(
        &self,
        buyer: &Identity,
        network: Network,
    ) -> Result<Option<BuyerChannelAction>, BuyerChannelError> {
        Ok(match &self.state {
            BuyerChannelState::Funding => {
                let (offer, funding) = (self.offer.clone(), self.funding.beef.clone());
                Some(BuyerChannelAction::Open(Box::new(OpenChannel { offer, funding })))
            }
            BuyerChannelState::Refused { .. } => Some(BuyerChannelAction::TakeBack(self.funding.txid)),
            BuyerChannelState::Closing => {
                let (_, channel) = self.contract(buyer, network)?;
                let paid = self.spending.paid()?;
                let signature = self.sign(&channel, paid, buyer)?.signature;
                Some(BuyerChannelAction::Close(CloseChannel { channel: self.id, paid, signature }))
            }
            _ => None,
        })
    }

    /// Takes an event; see the module for the states.
    ///
    /// # Errors
    /// [`BuyerChannelError`].
    pub fn handle(
        &mut self,
        event: BuyerChannelEvent,
        buyer: &Identity,
        network: Network,
    ) -> Result<Vec<BuyerChannelAction>, BuyerChannelError> {
        use BuyerChannelAction as Action;
        Ok(match (event, self.state.clone()) {
            (BuyerChannelEvent::Report(_), BuyerChannelState::Funding) => {
                self.state = BuyerChannelState::Open;
                vec![Action::FundingTaken(self.funding.txid)]
            }
            (BuyerChannelEvent::Refused(refusal), BuyerChannelState::Funding) if !refusal.is_temporary() => {
                self.state = BuyerChannelState::Refused { refusal: Some(refusal) };
                vec![Action::TakeBack(self.funding.txid)]
            }
            (BuyerChannelEvent::GiveUp, BuyerChannelState::Funding) => self.give_up(),
            (BuyerChannelEvent::Tip { height, .. }, BuyerChannelState::Funding) => {
                // No answer can make a channel of it any more, and the seller may have put it on the chain.
                let (offer, _) = self.contract(buyer, network)?;
                if height < offer.refund_height.get() { Vec::new() } else { self.give_up() }
            }
            (BuyerChannelEvent::TakenBack, BuyerChannelState::Refused { refusal }) => {
                self.state = BuyerChannelState::TakenBack { refusal };
                Vec::new()
            }
            (BuyerChannelEvent::NotTakenBack, BuyerChannelState::Refused { .. }) => {
                // The seller, or somebody, has put it on the chain all the same: it is a channel, to be closed or refunded.
                self.state = BuyerChannelState::Closing;
                let mut actions = vec![Action::FundingTaken(self.funding.txid)];
                actions.extend(self.resume(buyer, network)?);
                actions
            }
            (
                BuyerChannelEvent::Mined,
                BuyerChannelState::Refused { .. } | BuyerChannelState::TakenBack { .. },
            ) => {
                // The network preferred it to what took its coins back, if only after a reorganisation.
                self.state = BuyerChannelState::Closing;
                let mut actions = vec![Action::FundingTaken(self.funding.txid)];
                actions.extend(self.resume(buyer, network)?);
                actions
            }
            (BuyerChannelEvent::CloseAsked, BuyerChannelState::Open) => {
                self.state = BuyerChannelState::Closing;
                self.resume(buyer, network)?.into_iter().collect()
            }
            (
                BuyerChannelEvent::Tip { height, rate },
                BuyerChannelState::Open | BuyerChannelState::Closing | BuyerChannelState::Refunding { .. },
            ) => {
                let (offer, channel) = self.contract(buyer, network)?;
                if height < offer.refund_height.get() {
                    return Ok(Vec::new());
                }
                if let BuyerChannelState::Refunding { refund } = &self.state
                    && let Ok(refund) = Transaction::from_bytes(refund)
                {
                    return Ok(vec![Action::BroadcastRefund(Box::new(refund))]);
                }
                let key = buyer.key().child(&self.seller, &signing_invoice(&self.id));
                let refund = channel.refund(&key, rate)?;
                self.state = BuyerChannelState::Refunding { refund: refund.to_bytes() };
                vec![Action::BroadcastRefund(Box::new(refund))]
            }
            (BuyerChannelEvent::Spent { transaction, height }, state) if !state.is_final() => {
                self.spent(*transaction, height, buyer, network)?
            }
            (BuyerChannelEvent::Unspent, BuyerChannelState::Ended { txid, .. }) => {
                self.state = BuyerChannelState::Closing;
                vec![Action::Uncredit(txid)]
            }
            _ => Vec::new(),
        })
    }

    fn give_up(&mut self) -> Vec<BuyerChannelAction> {
        self.state = BuyerChannelState::Refused { refusal: None };
        vec![BuyerChannelAction::TakeBack(self.funding.txid)]
    }

    fn spent(
        &mut self,
        transaction: Transaction,
        height: u32,
        buyer: &Identity,
        network: Network,
    ) -> Result<Vec<BuyerChannelAction>, BuyerChannelError> {
        let (_, channel) = self.contract(buyer, network)?;
        let txid = transaction.txid();
        let taken = match channel.spend_in(&transaction) {
            None => return Ok(Vec::new()),
            Some(ChannelSpend::Close { paid }) => paid,
            Some(ChannelSpend::Refund | ChannelSpend::Other) => Satoshis::ZERO,
        };
        let was_funding =
            matches!(self.state, BuyerChannelState::Funding | BuyerChannelState::Refused { .. });
        self.state = BuyerChannelState::Ended { txid, height, paid: taken };
        let mut actions = Vec::new();
        if was_funding {
            actions.push(BuyerChannelAction::FundingTaken(self.funding.txid));
        }
        let transaction = Box::new(transaction);
        actions.push(BuyerChannelAction::Credit { transaction, height });
        let paid = self.spending.promised()?;
        if taken > paid {
            actions.push(BuyerChannelAction::Overcharged { taken, paid });
        }
        Ok(actions)
    }
}

impl BuyerChannelState {
    /// The state's name in lower case, for people and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Funding => "funding",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Refused { .. } => "refused",
            Self::TakenBack { .. } => "taken back",
            Self::Refunding { .. } => "refunding",
            Self::Ended { .. } => "ended",
        }
    }

    /// Whether nothing more is to be done, unless a reorganisation comes.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::TakenBack { .. } | Self::Ended { .. })
    }
}
