//! What a peer sends on a delivery stream: in any split it gives the same frames, they are written the same again, and memory follows what has arrived.
//!
//! The framing is built from its one file: the crate around it would bring the whole swarm in here.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../node/src/net/delivery/frame.rs"]
#[allow(dead_code, reason = "the node uses more of it")]
mod frame;

use frame::{Decoder, Encoder, Item, Malformed};

/// Smaller than on the wire, so that the fuzzer reaches both sides of it.
const MAX: usize = 20_000;

fuzz_target!(|input: (u16, &[u8])| {
    let (step, bytes) = input;
    let (items, ended) = decode(bytes, usize::MAX);
    assert_eq!(decode(bytes, usize::from(step).max(1)), (items.clone(), ended));

    let mut encoder = Encoder::default();
    let mut written = Vec::new();
    for item in items {
        match item {
            Item::Frame(frame) => {
                assert!((1..=MAX).contains(&frame.len()));
                encoder.push(frame);
            }
            Item::End => encoder.push_end(),
            Item::Refused => continue,
        }
        while !encoder.is_empty() {
            let chunk = encoder.chunk();
            let len = chunk.len().min(usize::from(step).max(1));
            written.extend_from_slice(&chunk[..len]);
            encoder.advance(len);
        }
    }
    assert!(bytes.starts_with(&written));
});

/// The items in `bytes` when so many of them arrive at a time, up to the first end, and what is wrong after them.
fn decode(mut bytes: &[u8], step: usize) -> (Vec<Item>, Option<Malformed>) {
    let (mut decoder, mut items) = (Decoder::new(MAX), Vec::new());
    loop {
        match decoder.next() {
            Ok(Some(item)) => {
                let last = !matches!(item, Item::Frame(_));
                items.push(item);
                if last {
                    return (items, None);
                }
            }
            Err(malformed) => return (items, Some(malformed)),
            Ok(None) if bytes.is_empty() => return (items, None),
            Ok(None) => {
                let space = decoder.space();
                assert!(!space.is_empty(), "there is always room");
                let len = step.min(bytes.len()).min(space.len());
                space[..len].copy_from_slice(&bytes[..len]);
                decoder.filled(len);
                bytes = &bytes[len..];
            }
        }
    }
}
