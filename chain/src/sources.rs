//! Where the chain is reached: the part of this crate that does I/O, behind the feature `sources`.
//!
//! Whatever a source says is checked by its user against his own headers; a source is believed in nothing but what it
//! can prove.

pub mod dev;
