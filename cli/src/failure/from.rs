//! Which exit code each error of the crates below means, and what to advise.

use sensora_chain::wallet::WalletError;
use sensora_node::agent::AgentError;
use sensora_node::agent::seller::channels::owner::OwnerError;
use sensora_node::backup::BackupError;
use sensora_node::buyer::{BuyError, ReadsError};
use sensora_node::chain_access::ChainError;
use sensora_node::discovery::DiscoveryError;
use sensora_node::home::HomeError;
use sensora_node::keystore::KeystoreError;
use sensora_node::recovery::RecoveryError;
use sensora_node::store::StoreError;
use sensora_node::supervisor::NodeError;
use sensora_node::wallet::WalletHandleError;
use sensora_node::watch_only::WatchError;
use sensora_protocol::market::key_release::offer::KeyReleaseOfferError;
use sensora_protocol::market::offer::OfferError;
use sensora_protocol::market::purchase::PurchaseError;
use sensora_protocol::market::reads::ask::AskError;
use sensora_protocol::market::refusal::Refusal;

use super::Failure;
use crate::exit::Exit;

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        let is_in_use = matches!(error, HomeError::InUse { .. });
        Self { is_in_use, ..Self::from_error(Exit::Home, &error) }
    }
}

impl From<KeystoreError> for Failure {
    fn from(error: KeystoreError) -> Self {
        let exit = match &error {
            KeystoreError::WordCount { .. }
            | KeystoreError::UnknownWord { .. }
            | KeystoreError::WordChecksum
            | KeystoreError::EmptyPassphrase => Exit::Usage,
            _ => Exit::Home,
        };
        Self::from_error(exit, &error)
    }
}

impl From<OwnerError> for Failure {
    fn from(error: OwnerError) -> Self {
        let exit = match &error {
            OwnerError::UnknownChannel(_) | OwnerError::UnknownOrder(_) => Exit::NotFound,
            OwnerError::Store(_) => Exit::Home,
            _ => Exit::Failure,
        };
        Self::from_error(exit, &error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::from_error(Exit::Home, &error)
    }
}

impl From<WalletError> for Failure {
    fn from(error: WalletError) -> Self {
        let exit = match &error {
            WalletError::Funds { .. } => Exit::NotEnoughMoney,
            WalletError::Output { .. } | WalletError::OutputCount { .. } => Exit::Usage,
            WalletError::Stored(_) => Exit::Home,
            _ => Exit::Failure,
        };
        let failure = Self::from_error(exit, &error);
        match exit {
            Exit::NotEnoughMoney => failure.hint(
                "`sensora wallet fund` on the development chain, or send coins to `sensora wallet address`",
            ),
            _ => failure,
        }
    }
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        Self::from_error(Exit::Unreachable, &error)
    }
}

impl From<WalletHandleError> for Failure {
    fn from(error: WalletHandleError) -> Self {
        match error {
            WalletHandleError::Store(error) => error.into(),
            WalletHandleError::Wallet(error) => error.into(),
            WalletHandleError::Chain(error) => error.into(),
            WalletHandleError::Frozen(_) => Self::from_error(Exit::Frozen, &error),
            WalletHandleError::NoSweepAddress | WalletHandleError::ForeignAddress { .. } => {
                Self::from_error(Exit::Usage, &error)
            }
            WalletHandleError::Spv(_) | WalletHandleError::Beef(_) => {
                Self::from_error(Exit::Unverified, &error)
            }
            _ => Self::from_error(Exit::Failure, &error),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Store(error) => error.into(),
            BackupError::Keystore(error) => error.into(),
            error => {
                let exit = match &error {
                    BackupError::NotABackup(_)
                    | BackupError::Damaged(_)
                    | BackupError::TooHard { .. }
                    | BackupError::TooLong { .. } => Exit::Unverified,
                    BackupError::EmptyPassphrase
                    | BackupError::Exists { .. }
                    | BackupError::KnowsMore { .. } => Exit::Usage,
                    BackupError::Missing { .. } => Exit::NotFound,
                    BackupError::PassphraseNeeded
                    | BackupError::WordsNeeded
                    | BackupError::WrongPassphrase
                    | BackupError::LockedForAnother { .. }
                    | BackupError::Network { .. }
                    | BackupError::Key { .. }
                    | BackupError::Used { .. } => Exit::Home,
                    _ => Exit::Failure,
                };
                Self::from_error(exit, &error)
            }
        }
    }
}

impl From<RecoveryError> for Failure {
    fn from(error: RecoveryError) -> Self {
        const GO_ON: &str = "what was found is kept; the same command goes on";
        match error {
            RecoveryError::Wallet(error) => error.into(),
            RecoveryError::Handle(error) => error.into(),
            RecoveryError::Store(error) => error.into(),
            RecoveryError::Source(_) | RecoveryError::Chain(_) | RecoveryError::NoHeader { .. } => {
                Self::from_error(Exit::Unreachable, &error).hint(GO_ON)
            }
            RecoveryError::False { .. } => Self::from_error(Exit::Unverified, &error)
                .hint("ask another service: this one does not tell the truth, or follows another chain"),
            _ => Self::from_error(Exit::Failure, &error),
        }
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Chain(error) => error.into(),
            WatchError::Network { .. } => Self::from_error(Exit::Usage, &error),
            WatchError::Newer { .. } | WatchError::TooMany => Self::from_error(Exit::Failure, &error),
            _ => Self::from_error(Exit::Unverified, &error),
        }
    }
}

/// Single readings that do not come as they must.
fn of_reads(error: &AskError) -> Exit {
    match error {
        AskError::Refused(refusal) => of_refusal(refusal),
        _ => Exit::Unverified,
    }
}

/// The exit code of a seller's no.
fn of_refusal(refusal: &Refusal) -> Exit {
    match refusal {
        Refusal::UnknownStream { .. } | Refusal::RangeNotAvailable { .. } | Refusal::UnknownOrder { .. } => {
            Exit::NotFound
        }
        _ => Exit::Refused,
    }
}

impl From<OfferError> for Failure {
    fn from(error: OfferError) -> Self {
        let (exit, hint) = match &error {
            OfferError::MaxPrice { .. } => {
                (Exit::OverLimit, Some("the default is buyer.max_price_sat in config.toml"))
            }
            // Its text says what to raise.
            OfferError::Exposure { .. } | OfferError::OpenExposure { .. } => (Exit::OverLimit, None),
            OfferError::DearerThanAd { .. } | OfferError::Licence { .. } | OfferError::Lifetime { .. } => {
                (Exit::Refused, Some("try again: the seller may have just changed its ad"))
            }
            _ => (Exit::Unverified, None),
        };
        let failure = Self::from_error(exit, &error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<BuyError> for Failure {
    fn from(error: BuyError) -> Self {
        const RESUME: &str = "the order is kept: `sensora orders --resume` goes on with it";
        match error {
            BuyError::Offer(error) => (*error).into(),
            BuyError::Wallet(error) => (*error).into(),
            BuyError::Store(error) => (*error).into(),
            BuyError::Request { .. } => Self::from_error(Exit::Unreachable, &error).hint(RESUME),
            BuyError::Refused(ref refusal) => Self::from_error(of_refusal(refusal), &error),
            BuyError::PaymentRefused { .. } => Self::from_error(Exit::Refused, &error),
            BuyError::Withheld { .. } => Self::from_error(Exit::Refused, &error).hint(RESUME),
            BuyError::Purchase { ref source, .. } => match &**source {
                PurchaseError::NotDelivered(_) => Self::from_error(Exit::Refused, &error).hint(RESUME),
                _ => Self::from_error(Exit::Unverified, &error),
            },
            BuyError::Proof(_) => Self::from_error(Exit::Unverified, &error),
            BuyError::Reads { ref source, .. } => Self::from_error(of_reads(source), &error).hint(RESUME),
            BuyError::Damaged(_) => Self::from_error(Exit::Home, &error),
            BuyError::NoOffer { .. } => Self::from_error(Exit::Unreachable, &error),
            BuyError::ReleaseOffer(ref source) => {
                let exit = match &**source {
                    KeyReleaseOfferError::Offer(OfferError::MaxPrice { .. })
                    | KeyReleaseOfferError::Exposure { .. }
                    | KeyReleaseOfferError::TooLong { .. } => Exit::OverLimit,
                    KeyReleaseOfferError::TooCheap(_) | KeyReleaseOfferError::RefundHeight { .. } => {
                        Exit::Refused
                    }
                    _ => Exit::Unverified,
                };
                Self::from_error(exit, &error)
            }
            BuyError::KeyAwaited { .. } => Self::from_error(Exit::Waiting, &error)
                .hint("`sensora orders --resume` goes on with it, as does anything that runs on this home"),
            BuyError::KeyNotShown { .. } => Self::from_error(Exit::Refused, &error),
            BuyError::Cheated { .. } | BuyError::Unreadable { .. } => {
                Self::from_error(Exit::Unverified, &error)
            }
            BuyError::ChannelNotMined { .. } | BuyError::MayReturn { .. } => {
                Self::from_error(Exit::Waiting, &error)
            }
            BuyError::Budget(_) | BuyError::NoWay(_) | BuyError::AboveChannel { .. } => {
                Self::from_error(Exit::OverLimit, &error)
            }
            BuyError::Frozen(_) => Self::from_error(Exit::Frozen, &error),
            BuyError::UnknownOrder(_) | BuyError::UnknownChannel(_) | BuyError::NotComplete { .. } => {
                Self::from_error(Exit::NotFound, &error)
            }
            _ => Self::from_error(Exit::Failure, &error),
        }
    }
}

impl Failure {
    /// Why a live stream ended, told to everybody who listens.
    pub(crate) fn of_shared(error: &BuyError) -> Self {
        let exit = match error {
            BuyError::Refused(refusal) => of_refusal(refusal),
            BuyError::Frozen(_) => Exit::Frozen,
            BuyError::Receive { .. } | BuyError::Proof(_) => Exit::Unverified,
            BuyError::Reads { source, .. } => of_reads(source),
            BuyError::Request { .. } | BuyError::Stream { .. } | BuyError::Left { .. } => Exit::Unreachable,
            _ => Exit::Failure,
        };
        Self::from_error(exit, error)
            .hint("what was received is kept: the same command goes on with the order")
    }
}

impl From<ReadsError> for Failure {
    fn from(error: ReadsError) -> Self {
        match error {
            ReadsError::Failed(error) => Self::of_shared(&error)
                .hint("what was received is kept: `sensora orders --resume` settles the order"),
            ReadsError::Absent { .. } => Self::from_error(Exit::NotFound, &error),
            ReadsError::Spent { .. } => Self::from_error(Exit::OverLimit, &error),
            _ => Self::from_error(Exit::Failure, &error),
        }
    }
}

impl From<DiscoveryError> for Failure {
    fn from(error: DiscoveryError) -> Self {
        match error {
            DiscoveryError::Store(error) => error.into(),
            DiscoveryError::Chain(error) => error.into(),
            DiscoveryError::Request { .. } => Self::from_error(Exit::Unreachable, &error),
            DiscoveryError::Refused { ref refusal, .. } => Self::from_error(of_refusal(refusal), &error),
            DiscoveryError::Ad { .. } => Self::from_error(Exit::NotFound, &error),
            _ => Self::from_error(Exit::Failure, &error),
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Store(error) => error.into(),
            NodeError::Chain(error) => error.into(),
            NodeError::Agent(AgentError::Store(error)) => error.into(),
            NodeError::Agent(AgentError::Source(_) | AgentError::DuplicateName(_)) => {
                Self::from_error(Exit::Usage, &error)
            }
            NodeError::DevChainNetwork(_) | NodeError::Headers { .. } => {
                Self::from_error(Exit::Usage, &error)
            }
            NodeError::DevChain(_) | NodeError::DevChainFile { .. } | NodeError::HeaderFile(_) => {
                Self::from_error(Exit::Home, &error)
            }
            _ => Self::from_error(Exit::Failure, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensora_chain::Satoshis;

    #[test]
    fn limits_and_funds_have_codes_of_their_own() {
        let sat = Satoshis::from_sat;
        let dear = OfferError::MaxPrice { total: sat(2), max: sat(1) };
        let failure = Failure::from(BuyError::from(dear));
        assert_eq!(failure.exit, Exit::OverLimit);
        assert!(failure.message.contains("--max-price"));
        let poor = WalletError::Funds { needed: 2, available: 1 };
        let failure = Failure::from(BuyError::from(WalletHandleError::from(poor)));
        assert_eq!(failure.exit, Exit::NotEnoughMoney);
        assert!(failure.hint.unwrap().contains("wallet fund"));
        let failure = Failure::from(BuyError::Refused(Refusal::NotSelling));
        assert_eq!(failure.exit, Exit::Refused);
    }
}
