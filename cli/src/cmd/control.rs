//! Questions to a running agent: `sensora orders`, `channels` and `earnings` ask whoever holds the home, over a socket in it.
//!
//! One line with the name of the question comes in, one JSON document goes out. Whoever can open the socket can read the home anyway.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::offline::Offline;
use super::session::Session;
use crate::context::Context;
use crate::failure::Outcome;

/// Longest name of a question.
const MAX_QUESTION: usize = 64;
/// Longest answer that is read: some hundred thousand orders.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

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
        Err(held) if held.is_in_use => ask(&context.paths()?, question).map_err(|error| {
            tracing::debug!(%error, "nobody answers in the home");
            held
        }),
        Err(failure) => Err(failure),
    }
}

fn ask<T: DeserializeOwned>(paths: &HomePaths, question: Question) -> std::io::Result<Vec<T>> {
    let mut stream = UnixStream::connect(socket(paths))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", question.name())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map_err(std::io::Error::other)
}

/// Answers questions for as long as it is polled; where the home takes no socket, it waits without answering any.
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
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // One after the other: who asks is a person.
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
    UnixListener::bind(path)
}

async fn answer(session: &Session, mut stream: tokio::net::UnixStream) -> std::io::Result<()> {
    let mut asked = Vec::new();
    let reading = async {
        let mut byte = [0];
        while asked.len() < MAX_QUESTION && stream.read(&mut byte).await? == 1 && byte != *b"\n" {
            asked.extend_from_slice(&byte);
        }
        Ok::<_, std::io::Error>(())
    };
    tokio::time::timeout(PATIENCE, reading).await??;
    let Some(question) = Question::ALL.into_iter().find(|question| question.name().as_bytes() == asked)
    else {
        return Ok(());
    };
    let (node, network) = (session.node.clone(), session.network);
    let answer = tokio::task::spawn_blocking(move || {
        let headers = node.chain().headers();
        let books = Books { store: node.store(), network, key: node.identity().public(), headers: &headers };
        match question {
            Question::Orders => text(super::orders::reports(&books)),
            Question::Channels => text(super::channels::reports(&books)),
            Question::Earnings => text(super::earnings::reports(&books)),
        }
    });
    let answer = answer.await.map_err(std::io::Error::other)??;
    tokio::time::timeout(PATIENCE, stream.write_all(&answer)).await??;
    stream.shutdown().await
}

fn text<T: Serialize>(reports: Outcome<Vec<T>>) -> std::io::Result<Vec<u8>> {
    let reports = reports.map_err(|failure| std::io::Error::other(failure.to_string()))?;
    serde_json::to_vec(&reports).map_err(std::io::Error::other)
}
