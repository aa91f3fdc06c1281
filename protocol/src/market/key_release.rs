//! Key release: an indivisible batch goes out encrypted, and the seller is paid by showing the key on the chain.
//!
//! The buyer checks all that can be checked before it pays, locks its coin in a
//! [key-release output](sensora_chain::contract::key_release), and reads the key out of the transaction that takes the coin. What
//! cannot be checked before, whether the parts decrypt to the readings that were sold, is decided afterwards by anybody: each part
//! that does not is a [`misbehaviour::MisbehaviourProof`] against the signed offer. The argument, case by case, is in
//! `docs/payments.md`.
//!
//! | room | what it is for |
//! |---|---|
//! | [`offer`] | the seller's signed word that binds price, key, encrypted parts and checkpoint |
//! | [`key`] | the key of a batch, and the keystream of each part |
//! | [`parts`] | a batch cut into parts; sealed, proven, checked before payment, opened after it |
//! | [`misbehaviour`] | what anybody can check of a part that is not what was sold |
//! | [`coin`] | the contract of an order as both sides derive it, and what is seen of it on the chain |
//! | [`buy`], [`sell`] | the state machines of both sides |
//! | [`frame`] | what they say to each other |

pub mod buy;
pub mod coin;
pub mod frame;
pub mod key;
pub mod misbehaviour;
pub mod offer;
pub mod parts;
pub mod sell;
