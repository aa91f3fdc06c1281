//! The way to a service over HTTP, the same for all of them: bounded bodies, one deadline for a whole question, a pace
//! of our own, and errors that say which service failed and how.
//!
//! A service can lie in everything it sends. Nothing is reserved on the word of a length, nothing is decompressed,
//! redirects are not followed (they would carry the key elsewhere), and what is quoted from an answer is short and
//! harmless on a terminal. The key and the user's name and password are in no error, log or `Debug` text.

mod address;
mod pace;
mod retry_after;
mod text;

use std::error::Error as _;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, RETRY_AFTER,
};
use reqwest::{Client, RequestBuilder, Response, Url, redirect};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::service::{Report, ServiceConfig, ServiceKind, SourceError};
use pace::Pace;

pub(super) use text::tame;

/// How much of a refusal is read: the texts of all services are far shorter, error pages of proxies about as long.
const MAX_REFUSAL: usize = 64 * 1024;

/// The most requests a second that can be configured: far above what any public service allows.
const MAX_PER_SECOND: f64 = 1000.0;

/// The fewest: one in an hour. Below that a service is of no use.
const MIN_PER_SECOND: f64 = 1.0 / 3600.0;

/// WhatsOnChain without a key, and with the cheapest one (docs.taal.com).
const WHATSONCHAIN_PER_SECOND: (f64, f64) = (3.0, 10.0);

/// What a parser makes of an answer; the error says where it stops making sense.
pub(super) type Read<T> = Result<T, String>;

/// A client of one service.
pub(super) struct Http {
    config: ServiceConfig,
    client: Client,
    /// With name and password if they were given; `reqwest` makes a header of them.
    base: Url,
    authorization: Option<HeaderValue>,
    /// What must not be repeated, in every form in which it is sent.
    secrets: Vec<String>,
    pace: Pace,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

/// What came back, whatever its status. Refusals are cut at [`MAX_REFUSAL`].
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    content_type: String,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// What the service says, fit to be quoted.
    pub(super) fn text(&self) -> String {
        tame(&String::from_utf8_lossy(&self.body))
    }

    /// Whether it calls itself text or JSON, where bytes were asked for.
    pub(super) fn claims_text(&self) -> bool {
        self.content_type.starts_with("text/") || self.content_type.contains("json")
    }
}

impl Http {
    /// A client for `config`. `base` makes the address that all questions start with out of the configured one, which
    /// has no `/` at its end.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub(super) fn new(
        config: ServiceConfig,
        base: impl FnOnce(&ServiceConfig, &str) -> Result<String, String>,
    ) -> Result<Self, SourceError> {
        let service = config.name.clone();
        Self::checked(config, base).map_err(|reason| SourceError::Config { service, reason })
    }

    fn checked(
        config: ServiceConfig,
        base: impl FnOnce(&ServiceConfig, &str) -> Result<String, String>,
    ) -> Result<Self, String> {
        if config.timeout.is_zero() {
            return Err("chain.services.timeout_s must be more than 0".into());
        }
        let mut url = address::parse(&config.url)?;
        let path = base(&config, url.path().trim_end_matches('/'))?;
        url.set_path(&path);
        let authorization = authorization(&config, &url)?;
        let pace = Pace::new(per_second(&config)?);
        if (authorization.is_some() || url.password().is_some()) && is_overheard(&url) {
            tracing::warn!(
                service = config.name,
                "what opens this service goes over the network in the clear; write https:// in chain.services.url"
            );
        }
        let client = client(&config, &url).map_err(|e| {
            format!("no HTTP client can be made for chain.services.url: {}", tame(&innermost(&e)))
        })?;
        let secrets = secrets(&config, &client, &url);
        Ok(Http { config, client, base: url, authorization, secrets, pace })
    }

    pub(super) fn config(&self) -> &ServiceConfig {
        &self.config
    }

    /// When a question that is asked now must be answered.
    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.config.timeout).unwrap_or(now)
    }

    /// Asks for `path`, which starts with `/`; a good answer has at most `max` bytes.
    ///
    /// # Errors
    /// [`SourceError`], for everything but an answer that the caller has to understand.
    pub(super) async fn get(&self, path: &str, max: usize, by: Instant) -> Result<Answer, SourceError> {
        self.send(self.client.get(self.url(path)), max, by).await
    }

    /// Sends `body` to `path`; otherwise as [`Http::get`].
    ///
    /// # Errors
    /// As [`Http::get`].
    pub(super) async fn post(
        &self,
        path: &str,
        (content_type, body): (&'static str, Vec<u8>),
        headers: &[(HeaderName, u64)],
        max: usize,
        by: Instant,
    ) -> Result<Answer, SourceError> {
        let mut request = self.client.post(self.url(path)).header(CONTENT_TYPE, content_type).body(body);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        self.send(request, max, by).await
    }

    fn url(&self, path_and_query: &str) -> Url {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let mut url = self.base.clone();
        let whole = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&whole);
        url.set_query(query);
        url
    }

    async fn send(&self, request: RequestBuilder, max: usize, by: Instant) -> Result<Answer, SourceError> {
        self.pace.turn(by).await.map_err(|retry_after| self.limited(retry_after))?;
        let request = match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        };
        // Said aloud although nothing here could decompress: some servers compress unasked.
        let request = request.header(ACCEPT_ENCODING, "identity");
        match timeout_at(by, self.exchange(request, max)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timeout()),
        }
    }

    async fn exchange(&self, request: RequestBuilder, max: usize) -> Result<Answer, SourceError> {
        let mut response = request.send().await.map_err(|error| self.broken(error))?;
        self.check_status(&response)?;
        let (status, success) = (response.status().as_u16(), response.status().is_success());
        if let Some(encoding) = response.headers().get(CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return Err(self.misfit("it is compressed, although it was asked not to be"));
        }
        let content_type = header(response.headers(), &CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
        if success && response.content_length().is_some_and(|length| length > max as u64) {
            return Err(self.too_large(max));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(error))? {
            let room = if success { max } else { MAX_REFUSAL }.saturating_sub(body.len());
            if chunk.len() > room {
                if success {
                    return Err(self.too_large(max));
                }
                body.extend(chunk.iter().take(room));
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body, content_type })
    }

    /// What means the same whatever was asked.
    fn check_status(&self, response: &Response) -> Result<(), SourceError> {
        let (status, headers) = (response.status().as_u16(), response.headers());
        let asked_to_wait = header(headers, &RETRY_AFTER);
        match status {
            429 | 503 if status == 429 || asked_to_wait.is_some() => {
                let date = header(headers, &DATE);
                let wait = retry_after::parse(asked_to_wait.as_deref(), date.as_deref());
                self.pace.rest(Instant::now(), wait);
                Err(self.limited(wait))
            }
            401 | 403 => Err(SourceError::Unauthorized { service: self.name(), status }),
            300..=399 => {
                let to = header(headers, &LOCATION).unwrap_or_else(|| "nowhere".into());
                let reason = format!(
                    "it redirects, which is not followed; correct chain.services.url, it points to {to}"
                );
                Err(self.server(status, &reason))
            }
            _ => Ok(()),
        }
    }

    /// Reads an answer with a parser.
    ///
    /// # Errors
    /// [`SourceError::Malformed`] with what the parser says.
    pub(super) fn read<T>(
        &self,
        answer: &Answer,
        parse: impl FnOnce(&[u8]) -> Read<T>,
    ) -> Result<T, SourceError> {
        parse(&answer.body).map_err(|reason| {
            if answer.content_type.contains("html") {
                self.misfit(&format!("it is a web page; is chain.services.url right? ({reason})"))
            } else {
                self.misfit(&reason)
            }
        })
    }

    /// The error for an answer with a status that the caller has no use for.
    pub(super) fn failed(&self, answer: &Answer) -> SourceError {
        self.server(answer.status, &String::from_utf8_lossy(&answer.body))
    }

    /// The error for an answer that is not of the protocol.
    pub(super) fn misfit(&self, reason: &str) -> SourceError {
        SourceError::Malformed { service: self.name(), reason: self.quote(reason) }
    }

    /// What can be repeated of a service's words: some servers send back what they were sent, the key with it.
    fn quote(&self, text: &str) -> String {
        let without = |text: String| {
            self.secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "(secret)"))
        };
        // Before, so that no part of a secret is left where the text is cut; after, for one that was hidden among
        // characters that are not seen.
        without(tame(&without(text.to_owned())))
    }

    /// The same for the reason in a report.
    pub(super) fn quoted(&self, report: Report) -> Report {
        match report {
            Report::Rejected { txid, code, reason } => {
                Report::Rejected { txid, code, reason: self.quote(&reason) }
            }
            other => other,
        }
    }

    /// The error for a configuration that turned out wrong.
    pub(super) fn misconfigured(&self, reason: String) -> SourceError {
        SourceError::Config { service: self.name(), reason }
    }

    /// The error for an answer with more than `max` bytes.
    pub(super) fn too_large(&self, max: usize) -> SourceError {
        SourceError::TooLarge { service: self.name(), max }
    }

    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn limited(&self, retry_after: Duration) -> SourceError {
        SourceError::Limited { service: self.name(), retry_after }
    }

    fn timeout(&self) -> SourceError {
        SourceError::Timeout { service: self.name(), after: self.config.timeout }
    }

    fn server(&self, status: u16, reason: &str) -> SourceError {
        SourceError::Server { service: self.name(), status: status.into(), reason: self.quote(reason) }
    }

    /// A request that failed on its way.
    fn broken(&self, error: reqwest::Error) -> SourceError {
        // Its own text names the address, and with it what may be secret.
        let error = error.without_url();
        if error.is_timeout() {
            return self.timeout();
        }
        let cause = tame(&innermost(&error));
        let reason = if error.is_connect() {
            cause
        } else if error.is_body() || error.is_decode() {
            format!("the connection ends within the answer ({cause})")
        } else {
            format!("the connection ends before an answer ({cause})")
        };
        SourceError::Unreachable { service: self.name(), reason }
    }
}

/// The value of JSON.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Read<T> {
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

/// What the service is told who asks, or nothing.
fn authorization(config: &ServiceConfig, url: &Url) -> Result<Option<HeaderValue>, String> {
    let Some(key) = &config.key else { return Ok(None) };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "both a key (chain.services.key_env) and a user in chain.services.url are given; leave one out"
                .into(),
        );
    }
    let text = match config.kind {
        ServiceKind::WhatsOnChain => key.trim().to_owned(),
        _ => format!("Bearer {}", key.trim()),
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        "the key (chain.services.key_env) has characters that cannot be sent; is it the right variable?"
            .to_owned()
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The key, the password, and the two together with the name as they travel.
fn secrets(config: &ServiceConfig, client: &Client, url: &Url) -> Vec<String> {
    let key = config.key.as_deref().map(|key| key.trim().to_owned());
    let password = url.password().map(ToOwned::to_owned);
    let decoded = password.as_deref().map(address::percent_decoded);
    // The client makes a header of name and password; what it looks like, it says itself.
    let request = client.get(url.clone()).build().ok();
    let basic = request.as_ref().and_then(|request| header(request.headers(), &AUTHORIZATION));
    let basic = basic.and_then(|text| text.split(' ').next_back().map(ToOwned::to_owned));
    // What is shorter is in every text by chance.
    [key, password, decoded, basic].into_iter().flatten().filter(|secret| secret.len() > 2).collect()
}

/// The limit on our side, if there is one.
fn per_second(config: &ServiceConfig) -> Result<Option<f64>, String> {
    match config.requests_per_second {
        Some(rate) if (MIN_PER_SECOND..=MAX_PER_SECOND).contains(&rate) => Ok(Some(rate)),
        Some(rate) => Err(format!(
            "chain.services.requests_per_second is {rate}; use a number above 0 and up to {MAX_PER_SECOND}"
        )),
        None if config.kind == ServiceKind::WhatsOnChain => {
            let (free, keyed) = WHATSONCHAIN_PER_SECOND;
            Ok(Some(if config.key.is_some() { keyed } else { free }))
        }
        None => Ok(None),
    }
}

fn client(config: &ServiceConfig, url: &Url) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .user_agent(concat!("sensora/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(config.timeout)
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate();
    if url.scheme() == "https" {
        builder.https_only(true).build()
    } else {
        // Nothing is encrypted, so the system's certificates, which it may not even have, are not needed.
        builder.tls_certs_only([]).build()
    }
}

/// Whether others can read what is sent there.
fn is_overheard(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    url.scheme() == "http" && host != "localhost" && !address.is_ok_and(|address| address.is_loopback())
}

fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(tame(&String::from_utf8_lossy(headers.get(name)?.as_bytes())))
}

/// The text of the error that all others stand around.
fn innermost(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_https_cannot_be_overheard() {
        let overheard = |text| is_overheard(&Url::parse(text).unwrap());
        for text in ["https://arc.example/", "http://localhost:9090", "http://127.0.0.1/", "http://[::1]:1/"]
        {
            assert!(!overheard(text), "{text}");
        }
        for text in ["http://arc.example/", "http://192.168.1.2/", "http://localhost.example/"] {
            assert!(overheard(text), "{text}");
        }
    }
}
