//! Why a transaction is refused, in the words of a BSV node, so that a program sees the same reasons on the
//! development chain as on the network.

use crate::contract::TemplateError;
use crate::{OutPoint, Satoshis, Txid};

/// Why the chain does not take a transaction. [`Reject::reason`] is the node's own string for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Broadcasters take nothing below 61 bytes.
    #[error("the transaction has {size} bytes, fewer than the 61 that broadcasters take")]
    TooSmall {
        /// Its bytes.
        size: usize,
    },
    /// Larger than [`MAX_TX_BYTES`](super::MAX_TX_BYTES).
    #[error("the transaction has {size} bytes, more than the {limit} this chain takes")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Version 2 is relayed by nodes too, but anybody can change the id of such a transaction; it is refused here so
    /// that none is made by accident.
    #[error("the transaction has version {0}; only version 1 keeps its id on the way to a miner")]
    Version(u32),
    /// No inputs.
    #[error("the transaction has no inputs")]
    NoInputs,
    /// No outputs.
    #[error("the transaction has no outputs")]
    NoOutputs,
    /// A coinbase outside a block.
    #[error("a coinbase is made by a miner, not submitted")]
    Coinbase,
    /// An input refers to nothing.
    #[error("input {0} refers to no transaction")]
    NullInput(usize),
    /// Two inputs spend one output.
    #[error("two inputs spend {0}")]
    DuplicateInput(OutPoint),
    /// The outputs sum to more than all coins.
    #[error("the outputs sum to more than all coins that can exist")]
    OutputSum,
    /// A spendable output without value. A bare `OP_RETURN` counts as spendable since Genesis.
    #[error(
        "output {0} can be spent but carries less than 1 sat; data outputs start with OP_FALSE OP_RETURN"
    )]
    Dust(usize),
    /// Nodes take a data output with value, broadcasters do not.
    #[error("data output {0} carries value that nobody could ever spend; broadcasters take only 0 sat")]
    DataValue(usize),
    /// Pay-to-script-hash outputs are forbidden since Genesis.
    #[error("output {0} pays to a script hash, which is forbidden since Genesis")]
    PayToScriptHash(usize),
    /// The lock time lies ahead. Nodes may keep such transactions, broadcasters refuse them.
    #[error(
        "the lock time {lock_time} lies ahead: the next block has height {height} and median time {median_time}"
    )]
    NotFinal {
        /// Height or Unix time.
        lock_time: u32,
        /// Height of the next block.
        height: u32,
        /// Median time past of the tip.
        median_time: u32,
    },
    /// An input's output does not exist, or a mined transaction has spent it.
    #[error("input {input} spends {outpoint}, which does not exist or is spent in a block")]
    MissingInputs {
        /// Its position.
        input: usize,
        /// What it wants to spend.
        outpoint: OutPoint,
    },
    /// A transaction that waits for a block spends the same output.
    #[error("{outpoint} is spent already by {by}, which waits for a block")]
    MempoolConflict {
        /// The output.
        outpoint: OutPoint,
        /// The transaction that was first.
        by: Txid,
    },
    /// A coinbase is spendable after 100 blocks.
    #[error("input {input} spends the coinbase of height {height} before height {mature}")]
    ImmatureCoinbase {
        /// Its position.
        input: usize,
        /// The coinbase's block.
        height: u32,
        /// The first block that may spend it.
        mature: u32,
    },
    /// More out than in.
    #[error("the outputs take {outputs} but the inputs bring {inputs}")]
    InBelowOut {
        /// Sum of the inputs.
        inputs: Satoshis,
        /// Sum of the outputs.
        outputs: Satoshis,
    },
    /// Only coins with a script of [`crate::contract`] can be spent on the development chain.
    #[error(
        "input {input} spends an output that is neither pay-to-public-key-hash nor a channel or key release; the development chain does not support spending it"
    )]
    UnsupportedScript {
        /// Its position.
        input: usize,
    },
    /// A signature is wrong, or the form in which the coin is spent.
    #[error(transparent)]
    Script(#[from] TemplateError),
    /// A node would keep such a transaction and never mine it.
    #[error("the fee is {fee}, at least {needed} is needed")]
    FeeTooLow {
        /// What it pays.
        fee: Satoshis,
        /// What this chain's miner takes for its size.
        needed: Satoshis,
    },
    /// A fee of this size is a mistake.
    #[error("the fee of {fee} is above {limit}, which can only be a mistake")]
    AbsurdFee {
        /// What it pays.
        fee: Satoshis,
        /// The node's limit.
        limit: Satoshis,
    },
    /// Too many unmined generations.
    #[error(
        "the transaction would be generation {depth} of unmined ones, the limit is {limit}; wait for a block"
    )]
    TooLongChain {
        /// Its generation.
        depth: u32,
        /// The limit.
        limit: u32,
    },
    /// No room until the next block.
    #[error("there is no room for more transactions until the next block")]
    MempoolFull,
}

impl Reject {
    /// The reject reason of a BSV node for the same fault. Stable: usable as a label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooSmall { .. } => "bad-txns-undersize",
            Self::TooLarge { .. } => "bad-txns-oversize",
            Self::Version(_) => "version",
            Self::NoInputs => "bad-txns-vin-empty",
            Self::NoOutputs => "bad-txns-vout-empty",
            Self::Coinbase => "coinbase",
            Self::NullInput(_) => "bad-txns-prevout-null",
            Self::DuplicateInput(_) => "bad-txns-inputs-duplicate",
            Self::OutputSum => "bad-txns-txouttotal-toolarge",
            Self::Dust(_) => "dust",
            Self::DataValue(_) => "data-output-value",
            Self::PayToScriptHash(_) => "bad-txns-vout-p2sh",
            Self::NotFinal { .. } => "bad-txns-nonfinal",
            Self::MissingInputs { .. } => "missing-inputs",
            Self::MempoolConflict { .. } => "txn-mempool-conflict",
            Self::ImmatureCoinbase { .. } => "bad-txns-premature-spend-of-coinbase",
            Self::InBelowOut { .. } => "bad-txns-in-belowout",
            Self::UnsupportedScript { .. } => "unsupported-script",
            Self::Script(_) => "mandatory-script-verify-flag-failed",
            Self::FeeTooLow { .. } => "insufficient-fee",
            Self::AbsurdFee { .. } => "absurdly-high-fee",
            Self::TooLongChain { .. } => "too-long-mempool-chain",
            Self::MempoolFull => "mempool-full",
        }
    }
}
