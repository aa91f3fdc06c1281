//! The broadcasters ARC and Arcade.

use super::service::{FeeQuote, Report, ServiceConfig, SourceError, Submission};
use crate::Txid;

/// The broadcasters ARC and Arcade.
#[derive(Debug)]
pub struct ArcClient {
    config: ServiceConfig,
}

impl ArcClient {
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

    pub(super) async fn submit(&self, _txs: &[Submission]) -> Result<Report, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn report(&self, _txid: &Txid) -> Result<Report, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }

    pub(super) async fn fee_quote(&self) -> Result<FeeQuote, SourceError> {
        Err(SourceError::Malformed { service: self.config.name.clone(), reason: String::new() })
    }
}
