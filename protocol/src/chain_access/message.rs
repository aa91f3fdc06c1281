//! What moves over `/sensora/chain/1`: one request, one response, each one deterministic CBOR item.

use sensora_chain::{BlockHash, OutPoint, Satoshis, Script, Txid};
use serde::{Deserialize, Serialize};

use crate::chain_access::refusal::Refusal;
use crate::codec::{self, CodecError, MAX_FRAME};

/// Protocol id of request and response.
pub const PROTOCOL: &str = "/sensora/chain/1";
/// Longest Atomic BEEF in bytes, asked or answered: a payment with hundreds of ancestors that are not mined yet.
pub const MAX_BEEF_LEN: usize = 64 * 1024;
/// Longest request in bytes: the longest BEEF and the map around it.
pub const MAX_REQUEST_LEN: usize = MAX_BEEF_LEN + 1024;
/// Longest response in bytes.
pub const MAX_RESPONSE_LEN: usize = MAX_FRAME;
/// Bytes of a block header.
pub const HEADER_LEN: usize = 80;
/// Most block hashes in a locator: with steps that double, 32 of them reach back past any chain there can be.
pub const MAX_LOCATOR: usize = 32;
/// Most headers in one answer (160 kB), the number that Bitcoin nodes send each other.
pub const MAX_HEADERS: usize = 2000;
/// Most transactions asked about at once: their Merkle paths, about 1 kB each on a large block, fit many times.
pub const MAX_TXIDS: usize = 64;
/// Most outputs asked about at once.
pub const MAX_OUTPOINTS: usize = 64;
/// Longest prefix of a scan, in bytes: the names of data outputs are shorter.
pub const MAX_PREFIX_LEN: usize = 32;
/// Most data outputs in one page of a scan. A page also ends where its bytes would not fit a frame.
pub const MAX_SCANNED: usize = 256;
/// Longest locking script that a faucet pays, in bytes. Pay to public key hash takes 25; contracts take a few hundred.
pub const MAX_FAUCET_SCRIPT_LEN: usize = 1024;
/// Most satoshis in one payment of a faucet: 0.1 BSV, thousands of purchases.
pub const MAX_FAUCET_PAYMENT: Satoshis = Satoshis::from_sat(10_000_000);
/// Most satoshis that a faucet pays to one peer in one day (UTC).
pub const MAX_FAUCET_PER_DAY: Satoshis = Satoshis::from_sat(100_000_000);
/// Payments of a faucet to one peer in one day (UTC): each becomes a transaction that the chain keeps for ever.
pub const MAX_FAUCET_PAYMENTS_PER_DAY: u32 = 100;

const _: () = assert!(MAX_HEADERS * HEADER_LEN < MAX_RESPONSE_LEN);

/// What is asked of a peer with chain access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The newest block of the chain with the most work.
    Tip,
    /// The headers that follow the first block of `locator` that is on the peer's best chain.
    Headers {
        /// Blocks that the asker has, newest first, at most [`MAX_LOCATOR`].
        locator: Vec<BlockHash>,
        /// How many at most, 1 to [`MAX_HEADERS`].
        count: u32,
    },
    /// Take this transaction into the mempool and send it on.
    Broadcast {
        /// Atomic BEEF (BRC-95) of the transaction, at most [`MAX_BEEF_LEN`] bytes.
        #[serde(with = "serde_bytes")]
        beef: Vec<u8>,
    },
    /// Where these transactions stand, with the Merkle path of each that is mined.
    Proof {
        /// At most [`MAX_TXIDS`].
        txids: Vec<Txid>,
    },
    /// Whether these outputs are spent, and by what.
    Spent {
        /// At most [`MAX_OUTPOINTS`].
        outpoints: Vec<OutPoint>,
    },
    /// Mined data outputs whose first push begins with `prefix`, in the order of the chain.
    Scan {
        /// 1 to [`MAX_PREFIX_LEN`] bytes.
        #[serde(with = "serde_bytes")]
        prefix: Vec<u8>,
        /// Where to begin.
        from: ScanPosition,
        /// How many at most, 1 to [`MAX_SCANNED`].
        limit: u32,
    },
    /// Coins from a development chain.
    Faucet {
        /// The script to pay, at most [`MAX_FAUCET_SCRIPT_LEN`] bytes.
        locking: Script,
        /// How much, at most [`MAX_FAUCET_PAYMENT`].
        sat: Satoshis,
    },
}

/// Where an output is on the chain. In the order of the fields is the order of the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScanPosition {
    /// Height of the block.
    pub height: u32,
    /// The transaction's position in the block; the coinbase has 0.
    pub index: u32,
    /// The output's position in the transaction.
    pub vout: u32,
}

impl ScanPosition {
    /// The first output of the block at `height`.
    #[must_use]
    pub const fn at_height(height: u32) -> Self {
        Self { height, index: 0, vout: 0 }
    }

    /// The place after this one; `None` at the end of all.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let in_block = |index| Self { height: self.height, index, vout: 0 };
        let vout = self.vout.checked_add(1).map(|vout| Self { vout, ..self });
        vout.or_else(|| self.index.checked_add(1).map(in_block))
            .or_else(|| self.height.checked_add(1).map(Self::at_height))
    }
}

/// A peer's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The newest block.
    Tip(Tip),
    /// Headers, each the child of the one before it, without anything between. None: there is nothing after the locator.
    Headers {
        /// 80 bytes each.
        #[serde(with = "serde_bytes")]
        headers: Vec<u8>,
    },
    /// The transaction is in the mempool or mined.
    Accepted {
        /// Which transaction.
        txid: Txid,
    },
    /// Where the transactions stand, in the order in which they were asked about.
    Proof {
        /// One for each.
        standings: Vec<Standing>,
    },
    /// Where the outputs stand, in the order in which they were asked about.
    Spent {
        /// One for each.
        spendings: Vec<Spending>,
    },
    /// A page of data outputs.
    Scan(ScanPage),
    /// The coins are on their way.
    Funded {
        /// Atomic BEEF of the paying transaction.
        #[serde(with = "serde_bytes")]
        beef: Vec<u8>,
    },
}

/// The end of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tip {
    /// Height of the newest block; the genesis block has 0.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
}

/// Where a transaction stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The peer does not know it (which says nothing about other peers).
    Unknown,
    /// The peer has it and waits for a block.
    Mempool,
    /// It is in a block.
    Mined {
        /// Its Merkle path (BUMP, BRC-74).
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
}

/// Where an output stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spending {
    /// The peer knows no such output.
    Unknown,
    /// The peer knows the output and nothing that spends it.
    Unspent,
    /// A transaction spends it.
    Spent {
        /// The spending transaction's bytes.
        #[serde(with = "serde_bytes")]
        transaction: Vec<u8>,
        /// Its Merkle path (BUMP, BRC-74), if it is mined; `null` if it waits for a block.
        #[serde(with = "serde_bytes")]
        path: Option<Vec<u8>>,
    },
}

/// Some of the data outputs asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanPage {
    /// The outputs, in the order of the chain.
    pub outputs: Vec<ScannedOutput>,
    /// Where the next page begins; `null` if the chain has been read to its end.
    pub next: Option<ScanPosition>,
}

/// One mined data output with what it takes to believe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScannedOutput {
    /// Where it is.
    pub at: ScanPosition,
    /// Atomic BEEF (BRC-95) of the transaction, which has a Merkle path of its own in it.
    #[serde(with = "serde_bytes")]
    pub beef: Vec<u8>,
}

/// What comes back: an answer or a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The answer.
    Ok(Answer),
    /// Why not.
    Refused(Refusal),
}

impl Request {
    /// The bytes to send.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] for a transaction that is too large.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        encode_up_to(self, MAX_REQUEST_LEN)
    }

    /// Reads a request. Whether it asks for more than is allowed is a question for [`Request::check`].
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_exact(bytes, MAX_REQUEST_LEN)
    }

    /// Whether the request keeps within the limits of the protocol.
    ///
    /// # Errors
    /// [`Refusal::TooMany`] with the limit that is passed; [`Refusal::Malformed`] for what asks for nothing.
    pub fn check(&self) -> Result<(), Refusal> {
        let within = |what: &str, asked: usize, max: usize| {
            if asked <= max {
                return Ok(());
            }
            let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            Err(Refusal::TooMany { what: what.to_owned(), asked: number(asked), max: number(max) })
        };
        let some = |what: &str, asked: usize| match asked {
            0 => Err(Refusal::Malformed { reason: format!("{what}: none is asked for") }),
            _ => Ok(()),
        };
        match self {
            Self::Tip => Ok(()),
            Self::Headers { locator, count } => {
                some("blocks in the locator", locator.len())?;
                within("blocks in the locator", locator.len(), MAX_LOCATOR)?;
                some("headers", *count as usize)?;
                within("headers", *count as usize, MAX_HEADERS)
            }
            Self::Broadcast { beef } => within("bytes of BEEF", beef.len(), MAX_BEEF_LEN),
            Self::Proof { txids } => within("transactions", txids.len(), MAX_TXIDS),
            Self::Spent { outpoints } => within("outputs", outpoints.len(), MAX_OUTPOINTS),
            Self::Scan { prefix, limit, .. } => {
                some("bytes of the prefix", prefix.len())?;
                within("bytes of the prefix", prefix.len(), MAX_PREFIX_LEN)?;
                some("data outputs", *limit as usize)?;
                within("data outputs", *limit as usize, MAX_SCANNED)
            }
            Self::Faucet { locking, sat } => {
                some("satoshis", usize::from(!sat.is_zero()))?;
                within("bytes of the locking script", locking.len(), MAX_FAUCET_SCRIPT_LEN)?;
                if *sat > MAX_FAUCET_PAYMENT {
                    return Err(Refusal::TooMany {
                        what: "satoshis".to_owned(),
                        asked: sat.as_u64(),
                        max: MAX_FAUCET_PAYMENT.as_u64(),
                    });
                }
                Ok(())
            }
        }
    }

    /// What is asked for, in snake case: a label.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tip => "tip",
            Self::Headers { .. } => "headers",
            Self::Broadcast { .. } => "broadcast",
            Self::Proof { .. } => "proof",
            Self::Spent { .. } => "spent",
            Self::Scan { .. } => "scan",
            Self::Faucet { .. } => "faucet",
        }
    }
}

impl Response {
    /// The bytes to send.
    ///
    /// # Errors
    /// [`CodecError::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        encode_up_to(self, MAX_RESPONSE_LEN)
    }

    /// Reads a response.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode_exact(bytes, MAX_RESPONSE_LEN)
    }

    /// What kind of answer it is, in snake case: a label.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ok(Answer::Tip(_)) => "tip",
            Self::Ok(Answer::Headers { .. }) => "headers",
            Self::Ok(Answer::Accepted { .. }) => "accepted",
            Self::Ok(Answer::Proof { .. }) => "proof",
            Self::Ok(Answer::Spent { .. }) => "spent",
            Self::Ok(Answer::Scan(_)) => "scan",
            Self::Ok(Answer::Funded { .. }) => "funded",
            Self::Refused(refusal) => refusal.code(),
        }
    }
}

fn encode_up_to<T: Serialize>(value: &T, max: usize) -> Result<Vec<u8>, CodecError> {
    let bytes = codec::encode(value)?;
    if bytes.len() > max { Err(CodecError::TooLong { len: bytes.len(), max }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn txid() -> impl Strategy<Value = Txid> {
        any::<[u8; 32]>().prop_map(Txid)
    }

    fn outpoint() -> impl Strategy<Value = OutPoint> {
        (txid(), any::<u32>()).prop_map(|(txid, vout)| OutPoint { txid, vout })
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..200)
    }

    fn position() -> impl Strategy<Value = ScanPosition> {
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(height, index, vout)| ScanPosition {
            height,
            index,
            vout,
        })
    }

    fn sat() -> impl Strategy<Value = Satoshis> {
        (0..=Satoshis::MAX.as_u64()).prop_map(Satoshis::from_sat)
    }

    fn request() -> impl Strategy<Value = Request> {
        let hashes = prop::collection::vec(any::<[u8; 32]>().prop_map(BlockHash), 0..40);
        prop_oneof![
            Just(Request::Tip),
            (hashes, any::<u32>()).prop_map(|(locator, count)| Request::Headers { locator, count }),
            bytes().prop_map(|beef| Request::Broadcast { beef }),
            prop::collection::vec(txid(), 0..70).prop_map(|txids| Request::Proof { txids }),
            prop::collection::vec(outpoint(), 0..70).prop_map(|outpoints| Request::Spent { outpoints }),
            (bytes(), position(), any::<u32>()).prop_map(|(prefix, from, limit)| Request::Scan {
                prefix,
                from,
                limit
            }),
            (bytes(), sat()).prop_map(|(script, sat)| Request::Faucet { locking: Script::new(script), sat }),
        ]
    }

    fn standing() -> impl Strategy<Value = Standing> {
        prop_oneof![
            Just(Standing::Unknown),
            Just(Standing::Mempool),
            bytes().prop_map(|path| Standing::Mined { path }),
        ]
    }

    fn spending() -> impl Strategy<Value = Spending> {
        prop_oneof![
            Just(Spending::Unknown),
            Just(Spending::Unspent),
            (bytes(), prop::option::of(bytes()))
                .prop_map(|(transaction, path)| Spending::Spent { transaction, path }),
        ]
    }

    fn scanned() -> impl Strategy<Value = ScannedOutput> {
        (position(), bytes()).prop_map(|(at, beef)| ScannedOutput { at, beef })
    }

    fn response() -> impl Strategy<Value = Response> {
        let tip = (any::<u32>(), any::<[u8; 32]>());
        let list = |max| prop::collection::vec(standing(), 0..max);
        prop_oneof![
            tip.prop_map(|(height, hash)| Response::Ok(Answer::Tip(Tip { height, hash: BlockHash(hash) }))),
            bytes().prop_map(|headers| Response::Ok(Answer::Headers { headers })),
            txid().prop_map(|txid| Response::Ok(Answer::Accepted { txid })),
            list(9).prop_map(|standings| Response::Ok(Answer::Proof { standings })),
            prop::collection::vec(spending(), 0..9)
                .prop_map(|spendings| Response::Ok(Answer::Spent { spendings })),
            (prop::collection::vec(scanned(), 0..5), prop::option::of(position()))
                .prop_map(|(outputs, next)| Response::Ok(Answer::Scan(ScanPage { outputs, next }))),
            bytes().prop_map(|beef| Response::Ok(Answer::Funded { beef })),
            (any::<bool>(), any::<u16>(), ".{0,40}").prop_map(|(double_spent, code, reason)| {
                Response::Refused(Refusal::Rejected { double_spent, code, reason })
            }),
        ]
    }

    proptest! {
        #[test]
        fn requests_round_trip(request in request()) {
            let bytes = request.to_bytes().unwrap();
            prop_assert_eq!(Request::from_bytes(&bytes).unwrap(), request);
        }

        #[test]
        fn responses_round_trip(response in response()) {
            let bytes = response.to_bytes().unwrap();
            prop_assert_eq!(Response::from_bytes(&bytes).unwrap(), response);
        }

        #[test]
        fn a_cut_or_changed_message_never_panics(
            response in response(), at in any::<prop::sample::Index>(), bit in 0..8, cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = response.to_bytes().unwrap();
            // Of the message as it was: one that was changed may have become a shorter one.
            prop_assert!(Response::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            let _ = Response::from_bytes(&bytes);
            let _ = Request::from_bytes(&bytes);
        }
    }

    #[test]
    fn these_bytes_are_the_wire_format() {
        let golden = [
            (Request::Tip, "63746970"),
            (
                Request::Headers { locator: vec![BlockHash([1; 32])], count: 2000 },
                "a16768656164657273a265636f756e741907d0676c6f6361746f72815820\
                 0101010101010101010101010101010101010101010101010101010101010101",
            ),
            (Request::Broadcast { beef: vec![1, 2] }, "a16962726f616463617374a16462656566420102"),
            (
                Request::Scan {
                    prefix: b"S".to_vec(),
                    from: ScanPosition { height: 7, index: 1, vout: 2 },
                    limit: 9,
                },
                "a1647363616ea36466726f6da364766f75740265696e646578016668656967687407\
                 656c696d69740966707265666978 4153",
            ),
            (
                Request::Faucet { locking: Script::new(vec![0x51]), sat: Satoshis::from_sat(5) },
                "a166666175636574a2637361740567 6c6f636b696e674151",
            ),
        ];
        for (request, hex_text) in golden {
            let hex_text: String = hex_text.split_whitespace().collect();
            assert_eq!(hex::encode(request.to_bytes().unwrap()), hex_text, "{}", request.name());
        }
        let response = Response::Ok(Answer::Proof {
            standings: vec![Standing::Unknown, Standing::Mempool, Standing::Mined { path: vec![7] }],
        });
        assert_eq!(
            hex::encode(response.to_bytes().unwrap()),
            "a1626f6ba16570726f6f66a1697374616e64696e67738367756e6b6e6f776e676d656d706f6f6ca1656d696e6564a164706174684107"
        );
        let refused = Response::Refused(Refusal::NotServed);
        assert_eq!(
            hex::encode(refused.to_bytes().unwrap()),
            "a16772656675736564 6a6e6f745f736572766564".replace(' ', "")
        );
    }

    #[test]
    fn the_place_after_a_place_is_the_least_greater_one() {
        let at = |height, index, vout| ScanPosition { height, index, vout };
        assert_eq!(at(7, 1, 2).next(), Some(at(7, 1, 3)));
        assert_eq!(at(7, 1, u32::MAX).next(), Some(at(7, 2, 0)));
        assert_eq!(at(7, u32::MAX, u32::MAX).next(), Some(at(8, 0, 0)));
        assert_eq!(at(u32::MAX, u32::MAX, u32::MAX).next(), None);
    }

    #[test]
    fn each_limit_is_refused_with_its_number() {
        let too_many = [
            Request::Headers { locator: vec![BlockHash::default(); MAX_LOCATOR + 1], count: 1 },
            Request::Headers { locator: vec![BlockHash::default()], count: 2001 },
            Request::Broadcast { beef: vec![0; MAX_BEEF_LEN + 1] },
            Request::Proof { txids: vec![Txid::default(); MAX_TXIDS + 1] },
            Request::Spent { outpoints: vec![OutPoint::default(); MAX_OUTPOINTS + 1] },
            Request::Scan { prefix: vec![0; MAX_PREFIX_LEN + 1], from: ScanPosition::default(), limit: 1 },
            Request::Scan { prefix: vec![0], from: ScanPosition::default(), limit: 257 },
            Request::Faucet { locking: Script::new(vec![0; 1025]), sat: Satoshis::from_sat(1) },
            Request::Faucet { locking: Script::default(), sat: Satoshis::from_sat(10_000_001) },
        ];
        for request in too_many {
            assert!(
                matches!(request.check(), Err(Refusal::TooMany { asked, max, .. }) if asked > max),
                "{request:?}"
            );
        }
        let nothing = [
            Request::Headers { locator: vec![], count: 1 },
            Request::Headers { locator: vec![BlockHash::default()], count: 0 },
            Request::Scan { prefix: vec![], from: ScanPosition::default(), limit: 1 },
            Request::Faucet { locking: Script::default(), sat: Satoshis::ZERO },
        ];
        for request in nothing {
            assert!(matches!(request.check(), Err(Refusal::Malformed { .. })), "{request:?}");
        }
        assert_eq!(Request::Tip.check(), Ok(()));
        let full = Request::Broadcast { beef: vec![0; MAX_BEEF_LEN] };
        assert_eq!(full.check(), Ok(()));
        assert!(full.to_bytes().unwrap().len() <= MAX_REQUEST_LEN);
        let full = Request::Spent {
            outpoints: vec![OutPoint { txid: Txid([9; 32]), vout: u32::MAX }; MAX_OUTPOINTS],
        };
        assert!(full.to_bytes().unwrap().len() <= MAX_REQUEST_LEN);
    }
}
