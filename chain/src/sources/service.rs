//! What can be asked of a service that knows the chain, whoever runs it, and what it may answer.
//!
//! Nothing here is believed: Merkle paths, headers and transactions come out as they were sent and are held against
//! the asker's own headers by the asker. What cannot be proven (that a transaction waits, that an output is unspent, a
//! fee rate) is the service's word, and named so in the types.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::arc::ArcClient;
use super::chaintracks::Chaintracks;
use super::node_rpc::NodeRpc;
use super::whatsonchain::WhatsOnChain;
use crate::header::{Header, Tip};
use crate::merkle_path::MerklePath;
use crate::{FeeRate, Network, OutPoint, Satoshis, Script, Transaction, TxOut, Txid};

/// What a service is needed for. Each need has its own list of services, asked in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Need {
    /// The tip and runs of headers.
    Headers,
    /// Taking a transaction and sending it on.
    Broadcast,
    /// Where a transaction stands, with its Merkle path.
    Proofs,
    /// Transactions by id, what spends an output, the unspent outputs of a script.
    Outputs,
    /// Whole blocks, to scan them.
    Blocks,
    /// What miners ask for.
    Fees,
}

impl Need {
    /// Every need, in the order in which they are shown.
    pub const ALL: [Need; 6] =
        [Need::Headers, Need::Broadcast, Need::Proofs, Need::Outputs, Need::Blocks, Need::Fees];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Need::Headers => "headers",
            Need::Broadcast => "broadcast",
            Need::Proofs => "proofs",
            Need::Outputs => "outputs",
            Need::Blocks => "blocks",
            Need::Fees => "fees",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The kind of a service: which protocol it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServiceKind {
    /// Arcade, the broadcaster of Teranode: paths without a version, chaintracks headers beside it.
    Arcade,
    /// ARC, the broadcaster of the SV node: paths under `/v1`.
    Arc,
    /// WhatsOnChain.
    WhatsOnChain,
    /// A chaintracks server: headers in binary runs.
    Chaintracks,
    /// The JSON-RPC of a BSV node of one's own.
    NodeRpc,
}

impl ServiceKind {
    /// Every kind.
    pub const ALL: [ServiceKind; 5] =
        [Self::Arcade, Self::Arc, Self::WhatsOnChain, Self::Chaintracks, Self::NodeRpc];

    /// Its name in the configuration and in `--chain`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arcade => "arcade",
            Self::Arc => "arc",
            Self::WhatsOnChain => "whatsonchain",
            Self::Chaintracks => "chaintracks",
            Self::NodeRpc => "node-rpc",
        }
    }

    /// Whether a service of this kind can be used for `need`.
    #[must_use]
    pub const fn can(self, need: Need) -> bool {
        match self {
            Self::Arcade | Self::Arc => matches!(need, Need::Broadcast | Need::Proofs | Need::Fees),
            Self::WhatsOnChain => {
                matches!(need, Need::Headers | Need::Broadcast | Need::Proofs | Need::Outputs)
            }
            Self::Chaintracks => matches!(need, Need::Headers),
            Self::NodeRpc => true,
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ServiceKind {
    type Err = UnknownServiceKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| UnknownServiceKind(text.chars().take(32).collect()))
    }
}

/// The text names no kind of service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no kind of chain service; use arcade, arc, whatsonchain, chaintracks or node-rpc")]
pub struct UnknownServiceKind(pub String);

/// How a service is reached.
#[derive(Clone, PartialEq)]
pub struct ServiceConfig {
    /// What it is called in lists, logs and errors.
    pub name: String,
    /// What it speaks.
    pub kind: ServiceKind,
    /// The network it is asked about.
    pub network: Network,
    /// `http://` or `https://`, with `USER:PASSWORD@` for a node.
    pub url: String,
    /// The key that the service has given out, sent in the header it wants it in.
    pub key: Option<String>,
    /// The most requests in a second; what the kind is known to allow where not given.
    pub requests_per_second: Option<f64>,
    /// With a node: where it publishes blocks and transactions, as `tcp://HOST:PORT`.
    pub zmq: Option<String>,
    /// How long one request may take in all.
    pub timeout: Duration,
}

impl ServiceConfig {
    /// How long one request may take where nothing else is said.
    pub const TIMEOUT: Duration = Duration::from_secs(10);
}

impl fmt::Debug for ServiceConfig {
    /// Without what opens a door.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceConfig")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A transaction to be sent, with what it spends: Extended Format needs both (BRC-30).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The transaction.
    pub tx: Transaction,
    /// What each input spends, in their order.
    pub spent: Vec<TxOut>,
}

/// Where a transaction stands, in a service's word.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// The service does not know it. Others may.
    Unknown,
    /// The service has it and has not seen the network take it.
    Pending,
    /// The network has it, says the service: it waits for a block. Says nothing of whether its fee is enough.
    Seen,
    /// It is in a block, with this path; its root is still to be compared.
    Mined(MerklePath),
    /// It is in a block, but the service has no path yet.
    MinedUnproven {
        /// The block's height, where it is said.
        height: Option<u32>,
    },
    /// The network lacks one of its parents.
    Orphan,
    /// Another transaction spends one of its inputs, says the service.
    DoubleSpent {
        /// Which, where it is said.
        competing: Vec<Txid>,
    },
    /// The network refuses it.
    Rejected {
        /// Which of those that were sent.
        txid: Txid,
        /// The status code that ARC has for the reason (460 to 476).
        code: u16,
        /// What is wrong with it, at most [`MAX_REASON`] characters.
        reason: String,
    },
}

/// The longest text of a service that is kept, in characters.
pub const MAX_REASON: usize = 256;

/// What spends an output, in a service's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spender {
    /// The service does not know the output, or not what spends it.
    Unknown,
    /// Nothing spends it.
    Unspent,
    /// This transaction does.
    SpentBy {
        /// The transaction.
        tx: Transaction,
        /// Its path, if it is mined; its root is still to be compared.
        path: Option<MerklePath>,
    },
}

/// An unspent output of a script, in a service's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unspent {
    /// Where it is.
    pub outpoint: OutPoint,
    /// What it is worth.
    pub value: Satoshis,
    /// The height of its block; `None` while it waits for one.
    pub height: Option<u32>,
}

/// What a service says miners take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeeQuote {
    /// The fee rate below which transactions are not mined.
    pub rate: FeeRate,
    /// The largest transaction in bytes, where it is said.
    pub max_tx_size: Option<u64>,
}

/// A whole block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its header.
    pub header: Header,
    /// Its transactions, the coinbase first.
    pub txs: Vec<Transaction>,
}

/// A question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The configuration of the service cannot be used.
    #[error("chain service {service}: {reason}")]
    Config {
        /// The service.
        service: String,
        /// What is wrong with which key, and what to write instead.
        reason: String,
    },
    /// No connection.
    #[error("{service} cannot be reached: {reason}")]
    Unreachable {
        /// The service.
        service: String,
        /// What the connection says.
        reason: String,
    },
    /// No answer in time.
    #[error("{service} did not answer within {} s", .after.as_secs_f32())]
    Timeout {
        /// The service.
        service: String,
        /// The time it had.
        after: Duration,
    },
    /// The service, or our own limit for it, asks to wait.
    #[error("{service} takes no more requests for {} s", .retry_after.as_secs_f32())]
    Limited {
        /// The service.
        service: String,
        /// How long to wait.
        retry_after: Duration,
    },
    /// The service wants a key, or another one.
    #[error(
        "{service} refuses access ({status}): give it a key with chain.services.key_env, or correct the one it has"
    )]
    Unauthorized {
        /// The service.
        service: String,
        /// The HTTP status.
        status: u16,
    },
    /// The service has failed.
    #[error("{service} has failed ({status}): {reason}")]
    Server {
        /// The service.
        service: String,
        /// The HTTP status, or the RPC code.
        status: i64,
        /// What it says.
        reason: String,
    },
    /// The answer is longer than one to this question can be.
    #[error("{service} answers with more than {max} bytes")]
    TooLarge {
        /// The service.
        service: String,
        /// The limit in bytes.
        max: usize,
    },
    /// The answer is not of the protocol.
    #[error("{service} gives an answer that cannot be read: {reason}")]
    Malformed {
        /// The service.
        service: String,
        /// Where it stops making sense.
        reason: String,
    },
    /// A service of this kind cannot do this.
    #[error("{service} ({kind}) cannot be asked for {need}")]
    Unsupported {
        /// The service.
        service: String,
        /// Its kind.
        kind: ServiceKind,
        /// What for.
        need: Need,
    },
}

impl SourceError {
    /// The metrics label of this variant.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Config { .. } => "config",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Limited { .. } => "limited",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Server { .. } => "server",
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::Unsupported { .. } => "unsupported",
        }
    }

    /// The service that it is about.
    #[must_use]
    pub fn service(&self) -> &str {
        match self {
            Self::Config { service, .. }
            | Self::Unreachable { service, .. }
            | Self::Timeout { service, .. }
            | Self::Limited { service, .. }
            | Self::Unauthorized { service, .. }
            | Self::Server { service, .. }
            | Self::TooLarge { service, .. }
            | Self::Malformed { service, .. }
            | Self::Unsupported { service, .. } => service,
        }
    }
}

/// A service of any kind. All methods end by the configured time-out, and are safe to cancel.
#[derive(Debug)]
#[non_exhaustive]
pub enum Service {
    /// [`ServiceKind::Arcade`] and [`ServiceKind::Arc`].
    Arc(ArcClient),
    /// [`ServiceKind::WhatsOnChain`].
    WhatsOnChain(WhatsOnChain),
    /// [`ServiceKind::Chaintracks`].
    Chaintracks(Chaintracks),
    /// [`ServiceKind::NodeRpc`].
    NodeRpc(Box<NodeRpc>),
}

impl Service {
    /// A client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn new(config: ServiceConfig) -> Result<Self, SourceError> {
        Ok(match config.kind {
            ServiceKind::Arcade | ServiceKind::Arc => Self::Arc(ArcClient::new(config)?),
            ServiceKind::WhatsOnChain => Self::WhatsOnChain(WhatsOnChain::new(config)?),
            ServiceKind::Chaintracks => Self::Chaintracks(Chaintracks::new(config)?),
            ServiceKind::NodeRpc => Self::NodeRpc(Box::new(NodeRpc::new(config)?)),
        })
    }

    /// How it was configured.
    #[must_use]
    pub fn config(&self) -> &ServiceConfig {
        match self {
            Self::Arc(client) => client.config(),
            Self::WhatsOnChain(client) => client.config(),
            Self::Chaintracks(client) => client.config(),
            Self::NodeRpc(client) => client.config(),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config().name
    }

    /// The end of the chain, as the service has it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn tip(&self) -> Result<Tip, SourceError> {
        match self {
            Self::WhatsOnChain(client) => client.tip().await,
            Self::Chaintracks(client) => client.tip().await,
            Self::NodeRpc(client) => client.tip().await,
            Self::Arc(_) => Err(self.cannot(Need::Headers)),
        }
    }

    /// Headers of the service's best chain from `height` upwards: at most `count`, fewer where it has or sends no more,
    /// none above its tip. They are not checked, not even for being linked.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn headers(&self, height: u32, count: usize) -> Result<Vec<Header>, SourceError> {
        match self {
            Self::WhatsOnChain(client) => client.headers(height, count).await,
            Self::Chaintracks(client) => client.headers(height, count).await,
            Self::NodeRpc(client) => client.headers(height, count).await,
            Self::Arc(_) => Err(self.cannot(Need::Headers)),
        }
    }

    /// Sends transactions, each after its parents, and says where the last one stands; a [`Report::Rejected`] names the
    /// first that was refused. Sending again what the service has is no error.
    ///
    /// # Errors
    /// [`SourceError`]: it may have been taken all the same; sending it again is safe.
    pub async fn submit(&self, txs: &[Submission]) -> Result<Report, SourceError> {
        match self {
            Self::Arc(client) => client.submit(txs).await,
            Self::WhatsOnChain(client) => client.submit(txs).await,
            Self::NodeRpc(client) => client.submit(txs).await,
            Self::Chaintracks(_) => Err(self.cannot(Need::Broadcast)),
        }
    }

    /// Where a transaction stands.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn report(&self, txid: &Txid) -> Result<Report, SourceError> {
        match self {
            Self::Arc(client) => client.report(txid).await,
            Self::WhatsOnChain(client) => client.report(txid).await,
            Self::NodeRpc(client) => client.report(txid).await,
            Self::Chaintracks(_) => Err(self.cannot(Need::Proofs)),
        }
    }

    /// A transaction by its id; its bytes have that id. `None` where the service does not have it.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn transaction(&self, txid: &Txid) -> Result<Option<Transaction>, SourceError> {
        match self {
            Self::WhatsOnChain(client) => client.transaction(txid).await,
            Self::NodeRpc(client) => client.transaction(txid).await,
            Self::Arc(_) | Self::Chaintracks(_) => Err(self.cannot(Need::Outputs)),
        }
    }

    /// What spends an output.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn spender(&self, outpoint: &OutPoint) -> Result<Spender, SourceError> {
        match self {
            Self::WhatsOnChain(client) => client.spender(outpoint).await,
            Self::NodeRpc(client) => client.spender(outpoint).await,
            Self::Arc(_) | Self::Chaintracks(_) => Err(self.cannot(Need::Outputs)),
        }
    }

    /// The unspent outputs that are locked with exactly this script.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn unspent(&self, locking: &Script) -> Result<Vec<Unspent>, SourceError> {
        match self {
            Self::WhatsOnChain(client) => client.unspent(locking).await,
            Self::NodeRpc(_) | Self::Arc(_) | Self::Chaintracks(_) => Err(self.cannot(Need::Outputs)),
        }
    }

    /// Whether any output was ever locked with exactly this script.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn is_used(&self, locking: &Script) -> Result<bool, SourceError> {
        match self {
            Self::WhatsOnChain(client) => client.is_used(locking).await,
            Self::NodeRpc(_) | Self::Arc(_) | Self::Chaintracks(_) => Err(self.cannot(Need::Outputs)),
        }
    }

    /// What miners ask for now.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn fee_quote(&self) -> Result<FeeQuote, SourceError> {
        match self {
            Self::Arc(client) => client.fee_quote().await,
            Self::NodeRpc(client) => client.fee_quote().await,
            Self::WhatsOnChain(_) | Self::Chaintracks(_) => Err(self.cannot(Need::Fees)),
        }
    }

    /// The block at a height of the service's best chain; `None` above its tip. Its Merkle root is that of its
    /// transactions; its header is still to be compared.
    ///
    /// # Errors
    /// [`SourceError`]; [`SourceError::TooLarge`] for a block that is not taken into memory.
    pub async fn block(&self, height: u32) -> Result<Option<Block>, SourceError> {
        match self {
            Self::NodeRpc(client) => client.block(height).await,
            Self::WhatsOnChain(_) | Self::Arc(_) | Self::Chaintracks(_) => Err(self.cannot(Need::Blocks)),
        }
    }

    fn cannot(&self, need: Need) -> SourceError {
        SourceError::Unsupported { service: self.name().to_owned(), kind: self.config().kind, need }
    }
}
