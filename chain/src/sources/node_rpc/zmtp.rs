//! The little of ZMTP 3.0 (ZeroMQ RFC 23) that a subscriber needs, with bounds.
//!
//! The crate `zeromq` reserves memory for whatever length a frame announces, so that any publisher, or whoever sits in
//! its place, could end this process with nine bytes. Here a frame that is longer than what is wanted is passed over
//! piece by piece. The tests hold this against that crate as publisher, and against a node.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Signature, version 3.0, mechanism NULL, no server, filler.
const GREETING: [u8; 64] = {
    let mut bytes = [0; 64];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = 3;
    bytes[12] = b'N';
    bytes[13] = b'U';
    bytes[14] = b'L';
    bytes[15] = b'L';
    bytes
};

/// Flags of a frame.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The command that ends the handshake: its name, and what kind of socket this is.
const READY: &[u8] = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB";

/// The most bytes of a frame's body that are kept: the longest topic subscribed to is shorter, and so is what is
/// wanted of a handshake.
const KEPT: usize = 256;

/// The most frames of one message; a node sends three (topic, body, counter).
const MAX_FRAMES: usize = 8;

/// What passing over is done with at a time.
const PIECE: usize = 16 * 1024;

/// A connection that has subscribed.
pub(super) struct Subscriber<S> {
    stream: S,
}

struct Frame {
    flags: u8,
    /// The first [`KEPT`] bytes.
    head: Vec<u8>,
    length: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Subscriber<S> {
    /// Shakes hands and subscribes to topics that start with any of these.
    pub(super) async fn open(mut stream: S, topics: &[&str]) -> io::Result<Self> {
        stream.write_all(&GREETING).await?;
        let mut theirs = [0u8; 64];
        stream.read_exact(&mut theirs).await?;
        let [0xff, .., _] = theirs else { return Err(wrong("this is no ZMQ publisher")) };
        if theirs.get(10).is_none_or(|major| *major < 3) || theirs.get(12..17) != Some(b"NULL\0") {
            return Err(wrong("the publisher speaks another version of ZMTP than 3, or wants a password"));
        }
        send(&mut stream, COMMAND, READY).await?;
        let mut subscriber = Subscriber { stream };
        let ready = subscriber.frame().await?;
        if ready.flags & COMMAND == 0 || !ready.head.starts_with(b"\x05READY") {
            return Err(wrong("the publisher does not end the handshake"));
        }
        if ready.length > KEPT as u64 {
            return Err(wrong("the publisher's handshake is too long"));
        }
        for topic in topics {
            send(&mut subscriber.stream, 0, &[&[1], topic.as_bytes()].concat()).await?;
        }
        Ok(subscriber)
    }

    /// The topic of the next message; what else is in it is passed over. Not safe to cancel.
    pub(super) async fn next_topic(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let first = self.frame().await?;
            if first.flags & COMMAND != 0 {
                continue;
            }
            let mut flags = first.flags;
            for _ in 0..MAX_FRAMES {
                if flags & MORE == 0 {
                    return Ok(first.head);
                }
                flags = self.frame().await?.flags;
            }
            return Err(wrong("a message of the publisher has too many frames"));
        }
    }

    async fn frame(&mut self) -> io::Result<Frame> {
        let flags = self.stream.read_u8().await?;
        if flags & !(MORE | LONG | COMMAND) != 0 {
            return Err(wrong("the publisher sends what is no frame"));
        }
        let length = match flags & LONG {
            0 => u64::from(self.stream.read_u8().await?),
            _ => self.stream.read_u64().await?,
        };
        let mut head = Vec::new();
        (&mut self.stream).take(length.min(KEPT as u64)).read_to_end(&mut head).await?;
        if (head.len() as u64) < length.min(KEPT as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut left = length.saturating_sub(head.len() as u64);
        let mut piece = vec![0u8; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = self.stream.read(piece.get_mut(..now).unwrap_or_default()).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.saturating_sub(read as u64);
        }
        Ok(Frame { flags, head, length })
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, flags: u8, body: &[u8]) -> io::Result<()> {
    // All that is sent is short.
    let length = u8::try_from(body.len()).map_err(|_| wrong("a topic is too long"))?;
    stream.write_all(&[&[flags, length], body].concat()).await
}

fn wrong(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A publisher that has shaken hands and then sends `bytes`.
    async fn after_handshake(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let sent = bytes.to_vec();
        let publisher = async move {
            theirs.write_all(&GREETING).await?;
            send(&mut theirs, COMMAND, b"\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB").await?;
            theirs.write_all(&sent).await?;
            let mut heard = Vec::new();
            theirs.shutdown().await?;
            theirs.read_to_end(&mut heard).await?;
            Ok::<_, io::Error>(heard)
        };
        let subscriber = async move {
            let mut subscriber = Subscriber::open(ours, &["hashblock"]).await?;
            subscriber.next_topic().await
        };
        let (heard, topic) = tokio::join!(publisher, subscriber);
        let topic = topic?;
        let subscription = [&[0, 10, 1], b"hashblock".as_slice()].concat();
        assert!(heard?.ends_with(&subscription));
        Ok(topic)
    }

    #[tokio::test]
    async fn the_topic_of_a_message_is_heard_and_the_rest_passed_over() {
        let mut bytes = vec![COMMAND, 5];
        bytes.extend(b"\x04PING");
        bytes.extend([MORE, 5]);
        bytes.extend(b"rawtx");
        bytes.extend([MORE | LONG, 0, 0, 0, 0, 0, 1, 0, 0]);
        bytes.extend(vec![7; 65_536]);
        bytes.extend([0, 4, 1, 0, 0, 0]);
        assert_eq!(after_handshake(&bytes).await.unwrap(), b"rawtx");
    }

    #[tokio::test]
    async fn a_length_without_bytes_reserves_nothing() {
        let endless = [LONG, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let error = after_handshake(&endless).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_is_no_publisher_is_refused() {
        assert_eq!(after_handshake(&[0xf0]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let frames = [[MORE, 1, 7]; MAX_FRAMES + 2].concat();
        assert_eq!(after_handshake(&frames).await.unwrap_err().kind(), io::ErrorKind::InvalidData);

        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(&[b'H'; 64]).await.unwrap();
        assert!(Subscriber::open(ours, &[]).await.is_err());
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut old = GREETING;
        old[10] = 1;
        theirs.write_all(&old).await.unwrap();
        assert!(Subscriber::open(ours, &[]).await.is_err());
    }
}
