//! The questions that are asked item by item: where a transaction stands, and what spends an output.

use std::future::Future;
use std::sync::Arc;

use sensora_chain::header::HeaderChain;
use sensora_chain::sources::service::{Need, Report, Service, SourceError, Spender};
use sensora_chain::{OutPoint, Txid};
use sensora_protocol::chain_access::message::{Spending, Standing};
use sensora_protocol::chain_access::{Answer, Request};

use crate::chain_access::error::Failure;
use crate::chain_access::{SpentBy, TxStanding, check};

/// How much an answer says: nothing, something that cannot be proven, or all there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chain_access) enum Says {
    Nothing,
    Word,
    All,
}

/// Something that a service is asked about by itself.
pub(in crate::chain_access) trait Item:
    Copy + PartialEq + Send + Sync + 'static
{
    /// What a service says of it.
    type Word: Send + 'static;
    /// What is known of it after the checks.
    type Found: Send + 'static;
    /// What such a service is needed for.
    const NEED: Need;

    /// Asks.
    fn ask(self, service: Arc<Service>) -> impl Future<Output = Result<Self::Word, SourceError>> + Send;
    /// The question about them, as peers are asked it.
    fn request(items: &[Self]) -> Request;
    /// What the words say as an answer of the wire.
    fn answer(words: &[Self::Word]) -> Answer;
    /// The check of such an answer.
    fn check(
        chain: &HeaderChain,
        items: &[Self],
        answer: &Answer,
    ) -> Result<Vec<(Self, Self::Found)>, Failure>;
    /// How much it says.
    fn says(found: &Self::Found) -> Says;
    /// Where nobody knows it.
    fn unknown() -> Self::Found;
    /// The transaction that waits for a block, in somebody's word.
    fn waits(self, found: &Self::Found) -> Option<Txid>;
    /// The output, where somebody says that nothing spends it: a service that is behind, or lies, hides a spend so.
    fn unspent(self, found: &Self::Found) -> Option<OutPoint>;
    /// The transaction, where a service says that it can never be mined.
    fn denied(self, word: &Self::Word) -> Option<Txid>;
    /// The transaction, where it is proven to be mined.
    fn proven(self, found: &Self::Found) -> Option<Txid>;
}

impl Item for Txid {
    type Word = Report;
    type Found = TxStanding;
    const NEED: Need = Need::Proofs;

    async fn ask(self, service: Arc<Service>) -> Result<Report, SourceError> {
        service.report(&self).await
    }

    fn request(items: &[Self]) -> Request {
        Request::Proof { txids: items.to_vec() }
    }

    fn answer(words: &[Report]) -> Answer {
        let standing = |word: &Report| match word {
            Report::Mined(path) => Standing::Mined { path: path.to_bytes() },
            // Without a path it is nothing to believe yet.
            Report::MinedUnproven { .. } | Report::Seen => Standing::Mempool,
            // Pending: the service has it, and nobody has seen the network take it. It goes out again.
            _ => Standing::Unknown,
        };
        Answer::Proof { standings: words.iter().map(standing).collect() }
    }

    fn check(
        chain: &HeaderChain,
        items: &[Self],
        answer: &Answer,
    ) -> Result<Vec<(Self, TxStanding)>, Failure> {
        check::proofs(chain, items, answer)
    }

    fn says(found: &TxStanding) -> Says {
        match found {
            TxStanding::Unknown => Says::Nothing,
            TxStanding::Mempool => Says::Word,
            TxStanding::Mined(_) => Says::All,
        }
    }

    fn unknown() -> TxStanding {
        TxStanding::Unknown
    }

    fn waits(self, found: &TxStanding) -> Option<Txid> {
        matches!(found, TxStanding::Mempool).then_some(self)
    }

    fn unspent(self, _: &TxStanding) -> Option<OutPoint> {
        None
    }

    fn denied(self, word: &Report) -> Option<Txid> {
        matches!(word, Report::Rejected { .. } | Report::DoubleSpent { .. }).then_some(self)
    }

    fn proven(self, found: &TxStanding) -> Option<Txid> {
        matches!(found, TxStanding::Mined(_)).then_some(self)
    }
}

impl Item for OutPoint {
    type Word = Spender;
    type Found = SpentBy;
    const NEED: Need = Need::Outputs;

    async fn ask(self, service: Arc<Service>) -> Result<Spender, SourceError> {
        service.spender(&self).await
    }

    fn request(items: &[Self]) -> Request {
        Request::Spent { outpoints: items.to_vec() }
    }

    fn answer(words: &[Spender]) -> Answer {
        let spending = |word: &Spender| match word {
            Spender::Unknown => Spending::Unknown,
            Spender::Unspent => Spending::Unspent,
            Spender::SpentBy { tx, path } => Spending::Spent {
                transaction: tx.to_bytes(),
                path: path.as_ref().map(sensora_chain::merkle_path::MerklePath::to_bytes),
            },
        };
        Answer::Spent { spendings: words.iter().map(spending).collect() }
    }

    fn check(chain: &HeaderChain, items: &[Self], answer: &Answer) -> Result<Vec<(Self, SpentBy)>, Failure> {
        check::spent(chain, items, answer)
    }

    fn says(found: &SpentBy) -> Says {
        match found {
            SpentBy::Unknown => Says::Nothing,
            SpentBy::Nothing => Says::Word,
            SpentBy::Transaction { .. } => Says::All,
        }
    }

    fn unknown() -> SpentBy {
        SpentBy::Unknown
    }

    fn waits(self, _: &SpentBy) -> Option<Txid> {
        None
    }

    fn unspent(self, found: &SpentBy) -> Option<OutPoint> {
        matches!(found, SpentBy::Nothing).then_some(self)
    }

    fn denied(self, _: &Spender) -> Option<Txid> {
        None
    }

    fn proven(self, found: &SpentBy) -> Option<Txid> {
        match found {
            SpentBy::Transaction { tx, mined: Some(_) } => Some(tx.txid()),
            _ => None,
        }
    }
}
