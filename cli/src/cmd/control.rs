//! Questions and orders to a running agent: `sensora orders`, `channels` and `earnings` ask whoever holds the home, over a socket in it.
//!
//! One line comes in, a name and for an act the beginning of an id; one JSON document goes out: `{"ok": …}`, or `{"error": …}` as a command prints it.
//! Only the home's owner can open the socket ([`bind`]), who can work with the home anyway.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sensora_chain::Network;
use sensora_chain::header::HeaderView;
use sensora_chain::keys::PublicKey;
use sensora_node::home::HomePaths;
use sensora_node::store::Store;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::offline::Offline;
use super::owner;
use super::session::Session;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Longest line that is read: the longest name and a whole id.
const MAX_LINE: usize = 96;
/// Longest id in hex.
const MAX_ID: usize = 64;
/// Longest answer that is read: some hundred thousand orders.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an act is waited for: its end is, for [`owner::ENDS_WITHIN`], and before it the act of whoever asked first.
const ACTS_WITHIN: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// What was ordered.
    Orders,
    /// The channels of either side.
    Channels,
    /// What was sold.
    Earnings,
}

impl Question {
    const ALL: [Self; 3] = [Self::Orders, Self::Channels, Self::Earnings];

    const fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Channels => "channels",
            Self::Earnings => "earnings",
        }
    }
}

/// What can be asked for, of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Close a channel.
    CloseChannel,
    /// End an order, as its seller.
    EndOrder,
}

impl Act {
    const ALL: [Self; 2] = [Self::CloseChannel, Self::EndOrder];

    const fn name(self) -> &'static str {
        match self {
            Self::CloseChannel => "close-channel",
            Self::EndOrder => "end-order",
        }
    }
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    Question(Question),
    Act(Act, &'a str),
}

impl<'a> Asked<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let Some((name, id)) = line.split_once(' ') else {
            let question = Question::ALL.into_iter().find(|question| question.name() == line);
            return question.map(Self::Question);
        };
        let act = Act::ALL.into_iter().find(|act| act.name() == name)?;
        is_id(id).then_some(Self::Act(act, id))
    }
}

/// Whether a text may be an id or the beginning of one.
fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the answers are made of.
pub(super) struct Books<'a> {
    pub(super) store: &'a Store,
    pub(super) network: Network,
    pub(super) key: &'a PublicKey,
    pub(super) headers: &'a dyn HeaderView,
}

fn socket(paths: &HomePaths) -> PathBuf {
    paths.root().join("control.sock")
}

/// The books' answer to a question: from the store where no process holds the home, else from the one that does.
pub(super) fn read<T: DeserializeOwned>(
    question: Question,
    context: &Context,
    of: impl FnOnce(&Books<'_>) -> Outcome<Vec<T>>,
) -> Outcome<Vec<T>> {
    match Offline::open(context) {
        Ok(home) => of(&Books {
            store: &home.store,
            network: home.network,
            key: &home.key,
            headers: &home.headers()?,
        }),
        Err(held) if held.is_in_use => ask(context, question.name(), PATIENCE).unwrap_or(Err(held)),
        Err(failure) => Err(failure),
    }
}

/// Has a running agent do something; none where the process that holds the home is no agent.
pub(super) fn act<T: DeserializeOwned>(act: Act, id: &str, context: &Context) -> Option<Outcome<T>> {
    // What is no id names nothing, and an agent reads none longer.
    let id = if is_id(id) { id } else { return Some(Err(unknown(act, id))) };
    ask(context, &format!("{} {id}", act.name()), ACTS_WITHIN)
}

/// No such thing.
fn unknown(act: Act, id: &str) -> Failure {
    match act {
        Act::CloseChannel => owner::no_channel(id),
        Act::EndOrder => owner::no_order(id),
    }
}

/// Asks whoever holds the home; none where nobody listens.
fn ask<T: DeserializeOwned>(context: &Context, line: &str, patience: Duration) -> Option<Outcome<T>> {
    let paths = match context.paths() {
        Ok(paths) => paths,
        Err(failure) => return Some(Err(failure)),
    };
    let listener = UnixStream::connect(socket(&paths));
    let listener =
        listener.inspect_err(|error| tracing::debug!(%error, "nobody listens in the home")).ok()?;
    Some(exchange(listener, line, patience).map_err(|error| unanswered(line, &error)).and_then(understood))
}

/// Whoever listens has not answered. What it was asked to do it may have done.
fn unanswered(line: &str, error: &std::io::Error) -> Failure {
    let failure = Failure::new(
        Exit::Unreachable,
        format!("the process that works on this home has not answered: {error}"),
    );
    match line.contains(' ') {
        true => failure.hint(
            "it may have done it all the same: `sensora channels` and `sensora earnings` show that, and asking again does no harm",
        ),
        false => failure.hint("it may be starting, stopping or busy: ask again in a moment"),
    }
}

fn exchange(mut stream: UnixStream, line: &str, patience: Duration) -> std::io::Result<Value> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{line}")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map_err(std::io::Error::other)
}

fn understood<T: DeserializeOwned>(mut answer: Value) -> Outcome<T> {
    if let Some(failure) = answer.get("error").and_then(Failure::of_document) {
        return Err(failure);
    }
    let answer = answer.get_mut("ok").map(Value::take).unwrap_or_default();
    serde_json::from_value(answer).map_err(|error| {
        Failure::other(format!("the running agent's answer is not understood: {error}"))
            .hint("it is of another version of this program: stop it, and start it again")
    })
}

/// Answers four at a time for as long as it is polled; where the home takes no socket, it waits without answering any.
pub(super) async fn serve(session: &Session) -> Infallible {
    let path = socket(session.paths());
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            // A file system without sockets is no reason not to sell.
            tracing::info!(%error, path = %path.display(), "questions to the running agent are not answered");
            return std::future::pending().await;
        }
    };
    // Acts are waited for, and whoever asks for the books meanwhile does not wait for them.
    tokio::join!(
        answer_all(session, &listener),
        answer_all(session, &listener),
        answer_all(session, &listener),
        answer_all(session, &listener)
    )
    .0
}

/// Answers one after the other.
async fn answer_all(session: &Session, listener: &UnixListener) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = answer(session, stream).await {
                    tracing::debug!(%error, "a question was not answered");
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no question could be taken");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The socket of a process that ended by itself is still there; this process holds the home, so nobody listens to it.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory is its owner's alone already; whoever has opened it to others has not given them the money.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(session: &Session, mut stream: tokio::net::UnixStream) -> std::io::Result<()> {
    let mut line = Vec::new();
    let reading = async {
        let mut byte = [0];
        while line.len() < MAX_LINE && stream.read(&mut byte).await? == 1 && byte != *b"\n" {
            line.extend_from_slice(&byte);
        }
        Ok::<_, std::io::Error>(())
    };
    tokio::time::timeout(PATIENCE, reading).await??;
    let answer = match Asked::parse(&line) {
        Some(Asked::Question(question)) => books(session, question).await,
        Some(Asked::Act(Act::CloseChannel, id)) => value(owner::close_channel(session, id).await),
        Some(Asked::Act(Act::EndOrder, id)) => value(owner::end_order(session, id).await),
        None => Err(Failure::new(Exit::Usage, "the running agent does not know what it is asked for")
            .hint("it is of another version of this program: stop it, and start it again")),
    };
    let answer = match answer {
        Ok(answer) => json!({ "ok": answer }),
        Err(failure) => json!({ "error": failure.document() }),
    };
    let answer = serde_json::to_vec(&answer).map_err(std::io::Error::other)?;
    tokio::time::timeout(PATIENCE, stream.write_all(&answer)).await??;
    stream.shutdown().await
}

async fn books(session: &Session, question: Question) -> Outcome<Value> {
    let (node, network) = (session.node.clone(), session.network);
    let answer = tokio::task::spawn_blocking(move || {
        let headers = node.chain().headers();
        let books = Books { store: node.store(), network, key: node.identity().public(), headers: &headers };
        match question {
            Question::Orders => value(super::orders::reports(&books)),
            Question::Channels => value(super::channels::reports(&books)),
            Question::Earnings => value(super::earnings::reports(&books)),
        }
    });
    answer.await.map_err(|error| Failure::other(format!("the books could not be read: {error}")))?
}

fn value<T: Serialize>(reports: Outcome<T>) -> Outcome<Value> {
    serde_json::to_value(reports?).map_err(|error| Failure::other(format!("the answer is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_question_or_an_act_on_an_id() {
        let id = "a1".repeat(32);
        let close = format!("close-channel {id}");
        assert!(close.len() <= MAX_LINE && format!("end-order {id}").len() <= MAX_LINE);
        assert_eq!(Asked::parse(b"orders"), Some(Asked::Question(Question::Orders)));
        assert_eq!(Asked::parse(close.as_bytes()), Some(Asked::Act(Act::CloseChannel, &id)));
        assert_eq!(Asked::parse(b"end-order a1"), Some(Asked::Act(Act::EndOrder, "a1")));
        for none in
            ["", "order", "orders ", "orders a1", "close-channel", "close-channel ", "end-order a1 b2"]
        {
            assert_eq!(Asked::parse(none.as_bytes()), None, "{none:?}");
        }
        assert_eq!(Asked::parse(format!("{close}0").as_bytes()), None, "longer than an id");
        assert_eq!(Asked::parse(b"end-order \xff"), None);
    }

    #[test]
    fn who_was_asked_to_act_and_has_not_answered_may_have_acted() {
        for (line, hint) in
            [("end-order a1", "asking again does no harm"), ("orders", "ask again in a moment")]
        {
            let (asker, asked) = UnixStream::pair().unwrap();
            let asked = std::thread::spawn(move || {
                let mut line = String::new();
                std::io::BufRead::read_line(&mut std::io::BufReader::new(asked), &mut line).unwrap();
                line
            });
            let error = exchange(asker, line, PATIENCE).unwrap_err();
            assert_eq!(asked.join().unwrap(), format!("{line}\n"));
            let failure = unanswered(line, &error);
            assert_eq!(failure.exit, Exit::Unreachable);
            assert!(failure.hint.as_ref().unwrap().contains(hint), "{:?}", failure.hint);
        }
    }

    #[test]
    fn what_an_agent_says_comes_back_as_what_it_is() {
        assert_eq!(understood::<u8>(json!({"ok": 7})).unwrap(), 7);
        let error = json!({"error": owner::no_order("a1").document()});
        assert_eq!(understood::<u8>(error).unwrap_err().exit, Exit::NotFound);
        for strange in [json!({}), json!([]), json!({"ok": "seven"}), json!({"error": {}})] {
            assert!(understood::<u8>(strange).is_err());
        }
    }
}
