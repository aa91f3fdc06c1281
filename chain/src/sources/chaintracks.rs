//! Headers from a chaintracks server (version 2 of its paths): a tip, and runs of raw 80-byte headers.
//!
//! The server stands alone, with `/v2` before its paths, or beside an Arcade, with `/chaintracks/v2`. The configured
//! address is the base up to the version; where it names none, `/chaintracks/v2` is added to a host, and `/v2` to a
//! path.

pub(super) mod answer;

use super::http::Http;
use super::service::{ServiceConfig, SourceError};
use crate::header::{Header, Tip};

/// The most headers of one question: 800 kB, a day of catching up for each second even on a slow line.
pub const MAX_HEADERS: usize = 10_000;

/// A tip is one header in JSON.
const MAX_TIP: usize = 16 * 1024;

/// A chaintracks server.
#[derive(Debug)]
pub struct Chaintracks {
    http: Http,
}

impl Chaintracks {
    /// A client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn new(config: ServiceConfig) -> Result<Self, SourceError> {
        Ok(Self { http: Http::new(config, |_, path| Ok(base(path)))? })
    }

    pub(super) fn config(&self) -> &ServiceConfig {
        self.http.config()
    }

    pub(super) async fn tip(&self) -> Result<Tip, SourceError> {
        let answer = self.http.get("/tip", MAX_TIP, self.http.deadline()).await?;
        if answer.is_success() {
            self.http.read(&answer, answer::tip)
        } else {
            Err(self.http.failed(&answer))
        }
    }

    pub(super) async fn headers(&self, height: u32, count: usize) -> Result<Vec<Header>, SourceError> {
        let count = count.min(MAX_HEADERS);
        if count == 0 {
            return Ok(Vec::new());
        }
        let path = format!("/headers?height={height}&count={count}");
        let max = count.saturating_mul(Header::SIZE);
        let answer = self.http.get(&path, max, self.http.deadline()).await?;
        if !answer.is_success() {
            return Err(self.http.failed(&answer));
        }
        if answer.claims_text() {
            return Err(self
                .http
                .misfit(&format!("headers were asked for, it sends a text: {}", answer.text())));
        }
        self.http.read(&answer, |body| answer::headers(body, count))
    }
}

fn base(path: &str) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_version = |text: &str| {
        text.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    match path {
        "" => "/chaintracks/v2".into(),
        _ if is_version(last) => path.into(),
        _ => format!("{path}/v2"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_ends_with_a_version() {
        for (path, expected) in [
            ("", "/chaintracks/v2"),
            ("/v2", "/v2"),
            ("/chaintracks/v2", "/chaintracks/v2"),
            ("/chaintracks", "/chaintracks/v2"),
            ("/a/b", "/a/b/v2"),
            ("/version", "/version/v2"),
        ] {
            assert_eq!(base(path), expected, "{path}");
        }
    }
}
