//! Requests and responses: the framing on a substream and the memory it may take.

pub(super) mod budget;
pub(super) mod codec;
