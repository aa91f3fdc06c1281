//! What the runner does on each kind of event of the swarm, one file for each family.

mod connection;
mod delivery;
mod gossip;
mod identify;
pub(super) mod kad;
mod requests;
