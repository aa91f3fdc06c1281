//! The framing of `/sensora/delivery/1`, without I/O: bytes in, frames out, and back.
//!
//! Each frame is its length as four bytes, big-endian, and then so many bytes. A fixed prefix needs no rules against longer spellings of
//! the same number, is complete in one look, and leaves room for words that are no length; what a varint would save is one to three bytes
//! beside the twelve of Yamux and the eighteen of Noise.
//!
//! Two words are no length: [`END`] says that nothing follows, [`REFUSED`] in place of an answer says that the stream is not taken. The end has to
//! be said inside the stream because nothing below says it: with Yamux a reset and a lost connection read like an end of the
//! bytes, and with QUIC dropping a stream ends it in good order. Zero is an error and no end: a run of zeros, the commonest garbage, must not look like one.
//!
//! This file knows nothing of the rest of the crate: the fuzz target `delivery_frames` is built from it alone.

use bytes::Bytes;

/// Bytes before each frame.
pub(super) const PREFIX: usize = 4;

/// In place of a length: the sender has said everything.
pub(super) const END: u32 = u32::MAX;

/// In place of the first length from who accepts a stream: it does not take it.
pub(super) const REFUSED: u32 = u32::MAX - 1;

/// Frames up to this length are copied behind each other and go out in one write; a longer one is written from where it is. Copying 4 KiB costs less than
/// a write of its own.
pub(super) const COPY_UP_TO: usize = 4 * 1024;

/// How many bytes of small frames are gathered before they are written: what Yamux sends as one frame of its own.
pub(super) const GATHER: usize = 16 * 1024;

/// The first read buffer: enough for a stream of vouchers, and all that an idle stream holds.
const FIRST_READ: usize = 4 * 1024;

/// The largest read buffer. It doubles up to here while the peer fills it: from there on, reading twice as much at a time gains nothing that can be measured.
const LARGEST_READ: usize = 64 * 1024;

/// What is next in the bytes of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A frame.
    Frame(Bytes),
    /// The sender has said everything.
    End,
    /// The peer does not take the stream.
    Refused,
}

/// The bytes of a peer are no frames. Nothing after them can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// A frame of no bytes.
    Empty,
    /// A frame that is longer than allowed.
    TooLong(u32),
}

/// A frame of which a part is here.
#[derive(Debug)]
struct Partial {
    body: Vec<u8>,
    len: usize,
}

/// Finds the frames in what a peer sends. Memory follows what has arrived, never what was announced: beside the frame in hand there is one buffer of at
/// most [`LARGEST_READ`], and the frame's own memory is at most that, or twice what is there of it.
#[derive(Debug)]
pub(super) struct Decoder {
    max: usize,
    /// All of it is initialised; what has arrived and is not decoded is `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled the buffer to its end.
    full: bool,
    partial: Option<Partial>,
    /// Whether a frame, or the end, has come already.
    begun: bool,
}

impl Decoder {
    /// Takes frames of up to `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { max, buffer: Vec::new(), start: 0, end: 0, full: false, partial: None, begun: false }
    }

    /// Takes frames of up to `max` bytes from the next one on.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Where the next bytes of the peer go. Call it only after [`Decoder::next`] had nothing more to give; it is never empty then.
    pub(super) fn space(&mut self) -> &mut [u8] {
        // What is left is less than a prefix.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let wanted = match self.buffer.len() {
            0 => FIRST_READ,
            len if self.full => (2 * len).min(LARGEST_READ),
            len => len,
        };
        self.full = false;
        if wanted > self.buffer.len() {
            self.buffer.resize(wanted, 0);
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Notes that `read` bytes stand in [`Decoder::space`].
    pub(super) fn filled(&mut self, read: usize) {
        self.end = self.end.saturating_add(read).min(self.buffer.len());
        self.full = self.end == self.buffer.len();
    }

    /// Whether the peer is in the middle of a frame.
    pub(super) fn is_mid_frame(&self) -> bool {
        self.partial.is_some() || self.start < self.end
    }

    /// Whether nothing has come yet.
    pub(super) fn is_fresh(&self) -> bool {
        !self.begun && self.start == self.end
    }

    /// Whether what has come says that the peer does not take the stream.
    pub(super) fn is_refusal(&self) -> bool {
        let here = self.buffer.get(self.start..self.end).unwrap_or_default();
        !self.begun && here.starts_with(&REFUSED.to_be_bytes())
    }

    /// The next item, once all of it is here.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Malformed> {
        let here = self.buffer.get(self.start..self.end).unwrap_or_default();
        if let Some(partial) = &mut self.partial {
            let missing = partial.len - partial.body.len();
            let more = here.get(..missing).unwrap_or(here);
            if partial.body.capacity() - partial.body.len() < more.len() {
                // Doubles, and ends exactly at the frame's length.
                let room = partial.body.len().max(more.len()).min(missing);
                partial.body.reserve_exact(room);
            }
            partial.body.extend_from_slice(more);
            self.start += more.len();
            let whole = self.partial.take_if(|partial| partial.body.len() == partial.len);
            return Ok(whole.map(|partial| Item::Frame(partial.body.into())));
        }
        let Some((prefix, rest)) = here.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let len = match u32::from_be_bytes(*prefix) {
            0 => return Err(Malformed::Empty),
            END => {
                (self.start, self.begun) = (self.start + PREFIX, true);
                return Ok(Some(Item::End));
            }
            REFUSED if !self.begun => return Ok(Some(Item::Refused)),
            word => match usize::try_from(word) {
                Ok(len) if len <= self.max => len,
                _ => return Err(Malformed::TooLong(word)),
            },
        };
        self.begun = true;
        if let Some(body) = rest.get(..len) {
            // A copy, so that a frame of some bytes that is kept does not keep the buffer.
            let frame = Bytes::copy_from_slice(body);
            self.start += PREFIX + len;
            return Ok(Some(Item::Frame(frame)));
        }
        let mut body = Vec::with_capacity(len.min(LARGEST_READ));
        body.extend_from_slice(rest);
        self.start = self.end;
        self.partial = Some(Partial { body, len });
        Ok(None)
    }
}

/// Puts frames into bytes: small ones behind each other in one buffer of about [`GATHER`], a large one from where it is.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
    /// So much of the buffer is written.
    written: usize,
    /// What is left of a large frame. It comes after the buffer, and nothing is added before it is gone.
    body: Bytes,
}

impl Encoder {
    /// Whether there is room for a frame.
    pub(super) fn has_room(&self) -> bool {
        self.body.is_empty() && self.buffer.len() - self.written < GATHER
    }

    /// Whether everything is written.
    pub(super) fn is_empty(&self) -> bool {
        self.body.is_empty() && self.written == self.buffer.len()
    }

    /// Adds a frame, which must have 1 byte or more and fewer than 2³² − 2.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.word(u32::try_from(frame.len()).unwrap_or(0));
        if frame.len() <= COPY_UP_TO {
            self.buffer.extend_from_slice(&frame);
        } else {
            self.body = frame;
        }
    }

    /// Adds that nothing follows.
    pub(super) fn push_end(&mut self) {
        self.word(END);
    }

    fn word(&mut self, word: u32) {
        // Less than what is gathered is moved, once for each write.
        self.buffer.drain(..self.written);
        self.written = 0;
        self.buffer.extend_from_slice(&word.to_be_bytes());
    }

    /// What to write next; empty when everything is written.
    pub(super) fn chunk(&self) -> &[u8] {
        match self.buffer.get(self.written..) {
            Some(left) if !left.is_empty() => left,
            _ => &self.body,
        }
    }

    /// Notes that the first `written` bytes of [`Encoder::chunk`] are written.
    pub(super) fn advance(&mut self, written: usize) {
        let left = self.buffer.len() - self.written;
        if left > 0 {
            self.written += written.min(left);
            if self.written == self.buffer.len() {
                self.buffer.clear();
                self.written = 0;
            }
        } else {
            // Not `advance`: an empty rest would hold on to the frame.
            self.body = self
                .body
                .get(written..)
                .filter(|rest| !rest.is_empty())
                .map_or_else(Bytes::new, |rest| self.body.slice_ref(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 100_000;

    /// The items in `bytes` when they arrive in pieces of these lengths, over and over, and what ends them.
    fn decode(mut bytes: &[u8], pieces: &[usize]) -> (Vec<Item>, Option<Malformed>) {
        let (mut decoder, mut items) = (Decoder::new(MAX), Vec::new());
        let mut pieces = pieces.iter().copied().cycle();
        loop {
            match decoder.next() {
                Ok(Some(Item::Refused)) => return ([items, vec![Item::Refused]].concat(), None),
                Ok(Some(item)) => items.push(item),
                Err(malformed) => return (items, Some(malformed)),
                Ok(None) if bytes.is_empty() => return (items, None),
                Ok(None) => {
                    let space = decoder.space();
                    let len = pieces.next().unwrap().clamp(1, bytes.len()).min(space.len());
                    space[..len].copy_from_slice(&bytes[..len]);
                    decoder.filled(len);
                    bytes = &bytes[len..];
                }
            }
        }
    }

    /// The bytes of these frames and the end, written `step` bytes at a time.
    fn encode(frames: &[Bytes], step: usize) -> Vec<u8> {
        let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
        let mut write = |encoder: &mut Encoder, until: fn(&Encoder) -> bool| {
            while !until(encoder) {
                let chunk = encoder.chunk();
                let len = chunk.len().min(step);
                bytes.extend_from_slice(&chunk[..len]);
                encoder.advance(len);
            }
        };
        for frame in frames {
            write(&mut encoder, Encoder::has_room);
            encoder.push(frame.clone());
        }
        write(&mut encoder, Encoder::has_room);
        encoder.push_end();
        write(&mut encoder, Encoder::is_empty);
        bytes
    }

    fn frame(len: usize) -> Bytes {
        (0..len).map(|n| n as u8).collect()
    }

    #[test]
    fn frames_of_all_boundary_sizes_come_back() {
        let lens =
            [1, 2, 3, 4, 5, COPY_UP_TO - 1, COPY_UP_TO, COPY_UP_TO + 1, GATHER - 4, GATHER, LARGEST_READ - 4];
        let lens = lens.into_iter().chain([LARGEST_READ - 3, LARGEST_READ, LARGEST_READ + 1, MAX]);
        let frames: Vec<_> = lens.map(frame).collect();
        let mut items: Vec<_> = frames.iter().cloned().map(Item::Frame).collect();
        items.push(Item::End);
        for (step, piece) in [(usize::MAX, usize::MAX), (7, usize::MAX), (usize::MAX, 1), (16_384, 16_384)] {
            assert_eq!(decode(&encode(&frames, step), &[piece]), (items.clone(), None));
        }
    }

    #[test]
    fn the_bytes_are_the_documented_ones() {
        assert_eq!(encode(&[Bytes::from_static(b"abc")], 1), b"\0\0\0\x03abc\xff\xff\xff\xff");
        assert_eq!(decode(&REFUSED.to_be_bytes(), &[1]), (vec![Item::Refused], None));
    }

    #[test]
    fn what_is_no_frame_is_named() {
        let after_one = |word: u32| [&b"\0\0\0\x01a"[..], &word.to_be_bytes(), b"rest"].concat();
        for (word, malformed) in [
            (0, Malformed::Empty),
            (MAX as u32 + 1, Malformed::TooLong(MAX as u32 + 1)),
            // Once a frame has come, the stream is taken.
            (REFUSED, Malformed::TooLong(REFUSED)),
        ] {
            let (items, ended) = decode(&after_one(word), &[3]);
            assert_eq!((items, ended), (vec![Item::Frame(frame_of(b"a"))], Some(malformed)));
        }
        assert_eq!(decode(&[0; 64], &[64]), (vec![], Some(Malformed::Empty)));
    }

    fn frame_of(bytes: &'static [u8]) -> Bytes {
        Bytes::from_static(bytes)
    }

    #[test]
    fn memory_follows_what_arrived() {
        let max = 1 << 20;
        let mut decoder = Decoder::new(max);
        let mut sent = (max as u32).to_be_bytes().to_vec();
        sent.push(1);
        decoder.space()[..5].copy_from_slice(&sent);
        decoder.filled(5);
        assert_eq!(decoder.next(), Ok(None));
        let held = |decoder: &Decoder| decoder.partial.as_ref().unwrap().body.capacity();
        assert!(decoder.is_mid_frame() && decoder.buffer.len() == FIRST_READ);
        assert!(held(&decoder) <= LARGEST_READ);
        let mut arrived = 1;
        while arrived < max {
            let len = decoder.space().len().min(max - arrived);
            decoder.filled(len);
            arrived += len;
            let item = decoder.next().unwrap();
            if arrived < max {
                assert!(held(&decoder) <= LARGEST_READ.max(2 * arrived), "{arrived}");
            } else {
                assert!(matches!(item, Some(Item::Frame(frame)) if frame.len() == max));
            }
        }
        assert_eq!(decoder.buffer.len(), LARGEST_READ);
        assert!(!decoder.is_mid_frame());
    }

    #[test]
    fn a_small_frame_does_not_wait_for_its_own_write() {
        let mut encoder = Encoder::default();
        let mut frames = 0;
        while encoder.has_room() {
            encoder.push(frame(100));
            frames += 1;
        }
        assert_eq!((frames, encoder.chunk().len()), (GATHER.div_ceil(104), GATHER.div_ceil(104) * 104));
        // A large one is not copied.
        let (mut encoder, large) = (Encoder::default(), frame(COPY_UP_TO + 1));
        encoder.push(large.clone());
        assert_eq!(encoder.chunk().len(), PREFIX);
        encoder.advance(PREFIX);
        assert_eq!(encoder.chunk().as_ptr(), large.as_ptr());
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_frames(
            lens in prop::collection::vec(prop_oneof![1..300_usize, 1..MAX], 0..12),
            pieces in prop::collection::vec(1..40_000_usize, 1..8),
            step in 1..40_000_usize,
        ) {
            let frames: Vec<_> = lens.into_iter().map(frame).collect();
            let mut items: Vec<_> = frames.iter().cloned().map(Item::Frame).collect();
            items.push(Item::End);
            prop_assert_eq!(decode(&encode(&frames, step), &pieces), (items, None));
        }

        #[test]
        fn garbage_reads_the_same_in_any_split(
            bytes in prop::collection::vec(prop_oneof![Just(0), Just(255), 0..4_u8, any::<u8>()], 0..200),
            pieces in prop::collection::vec(1..50_usize, 1..8),
        ) {
            prop_assert_eq!(decode(&bytes, &pieces), decode(&bytes, &[usize::MAX]));
        }
    }
}
