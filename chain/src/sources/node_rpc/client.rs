//! One way to ask a node: JSON-RPC over HTTP, one question or many in one request, each answer bounded.
//!
//! The password is taken out of the address before anything else is done with it, and is in no error and no log.

use std::error::Error as _;
use std::time::Duration;

use reqwest::{StatusCode, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::Network;
use crate::sources::service::{MAX_REASON, ServiceConfig, SourceError};

/// How long to wait where the node says that its queue of questions is full. Its queue is of milliseconds.
const BUSY: Duration = Duration::from_secs(1);

/// How long a connection is kept for the next question. The node ends those that are idle for 30 s
/// (`-rpcservertimeout`), and a question must not meet that end.
const IDLE: Duration = Duration::from_secs(10);

/// The codes of errors that mean something here (`rpc/protocol.h` of the node).
pub(super) mod code {
    /// No such block or transaction.
    pub(in super::super) const NOT_FOUND: i64 = -5;
    /// A parameter out of range: no block has that height.
    pub(in super::super) const OUT_OF_RANGE: i64 = -8;
    /// The node starts and answers nothing yet.
    pub(super) const STARTING: i64 = -28;
    /// The node has no such method.
    pub(in super::super) const NO_METHOD: i64 = -32601;
}

/// Why a question has no answer: the way to the node, or the node itself.
#[derive(Debug)]
pub(super) enum CallError {
    Source(SourceError),
    Fault(Fault),
}

/// The node answers with an error.
#[derive(Debug)]
pub(super) struct Fault {
    service: String,
    pub(super) code: i64,
    pub(super) message: String,
}

impl From<SourceError> for CallError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<Fault> for CallError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Fault> for SourceError {
    fn from(Fault { service, code, message }: Fault) -> Self {
        match code {
            code::STARTING => {
                Self::Unreachable { service, reason: format!("the node is starting: {message}") }
            }
            _ => Self::Server { service, status: code, reason: message },
        }
    }
}

impl From<CallError> for SourceError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Source(error) => error,
            CallError::Fault(fault) => fault.into(),
        }
    }
}

/// The connection to one node's RPC port.
pub(super) struct Client {
    service: String,
    http: reqwest::Client,
    url: Url,
    user: String,
    password: Zeroizing<String>,
    /// The time between two requests, and when the next may be sent.
    pace: Option<(Duration, Mutex<Instant>)>,
}

#[derive(Deserialize)]
struct Reply<T> {
    #[serde(default = "Option::default")]
    result: Option<T>,
    error: Option<RawFault>,
    #[serde(default)]
    id: Value,
}

#[derive(Deserialize)]
struct RawFault {
    code: i64,
    #[serde(default)]
    message: String,
}

impl Client {
    /// Nothing is sent yet.
    pub(super) fn new(config: &ServiceConfig) -> Result<Self, SourceError> {
        let refuse = |reason: String| SourceError::Config { service: config.name.clone(), reason };
        let wrong =
            || refuse("chain.services.url has to be http://USER:PASSWORD@HOST:PORT for a node".to_owned());
        let mut url = Url::parse(&config.url).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong());
        }
        // The key, if there is one, so that the password need not be in a file.
        let (user, password) = match config.key.as_deref().map(|key| key.split_once(':')) {
            Some(Some((user, password))) => (user.to_owned(), password.to_owned()),
            Some(None) => {
                return Err(refuse(
                    "the key of a node (chain.services.key_env) has to be USER:PASSWORD".to_owned(),
                ));
            }
            None => (decoded(url.username()), decoded(url.password().unwrap_or_default())),
        };
        url.set_username("").map_err(|()| wrong())?;
        url.set_password(None).map_err(|()| wrong())?;
        // An address without a port means the node's own, not that of web servers.
        if !names_port(&config.url) {
            url.set_port(Some(default_port(config.network))).map_err(|()| wrong())?;
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|e| refuse(format!("no HTTP client can be made: {}", cause(&e))))?;
        let pace = match config.requests_per_second {
            None => None,
            Some(rate) => {
                let between = Duration::try_from_secs_f64(1.0 / rate)
                    .map_err(|_| refuse("chain.services.requests_per_second has to be above 0".to_owned()))?;
                Some((between, Mutex::new(Instant::now())))
            }
        };
        let service = config.name.clone();
        Ok(Self { service, http, url, user, password: Zeroizing::new(password), pace })
    }

    /// Asks one question; `limit` bounds the bytes of the answer. A `null` is `None`.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
        limit: usize,
    ) -> Result<Option<T>, CallError> {
        let body = self.post(&json!({ "id": 0, "method": method, "params": params }), limit).await?;
        let reply: Reply<T> = serde_json::from_slice(&body).map_err(|e| self.unreadable(method, &e))?;
        match reply.error {
            Some(raw) => Err(self.fault(raw).into()),
            None => Ok(reply.result),
        }
    }

    /// Asks one question that has an answer.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
        limit: usize,
    ) -> Result<T, CallError> {
        let answer = self.ask(method, params, limit).await?;
        answer.ok_or_else(|| self.malformed(format!("{method} answers nothing")).into())
    }

    /// Asks one question whose answer is bytes in hex, without a copy of the text.
    pub(super) async fn call_hex(
        &self,
        method: &str,
        params: Value,
        limit: usize,
    ) -> Result<Vec<u8>, CallError> {
        let body = self.post(&json!({ "id": 0, "method": method, "params": params }), limit).await?;
        let reply: Reply<&str> = serde_json::from_slice(&body).map_err(|e| self.unreadable(method, &e))?;
        match (reply.error, reply.result) {
            (Some(raw), _) => Err(self.fault(raw).into()),
            (None, Some(text)) => {
                Ok(hex::decode(text).map_err(|e| self.malformed(format!("{method}: {e}")))?)
            }
            (None, None) => Err(self.malformed(format!("{method} answers nothing")).into()),
        }
    }

    /// Asks many questions of one method in one request; the answers come in the order of the questions.
    pub(super) async fn batch<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Vec<Value>,
        limit: usize,
    ) -> Result<Vec<Result<Option<T>, Fault>>, SourceError> {
        if params.is_empty() {
            return Ok(Vec::new());
        }
        let count = params.len();
        let questions: Vec<Value> = (0u64..)
            .zip(params)
            .map(|(id, params)| json!({ "id": id, "method": method, "params": params }))
            .collect();
        let body = self.post(&Value::Array(questions), limit).await?;
        let replies: Vec<Reply<T>> =
            serde_json::from_slice(&body).map_err(|e| self.unreadable(method, &e))?;
        let mut answers: Vec<Option<Result<Option<T>, Fault>>> = Vec::new();
        answers.resize_with(count, || None);
        for Reply { result, error, id } in replies {
            let place = id.as_u64().and_then(|id| usize::try_from(id).ok());
            if let Some(slot) = place.and_then(|at| answers.get_mut(at)) {
                *slot = Some(error.map_or(Ok(result), |raw| Err(self.fault(raw))));
            }
        }
        let whole: Option<Vec<_>> = answers.into_iter().collect();
        whole.ok_or_else(|| self.malformed(format!("not every {method} of a batch has an answer")))
    }

    pub(super) fn malformed(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Malformed { service: self.service.clone(), reason: reason.into() }
    }

    fn unreadable(&self, method: &str, error: &serde_json::Error) -> SourceError {
        self.malformed(clip(&format!("{method}: {error}")))
    }

    fn fault(&self, raw: RawFault) -> Fault {
        Fault { service: self.service.clone(), code: raw.code, message: clip(&raw.message) }
    }

    async fn post(&self, question: &Value, limit: usize) -> Result<Vec<u8>, SourceError> {
        if let Some((between, next)) = &self.pace {
            let mut next = next.lock().await;
            tokio::time::sleep_until(*next).await;
            *next = Instant::now() + *between;
        }
        let request = self
            .http
            .post(self.url.clone())
            .basic_auth(&self.user, Some(self.password.as_str()))
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(question.to_string());
        let mut response = request.send().await.map_err(|e| self.broken(&e))?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(SourceError::Unauthorized { service: self.service.clone(), status: status.as_u16() });
        }
        let too_large = || SourceError::TooLarge { service: self.service.clone(), max: limit };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(&e))? {
            if chunk.len() > limit.saturating_sub(body.len()) {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        // An error of the node comes with status 404 or 500, and says in JSON what is wrong.
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        if status.is_success() || matches!(first, Some(b'{' | b'[')) {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(body.get(..MAX_REASON).unwrap_or(&body));
        if status == StatusCode::SERVICE_UNAVAILABLE || text.contains("Work queue depth exceeded") {
            return Err(SourceError::Limited { service: self.service.clone(), retry_after: BUSY });
        }
        let reason = if text.trim().is_empty() { "no reason given".to_owned() } else { clip(text.trim()) };
        Err(SourceError::Server { service: self.service.clone(), status: i64::from(status.as_u16()), reason })
    }

    fn broken(&self, error: &reqwest::Error) -> SourceError {
        SourceError::Unreachable { service: self.service.clone(), reason: cause(error) }
    }
}

/// At most [`MAX_REASON`] characters of what a stranger wrote, on one line.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The innermost reason: the outer ones repeat the address.
fn cause(error: &reqwest::Error) -> String {
    let mut inner = error.source();
    let mut text = String::new();
    while let Some(error) = inner {
        text = error.to_string();
        inner = error.source();
    }
    if text.is_empty() { "the connection ended before the answer".to_owned() } else { clip(&text) }
}

/// Whether an address has a port written in it; a parsed one no longer tells `:80` from none.
fn names_port(url: &str) -> bool {
    let after_scheme = url.split_once("//").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    host.rsplit(']').next().unwrap_or_default().contains(':')
}

/// Where a node listens if nobody tells it otherwise.
const fn default_port(network: Network) -> u16 {
    match network {
        Network::Main => 8332,
        Network::Test | Network::Regtest => 18332,
    }
}

/// A part of an address with its `%41` put back to `A`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.split_first_chunk::<2>().filter(|_| byte == b'%');
        let escaped = digits.and_then(|(digits, tail)| {
            let mut one = [0u8; 1];
            hex::decode_to_slice(digits, &mut one).ok()?;
            Some((one, tail))
        });
        match escaped {
            Some(([decoded], tail)) => {
                bytes.push(decoded);
                rest = tail;
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::service::ServiceKind;

    fn config(url: &str) -> ServiceConfig {
        ServiceConfig {
            name: "mine".to_owned(),
            kind: ServiceKind::NodeRpc,
            network: Network::Regtest,
            url: url.to_owned(),
            key: None,
            requests_per_second: None,
            zmq: None,
            timeout: ServiceConfig::TIMEOUT,
        }
    }

    #[tokio::test]
    async fn name_and_password_leave_the_address() {
        let client = Client::new(&config("http://u%40x:p%3Aq@127.0.0.1:18443")).unwrap();
        assert_eq!((client.user.as_str(), client.password.as_str()), ("u@x", "p:q"));
        assert_eq!(client.url.as_str(), "http://127.0.0.1:18443/");
        let with_key = ServiceConfig { key: Some("a:b:c".to_owned()), ..config("http://127.0.0.1") };
        let client = Client::new(&with_key).unwrap();
        assert_eq!((client.user.as_str(), client.password.as_str()), ("a", "b:c"));
        assert_eq!(client.url.as_str(), "http://127.0.0.1:18332/");
    }

    #[tokio::test]
    async fn a_port_that_is_written_is_kept() {
        for (url, port) in [
            ("http://u:p@localhost", 18332),
            ("http://u:p@localhost:80", 80),
            ("http://u:p:80@localhost/x:1", 18332),
            ("http://[::1]", 18332),
            ("http://[::1]:9", 9),
        ] {
            let client = Client::new(&config(url)).unwrap();
            assert_eq!(client.url.port_or_known_default(), Some(port), "{url}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_names_the_key_to_correct_and_not_the_password() {
        let refused = |config: ServiceConfig| match Client::new(&config) {
            Err(SourceError::Config { reason, .. }) => reason,
            other => panic!("not refused: {:?}", other.err()),
        };
        for url in ["", "127.0.0.1:18443", "ftp://u:secret@127.0.0.1:1", "http://u:secret@:1"] {
            let reason = refused(config(url));
            assert!(reason.contains("chain.services.url") && !reason.contains("secret"), "{url}: {reason}");
        }
        let no_colon = ServiceConfig { key: Some("secret".to_owned()), ..config("http://127.0.0.1:1") };
        let reason = refused(no_colon);
        assert!(reason.contains("key_env") && !reason.contains("secret"), "{reason}");
        for rate in [0.0, -1.0, f64::NAN] {
            let rate = ServiceConfig { requests_per_second: Some(rate), ..config("http://127.0.0.1:1") };
            assert!(refused(rate).contains("requests_per_second"));
        }
    }
}
