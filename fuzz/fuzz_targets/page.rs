//! Runs and pages of a delivery, and stored chunks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sensora_protocol::codec::{self, MAX_FRAME};
use sensora_protocol::market::delivery::Page;
use sensora_protocol::stream::checkpoint::Checkpoint;
use sensora_protocol::stream::{ChunkSecret, Field, Kind, Run, Schema, SealedChunk};
use sensora_protocol::{Hash, StreamId};

fuzz_target!(|bytes: &[u8]| {
    let fields = vec![Field::new("a", Kind::Float), Field::new("b", Kind::Text)];
    let schema = Schema::new(fields).unwrap();
    if let Ok(run) = codec::decode_exact::<Run>(bytes, MAX_FRAME) {
        let _ = run.open(&schema);
    }
    if let Ok(page) = codec::decode_exact::<Page>(bytes, MAX_FRAME) {
        let first = page.runs.first().map_or(0, |run| run.first);
        for size in [first.saturating_add(1), first.saturating_add(5), 1 << 48, u64::MAX] {
            let checkpoint =
                Checkpoint { stream: StreamId([0; 16]), size, root: Hash([0; 32]), issued_ms: 0 };
            assert!(page.open(&schema, &checkpoint, first, size).is_err(), "a root of zeros");
        }
    }
    if let Ok(chunk) = codec::decode_exact::<SealedChunk>(bytes, MAX_FRAME) {
        let _ = chunk.open(&schema, &ChunkSecret::from_bytes([1; 32]));
    }
});
