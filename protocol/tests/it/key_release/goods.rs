//! Batches to sell, honest and not.

use std::ops::Range;

use sensora_chain::contract::height_lock::RefundHeight;
use sensora_chain::header::HeaderView;
use sensora_protocol::codec;
use sensora_protocol::market::delivery::Page;
use sensora_protocol::market::key_release::key::{BatchKey, BatchSecret};
use sensora_protocol::market::key_release::offer::{BatchTerms, KeyReleaseOffer};
use sensora_protocol::market::key_release::parts::{Batch, Part, ProvenPart, SealError, Sealer};
use sensora_protocol::market::offer::Offer;
use sensora_protocol::market::price::Price;
use sensora_protocol::stream::log::{MemoryLog, inclusion_proof};
use sensora_protocol::stream::{Run, Salts, Value};
use sensora_protocol::{Hash, Signed};

use crate::world::{Coin, NETWORK, Stream, World};

/// An order of readings 1000 to 2100 of 3000: the end of a chunk, a whole one, and the beginning of one. Three parts.
pub(crate) const FIRST: u64 = 1000;
pub(crate) const END: u64 = 2100;
pub(crate) const SIZE: u64 = 3000;
/// Blocks from the first offer to the refund height.
pub(crate) const LOCK: u32 = 150;

/// How one part is not what was sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cheat {
    /// A byte of it is changed.
    Garbage,
    /// Not encrypted at all.
    Plain,
    /// Encrypted with another key.
    OtherKey,
    /// Encrypted as another part.
    OtherIndex,
    /// One value of one reading is another.
    Value,
    /// A salt is another.
    Salt,
    /// As many readings of the log from elsewhere.
    Elsewhere,
    /// Fewer readings.
    Short,
    /// The same readings proven into another log.
    OtherLog,
    /// Its proof lacks a hash.
    Proof,
    /// The right page with bytes after it.
    Trailing,
}

pub(crate) const CHEATS: [Cheat; 11] = [
    Cheat::Garbage,
    Cheat::Plain,
    Cheat::OtherKey,
    Cheat::OtherIndex,
    Cheat::Value,
    Cheat::Salt,
    Cheat::Elsewhere,
    Cheat::Short,
    Cheat::OtherLog,
    Cheat::Proof,
    Cheat::Trailing,
];

pub(crate) struct Goods {
    pub(crate) world: World,
    pub(crate) secret: BatchSecret,
    pub(crate) key: BatchKey,
    /// What the buyer pays with.
    pub(crate) funds: Coin,
    pub(crate) offer: Signed<KeyReleaseOffer>,
    pub(crate) terms: BatchTerms,
    pub(crate) parts: Vec<ProvenPart>,
}

pub(crate) fn page(stream: &Stream, range: Range<u64>) -> Result<Page, SealError<()>> {
    Ok(stream.page(range.start, range.end, stream.readings.len() as u64))
}

impl Goods {
    pub(crate) fn honest() -> Self {
        Self::new(None)
    }

    pub(crate) fn new(cheat: Option<(Cheat, usize)>) -> Self {
        Self::of(SIZE, FIRST..END, 1_500, cheat)
    }

    /// The readings `range` of a log of `size`, at so many thousandths of a satoshi.
    pub(crate) fn of(size: u64, range: Range<u64>, msat: u64, cheat: Option<(Cheat, usize)>) -> Self {
        let mut world = World::new(size);
        let funds = world.coin(100_000);
        let secret = BatchSecret::from_bytes([8; 32]);
        let count = range.end - range.start;
        let price = Price::from_msat(msat).unwrap();
        let plain = Offer { price, total: price.total(count).unwrap(), ..world.offer(range.start, count) };
        let key = secret.key(&plain.buyer, &plain.checkpoint, range.clone(), &plain.nonce);
        let checkpoint = world.stream.checkpoint(&world.seller, size).value().clone();
        let mut sealer = Sealer::new(&key, &world.stream.schema, &checkpoint, range);
        let mut sealed = Vec::new();
        while let Some(part) = sealer.seal(|range| page(&world.stream, range)).unwrap() {
            sealed.push(part);
        }
        let batch = sealer.finish();
        let mut parts: Vec<ProvenPart> =
            sealed.iter().map(|part| batch.prove::<()>(part.clone()).unwrap()).collect();
        let refund_height = RefundHeight::new(world.chain.headers.tip_height() + LOCK).unwrap();
        let seller = world.seller.public();
        let mut offer = KeyReleaseOffer::of(plain, &batch, refund_height, seller, NETWORK).unwrap();
        assert_eq!(offer.key(&secret), key);
        if let Some((cheat, at)) = cheat {
            sealed[at].bytes = cheat.bytes(&world, &key, &sealed[at]);
            (parts, offer.root, offer.length) = prove(&sealed);
        }
        let offer = Signed::sign(offer, &world.seller, NETWORK).unwrap();
        let terms = BatchTerms::of(&offer, NETWORK).unwrap();
        Self { world, secret, key, funds, offer, terms, parts }
    }

    /// The batch again, as the seller seals it for delivery.
    pub(crate) fn seal_again(&self) -> Batch {
        let sealer = Sealer::new(&self.key, &self.terms.schema, &self.terms.checkpoint, FIRST..END);
        Batch::seal(sealer, |range| page(&self.world.stream, range)).unwrap()
    }

    /// The offer with something else in it, signed by the seller.
    pub(crate) fn sign(&self, change: impl FnOnce(&mut KeyReleaseOffer)) -> Signed<KeyReleaseOffer> {
        let mut offer = self.offer.value().clone();
        change(&mut offer);
        Signed::sign(offer, &self.world.seller, NETWORK).unwrap()
    }
}

/// Paths, root and length of whatever parts.
pub(crate) fn prove(parts: &[Part]) -> (Vec<ProvenPart>, Hash, u64) {
    let tree = MemoryLog::from_leaves(parts.iter().map(Part::leaf));
    let proven = parts.iter().map(|part| ProvenPart {
        part: part.clone(),
        path: inclusion_proof(&tree, part.index.into(), tree.size()).unwrap(),
    });
    (proven.collect(), tree.root(), parts.iter().map(|part| part.bytes.len() as u64).sum())
}

impl Cheat {
    /// The encrypted bytes of a part that is wrong in this way.
    fn bytes(self, world: &World, key: &BatchKey, part: &Part) -> Vec<u8> {
        let (stream, first, end) = (&world.stream, part.first, part.end());
        let mut plain = part.bytes.clone();
        key.apply(part.index, &mut plain);
        let mut page: Page = codec::decode_exact(&plain, 1 << 20).unwrap();
        let seal = |page: &Page| {
            let mut bytes = codec::encode(page).unwrap();
            key.apply(part.index, &mut bytes);
            bytes
        };
        match self {
            Self::Garbage => {
                let mut bytes = part.bytes.clone();
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
                bytes
            }
            Self::Plain => plain,
            Self::OtherKey => {
                BatchKey::from_bytes([1; 32]).apply(part.index, &mut plain);
                plain
            }
            Self::OtherIndex => {
                key.apply(part.index + 1, &mut plain);
                plain
            }
            Self::Value => {
                let mut readings = stream.slice(first, end).to_vec();
                readings[1].values[2] = Value::Null;
                page.runs = vec![Run::new(&stream.schema, &readings, &stream.secret).unwrap()];
                seal(&page)
            }
            Self::Salt => {
                let chunk = stream.secret.chunk(first / 1024);
                let mut salts = chunk.salts(first, (end - first) as usize);
                salts[1][0] ^= 1;
                page.runs[0].salts = Salts::Each(salts);
                seal(&page)
            }
            Self::Elsewhere => seal(&stream.page(first - 1000, end - 1000, SIZE)),
            Self::Short => seal(&stream.page(first, first + (end - first) / 2, SIZE)),
            Self::OtherLog => {
                let other = Stream::new(&world.seller, "cellar", SIZE);
                seal(&other.page(first, end, SIZE))
            }
            Self::Proof => {
                page.proof.hashes.pop();
                seal(&page)
            }
            Self::Trailing => {
                plain.push(0);
                key.apply(part.index, &mut plain);
                plain
            }
        }
    }
}
