//! Headers from a chaintracks server.

use super::service::{ServiceConfig, SourceError};
use crate::header::{Header, Tip};

/// Headers from a chaintracks server.
#[derive(Debug)]
pub struct Chaintracks {
    config: ServiceConfig,
}

impl Chaintracks {
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
}
