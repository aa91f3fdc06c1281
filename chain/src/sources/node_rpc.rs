//! The JSON-RPC of a BSV node.

use super::service::{Block, FeeQuote, Report, ServiceConfig, SourceError, Spender, Submission};
use crate::header::{Header, Tip};
use crate::{OutPoint, Transaction, Txid};

/// The JSON-RPC of a BSV node.
#[derive(Debug)]
pub struct NodeRpc {
    config: ServiceConfig,
}

impl NodeRpc {
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

    pub(super) async fn fee_quote(&self) -> Result<FeeQuote, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn block(&self, _height: u32) -> Result<Option<Block>, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }
}
