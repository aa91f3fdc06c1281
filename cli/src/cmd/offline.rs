//! A home without a node: its store, locked for this process, for the commands that need no network.
//!
//! Nothing here takes the key's secret, so a sealed home answers without its passphrase.

use sensora_chain::Network;
use sensora_chain::header::{Header, HeaderChain};
use sensora_chain::keys::PublicKey;
use sensora_node::buyer::OrderSummary;
use sensora_node::chain_access::restore;
use sensora_node::home::Home;
use sensora_node::keystore;
use sensora_node::store::headers::FileHeaderStore;
use sensora_node::store::{self, Store};
use sensora_protocol::StreamId;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// The store of a home that no node runs on.
pub(super) struct Offline {
    /// Held for its lock.
    pub(super) home: Home,
    /// What it keeps.
    pub(super) store: Store,
    /// Its network.
    pub(super) network: Network,
    /// Its public key.
    pub(super) key: PublicKey,
}

impl Offline {
    /// Locks the home and opens its store.
    pub(super) fn open(context: &Context) -> Outcome<Self> {
        let home = Home::open(context.paths()?)?;
        let config = context.config(home.paths())?;
        let network = context.global.network.unwrap_or(config.network);
        let key = keystore::inspect(&home.paths().key())?.public_key;
        let store = Store::open(&home.paths().store(), network, &key)?;
        Ok(Self { home, store, network, key })
    }

    /// The block headers this home has checked.
    pub(super) fn headers(&self) -> Outcome<HeaderChain> {
        let base = checkpoint(self.network)?;
        let unreadable = |error: &dyn std::error::Error| Failure::from_error(Exit::Home, error);
        let store = FileHeaderStore::open(self.home.paths().headers(), &base).map_err(|e| unreadable(&e))?;
        Ok(restore(base, &store).map_err(|error| unreadable(&error))?.chain)
    }
}

fn checkpoint(network: Network) -> Outcome<HeaderChain> {
    HeaderChain::checkpoint(network).map_err(|error| Failure::from_error(Exit::Failure, &error))
}

/// A chain of these headers, the first at `height`; that is not looked at where they follow the headers that come with this
/// program, as those do that `export` writes.
pub(super) fn chain_of(network: Network, height: u32, headers: &[Header]) -> Outcome<HeaderChain> {
    let wrong = |error: sensora_chain::header::HeaderError| {
        Failure::new(Exit::Unverified, format!("the headers are not a chain of network {network}: {error}"))
    };
    let mut chain = checkpoint(network)?;
    let known = |hash| chain.height_of(&hash).is_some();
    if headers.first().is_none_or(|first| known(first.hash()) || known(first.previous())) {
        chain.connect_run(headers).map_err(wrong)?;
        return Ok(chain);
    }
    HeaderChain::from_checkpoint(network, height, headers).map_err(wrong)
}

/// What was meant by the beginning of an id, or by a name.
#[derive(Debug)]
pub(super) enum Picked<T> {
    /// Exactly this.
    One(T),
    /// None fits.
    None,
    /// More than one fits; the texts tell them apart.
    Several(Vec<String>),
}

/// Picks by name, or by the beginning of an id in hex.
pub(super) fn pick<T>(
    wanted: &str,
    among: impl IntoIterator<Item = (String, Option<String>, T)>,
) -> Picked<T> {
    let beginning = wanted.to_ascii_lowercase();
    let mut fitting: Vec<(String, T)> = among
        .into_iter()
        .filter(|(id, name, _)| {
            name.as_deref() == Some(wanted) || (!beginning.is_empty() && id.starts_with(&beginning))
        })
        .map(|(id, name, value)| (name.map_or_else(|| id.clone(), |name| format!("{id} {name}")), value))
        .collect();
    match (fitting.pop(), fitting.is_empty()) {
        (None, _) => Picked::None,
        (Some((_, value)), true) => Picked::One(value),
        (Some((last, _)), false) => {
            Picked::Several(fitting.into_iter().map(|(text, _)| text).chain([last]).collect())
        }
    }
}

impl<T> Picked<T> {
    /// The one, or why there is not one.
    pub(super) fn one(self, what: &str, wanted: &str) -> Outcome<T> {
        match self {
            Self::One(value) => Ok(value),
            Self::None => Err(Failure::not_found(format!("there is no {what} `{wanted}`"))),
            Self::Several(texts) => Err(Failure::not_found(format!(
                "`{wanted}` fits {} {what}s: {}",
                texts.len(),
                texts.join(", ")
            ))
            .hint("write more of the id")),
        }
    }
}

/// An order of this home, by its id or the beginning of it.
pub(super) fn pick_order<'a>(orders: &'a [OrderSummary], wanted: &str) -> Outcome<&'a OrderSummary> {
    pick(wanted, orders.iter().map(|order| (order.order.to_string(), None, order))).one("order", wanted)
}

/// A stream of which this home has bought readings.
pub(super) fn pick_bought(store: &Store, wanted: &str) -> Outcome<Picked<StreamId>> {
    let streams = store.read(store::bought::streams)?;
    Ok(pick(wanted, streams.into_iter().map(|stream| (stream.id.to_string(), Some(stream.name), stream.id))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_must_be_unique_but_a_name_is_enough() {
        let among = || {
            [("aa11", Some("one"), 1), ("aa22", Some("two"), 2), ("bb", None, 3), ("cc", Some("aa"), 4)]
                .map(|(id, name, value)| (id.to_owned(), name.map(str::to_owned), value))
        };
        assert!(matches!(pick("two", among()), Picked::One(2)));
        assert!(matches!(pick("AA1", among()), Picked::One(1)));
        assert!(matches!(pick("b", among()), Picked::One(3)));
        assert!(matches!(pick("x", among()), Picked::None));
        assert!(matches!(pick("", among()), Picked::None));
        let Picked::Several(texts) = pick("aa", among()) else { panic!("not several") };
        assert_eq!(texts, ["aa11 one", "aa22 two", "cc aa"]);
    }
}
