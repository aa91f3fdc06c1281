//! The crate against the world: published vectors and an independent implementation.
