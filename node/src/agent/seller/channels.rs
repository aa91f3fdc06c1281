//! The channels that buyers pay with: offered, opened, booked on, watched and closed.
//!
//! What a channel may do is decided by [`sensora_protocol::market::channel::seller`]; this room stores each change before anything follows
//! from it, asks the chain, and gives the close to the network. Every change of one channel is made under its lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::WriteTransaction;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::contract::RefundHeight;
use sensora_chain::contract::channel::{Channel, CloseTerms};
use sensora_chain::header::HeaderView as _;
use sensora_chain::keys::PublicKey;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::wallet::{OwnedOutput, Purpose, Received};
use sensora_chain::{Network, OutPoint, Satoshis, Transaction};
use sensora_protocol::market::channel::message::{AskChannel, ChannelReport, CloseChannel, OpenChannel};
use sensora_protocol::market::channel::offer::{ChannelKeys, ChannelOffer, MIN_MARGIN};
use sensora_protocol::market::channel::seller::{
    SellerChannel, SellerChannelAction, SellerChannelEvent, SellerChannelState,
};
use sensora_protocol::market::channel::spending::MAX_LANES;
use sensora_protocol::market::offer::DEFAULT_LIFETIME_MS;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::market::sale::Admission;
use sensora_protocol::{ChannelId, Identity, OrderId, Signed};
use tokio_util::sync::CancellationToken;

use crate::chain_access::{BroadcastError, ChainAccess, SpentBy, TxStanding};
use crate::clock::Clock;
use crate::store::{Store, StoreError, channels};
use crate::wallet::{WalletHandle, WalletHandleError};

/// How long a channel is watched after its end is in a block: deeper reorganisations than this change nothing any more.
pub const BURIED: u32 = 12;
/// How often the chain is asked about channels when no new block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Most channels that are offered, opened or watched at a time. Each is a few KiB and one question for each block.
const MAX_CHANNELS: usize = 10_000;
/// Outpoints and transactions asked for at a time.
const ASK_AT_ONCE: usize = 32;

/// Which channels are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelPolicy {
    /// The least that is put into one: below this its two transactions are not worth it.
    pub min_value: Satoshis,
    /// The most that is put into one.
    pub max_value: Satoshis,
    /// Up to this value vouchers are taken at once; above it, when the funding is in a block.
    pub unmined_up_to: Satoshis,
    /// The longest time until the refund height, in blocks.
    pub max_blocks: u32,
    /// How many blocks before the refund height it is closed.
    pub margin: u32,
}

impl ChannelPolicy {
    /// No channels are taken.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            min_value: Satoshis::ZERO,
            max_value: Satoshis::ZERO,
            unmined_up_to: Satoshis::ZERO,
            max_blocks: 0,
            margin: MIN_MARGIN,
        }
    }

    /// Whether any are taken.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        !self.max_value.is_zero()
    }
}

impl Default for ChannelPolicy {
    /// 1,000 sat to 0.1 BSV, up to 50,000 sat at once, for a month at most, closed six hours before.
    fn default() -> Self {
        Self {
            min_value: Satoshis::from_sat(1_000),
            max_value: Satoshis::from_sat(10_000_000),
            unmined_up_to: Satoshis::from_sat(50_000),
            max_blocks: 30 * 144,
            margin: MIN_MARGIN,
        }
    }
}

/// What the room works with.
pub struct ChannelsParts {
    /// Takes what closes pay.
    pub wallet: WalletHandle,
    /// Broadcasts, and says what is in blocks.
    pub chain: ChainAccess,
    /// Keeps the channels.
    pub store: Store,
    /// Signs.
    pub identity: Identity,
    /// The network.
    pub network: Network,
    /// The time.
    pub clock: Clock,
    /// Which channels are taken.
    pub policy: ChannelPolicy,
}

/// One channel in use: its record, and what follows from it.
pub struct Live {
    /// The record, as it is on disk.
    pub record: SellerChannel,
    /// Its offer.
    pub offer: ChannelOffer,
    /// What the chain knows of it.
    pub contract: Channel,
}

/// The seller's channels. Cheap to clone.
#[derive(Clone)]
pub struct Channels {
    inner: Arc<Inner>,
}

struct Inner {
    parts: ChannelsParts,
    live: Mutex<BTreeMap<ChannelId, Arc<Mutex<Live>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "a channel could not be stored or read");
    Refusal::StorageUnavailable
}

/// What an order that runs on a channel has paid.
pub(super) fn paid(live: &Mutex<Live>, order: &OrderId) -> Satoshis {
    lock(live).record.earning.paid_by(order)
}

/// What follows a stored change.
enum Next {
    Funding,
    Close(Box<Transaction>),
}

impl Channels {
    /// The channels in the store that are not settled.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Damaged`] for a record that does not verify any more.
    pub fn open(parts: ChannelsParts) -> Result<Self, StoreError> {
        let stored = parts.store.read(channels::open_seller)?;
        let channels = Self { inner: Arc::new(Inner { parts, live: Mutex::default() }) };
        for record in stored {
            channels.take_in(record)?;
        }
        Ok(channels)
    }

    fn take_in(&self, record: SellerChannel) -> Result<Arc<Mutex<Live>>, StoreError> {
        let ChannelsParts { identity, network, .. } = &self.inner.parts;
        let (offer, contract) =
            record.contract(identity, *network).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let id = record.id;
        let live = Arc::new(Mutex::new(Live { record, offer, contract }));
        lock(&self.inner.live).insert(id, live.clone());
        Ok(live)
    }

    /// A channel of this buyer that is not settled.
    ///
    /// # Errors
    /// [`Refusal::UnknownChannel`].
    pub fn get(&self, buyer: &PublicKey, id: &ChannelId) -> Result<Arc<Mutex<Live>>, Refusal> {
        let live = lock(&self.inner.live).get(id).cloned();
        let live = live.filter(|live| &lock(live).record.buyer == buyer);
        live.ok_or(Refusal::UnknownChannel { channel: *id })
    }

    /// Whether deliveries may be paid through channels: new ones are taken, or there are some.
    #[must_use]
    pub fn are_served(&self) -> bool {
        !self.inner.parts.policy.max_value.is_zero() || !lock(&self.inner.live).is_empty()
    }

    /// The height of the newest block.
    #[must_use]
    pub fn tip(&self) -> u32 {
        self.inner.parts.chain.headers().tip_height()
    }

    /// An offer of a channel.
    ///
    /// # Errors
    /// [`Refusal::ChannelNotOffered`] for a value or a time that is not taken.
    pub fn quote(
        &self,
        buyer: &PublicKey,
        value: Satoshis,
        blocks: u32,
    ) -> Result<Signed<ChannelOffer>, Refusal> {
        let ChannelsParts { identity, network, clock, wallet, policy, .. } = &self.inner.parts;
        let least = policy.margin.saturating_mul(2);
        let fits = (policy.min_value..=policy.max_value).contains(&value)
            && (least..=policy.max_blocks).contains(&blocks);
        let height = RefundHeight::new(self.tip().saturating_add(blocks)).ok().filter(|_| fits);
        let Some(refund_height) = height else {
            return Err(Refusal::ChannelNotOffered {
                min: policy.min_value,
                max: policy.max_value,
                min_blocks: least,
                max_blocks: policy.max_blocks,
            });
        };
        if lock(&self.inner.live).len() >= MAX_CHANNELS {
            return Err(Refusal::Busy { retry_ms: 60_000 });
        }
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| Refusal::Busy { retry_ms: 1000 })?;
        let issued_ms = clock.now_ms();
        // Rates may rise before it is closed, and its fee cannot: half as much again.
        let fee = CloseTerms::fee_at(wallet.fees().rate).as_u64();
        let close_fee = Satoshis::from_sat(fee.saturating_add(fee.div_ceil(2)));
        let offer = ChannelOffer {
            buyer: *buyer,
            value,
            refund_height,
            margin: policy.margin,
            close_fee,
            when_mined: value > policy.unmined_up_to,
            nonce,
            issued_ms,
            expires_ms: issued_ms.saturating_add(DEFAULT_LIFETIME_MS),
        };
        Signed::sign(offer, identity, *network).map_err(|error| failed(&error))
    }

    /// Opens a channel: verified, stored, then given to the network. The same request again has the same answer.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn open_channel(
        &self,
        buyer: &PublicKey,
        request: OpenChannel,
    ) -> Result<ChannelReport, Refusal> {
        let ChannelsParts { identity, network, chain, store, clock, .. } = &self.inner.parts;
        let offer = request.offer.clone().verify_by::<ChannelOffer>(*network, identity.public());
        let offer = offer.map_err(|error| Refusal::ForeignOffer { reason: error.to_string() })?;
        let id = offer.channel_id(*network);
        let live = match self.get(buyer, &id) {
            Ok(live) => live,
            Err(_) => {
                let known = store.read(|tx| channels::seller(tx, &id)).map_err(|error| failed(&error))?;
                if known.is_some() {
                    return Err(Refusal::ChannelClosed { channel: id });
                }
                let headers = chain.headers();
                let now_ms = clock.now_ms();
                let at =
                    Admission { seller: identity, network: *network, peer: buyer, headers: &headers, now_ms };
                let record = SellerChannel::admit(request, &at)?;
                store
                    .write(|tx| channels::put_seller(tx, &record, false))
                    .map_err(|error: StoreError| failed(&error))?;
                self.take_in(record).map_err(|error| failed(&error))?
            }
        };
        let next = {
            let mut live = lock(&live);
            let actions = live.record.resume(identity, *network).map_err(|error| failed(&error))?;
            self.follow(&mut live, actions, None).map_err(|error| failed(&error))?.0
        };
        if let Some(refusal) = self.carry_out(&live, next).await {
            return Err(refusal);
        }
        Ok(self.report(&live, Vec::new()))
    }

    /// Closes a channel now.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn close_channel(
        &self,
        buyer: &PublicKey,
        request: CloseChannel,
    ) -> Result<ChannelReport, Refusal> {
        let live = self.get(buyer, &request.channel)?;
        let event = SellerChannelEvent::CloseAsked(Some(request));
        match self.take(&live, event, None).await {
            Some(refusal) => Err(refusal),
            None => Ok(self.report(&live, Vec::new())),
        }
    }

    /// What was paid on a channel, for each of the orders that are asked for.
    ///
    /// # Errors
    /// [`Refusal::UnknownChannel`].
    pub fn ask(&self, buyer: &PublicKey, request: &AskChannel) -> Result<ChannelReport, Refusal> {
        if request.orders.len() > MAX_LANES {
            return Err(Refusal::Malformed { reason: format!("more than {MAX_LANES} orders are asked for") });
        }
        let live = self.get(buyer, &request.channel)?;
        let paid = request.orders.iter().map(|order| self.paid_by(&live, order)).collect::<Result<_, _>>();
        let paid = paid.map_err(|error| failed(&error))?;
        Ok(self.report(&live, paid))
    }

    /// What an order has paid: in its lane while it runs, by its receipt afterwards.
    fn paid_by(&self, live: &Mutex<Live>, order: &OrderId) -> Result<Satoshis, StoreError> {
        let ChannelsParts { store, network, .. } = &self.inner.parts;
        let (running, id) = {
            let live = lock(live);
            (live.record.earning.lanes.get(order).copied(), live.record.id)
        };
        match running {
            Some(paid) => Ok(paid),
            None => {
                let sale = store.read(|tx| channels::sale(tx, order))?.filter(|sale| sale.channel == id);
                let paid = sale.and_then(|sale| sale.finally_paid(*network));
                Ok(paid.unwrap_or(Satoshis::ZERO))
            }
        }
    }

    fn report(&self, live: &Mutex<Live>, paid: Vec<Satoshis>) -> ChannelReport {
        let live = lock(live);
        live.record.report(live.record.standing(&live.offer, self.tip()), paid)
    }

    /// Changes a channel's record, stored together with whatever the caller stores, or not at all.
    ///
    /// # Errors
    /// The closure's; [`StoreError`].
    pub fn change<T, E: From<StoreError>>(
        &self,
        live: &mut Live,
        f: impl FnOnce(&mut SellerChannel, &Channel, &WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut next = live.record.clone();
        let value = self.inner.parts.store.write(|tx| {
            let value = f(&mut next, &live.contract, tx)?;
            channels::put_seller(tx, &next, false)?;
            Ok::<_, E>(value)
        })?;
        live.record = next;
        Ok(value)
    }

    /// Gives an event to a channel, stores what it makes of it, and does what follows. A refusal is for whoever asked.
    async fn take(
        &self,
        live: &Arc<Mutex<Live>>,
        event: SellerChannelEvent,
        path: Option<MerklePath>,
    ) -> Option<Refusal> {
        let ChannelsParts { identity, network, .. } = &self.inner.parts;
        let next = {
            let mut live = lock(live);
            let before = live.record.clone();
            let actions = match live.record.handle(event, identity, *network) {
                Ok(actions) => actions,
                Err(error) => return Some(failed(&error)),
            };
            // At most ticks of the chain nothing changes, and then nothing is written.
            if actions.is_empty() && live.record == before && !self.is_settled(&before) {
                return None;
            }
            match self.follow(&mut live, actions, path) {
                Ok((next, refusal)) => {
                    if refusal.is_some() {
                        return refusal;
                    }
                    next
                }
                Err(error) => {
                    live.record = before;
                    return Some(failed(&error));
                }
            }
        };
        self.carry_out(live, next).await
    }

    /// Stores the record with all that belongs to the same step, and returns what comes after it.
    fn follow(
        &self,
        live: &mut Live,
        actions: Vec<SellerChannelAction>,
        path: Option<MerklePath>,
    ) -> Result<(Vec<Next>, Option<Refusal>), WalletHandleError> {
        let ChannelsParts { wallet, identity, clock, .. } = &self.inner.parts;
        let (mut next, mut refusal, mut forget) = (Vec::new(), None, false);
        let mut credits = Vec::new();
        for action in actions {
            match action {
                SellerChannelAction::BroadcastFunding => next.push(Next::Funding),
                SellerChannelAction::BroadcastClose(close) => next.push(Next::Close(close)),
                SellerChannelAction::Refuse(with) => refusal = Some(with),
                SellerChannelAction::Forget => forget = true,
                SellerChannelAction::Credit { transaction, .. } => credits.push(*transaction),
                SellerChannelAction::Alarm(loss) => {
                    tracing::error!(channel = %live.record.id, paid = %live.record.earning.highest, "a channel is lost: {loss}");
                }
                // The wallet follows reorganisations by itself.
                SellerChannelAction::Report | SellerChannelAction::Uncredit(_) => {}
            }
        }
        let (id, buyer, settled) = (live.record.id, live.record.buyer, self.is_settled(&live.record));
        wallet.update(|wallet, tx| {
            if forget {
                channels::remove_seller(tx, &id)?;
            } else {
                channels::put_seller(tx, &live.record, settled)?;
            }
            for close in credits {
                let label = format!("channel {id}");
                let key = ChannelKeys::payout_source(&id, &buyer);
                let script = key.locking_script(identity.key());
                let at = close.outputs.iter().position(|output| output.locking == script);
                let Some(vout) = at.and_then(|at| u32::try_from(at).ok()) else { continue };
                if crate::store::wallet::is_archived_in(tx, &close.txid())? {
                    continue;
                }
                let purpose = Purpose::Payment { label: label.clone() };
                let received = Received {
                    tx: close,
                    outputs: vec![OwnedOutput { vout, key, purpose }],
                    ancestors: None,
                    path: path.clone(),
                    broadcast: true,
                    label,
                    now_ms: clock.now_ms(),
                };
                wallet.receive(identity.key(), received)?;
            }
            Ok::<_, WalletHandleError>(())
        })?;
        if forget || settled {
            lock(&self.inner.live).remove(&id);
        }
        Ok((next, refusal))
    }

    fn is_settled(&self, record: &SellerChannel) -> bool {
        match record.state {
            SellerChannelState::Closed { height, .. } => self.tip() >= height.saturating_add(BURIED),
            // A lost channel stays in sight: what was lost may come back with a reorganisation, until its refund height is far behind.
            _ => false,
        }
    }

    async fn carry_out(&self, live: &Arc<Mutex<Live>>, next: Vec<Next>) -> Option<Refusal> {
        let ChannelsParts { chain, .. } = &self.inner.parts;
        for step in next {
            match step {
                Next::Funding => {
                    let funding = lock(live).record.funding.clone();
                    let event = match chain.broadcast(&funding).await {
                        Ok(()) => SellerChannelEvent::Accepted,
                        Err(BroadcastError::Rejected { double_spent, reason, .. }) => {
                            SellerChannelEvent::Rejected { double_spent, reason }
                        }
                        Err(error) => {
                            tracing::warn!(channel = %lock(live).record.id, %error, "a channel's funding could not be broadcast yet");
                            SellerChannelEvent::Unavailable
                        }
                    };
                    let refusal = Box::pin(self.take(live, event, None)).await;
                    if refusal.is_some() {
                        return refusal;
                    }
                }
                Next::Close(close) => {
                    let beef = self.beef_of(live, &close);
                    match chain.broadcast(&beef).await {
                        Ok(()) => {
                            tracing::info!(channel = %lock(live).record.id, txid = %close.txid(), "a channel's close is out");
                        }
                        Err(error) => {
                            tracing::warn!(channel = %lock(live).record.id, %error, "a channel's close is not taken yet; it goes out again with the next block");
                        }
                    }
                }
            }
        }
        None
    }

    /// The close with the funding it spends, which may not be mined.
    fn beef_of(&self, live: &Mutex<Live>, close: &Transaction) -> Vec<u8> {
        let funding = lock(live).record.funding.clone();
        let made = Beef::parse(&funding, &BeefLimits::default()).and_then(|mut beef| {
            let txid = beef.add(close.clone(), None)?;
            beef.to_atomic(&txid)
        });
        made.unwrap_or_else(|error| {
            tracing::error!(%error, "a close does not fit its funding");
            Vec::new()
        })
    }

    /// Until cancelled: follows the chain for all channels, and closes those whose time has come.
    pub async fn run(self, cancel: CancellationToken) {
        let mut tips = self.inner.parts.chain.tip_watch();
        loop {
            if cancel.run_until_cancelled(self.look()).await.is_none() {
                return;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = tips.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Asks the chain about all channels once.
    pub async fn look(&self) {
        let all: Vec<Arc<Mutex<Live>>> = lock(&self.inner.live).values().cloned().collect();
        for some in all.chunks(ASK_AT_ONCE) {
            let outpoints: Vec<OutPoint> = some.iter().map(|live| lock(live).record.outpoint).collect();
            let txids: Vec<_> = outpoints.iter().map(|outpoint| outpoint.txid).collect();
            let chain = &self.inner.parts.chain;
            let (spent, funded) = match (chain.spent(&outpoints).await, chain.proofs(&txids).await) {
                (Ok(spent), Ok(funded)) => (spent, funded),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::debug!(%error, "the chain could not be asked about channels");
                    continue;
                }
            };
            for live in some {
                let outpoint = lock(live).record.outpoint;
                let spent = spent.iter().find(|(of, _)| *of == outpoint).map(|(_, by)| by);
                let funded = funded.iter().find(|(of, _)| *of == outpoint.txid).map(|(_, standing)| standing);
                self.look_at(live, spent, funded).await;
            }
        }
    }

    async fn look_at(&self, live: &Arc<Mutex<Live>>, spent: Option<&SpentBy>, funded: Option<&TxStanding>) {
        let (state, mined) = {
            let live = lock(live);
            (live.record.state.clone(), live.record.mined)
        };
        let spender = match spent {
            Some(SpentBy::Transaction { tx, mined: Some(path) }) => Some((tx.clone(), path.clone())),
            _ => None,
        };
        if let SellerChannelState::Closed { txid, .. } = state
            && spender.as_ref().is_none_or(|(tx, _)| tx.txid() != txid)
            && !self.still_mined(&txid).await
        {
            self.take(live, SellerChannelEvent::Unspent, None).await;
        }
        let height = match funded {
            Some(TxStanding::Mined(path)) => Some(path.block_height()),
            // Nobody's word takes a block away: our headers do.
            _ => mined.filter(|_| spender.is_some()),
        };
        if height != mined
            && (height.is_some() || matches!(funded, Some(TxStanding::Mempool | TxStanding::Unknown)))
        {
            self.take(live, SellerChannelEvent::Mined(height), None).await;
        }
        if let Some((tx, path)) = spender {
            let height = path.block_height();
            let event = SellerChannelEvent::Spent { transaction: Box::new(tx), height };
            self.take(live, event, Some(path)).await;
        }
        let tip = self.tip();
        self.take(live, SellerChannelEvent::Tip(tip), None).await;
    }

    async fn still_mined(&self, txid: &sensora_chain::Txid) -> bool {
        match self.inner.parts.chain.proofs(&[*txid]).await {
            Ok(found) => found.iter().any(|(_, standing)| matches!(standing, TxStanding::Mined(_))),
            // Not to be told is no reason to believe the opposite.
            Err(_) => true,
        }
    }
}
