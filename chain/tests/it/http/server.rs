//! A small HTTP server for one test: it notes what it is asked and answers as it is told, badly if need be.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    /// `GET` or `POST`, a space, and the path with its query.
    pub(super) line: String,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn path(&self) -> &str {
        self.line.split_once(' ').map_or("", |(_, path)| path)
    }

    /// The value of a header, named in lower case.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_owned())
    }
}

/// What the server does with a request.
#[derive(Clone)]
pub(super) enum Reply {
    /// An answer that is in order.
    Full { status: u16, headers: String, body: Vec<u8> },
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// The connection is thrown away.
    Reset,
    /// Nothing, for as long as the other side waits.
    Silent,
    /// The head of an answer, and then a byte of it now and then.
    Drip,
    /// A body that never ends, as fast as it is taken.
    Endless { status: u16 },
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        match self {
            Reply::Full { status, headers, body } => write!(f, "{status} {headers:?} {:?}", start(body)),
            Reply::Raw(bytes) => write!(f, "{:?}", start(bytes)),
            Reply::Reset => f.write_str("a reset"),
            Reply::Silent => f.write_str("silence"),
            Reply::Drip => f.write_str("drops"),
            Reply::Endless { status } => write!(f, "{status} without end"),
        }
    }
}

impl Reply {
    pub(super) fn json(body: impl Into<String>) -> Self {
        Self::status(200, body)
    }

    pub(super) fn status(status: u16, body: impl Into<String>) -> Self {
        let headers = "content-type: application/json; charset=utf-8\r\n".into();
        Reply::Full { status, headers, body: body.into().into_bytes() }
    }

    pub(super) fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Reply::Full {
            status: 200,
            headers: "content-type: application/octet-stream\r\n".into(),
            body: body.into(),
        }
    }

    /// With one more header.
    pub(super) fn with(mut self, header: &str) -> Self {
        if let Reply::Full { headers, .. } = &mut self {
            headers.push_str(header);
            headers.push_str("\r\n");
        }
        self
    }
}

/// A server that lives as long as this.
pub(super) struct Server {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, sent) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicUsize>::default());
        let (answer, noted, counted) = (Arc::new(answer), seen.clone(), sent.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, noted, counted) = (answer.clone(), noted.clone(), counted.clone());
                connections.spawn(async move {
                    let mut stream = stream;
                    let Some(request) = read(&mut stream).await else { return };
                    let reply = answer(&request);
                    noted.lock().unwrap().push(request);
                    write(&mut stream, reply, &counted).await;
                });
            }
        });
        Server { url, seen, sent, task }
    }

    /// Always the same.
    pub(super) async fn always(reply: Reply) -> Self {
        Self::start(move |_| reply.clone()).await
    }

    /// All requests so far.
    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The lines of all requests so far.
    pub(super) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|request| request.line).collect()
    }

    /// How many bytes of endless bodies were taken by the other side's system so far.
    pub(super) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let line = head.lines().next()?.strip_suffix(" HTTP/1.1")?.to_owned();
            let mut request = Request { line, head, body: bytes.split_off(end + 4) };
            let length = request.header("content-length").map_or(0, |text| text.parse().unwrap());
            while request.body.len() < length {
                let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
                request.body.extend_from_slice(&buffer[..count]);
            }
            return Some(request);
        }
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// Writes until done or until the other side has gone; what it makes of it is its matter.
async fn write(stream: &mut TcpStream, reply: Reply, sent: &AtomicUsize) {
    let chunked = |status: u16| format!("HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\n\r\n");
    match reply {
        Reply::Full { status, headers, body } => {
            let head = format!(
                "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.into_bytes(), body].concat()).await;
        }
        Reply::Raw(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        // Without waiting for what is on its way, so that the other side learns it by a reset.
        Reply::Reset => stream.set_zero_linger().unwrap(),
        Reply::Silent => wait_for_the_end(stream).await,
        Reply::Drip => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 1000\r\n\r\n").await;
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Reply::Endless { status } => {
            let _ = stream.write_all(chunked(status).as_bytes()).await;
            let chunk = [b"10000\r\n".as_slice(), &[b'0'; 0x10000], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {
                sent.fetch_add(0x10000, Ordering::SeqCst);
            }
        }
    }
    if stream.linger().ok().flatten().is_none() {
        let _ = stream.shutdown().await;
    }
}

async fn wait_for_the_end(stream: &mut TcpStream) {
    let mut buffer = [0; 16];
    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}
