//! The protocol as its users see it: rules that need more than one module, and bytes of strangers.

#![cfg(test)]

mod columns;
mod log;
mod market;
mod once;
mod purchase;
mod recordings;
mod world;
