//! The crate as others use it.

mod keystore;
mod net;
