//! What a node publishes over ZMQ: that a block or a transaction has come. Nothing else that it says is used, not even
//! which; whoever is woken asks the node, and whoever is not woken asks it at his own intervals.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::zmtp::Subscriber;

/// The topics that wake; a node publishes those that it has an option for (`-zmqpubhashblock`, `-zmqpubrawtx`, …).
const TOPICS: [&str; 4] = ["hashblock", "rawblock", "hashtx", "rawtx"];

/// How long a connection and its handshake may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The wait after the first connection that failed, doubled with each …
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// … up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A connection on which nothing was heard for so long is made anew: the other end may be gone without a word. Blocks
/// come about every ten minutes.
const SILENCE: Duration = Duration::from_secs(60 * 60);

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A block, or several.
    Block,
    /// A transaction, or several: it waits for a block, or has come with one.
    Transaction,
}

/// `tcp://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint(String);

/// The text is no such address.
#[derive(Debug)]
pub(super) struct NoEndpoint;

impl FromStr for Endpoint {
    type Err = NoEndpoint;

    fn from_str(text: &str) -> Result<Self, NoEndpoint> {
        let address = text.strip_prefix("tcp://").ok_or(NoEndpoint)?;
        let (host, port) = address.rsplit_once(':').ok_or(NoEndpoint)?;
        let port: u16 = port.parse().map_err(|_| NoEndpoint)?;
        let strange = |c: char| c.is_whitespace() || matches!(c, '/' | '@' | '*');
        if host.is_empty() || host.contains(strange) || port == 0 {
            return Err(NoEndpoint);
        }
        Ok(Endpoint(address.to_owned()))
    }
}

/// How much has come since the start, and whether there is a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    blocks: u64,
    transactions: u64,
    connected: bool,
}

/// Says when something has come; see [`NodeRpc::notifications`](super::NodeRpc::notifications). What comes faster than
/// it is asked for is one event, so nothing piles up.
#[derive(Debug)]
pub struct Notifications {
    counts: watch::Receiver<Counts>,
    told: Counts,
    task: JoinHandle<()>,
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Notifications {
    pub(super) fn start(service: String, endpoint: Endpoint) -> Self {
        let (sender, counts) = watch::channel(Counts::default());
        let task = tokio::spawn(listen(service, endpoint, sender));
        Notifications { counts, told: Counts::default(), task }
    }

    /// Waits for the next event; safe to cancel. It may wait for ever: a node that is gone says nothing.
    pub async fn next(&mut self) -> Event {
        loop {
            let now = *self.counts.borrow_and_update();
            if now.blocks != self.told.blocks {
                self.told.blocks = now.blocks;
                return Event::Block;
            }
            if now.transactions != self.told.transactions {
                self.told.transactions = now.transactions;
                return Event::Transaction;
            }
            if self.counts.changed().await.is_err() {
                // The task ends only when this is dropped.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the node can be heard now. If not, ask it more often.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.counts.borrow().connected
    }
}

async fn listen(service: String, endpoint: Endpoint, counts: watch::Sender<Counts>) {
    let mut wait = FIRST_WAIT;
    loop {
        let reason = match timeout(CONNECT, connect(&endpoint)).await {
            Ok(Ok(subscriber)) => {
                wait = FIRST_WAIT;
                tracing::debug!(service, "the node's ZMQ publisher is heard");
                counts.send_modify(|counts| counts.connected = true);
                let error = hear(subscriber, &counts).await;
                counts.send_modify(|counts| counts.connected = false);
                error.to_string()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no connection in time".to_owned(),
        };
        tracing::debug!(service, reason, "the node's ZMQ publisher is not heard");
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(LONGEST_WAIT);
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<Subscriber<TcpStream>> {
    Subscriber::open(TcpStream::connect(&endpoint.0).await?, &TOPICS).await
}

/// Counts until the connection ends; the answer is why.
async fn hear(mut subscriber: Subscriber<TcpStream>, counts: &watch::Sender<Counts>) -> io::Error {
    loop {
        let heard = match timeout(SILENCE, subscriber.next_topic()).await {
            Ok(heard) => heard,
            Err(_) => return io::ErrorKind::TimedOut.into(),
        };
        match heard.as_deref() {
            Ok(b"hashblock" | b"rawblock") => {
                counts.send_modify(|counts| counts.blocks = counts.blocks.wrapping_add(1));
            }
            Ok(b"hashtx" | b"rawtx") => {
                counts.send_modify(|counts| counts.transactions = counts.transactions.wrapping_add(1));
            }
            Ok(_) => {}
            Err(_) => return heard.err().unwrap_or_else(|| io::ErrorKind::Other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use zeromq::{PubSocket, Socket as _, SocketSend as _, ZmqMessage};

    use super::*;

    #[test]
    fn addresses_are_checked_before_they_are_used() {
        for good in ["tcp://127.0.0.1:28332", "tcp://[::1]:1", "tcp://node.lan:65535"] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for bad in
            ["", "127.0.0.1:1", "ipc:///x", "tcp://:1", "tcp://h:0", "tcp://h", "tcp://*:5", "tcp://h:1/x"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    async fn publish(socket: &mut PubSocket, topic: &'static str, body: usize) {
        let mut message = ZmqMessage::from(topic);
        message.push_back(vec![7; body].into());
        message.push_back(vec![1, 0, 0, 0].into());
        socket.send(message).await.unwrap();
    }

    /// Publishes until `event` is what wakes: a publisher drops what nobody has subscribed to yet, and what was
    /// published more than once before may still be on its way.
    async fn wakes(
        socket: &mut PubSocket,
        topic: &'static str,
        body: usize,
        on: &mut Notifications,
        event: Event,
    ) {
        let mut published = 0;
        loop {
            assert!(published < 2_000, "{topic} never woke with {event:?}");
            publish(socket, topic, body).await;
            published += 1;
            if timeout(Duration::from_millis(50), on.next()).await == Ok(event) {
                return;
            }
        }
    }

    #[tokio::test]
    async fn what_is_published_wakes_also_after_the_publisher_was_gone() {
        let mut publisher = PubSocket::new();
        let endpoint = publisher.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
        let mut on = Notifications::start("mine".to_owned(), endpoint.parse().unwrap());
        wakes(&mut publisher, "hashblock", 32, &mut on, Event::Block).await;
        assert!(on.is_connected());
        // A transaction far above what is kept, and a topic that was not asked for.
        publish(&mut publisher, "discardedfrommempool", 5).await;
        wakes(&mut publisher, "rawtx", 3_000_000, &mut on, Event::Transaction).await;

        drop(publisher);
        while on.is_connected() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Whatever the first one sent has been counted: from here on only the second can wake.
        while timeout(Duration::ZERO, on.next()).await.is_ok() {}
        let mut publisher = PubSocket::new();
        publisher.bind(&endpoint).await.unwrap();
        wakes(&mut publisher, "hashblock", 32, &mut on, Event::Block).await;
    }

    #[tokio::test]
    async fn many_of_a_kind_are_one_event_and_blocks_come_first() {
        let (sender, counts) = watch::channel(Counts::default());
        let task = tokio::spawn(std::future::pending());
        let mut on = Notifications { counts, told: Counts::default(), task };
        sender.send_modify(|counts| (counts.transactions, counts.blocks) = (9, 2));
        assert_eq!(on.next().await, Event::Block);
        assert_eq!(on.next().await, Event::Transaction);
        assert!(timeout(Duration::from_millis(1), on.next()).await.is_err());
        sender.send_modify(|counts| counts.connected = true);
        assert!(timeout(Duration::from_millis(1), on.next()).await.is_err());
        assert!(on.is_connected());
    }
}
