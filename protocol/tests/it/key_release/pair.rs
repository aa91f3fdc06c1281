//! A buyer and a seller with one order of a batch, and a network, disks and a chain between them that do as they are told.

use std::collections::{HashMap, HashSet, VecDeque};

use sensora_chain::beef::Beef;
use sensora_chain::contract::payment::pay_to_hash;
use sensora_chain::header::HeaderView;
use sensora_chain::{FeeRate, OutPoint, Satoshis, Script, Transaction, TxOut, Txid};
use sensora_protocol::market::key_release::buy::{
    BatchPurchase, BatchPurchaseState, BuyAction, BuyError, BuyEvent, BuyerAt,
};
use sensora_protocol::market::key_release::coin::{Coin, CoinView, Standing};
use sensora_protocol::market::key_release::frame::{ToBuyer, ToSeller};
use sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof;
use sensora_protocol::market::key_release::parts::ProvenPart;
use sensora_protocol::market::key_release::sell::{
    BatchSale, BatchSaleState, CoinVerdict, SellAction, SellerAt,
};
use sensora_protocol::market::purchase::SignedPayment;
use sensora_protocol::market::refusal::Refusal;

use super::chain::{Headers, Model};
use super::goods::{END, FIRST, Goods, LOCK};
use crate::world::{NETWORK, beef, sat};

/// Confirmations that the seller waits for, and after which a spend is taken for final. The model replaces one block less at most: what is in the seventh
/// block from the tip stays.
pub(crate) const CONFIRMATIONS: u32 = 7;
const RATE: FeeRate = FeeRate::DEFAULT;

/// What the buyer has on disk.
#[derive(Clone)]
struct BuyerDisk {
    purchase: BatchPurchase,
    parts: HashMap<u32, ProvenPart>,
    /// Sequence number after the last reading that is kept.
    kept: u64,
}

pub(crate) struct Pair<'a> {
    pub(crate) goods: &'a Goods,
    pub(crate) chain: Model,
    buyer: BatchPurchase,
    disk: BuyerDisk,
    seller: Option<BatchSale>,
    seller_disk: Option<BatchSale>,
    connected: bool,
    /// The seller's way to the chain is gone.
    pub(crate) offline: bool,
    pub(crate) to_seller: VecDeque<ToSeller>,
    pub(crate) to_buyer: VecDeque<ToBuyer>,
    /// The next change is stored, and then the power fails.
    buyer_fails: bool,
    seller_fails: bool,
    lock: Option<(Script, Satoshis)>,
    take_back: bool,
    pub(crate) errors: Vec<BuyError>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) proofs: Vec<MisbehaviourProof>,
    coins: HashSet<Txid>,
    claims: HashSet<Txid>,
    credits: HashMap<Txid, Satoshis>,
    refund_credits: HashMap<Txid, Satoshis>,
    /// The buyer has spent its coin's input elsewhere, beside its state machine.
    pub(crate) has_double_spent: bool,
    /// Blocks that came since the seller last had an eye on the chain with its key shown, and the most of them.
    unwatched: usize,
    pub(crate) most_unwatched: usize,
    shown_checked: bool,
    /// The seller has lost its record to an old backup: then it may lose one sale (I5).
    seller_restored: bool,
    has_lost_parts: bool,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(goods: &'a Goods) -> Self {
        let world = &goods.world;
        let buyer = BatchPurchase::agree(&goods.offer, [5; 16], &world.buyer, NETWORK, world.now_ms).unwrap();
        Self {
            goods,
            chain: Model::new(world.chain.headers.tip_height(), goods.funds.transaction.clone()),
            disk: BuyerDisk { purchase: buyer.clone(), parts: HashMap::new(), kept: FIRST },
            buyer,
            seller: None,
            seller_disk: None,
            connected: false,
            offline: false,
            to_seller: VecDeque::new(),
            to_buyer: VecDeque::new(),
            buyer_fails: false,
            seller_fails: false,
            lock: None,
            take_back: false,
            errors: Vec::new(),
            refusals: Vec::new(),
            proofs: Vec::new(),
            coins: HashSet::new(),
            claims: HashSet::new(),
            credits: HashMap::new(),
            refund_credits: HashMap::new(),
            has_double_spent: false,
            unwatched: 0,
            most_unwatched: 0,
            shown_checked: false,
            seller_restored: false,
            has_lost_parts: false,
        }
    }

    fn buyer_at(&self) -> BuyerAt<'a> {
        BuyerAt { buyer: &self.goods.world.buyer, network: NETWORK, rate: RATE }
    }

    fn seller_at(&self) -> SellerAt<'a> {
        let world = &self.goods.world;
        SellerAt {
            seller: &world.seller,
            secret: &self.goods.secret,
            network: NETWORK,
            rate: RATE,
            confirmations: CONFIRMATIONS,
            now_ms: world.now_ms,
        }
    }

    pub(crate) fn purchase(&self) -> &BatchPurchase {
        &self.buyer
    }

    pub(crate) fn sale(&self) -> Option<&BatchSale> {
        self.seller.as_ref()
    }

    /// Readings that the buyer has, in the clear and verified.
    pub(crate) fn kept(&self) -> u64 {
        self.disk.kept - FIRST
    }

    // The buyer.

    pub(crate) fn buyer_event(&mut self, event: BuyEvent) {
        let at = self.buyer_at();
        match self.buyer.handle(event, &self.goods.terms, &at) {
            Ok(actions) => self.follow_buyer(actions),
            Err(error) => {
                self.errors.push(error);
                self.disconnect();
            }
        }
    }

    fn follow_buyer(&mut self, actions: Vec<BuyAction>) {
        // One stored step, and then what reaches outside.
        let mut credit = None;
        for action in &actions {
            match action {
                BuyAction::KeepPart(part) => drop(self.disk.parts.insert(part.part.index, (**part).clone())),
                BuyAction::Keep(page) => {
                    assert_eq!(page.readings.first().unwrap().seq, self.disk.kept, "in order, each once");
                    let stream = &self.goods.world.stream;
                    assert_eq!(page.readings, stream.slice(self.disk.kept, page.end()), "what was sold");
                    self.disk.kept = page.end();
                }
                BuyAction::Accuse(proof) => self.proofs.push((**proof).clone()),
                BuyAction::Credit { transaction, .. } => credit = Some(transaction.clone()),
                _ => {}
            }
        }
        if let Some(refund) = credit {
            let before = self.refund_credits.insert(refund.txid(), refund.outputs[0].value);
            assert!(before.is_none(), "told the wallet twice");
        }
        self.disk.purchase = self.buyer.clone();
        if std::mem::take(&mut self.buyer_fails) {
            return self.restart_buyer();
        }
        for action in actions {
            self.do_buyer(action);
        }
    }

    fn do_buyer(&mut self, action: BuyAction) {
        match action {
            BuyAction::Send(frame) if self.connected => self.to_seller.push_back(frame),
            BuyAction::Lock { locking, value } => {
                assert!(self.buyer.arrivals.is_complete(&self.goods.terms), "paid for what is not here");
                self.lock = Some((locking, value));
            }
            BuyAction::TakeBack(_) => self.take_back = true,
            BuyAction::Broadcast(beef) => drop(self.chain.submit(&subject(&beef))),
            BuyAction::Refund(refund) => {
                let cheated = matches!(self.buyer.state, BatchPurchaseState::Cheated { .. });
                assert!(self.buyer.key.is_none() || cheated, "taken back with the key in hand");
                let _ = self.chain.submit(&Transaction::from_bytes(&refund).unwrap());
            }
            BuyAction::Open(index) => {
                let part = self.disk.parts.get(&index).cloned().map(Box::new);
                self.buyer_event(BuyEvent::Stored(part));
            }
            _ => {}
        }
    }

    /// The wallet builds the coin. It has one, and knows for which order it is.
    pub(crate) fn pay(&mut self) {
        let Some((locking, value)) = self.lock.take() else { return };
        let world = &self.goods.world;
        let funds = &self.goods.funds;
        let left = funds.transaction.outputs[0].value.as_u64() - value.as_u64() - 60;
        let back = pay_to_hash(&world.buyer.public().hash160(), sat(left));
        let tx = world.spend(funds, vec![back, TxOut { value, locking }]);
        self.coins.insert(tx.txid());
        let payment = SignedPayment { txid: tx.txid(), beef: beef(funds, &tx) };
        self.buyer_event(BuyEvent::Paid(payment));
    }

    /// The transaction that takes the coin's input back.
    fn conflict(&self) -> Transaction {
        let world = &self.goods.world;
        let back = pay_to_hash(&world.buyer.public().hash160(), sat(99_900));
        world.spend(&self.goods.funds, vec![back])
    }

    pub(crate) fn take_back(&mut self) {
        if std::mem::take(&mut self.take_back) {
            let taken = self.chain.submit(&self.conflict()).is_ok();
            self.buyer_event(if taken { BuyEvent::TakenBack } else { BuyEvent::NotTakenBack });
        }
    }

    pub(crate) fn double_spend(&mut self) {
        self.has_double_spent |= self.chain.submit(&self.conflict()).is_ok();
    }

    pub(crate) fn buyer_looks(&mut self) {
        let view = self.look(self.buyer.coin.as_ref());
        self.buyer_event(BuyEvent::View(Box::new(view)));
    }

    fn look(&self, coin: Option<&Coin>) -> CoinView {
        let nothing = CoinView { tip: self.chain.tip(), coin: Standing::Unknown, spend: None };
        coin.map_or(nothing, |coin| self.chain.view(coin))
    }

    pub(crate) fn restart_buyer(&mut self) {
        self.disconnect();
        (self.lock, self.take_back) = (None, false);
        self.buyer = self.disk.purchase.clone();
        for action in self.buyer.resume() {
            self.do_buyer(action);
        }
    }

    /// The buyer's disk comes back as it was before it paid.
    pub(crate) fn restore_buyer(&mut self) {
        self.disconnect();
        self.disk.purchase.coin = None;
        self.disk.purchase.taken = false;
        self.disk.purchase.state = BatchPurchaseState::Received;
        self.restart_buyer();
    }

    pub(crate) fn lose(&mut self, index: u32) {
        self.has_lost_parts = true;
        self.disk.parts.remove(&index);
    }

    pub(crate) fn damage(&mut self, index: u32) {
        self.has_lost_parts = true;
        if let Some(part) = self.disk.parts.get_mut(&index) {
            part.part.bytes[0] ^= 1;
        }
    }

    // The network.

    pub(crate) fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            for action in self.buyer.resume() {
                self.do_buyer(action);
            }
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        self.to_seller.clear();
        self.to_buyer.clear();
    }

    pub(crate) fn deliver_to_seller(&mut self) -> bool {
        let Some(frame) = self.to_seller.pop_front() else { return false };
        let frame = ToSeller::from_bytes(&frame.to_bytes().unwrap()).unwrap();
        self.at_seller(frame);
        true
    }

    pub(crate) fn deliver_to_buyer(&mut self) -> bool {
        let Some(frame) = self.to_buyer.pop_front() else { return false };
        let frame = ToBuyer::from_bytes(&frame.to_bytes().unwrap()).unwrap();
        self.buyer_event(BuyEvent::Frame(Box::new(frame)));
        true
    }

    // The seller.

    fn at_seller(&mut self, frame: ToSeller) {
        let (at, terms) = (self.seller_at(), &self.goods.terms);
        match frame {
            ToSeller::Begin(begin) => {
                if self.seller.is_none() {
                    let peer = self.goods.world.buyer.public();
                    match BatchSale::admit(&begin, peer, self.chain.tip(), &at) {
                        Ok((sale, read)) => {
                            assert_eq!(&read, terms);
                            self.seller = Some(sale);
                        }
                        Err(refusal) => return self.refuse(refusal),
                    }
                }
                let actions = self.seller.as_ref().unwrap().begin(begin.next, terms);
                self.follow_seller(actions);
            }
            ToSeller::Lock(beef) => {
                let headers = Headers { real: &self.goods.world.chain.headers, tip: self.chain.tip() };
                let Some(sale) = self.seller.as_mut() else { return };
                match sale.lock(&beef, terms, &headers, &at) {
                    Ok(actions) => self.follow_seller(actions),
                    Err(refusal) => self.refuse(refusal),
                }
            }
            ToSeller::Quote { .. } | ToSeller::Alive => {}
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusals.push(refusal.clone());
        self.to_buyer.push_back(ToBuyer::Refused(refusal));
    }

    fn follow_seller(&mut self, actions: Vec<SellAction>) {
        for action in &actions {
            if let SellAction::Credit { transaction, .. } = action {
                let before = self.credits.insert(transaction.txid(), transaction.outputs[0].value);
                assert!(before.is_none(), "told the wallet twice");
            }
        }
        self.seller_disk = self.seller.clone();
        self.check_shown();
        if std::mem::take(&mut self.seller_fails) {
            return self.restart_seller();
        }
        for action in actions {
            self.do_seller(action);
        }
    }

    fn do_seller(&mut self, action: SellAction) {
        match action {
            SellAction::Frame(frame) => {
                if let ToBuyer::Refused(refusal) = &frame {
                    self.refusals.push(refusal.clone());
                }
                if self.connected {
                    self.to_buyer.push_back(frame);
                }
            }
            SellAction::SendParts(range) => {
                for index in range {
                    if self.connected {
                        let part = self.goods.parts[index as usize].clone();
                        self.to_buyer.push_back(ToBuyer::Parts(vec![part]));
                    }
                }
            }
            SellAction::Broadcast(beef) => {
                let coin = subject(&beef);
                let verdict = if self.offline {
                    CoinVerdict::Unavailable
                } else {
                    match self.chain.submit(&coin) {
                        Ok(()) => CoinVerdict::Accepted,
                        Err(double_spent) => CoinVerdict::Rejected { double_spent, reason: "no".into() },
                    }
                };
                if let Some(sale) = self.seller.as_mut() {
                    let actions = sale.verdict(&coin.txid(), verdict);
                    self.follow_seller(actions);
                }
            }
            SellAction::Claim(claim) => {
                let claim = Transaction::from_bytes(&claim).unwrap();
                self.claims.insert(claim.txid());
                if !self.offline {
                    let _ = self.chain.submit(&claim);
                }
            }
            SellAction::Forget => (self.seller, self.seller_disk) = (None, None),
            SellAction::Credit { .. } => {}
        }
    }

    pub(crate) fn seller_looks(&mut self) {
        if self.offline {
            return;
        }
        let at = self.seller_at();
        let Some(sale) = self.seller.as_ref() else { return };
        let view = self.look(sale.coin());
        let Some(sale) = self.seller.as_mut() else { return };
        let actions = sale.view(&view, &self.goods.terms, &at).unwrap();
        self.unwatched = 0;
        self.follow_seller(actions);
    }

    pub(crate) fn restart_seller(&mut self) {
        self.disconnect();
        self.seller = self.seller_disk.clone();
        if let Some(action) = self.seller.as_ref().and_then(BatchSale::resume) {
            self.do_seller(action);
        }
    }

    /// The seller's disk comes back as it was before any order.
    pub(crate) fn restore_seller(&mut self) {
        self.seller_disk = None;
        self.seller_restored = true;
        self.credits.clear();
        self.restart_seller();
    }

    /// The key leaves the seller only with a coin that is firm, and in time.
    fn check_shown(&mut self) {
        let Some(sale) = self.seller.as_ref().filter(|sale| sale.state.is_shown()) else { return };
        if let (false, Some(coin)) = (std::mem::replace(&mut self.shown_checked, true), sale.coin()) {
            let view = self.chain.view(coin);
            let Standing::Mined(height) = view.coin else {
                panic!("shown for a coin that is {:?}", view.coin)
            };
            assert!(view.confirmations(Some(height)) >= CONFIRMATIONS);
            assert!(view.spend.is_some() || self.goods.terms.may_claim(view.tip));
        }
    }

    // The chain.

    pub(crate) fn mine(&mut self, with_pool: bool) {
        self.chain.mine(with_pool);
        self.note_blocks(1);
    }

    pub(crate) fn reorganise(&mut self, depth: usize, keep: bool) {
        self.chain.reorganise(depth, keep);
        self.note_blocks(1);
    }

    fn note_blocks(&mut self, count: usize) {
        if self.seller.as_ref().is_some_and(|sale| sale.state.is_shown()) {
            self.unwatched += count;
            self.most_unwatched = self.most_unwatched.max(self.unwatched);
        }
    }

    /// One action, chosen by a byte.
    pub(crate) fn act(&mut self, byte: u8) {
        crate::world::count_action();
        match byte % 64 {
            0..=11 => drop(self.deliver_to_seller()),
            12..=23 => drop(self.deliver_to_buyer()),
            24..=29 => self.connect(),
            30 => self.disconnect(),
            31 => self.to_seller.extend(self.to_seller.front().cloned()),
            32 => self.to_buyer.extend(self.to_buyer.front().cloned()),
            33 => drop(self.to_buyer.pop_front()),
            34 => self.restart_buyer(),
            35 => self.restart_seller(),
            36 => self.buyer_fails = true,
            37 => self.seller_fails = true,
            38..=41 => self.pay(),
            42 => self.take_back(),
            43..=46 => self.buyer_looks(),
            47..=51 => self.seller_looks(),
            52..=55 => self.mine(true),
            56 => self.mine(false),
            57 => self.reorganise([1, 2, 4, 6][usize::from(byte / 64)], byte % 128 < 64),
            58 => self.offline = !self.offline,
            59 if byte < 192 => self.damage(u32::from(byte / 64)),
            59 => self.lose(0),
            60 => (0..usize::from(byte / 64 + 1) * 3).for_each(|_| self.mine(true)),
            61 if byte > 192 => self.buyer_event(BuyEvent::GiveUp),
            62 if byte > 192 => self.restore_seller(),
            63 if byte > 192 => (0..self.goods.terms.refund_height.get()).for_each(|_| {
                if !self.goods.terms.may_refund(self.chain.tip()) {
                    self.mine(true);
                }
            }),
            _ => {}
        }
        self.check();
    }

    /// Everything works, until nothing more happens.
    pub(crate) fn settle(&mut self) {
        self.offline = false;
        (self.buyer_fails, self.seller_fails) = (false, false);
        // The refund height and its confirmations, at most; and where all is over before, the confirmations of that.
        let (mut left, mut quiet) = (LOCK + 20, 10);
        while left > 0 && quiet > 0 {
            // A stream that stands still, for what was to come on it is lost, is begun anew.
            self.disconnect();
            self.quiet();
            self.mine(true);
            self.buyer_looks();
            self.seller_looks();
            self.check();
            left -= 1;
            quiet -= u32::from(self.buyer.state.is_final());
        }
    }

    /// Frames arrive, the wallet answers, and both look at the chain; no block comes.
    pub(crate) fn quiet(&mut self) {
        for _ in 0..2 {
            self.connect();
            while self.deliver_to_seller() || self.deliver_to_buyer() {}
            self.pay();
            self.take_back();
            while self.deliver_to_seller() || self.deliver_to_buyer() {}
            self.buyer_looks();
            self.seller_looks();
        }
    }

    /// The invariants that hold at every moment.
    pub(crate) fn check(&self) {
        assert!(self.coins.len() <= 1, "one order, one coin: {:?}", self.coins);
        if !self.coins.is_empty() {
            assert!(self.buyer.arrivals.is_complete(&self.goods.terms));
        }
        assert!(self.claims.len() <= 1);
        for proof in &self.proofs {
            proof.verify().unwrap();
        }
        if let Some(BatchSale { state: BatchSaleState::TakenBack { shown: true }, .. }) = &self.seller {
            // Only to a seller that was away for longer than the margin leaves time for.
            assert!(self.most_unwatched > 20 || self.seller_restored, "{}", self.most_unwatched);
        }
        self.check_final();
    }

    /// I6: what a key was shown for, and what either side takes for final, is so deep that no reorganisation of fewer blocks changes it.
    fn check_final(&self) {
        let is_deep = |view: &CoinView, height| view.confirmations(height) >= CONFIRMATIONS;
        if let Some(sale) = &self.seller {
            let coin = sale.coin().map(|coin| self.chain.view(coin));
            if let (true, Some(view)) = (sale.state.is_shown(), &coin) {
                let Standing::Mined(height) = view.coin else { panic!("shown for what is {:?}", view.coin) };
                assert!(is_deep(view, Some(height)), "{view:?}");
            }
            let (is_done, is_lost) = (
                matches!(sale.state, BatchSaleState::Done { .. }),
                matches!(sale.state, BatchSaleState::TakenBack { .. }),
            );
            let spend = self.final_spend();
            assert!(!is_done || spend.is_some_and(|txid| self.claims.contains(&txid)), "{:?}", sale.state);
            assert!(!is_lost || spend.is_some_and(|txid| !self.claims.contains(&txid)), "{:?}", sale.state);
        }
        if self.buyer.state == BatchPurchaseState::Refunded {
            let spend = self.final_spend();
            assert!(spend.is_some_and(|txid| self.refund_credits.contains_key(&txid)), "it may come back");
        }
    }

    /// What has spent the coin, so deep that it stays.
    fn final_spend(&self) -> Option<Txid> {
        let spend = self.chain.spender(OutPoint { txid: *self.coins.iter().next()?, vout: 1 })?;
        let Standing::Mined(height) = self.chain.standing(&spend.txid()) else { return None };
        (self.chain.tip() + 1 >= height + CONFIRMATIONS).then(|| spend.txid())
    }

    /// What the buyer's coin has become: nothing on the chain, still there, the seller's or back.
    pub(crate) fn outcome(&self) -> &'static str {
        let Some(txid) = self.coins.iter().next() else { return "none" };
        if self.chain.standing(txid) == Standing::Unknown {
            return "none";
        }
        match self.chain.spender(OutPoint { txid: *txid, vout: 1 }) {
            None => "locked",
            Some(spend) if self.claims.contains(&spend.txid()) => "paid",
            Some(_) => "back",
        }
    }

    /// What the seller's claim brought it with what its miner got, and what miners got in all, by the chain.
    pub(crate) fn settled(&self) -> (u64, u64) {
        let Some(txid) = self.coins.iter().next() else { return (0, 0) };
        let sum =
            |tx: &Transaction| Satoshis::sum(tx.outputs.iter().map(|output| output.value)).unwrap().as_u64();
        let funds = &self.goods.funds.transaction;
        let first = self.chain.spender(OutPoint { txid: funds.txid(), vout: 0 }).unwrap();
        let coin = OutPoint { txid: *txid, vout: 1 };
        let spend = self.chain.spender(coin);
        let value = first.outputs.get(1).map_or(0, |output| output.value.as_u64());
        let fee = spend.map_or(0, |spend| value - sum(spend));
        let paid = if self.outcome() == "paid" { value } else { 0 };
        (paid, sum(funds) - sum(first) + fee)
    }

    /// When all is over: nobody has lost more than it chose.
    pub(crate) fn check_over(&self, honest: bool) {
        let (state, outcome) = (self.buyer.state.name(), self.outcome());
        let seller_may_lose = self.most_unwatched > 20 || self.seller_restored;
        let shown = self.seller.as_ref().is_some_and(|sale| sale.state.is_shown());
        let story = format!(
            "{state}, {outcome}, {:?}, {:?}",
            self.seller.as_ref().map(|s| s.state.name()),
            self.errors.last()
        );
        assert!(self.proofs.is_empty() || !honest, "an honest seller is accused");
        if self.has_double_spent {
            // A buyer that cheats has the readings only if the seller has the coin, or was away.
            assert!(self.kept() == 0 || outcome == "paid" || seller_may_lose, "{story}");
            return;
        }
        if state == "revealed" {
            // Paid, with a part lost on the buyer's own disk, and the seller's record lost to an old backup: nobody has it any more.
            assert!(self.seller_restored && self.has_lost_parts, "{story}");
            return;
        }
        assert!(self.buyer.state.is_final(), "{story}");
        match state {
            "complete" => {
                assert_eq!(self.kept(), END - FIRST, "{story}");
                assert!(honest && (outcome == "paid" || seller_may_lose), "{story}");
            }
            "cheated" => {
                let proof = self.proofs.last().unwrap();
                assert_eq!(&proof.verify().unwrap().offer, &self.goods.terms.offer);
                assert!(!honest, "{story}");
            }
            "refunded" => {
                assert_eq!(outcome, "back", "{story}");
                assert!(!shown || seller_may_lose, "{story}");
                assert_eq!(self.refund_credits.len(), 1, "the money is in the wallet");
            }
            "taken back" | "dropped" => assert_eq!((outcome, shown), ("none", false), "{story}"),
            _ => panic!("{story}"),
        }
        if outcome == "paid" && !self.seller_restored {
            assert_eq!(self.credits.values().copied().collect::<Vec<_>>(), [sat(1650 - 20)], "{story}");
        }
    }
}

fn subject(beef: &[u8]) -> Transaction {
    let beef = Beef::parse(beef, &Default::default()).unwrap();
    beef.transaction(&beef.subject().unwrap()).unwrap().clone()
}
