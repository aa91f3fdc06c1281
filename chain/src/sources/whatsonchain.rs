//! WhatsOnChain.

use super::service::{Report, ServiceConfig, SourceError, Spender, Submission, Unspent};
use crate::header::{Header, Tip};
use crate::{OutPoint, Script, Transaction, Txid};

/// WhatsOnChain.
#[derive(Debug)]
pub struct WhatsOnChain {
    config: ServiceConfig,
}

impl WhatsOnChain {
    /// A client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn new(config: ServiceConfig) -> Result<Self, SourceError> {
        Ok(Self { config })
    }

    pub(super) fn config(&self) -> &ServiceConfig {
        &self.config
    }

    pub(super) async fn tip(&self) -> Result<Tip, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn headers(&self, _height: u32, _count: usize) -> Result<Vec<Header>, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn submit(&self, _txs: &[Submission]) -> Result<Report, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn report(&self, _txid: &Txid) -> Result<Report, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn transaction(&self, _txid: &Txid) -> Result<Option<Transaction>, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn spender(&self, _outpoint: &OutPoint) -> Result<Spender, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn unspent(&self, _locking: &Script) -> Result<Vec<Unspent>, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn is_used(&self, _locking: &Script) -> Result<bool, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }
}
