//! The protocol as its users see it: rules that need more than one module, and bytes of strangers.

#![cfg(test)]

mod ad;
mod bad_input;
mod channel;
mod columns;
mod delivery;
mod evidence;
mod golden;
mod key_release;
mod log;
mod market;
mod once;
mod protocol_doc;
mod purchase;
mod reads;
mod recordings;
mod silence;
mod world;
