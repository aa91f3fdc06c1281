//! The `sensora` binary as its users meet it: real processes, real homes, real sockets on loopback.

#![cfg(test)]

mod arguments;
mod channels;
mod demo;
mod home;
mod journey;
mod json_doc;
mod kill;
mod kill_channel;
mod owner;
mod reads;
mod real_node;
mod release;
mod support;
mod terms;
mod verify;
mod wallet;
