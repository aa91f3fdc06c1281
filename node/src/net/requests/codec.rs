//! The framing of `/sensora/market/1` and `/sensora/chain/1`.
//!
//! One substream carries one request and one answer. The asker writes the request and closes its half; the bytes until
//! then are the request. The answer is the bytes until the other half closes. No length is announced, so none can lie:
//! memory follows the bytes that arrived, up to the limit.
//!
//! A request that is empty, too large or too slow is handed on as [`Malformed`] instead of failing inside libp2p, so that
//! the peer who sent it is answered and charged.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::{
    StreamProtocol,
    futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    request_response,
};
use tokio::time::timeout;

use super::budget::{Budget, Share};
use crate::net::limits::{FREE_REQUEST_BYTES, MAX_REQUEST, MAX_RESPONSE};

/// The bytes of a request or an answer.
pub(in crate::net) type Frame = Bytes;

/// Why there is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Malformed {
    /// The peer closed its half without a byte.
    Empty,
    /// The peer sent more than [`MAX_REQUEST`].
    Oversize,
    /// The peer did not finish in time.
    Stalled,
    /// No fault of the peer's: the memory for requests is taken.
    NoMemory,
}

/// The answer of a peer was over [`MAX_RESPONSE`]. Travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("the answer is larger than {MAX_RESPONSE} bytes")]
pub(in crate::net) struct ResponseTooLarge;

/// How many bytes are read at a time: what a peer can make us allocate without sending anything.
const CHUNK: usize = 4096;

/// See the module.
#[derive(Debug, Clone)]
pub(in crate::net) struct Codec {
    budget: Arc<Budget>,
    read_deadline: Duration,
}

impl Codec {
    pub(in crate::net) fn new(budget: Arc<Budget>, read_deadline: Duration) -> Self {
        Self { budget, read_deadline }
    }
}

enum ReadError {
    TooLarge,
    NoMemory,
    Io(io::Error),
}

/// Reads to the end, growing as bytes arrive. `share` pays for what is beyond [`FREE_REQUEST_BYTES`].
async fn read_to_end<T>(io: &mut T, limit: usize, mut share: Option<&mut Share>) -> Result<Vec<u8>, ReadError>
where
    T: AsyncRead + Unpin + Send,
{
    let mut body = Vec::new();
    let mut chunk = [0; CHUNK];
    loop {
        let read = io.read(&mut chunk).await.map_err(ReadError::Io)?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(body);
        };
        let len = body.len().saturating_add(read);
        if len > limit {
            return Err(ReadError::TooLarge);
        }
        if let Some(share) = share.as_mut()
            && !share.grow_to(len.saturating_sub(FREE_REQUEST_BYTES))
        {
            return Err(ReadError::NoMemory);
        }
        body.extend_from_slice(bytes);
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Result<Frame, Malformed>;
    type Response = Frame;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut share = self.budget.share();
        let read = timeout(self.read_deadline, read_to_end(io, MAX_REQUEST, Some(&mut share))).await;
        match read {
            Err(_) => Ok(Err(Malformed::Stalled)),
            Ok(Ok(body)) if body.is_empty() => Ok(Err(Malformed::Empty)),
            Ok(Ok(body)) => Ok(Ok(share.cover(body))),
            Ok(Err(ReadError::TooLarge)) => Ok(Err(Malformed::Oversize)),
            Ok(Err(ReadError::NoMemory)) => Ok(Err(Malformed::NoMemory)),
            Ok(Err(ReadError::Io(error))) => Err(error),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame>
    where
        T: AsyncRead + Unpin + Send,
    {
        match read_to_end(io, MAX_RESPONSE, None).await {
            Ok(body) => Ok(body.into()),
            Err(ReadError::Io(error)) => Err(error),
            Err(ReadError::TooLarge | ReadError::NoMemory) => Err(io::Error::other(ResponseTooLarge)),
        }
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Self::Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let body = request.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        io.write_all(&body).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Frame) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&response).await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use libp2p::{futures::io::Cursor, request_response::Codec as _};

    use super::*;
    use crate::net::Protocol;

    const PROTOCOL: StreamProtocol = StreamProtocol::new(Protocol::Market.id());

    fn codec(budget: &Arc<Budget>) -> Codec {
        Codec::new(budget.clone(), Duration::from_millis(20))
    }

    /// A peer that sends nothing and never closes.
    struct Silent;

    impl AsyncRead for Silent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_request_is_all_bytes_until_the_end() {
        let budget = Budget::new(MAX_REQUEST);
        for len in [1, FREE_REQUEST_BYTES, FREE_REQUEST_BYTES + 1, MAX_REQUEST] {
            let sent = vec![7; len];
            let mut io = Cursor::new(Vec::new());
            codec(&budget).write_request(&PROTOCOL, &mut io, Ok(sent.clone().into())).await.unwrap();
            io.set_position(0);
            let read = codec(&budget).read_request(&PROTOCOL, &mut io).await.unwrap().unwrap();
            assert_eq!(read, sent);
            assert_eq!(budget.free(), MAX_REQUEST - len.saturating_sub(FREE_REQUEST_BYTES));
            drop(read);
            assert_eq!(budget.free(), MAX_REQUEST);
        }
    }

    #[tokio::test]
    async fn bad_requests_are_named() {
        let budget = Budget::new(FREE_REQUEST_BYTES);
        let read = async |len| {
            let mut io = Cursor::new(vec![0; len]);
            codec(&budget).read_request(&PROTOCOL, &mut io).await.unwrap().map(|body| body.len())
        };
        assert_eq!(read(0).await, Err(Malformed::Empty));
        assert_eq!(read(2 * FREE_REQUEST_BYTES).await, Ok(2 * FREE_REQUEST_BYTES));
        assert_eq!(read(2 * FREE_REQUEST_BYTES + 1).await, Err(Malformed::NoMemory));
        let budget = Budget::new(MAX_REQUEST);
        let mut io = Cursor::new(vec![0; MAX_REQUEST + 1]);
        assert_eq!(codec(&budget).read_request(&PROTOCOL, &mut io).await.unwrap(), Err(Malformed::Oversize));
        assert_eq!(
            codec(&budget).read_request(&PROTOCOL, &mut Silent).await.unwrap(),
            Err(Malformed::Stalled)
        );
        assert_eq!(budget.free(), MAX_REQUEST);
    }

    #[tokio::test]
    async fn an_answer_over_the_limit_is_an_error() {
        let budget = Budget::new(0);
        let mut io = Cursor::new(vec![0; MAX_RESPONSE]);
        assert_eq!(codec(&budget).read_response(&PROTOCOL, &mut io).await.unwrap().len(), MAX_RESPONSE);
        let mut io = Cursor::new(vec![0; MAX_RESPONSE + 1]);
        let error = codec(&budget).read_response(&PROTOCOL, &mut io).await.unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<ResponseTooLarge>()));
    }
}
