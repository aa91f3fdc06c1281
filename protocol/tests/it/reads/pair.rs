//! A buyer and a seller of single readings with disks that are slow, a network between them that may break, and processes that may crash.

use std::collections::{BTreeMap, VecDeque};

use sensora_chain::contract::channel::{Channel, Voucher};
use sensora_chain::{Satoshis, keys::Signature};
use sensora_protocol::Signed;
use sensora_protocol::market::channel::earning::Earning;
use sensora_protocol::market::channel::spending::{
    Claim, Reservation, Spending, SpendingError, SpendingRecord,
};
use sensora_protocol::market::delivery::frame::{Begin, OrderVoucher, ToBuyer as Frame};
use sensora_protocol::market::delivery::receive::{ChannelPurchase, ChannelPurchaseState};
use sensora_protocol::market::delivery::supply::{
    ChannelSale, ChannelSaleState, ChannelView, SupplyAdmission,
};
use sensora_protocol::market::delivery::terms::{Offered, Terms};
use sensora_protocol::market::exposure::{Interval, Stakes};
use sensora_protocol::market::price::Price;
use sensora_protocol::market::reads::ask::{Ask, AskAction, AskError, AskEvent, Got, Piece, Want};
use sensora_protocol::market::reads::asked::{Asked, AskedRun};
use sensora_protocol::market::reads::frame::{Cursor, Row, Signing, ToBuyer, ToSeller};
use sensora_protocol::market::reads::offer::ReadsOffer;
use sensora_protocol::market::reads::serve::{Question, Serve, ServeAction, ServeError, ServeEvent, What};
use sensora_protocol::market::receipt::ChannelReceipt;
use sensora_protocol::market::refusal::Refusal;
use sensora_protocol::stream::Nodes;

use crate::delivery::pair::{channel_id, funded};
use crate::world::{NETWORK, World, sat};

pub(crate) const READINGS: u64 = 200;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) buyer_limit: u64,
    pub(crate) seller_limit: u64,
    pub(crate) msat: u64,
    pub(crate) budget: u64,
    /// Readings in the beginning.
    pub(crate) size: u64,
    /// Whether [`Pair::act`] brings the channel to its end, too.
    pub(crate) endings: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { buyer_limit: 8, seller_limit: 8, msat: 1_500, budget: 300, size: 100, endings: false }
    }
}

#[derive(Clone)]
struct BuyerDisk {
    purchase: ChannelPurchase,
    spending: SpendingRecord,
    kept: Vec<u64>,
}

#[derive(Clone)]
struct SellerDisk {
    sale: Option<ChannelSale>,
    asked: Vec<AskedRun>,
    earning: Earning,
}

/// What the seller stores at once.
struct SellerStep {
    sale: ChannelSale,
    asked: Vec<AskedRun>,
    voucher: Option<OrderVoucher>,
    ends: Option<Satoshis>,
}

pub(crate) enum Up {
    Begin(Box<Begin>),
    Frame(ToSeller),
}

pub(crate) struct Pair {
    setup: Setup,
    pub(crate) world: World,
    terms: Terms,
    price: Price,
    channel: Channel,
    pub(crate) size: u64,
    buyer_disk: BuyerDisk,
    seller_disk: SellerDisk,
    spending: Spending,
    reservation: Option<Reservation>,
    pub(crate) ask: Ask,
    buyer_stakes: Stakes,
    serve: Option<Serve>,
    /// Where the seller's side of the stream is.
    numbers: Cursor,
    times: Cursor,
    seller_stakes: Stakes,
    earning: Earning,
    connected: bool,
    /// What is on its way to a disk.
    keeping: Option<Box<Piece>>,
    storing: Option<SellerStep>,
    /// The voucher that the seller's next stored step books.
    pending: Option<OrderVoucher>,
    /// No voucher is taken any more; with what its seller had then.
    closed: bool,
    at_close: Option<Satoshis>,
    pub(crate) to_seller: VecDeque<Up>,
    pub(crate) to_buyer: VecDeque<ToBuyer>,
    pub(crate) errors: Vec<AskError>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) got: BTreeMap<Want, Vec<Got>>,
    pub(crate) vouchers: u64,
    pub(crate) stores: u64,
    pub(crate) pieces: u64,
    signed: Satoshis,
}

pub(crate) fn offer(world: &World, msat: u64) -> Signed<ReadsOffer> {
    let offer = ReadsOffer {
        stream: world.stream.id,
        name: world.stream.name.clone(),
        schema: world.stream.schema.clone(),
        buyer: *world.buyer.public(),
        price: Price::from_msat(msat).unwrap(),
        licence: "CC-BY-4.0".into(),
        nonce: [8; 16],
        issued_ms: world.now_ms,
        expires_ms: world.now_ms + 600_000,
    };
    Signed::sign(offer, &world.seller, NETWORK).unwrap()
}

fn interval(limit: u64, price: Price) -> Interval {
    let unit = price.due(1).unwrap();
    Interval::new(sat(1), sat(limit), unit).unwrap_or(Interval::none())
}

impl Pair {
    pub(crate) fn new(setup: Setup) -> Self {
        let world = World::new(READINGS.max(setup.size));
        let offer = offer(&world, setup.msat);
        let accepted =
            ReadsOffer::accept(&offer, NETWORK, world.buyer.public(), world.stream.id, None, world.now_ms);
        assert_eq!(accepted, Ok(()));
        let (purchase, terms) = ChannelPurchase::agree(
            Offered::Reads(offer.into_bytes()),
            world.seller.public(),
            channel_id(),
            sat(setup.budget),
            [5; 16],
            &world.buyer,
            NETWORK,
            world.now_ms,
        )
        .unwrap();
        let channel = funded(&world);
        let earning = Earning::new(channel.capacity());
        let spending = Spending::new(SpendingRecord::new(channel.capacity()));
        let mut stored = spending.record();
        let reservation = spending
            .reserve(purchase.id, purchase.budget, |record| {
                stored = record.clone();
                Ok::<_, SpendingError>(())
            })
            .unwrap();
        let price = terms.tariff.price();
        let ask = Ask::new(purchase.clone(), terms.clone(), interval(setup.buyer_limit, price));
        Self {
            size: setup.size,
            buyer_disk: BuyerDisk { purchase, spending: stored, kept: Vec::new() },
            seller_disk: SellerDisk { sale: None, asked: Vec::new(), earning: earning.clone() },
            spending,
            reservation: Some(reservation),
            ask,
            buyer_stakes: Stakes::new(sat(setup.buyer_limit)),
            serve: None,
            numbers: Cursor::default(),
            times: Cursor::default(),
            seller_stakes: Stakes::new(sat(setup.seller_limit)),
            earning,
            connected: false,
            keeping: None,
            storing: None,
            pending: None,
            closed: false,
            at_close: None,
            to_seller: VecDeque::new(),
            to_buyer: VecDeque::new(),
            errors: Vec::new(),
            refusals: Vec::new(),
            got: BTreeMap::new(),
            vouchers: 0,
            stores: 0,
            pieces: 0,
            signed: Satoshis::ZERO,
            setup,
            world,
            terms,
            price,
            channel,
        }
    }

    pub(crate) fn kept(&self) -> &[u64] {
        &self.buyer_disk.kept
    }

    pub(crate) fn due(&self, count: u64) -> Satoshis {
        self.price.due(count).unwrap()
    }

    pub(crate) fn signed(&self) -> Satoshis {
        self.signed
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(crate) fn start(&mut self) {
        if self.connected || self.buyer_disk.purchase.is_final() {
            return;
        }
        self.to_seller.clear();
        self.to_buyer.clear();
        self.connected = true;
        if self.reservation.is_none() {
            let order = self.buyer_disk.purchase.id;
            let mut record = self.buyer_disk.spending.clone();
            let claim = Claim { order, paid: self.claim(), due: self.due(self.buyer_disk.purchase.next) };
            let booked = self.earning.paid().unwrap();
            let limit = sat(self.setup.buyer_limit);
            record.learn(self.earning.highest, booked, &[claim], limit, false).unwrap();
            self.spending = Spending::new(record.clone());
            self.buyer_disk.spending = record;
            self.reservation = self.spending.take_up(order);
        }
        let begin = self.ask.start();
        self.follow_buyer(vec![begin]);
    }

    fn claim(&self) -> Satoshis {
        match self.seller_disk.sale.as_ref().map(|sale| &sale.state) {
            Some(ChannelSaleState::Ended { receipt }) => {
                receipt.clone().verify::<ChannelReceipt>(NETWORK).unwrap().value().paid
            }
            _ => self.earning.paid_by(&self.buyer_disk.purchase.id),
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.to_seller.clear();
        self.to_buyer.clear();
        self.ask.interrupted();
        // What was given to the disk is written, whoever is connected.
        self.leave();
    }

    /// The stream has ended at the seller.
    fn leave(&mut self) {
        self.store_completes();
        if let Some(sale) = self.serve.as_ref().filter(|serve| serve.is_to_be_left()).map(Serve::left) {
            let step = SellerStep { sale, ..self.step(None) };
            self.write(step);
        }
        (self.serve, self.storing, self.pending) = (None, None, None);
    }

    pub(crate) fn want(&mut self, want: Want) {
        self.buyer_event(AskEvent::Want(want));
        self.check();
    }

    pub(crate) fn stop(&mut self) {
        self.buyer_event(AskEvent::Stop);
    }

    pub(crate) fn rest(&mut self) {
        self.buyer_event(AskEvent::Rest);
        self.seller_event(ServeEvent::Rest);
    }

    pub(crate) fn buyer_event(&mut self, event: AskEvent) {
        let Some(reservation) = self.reservation.as_mut() else { return };
        match self.ask.handle(event, reservation, &mut self.buyer_stakes, NETWORK) {
            Ok(actions) => self.follow_buyer(actions),
            Err(error) => {
                self.errors.push(error);
                self.disconnect();
            }
        }
    }

    fn follow_buyer(&mut self, actions: Vec<AskAction>) {
        for action in actions {
            match action {
                AskAction::Keep(piece) => {
                    assert!(self.keeping.is_none(), "one piece at a time");
                    self.pieces += 1;
                    self.keeping = Some(piece);
                }
                AskAction::Store => self.buyer_disk.purchase = self.ask.purchase().clone(),
                AskAction::Voucher { paid, amount } => {
                    self.vouchers += 1;
                    self.signed = self.signed.max(paid);
                    let signature =
                        self.channel.sign_voucher(amount, self.world.buyer.key()).unwrap().signature;
                    let voucher = OrderVoucher { paid, amount, signature };
                    self.to_seller.push_back(Up::Frame(ToSeller::Voucher(voucher)));
                }
                AskAction::Begin(begin) => self.to_seller.push_back(Up::Begin(begin)),
                AskAction::Send(frame) => self.to_seller.push_back(Up::Frame(frame)),
                AskAction::Got(want, got) => {
                    if let Got::Reading(reading) = &got {
                        assert_eq!(reading, &self.world.stream.readings[reading.seq as usize]);
                    }
                    self.got.entry(want).or_default().push(got);
                }
                AskAction::End(paid) => {
                    self.buyer_disk.purchase = self.ask.purchase().clone();
                    if let Some(reservation) = self.reservation.take() {
                        reservation.end(paid).unwrap();
                    }
                    self.buyer_disk.spending = self.spending.record();
                }
            }
        }
    }

    pub(crate) fn keep_completes(&mut self) -> bool {
        let Some(piece) = self.keeping.take() else { return false };
        let state = self.buyer_disk.purchase.state.clone();
        self.buyer_disk.kept.extend(piece.readings.iter().map(|(reading, _)| reading.seq));
        self.buyer_disk.purchase = ChannelPurchase { state, ..piece.purchase };
        self.buyer_event(AskEvent::Kept);
        true
    }

    pub(crate) fn deliver_to_seller(&mut self) -> bool {
        let Some(up) = self.to_seller.pop_front() else { return false };
        match up {
            Up::Begin(begin) => self.begin(&begin),
            Up::Frame(frame) => {
                let frame = ToSeller::from_bytes(&frame.to_bytes().unwrap()).unwrap();
                self.at_seller(frame);
            }
        }
        self.check();
        true
    }

    pub(crate) fn deliver_to_buyer(&mut self) -> bool {
        let Some(frame) = self.to_buyer.pop_front() else { return false };
        let frame = ToBuyer::from_bytes(&frame.to_bytes().unwrap()).unwrap();
        self.buyer_event(AskEvent::Frame(Box::new(frame)));
        self.check();
        true
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusals.push(refusal.clone());
        self.to_buyer.push_back(ToBuyer::Order(Frame::Refused(refusal)));
        self.leave();
    }

    fn begin(&mut self, begin: &Begin) {
        (self.numbers, self.times) = (Cursor::default(), Cursor::default());
        let view = ChannelView {
            id: channel_id(),
            buyer: *self.world.buyer.public(),
            free: self.earning.capacity.saturating_sub(self.earning.highest),
        };
        let admission = SupplyAdmission {
            seller: &self.world.seller,
            network: NETWORK,
            peer: self.world.buyer.public(),
            channel: view,
            now_ms: self.world.now_ms,
        };
        let admitted = match self.seller_disk.sale.clone() {
            Some(sale) => sale.go_on(begin, NETWORK, &self.world.seller).map(|terms| (sale, terms)),
            None => ChannelSale::admit(begin, &admission),
        };
        let sale = match admitted {
            Ok((sale, _)) => sale,
            Err(refusal) => return self.refuse(refusal),
        };
        let ended = sale.receipt(NETWORK).map(|receipt| receipt.paid);
        let paid = ended.unwrap_or_else(|| self.earning.paid_by(&sale.order));
        let asked = Asked::from_runs(&self.seller_disk.asked);
        let interval = interval(self.setup.seller_limit, self.price);
        match Serve::new(sale, self.terms.clone(), interval, paid, begin, asked) {
            Ok(serve) => self.serve = Some(serve),
            Err(refusal) => return self.refuse(refusal),
        }
        let (now, serve) = (self.world.now_ms, self.serve.as_mut().unwrap());
        let actions = serve.start(&mut self.seller_stakes, &self.world.seller, NETWORK, now);
        self.follow_seller(actions.unwrap());
    }

    fn at_seller(&mut self, frame: ToSeller) {
        if self.serve.is_none() {
            return;
        }
        match Question::of(&frame, self.size, &mut self.numbers) {
            Ok(Some(question)) => return self.seller_event(ServeEvent::Asked(question)),
            Err(refusal) => return self.refuse(refusal),
            Ok(None) => {}
        }
        match frame {
            ToSeller::Voucher(voucher) => {
                let Some(order) = self.serve.as_ref().map(|serve| serve.sale().order) else { return };
                if self.serve.as_ref().is_some_and(Serve::is_ended) {
                    return;
                }
                let signed = Voucher { paid: voucher.amount, signature: voucher.signature };
                self.channel.verify_voucher(&signed).unwrap();
                if self.closed {
                    return self.refuse(Refusal::ChannelClosed { channel: channel_id() });
                }
                let mut earning = self.earning.clone();
                earning.begin(order).unwrap();
                match earning.with(&order, voucher.paid, voucher.amount) {
                    Ok(_) => {
                        self.pending = Some(voucher);
                        self.seller_event(ServeEvent::Paid(voucher.paid));
                    }
                    Err(error) => self.refuse(Refusal::VoucherInvalid { reason: error.to_string() }),
                }
            }
            ToSeller::Stop => self.seller_event(ServeEvent::Stop),
            _ => {}
        }
    }

    pub(crate) fn seller_event(&mut self, event: ServeEvent) {
        let Some(serve) = self.serve.as_mut() else { return };
        let now = self.world.now_ms;
        match serve.handle(event, &mut self.seller_stakes, &self.world.seller, NETWORK, now) {
            Ok(actions) => self.follow_seller(actions),
            Err(ServeError::Refused(refusal)) => self.refuse(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    fn step(&mut self, ends: Option<Satoshis>) -> SellerStep {
        let serve = self.serve.as_ref().unwrap();
        let (sale, asked) = (serve.sale().clone(), serve.asked().runs().to_vec());
        SellerStep { sale, asked, voucher: self.pending.take(), ends }
    }

    fn write(&mut self, step: SellerStep) {
        self.stores += 1;
        let SellerStep { sale, asked, voucher, ends } = step;
        self.earning.begin(sale.order).unwrap();
        if let Some(voucher) = voucher {
            self.earning = self.earning.with(&sale.order, voucher.paid, voucher.amount).unwrap();
        }
        if let Some(paid) = ends {
            assert_eq!(self.earning.end(&sale.order, paid), Ok(paid));
        }
        self.seller_disk = SellerDisk { sale: Some(sale), asked, earning: self.earning.clone() };
    }

    pub(crate) fn store_completes(&mut self) -> bool {
        let Some(step) = self.storing.take() else { return false };
        self.write(step);
        self.seller_event(ServeEvent::Stored);
        true
    }

    fn follow_seller(&mut self, actions: Vec<ServeAction>) {
        for action in actions {
            match action {
                ServeAction::Store => {
                    assert!(self.storing.is_none(), "one at a time");
                    self.storing = Some(self.step(None));
                }
                ServeAction::Frame(frame) => self.to_buyer.push_back(frame),
                ServeAction::Answer(question) => {
                    let answer = self.answer(question);
                    self.to_buyer.push_back(answer);
                }
                ServeAction::End(paid) => {
                    assert!(self.storing.is_none(), "the last step comes last");
                    let step = self.step(Some(paid));
                    self.write(step);
                }
            }
        }
    }

    fn row(&mut self, seq: u64, hashes: Vec<sensora_protocol::Hash>) -> Row {
        let reading = self.world.stream.readings[seq as usize].clone();
        let salt = self.world.stream.secret.chunk(seq / 1024).salt(seq);
        Row { step: self.times.step_to(reading.time.cast_unsigned()), values: reading.values, salt, hashes }
    }

    fn signing(&self, size: u64) -> Signing {
        let signed = self.world.stream.checkpoint(&self.world.seller, size);
        let signature = Signature::from_compact(&signed.bytes().signature).unwrap();
        Signing { size, issued_ms: signed.value().issued_ms, signature }
    }

    fn answer(&mut self, Question { id, what }: Question) -> ToBuyer {
        let size = match what {
            What::Newest { seq, .. } => seq + 1,
            _ => self.size,
        };
        let log = &self.world.stream.log;
        let hashes = what.hashes(size).iter().map(|at| log.node(at.level, at.index).unwrap()).collect();
        match what {
            What::Reading { seq, .. } => ToBuyer::Row { id, row: self.row(seq, hashes) },
            What::Newest { seq, .. } => {
                ToBuyer::Newest { id, signing: self.signing(size), row: self.row(seq, hashes) }
            }
            What::Same => ToBuyer::Same { id },
            What::Grow { .. } => ToBuyer::Grown { id, signing: self.signing(size), hashes },
        }
    }

    /// One action, chosen by a byte.
    pub(crate) fn act(&mut self, byte: u8) {
        crate::world::count_action();
        let pick = u64::from(byte / 20);
        match byte % 20 {
            0..=3 => drop(self.deliver_to_seller()),
            4..=7 => drop(self.deliver_to_buyer()),
            8 | 9 => self.start(),
            10 => self.disconnect(),
            11 => self.buyer_crashes(),
            12 => self.seller_crashes(),
            13 => drop(self.store_completes()),
            14 => drop(self.keep_completes()),
            15 => self.want(Want::Seq(pick * 7)),
            16 => self.want(Want::Seq(self.kept().len() as u64 + pick)),
            17 => self.want(Want::Latest),
            18 => self.size = (self.size + pick).min(READINGS),
            _ if pick % 3 == 0 => self.seller_event(ServeEvent::Idle),
            _ if self.setup.endings && pick == 1 => self.seller_event(ServeEvent::Closing),
            _ if self.setup.endings && pick == 4 => self.buyer_event(AskEvent::Closing),
            _ if self.setup.endings && pick == 7 => self.close(),
            _ => self.rest(),
        }
        self.check();
    }

    /// The channel is closed. Whoever has no stream ends what is stored.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        // What was given to the disk before is written all the same.
        let written = self.storing.as_ref().and_then(|step| step.voucher).map(|voucher| voucher.amount);
        self.at_close.get_or_insert(self.earning.highest.max(written.unwrap_or_default()));
        (self.pending, self.setup.endings) = (None, true);
        if self.serve.is_some() {
            self.seller_event(ServeEvent::Closed);
        } else if let Some(mut sale) = self.seller_disk.sale.clone()
            && let Some(paid) = sale.leave(self.earning.paid_by(&sale.order))
        {
            let asked = self.seller_disk.asked.clone();
            let order = sale.order;
            self.write(SellerStep { sale, asked, voucher: None, ends: Some(paid) });
            self.seller_stakes.note(order, Satoshis::ZERO);
        }
        self.check();
    }

    /// Both hear of the end of the channel, and nothing is left open.
    pub(crate) fn come_to_an_end(&mut self) {
        self.seller_event(ServeEvent::Closing);
        self.buyer_event(AskEvent::Closing);
        self.settle();
        if !self.buyer_disk.purchase.is_final() || self.closed {
            self.close();
            while self.store_completes() || self.deliver_to_buyer() {}
            self.buyer_event(AskEvent::Closed);
            while self.keep_completes() {}
            if !self.buyer_disk.purchase.is_final() {
                // It has crashed, and nobody has begun a stream since.
                let paid = self.spending.record().lanes.values().next().copied().unwrap_or_default().paid;
                assert!(self.buyer_disk.purchase.channel_closed(&self.terms, paid).unwrap());
            }
        }
        assert!(self.buyer_disk.purchase.is_final(), "{:?}", self.buyer_disk.purchase.state);
        let sale = self.seller_disk.sale.clone();
        assert!(sale.as_ref().is_none_or(ChannelSale::is_final), "{sale:?}");
        assert_eq!(self.seller_stakes.open().amount(), Satoshis::ZERO);
        if let (ChannelPurchaseState::Ended { receipt, .. }, Some(sale)) =
            (&self.buyer_disk.purchase.state, sale)
        {
            assert_eq!(sale.state, ChannelSaleState::Ended { receipt: receipt.clone() });
            let paid = self.buyer_disk.purchase.next;
            assert_eq!((self.seller_disk.earning.ended, self.kept().len() as u64), (self.due(paid), paid));
        }
    }

    pub(crate) fn buyer_crashes(&mut self) {
        self.disconnect();
        self.keeping = None;
        if let Some(reservation) = self.reservation.take() {
            std::mem::forget(reservation);
        }
        self.buyer_stakes = Stakes::new(sat(self.setup.buyer_limit));
        let interval = interval(self.setup.buyer_limit, self.price);
        self.ask = Ask::new(self.buyer_disk.purchase.clone(), self.terms.clone(), interval).resumed();
    }

    pub(crate) fn seller_crashes(&mut self) {
        (self.serve, self.storing, self.pending) = (None, None, None);
        self.disconnect();
        self.earning = self.seller_disk.earning.clone();
        self.seller_stakes = Stakes::new(sat(self.setup.seller_limit));
        if let Some(sale) = &self.seller_disk.sale {
            self.seller_stakes.note(sale.order, sale.open(self.earning.paid_by(&sale.order)));
        }
    }

    /// Network and disks work, until nothing more happens.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            self.start();
            for _ in 0..20_000 {
                let moved = self.deliver_to_seller()
                    || self.deliver_to_buyer()
                    || self.store_completes()
                    || self.keep_completes();
                if !moved {
                    break;
                }
            }
            self.rest();
            self.seller_event(ServeEvent::Room);
            self.buyer_event(AskEvent::Room);
        }
    }

    /// The invariants.
    pub(crate) fn check(&self) {
        // I1: signed for what is kept, and the exposure.
        let kept = self.due(self.buyer_disk.purchase.next);
        let most = kept.checked_add(sat(self.setup.buyer_limit)).unwrap();
        assert!(self.signed <= most, "signed {}, kept {kept}", self.signed);
        assert!(self.signed <= sat(self.setup.budget));
        // I2: answered within the grant on disk, which is within what the same disk says is paid, and the exposure.
        if let Some(sale) = &self.seller_disk.sale {
            let order = sale.order;
            let paid = self.seller_disk.earning.paid_by(&order);
            assert!(sale.open(paid) <= sat(self.setup.seller_limit), "open {}", sale.open(paid));
            if let Some(serve) = self.serve.as_ref().filter(|serve| !serve.is_ended()) {
                let answered = self.due(serve.asked().count());
                let covered = sale.granted.max(self.earning.paid_by(&order));
                assert!(answered <= covered, "answered {answered}, granted {covered}");
            }
        } else if let Some(serve) = &self.serve {
            assert_eq!(serve.asked().count(), 0, "nothing goes out before the sale is stored");
        }
        // I6: once its seller closes the channel, no voucher is taken any more.
        if let Some(highest) = self.at_close {
            assert!(self.earning.highest <= highest, "a voucher was taken after the close");
        }
        self.check_once();
        // I4, and that nobody has a voucher for more than there is.
        assert!(self.earning.highest <= self.channel.capacity());
        assert!(self.earning.paid().unwrap() <= self.earning.highest);
    }

    /// I3: nothing is kept twice. In a long order that is looked at only now and then.
    fn check_once(&self) {
        let len = self.kept().len() as u64;
        if len > READINGS && !len.is_multiple_of(READINGS) {
            return;
        }
        let mut kept = self.kept().to_vec();
        kept.sort_unstable();
        kept.dedup();
        assert_eq!(kept.len(), self.kept().len(), "a reading was paid twice: {:?}", self.kept());
    }

    /// Both have the order as ended, the receipt says what is true, and each reading was charged once.
    pub(crate) fn check_ended(&self) {
        let purchase = &self.buyer_disk.purchase;
        let sale = self.seller_disk.sale.as_ref().unwrap();
        let ChannelPurchaseState::Ended { receipt, .. } = &purchase.state else {
            panic!("{:?}\n{:?}\n{:?}\n{:?}", purchase, sale.state, self.errors, self.refusals)
        };
        assert_eq!(sale.state, ChannelSaleState::Ended { receipt: receipt.clone() });
        let receipt =
            receipt.clone().verify_by::<ChannelReceipt>(NETWORK, self.world.seller.public()).unwrap();
        let ChannelReceipt { count, paid, .. } = *receipt.value();
        assert_eq!(count, purchase.next);
        assert_eq!(paid, self.due(count), "what was paid ahead is not charged");
        assert_eq!(count, self.kept().len() as u64, "what is paid is kept");
        let (spending, earning) = (&self.buyer_disk.spending, &self.seller_disk.earning);
        assert_eq!((paid, paid), (spending.ended, earning.ended));
        assert!(spending.lanes.is_empty() && earning.lanes.is_empty());
        assert_eq!(self.buyer_stakes.open().amount(), Satoshis::ZERO);
        assert_eq!(self.seller_stakes.open().amount(), Satoshis::ZERO);
    }
}
