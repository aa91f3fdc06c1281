//! Which stream was meant: from a name, an id or its beginning to a stream in a seller's current ad.

use std::time::Duration;

use sensora_node::discovery::{Found, Query, Way};
use sensora_protocol::ad::StreamAd;
use sensora_protocol::identity::{parse_peer_id, peer_id};
use tokio::time::{Instant, sleep};

use super::offline::{Picked, pick};
use super::session::Session;
use crate::args::StreamArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Pause between two looks at what has been heard.
const LOOK: Duration = Duration::from_millis(200);

/// A stream and the ad it stands in.
pub(super) struct Stream {
    /// The ad and how it was found.
    pub(super) found: Found,
    /// The stream in it.
    pub(super) ad: StreamAd,
}

/// The public key in a peer id that was typed.
pub(super) fn seller_key(text: &str) -> Outcome<sensora_chain::keys::PublicKey> {
    parse_peer_id(text).map_err(|error| Failure::usage(error.to_string()))
}

/// Finds the stream.
pub(super) async fn stream(session: &Session, args: &StreamArgs) -> Outcome<Stream> {
    let seller = args.seller.as_deref().map(seller_key).transpose()?;
    let ends = Instant::now() + Duration::from_secs(args.within);
    let discovery = session.node.discovery();
    if let Some(seller) = &seller {
        let found = loop {
            match discovery.ad_of(seller).await {
                Ok(found) => break found,
                // The seller may be reached only when the swarm has told where it is.
                Err(_) if Instant::now() < ends => sleep(LOOK).await,
                Err(error) => return Err(error.into()),
            }
        };
        return choose(&args.stream, vec![found]);
    }
    let query = Query::default();
    // Who is known already is asked for its current ad; only for what is not known the swarm is searched.
    if let Ok(known) = choose(&args.stream, discovery.book().search(&query)?)
        && let Ok(current) = discovery.ad_of(known.found.ad.key()).await
    {
        return choose(&known.ad.id.to_string(), vec![current]);
    }
    loop {
        let left = ends.saturating_duration_since(Instant::now());
        let found = discovery.search(&query, &Way::all(), left.min(Duration::from_secs(2))).await?;
        match choose(&args.stream, found) {
            Err(failure) if failure.exit == Exit::NotFound && failure.hint.is_none() => {}
            decided => return decided,
        }
        if Instant::now() >= ends {
            return Err(Failure::not_found(format!(
                "no stream `{}` was found in {} s",
                args.stream, args.within
            ))
            .hint("`sensora search` lists what is for sale; --seller PEER asks one seller"));
        }
        sleep(LOOK).await;
    }
}

fn choose(wanted: &str, found: Vec<Found>) -> Outcome<Stream> {
    let streams = found.iter().flat_map(|found| {
        found.ad.value().streams.iter().map(move |ad| {
            let name = ad.name.clone();
            (ad.id.to_string(), Some(name), Stream { found: found.clone(), ad: ad.clone() })
        })
    });
    match pick(wanted, streams) {
        Picked::One(stream) => Ok(stream),
        Picked::Several(texts) => {
            Err(Failure::not_found(format!("`{wanted}` fits {} streams: {}", texts.len(), texts.join(", ")))
                .hint("write more of the id, or name the seller with --seller"))
        }
        Picked::None => Err(Failure::not_found(match found.as_slice() {
            [only] => format!("seller {} has no stream `{wanted}`", peer_id(only.ad.key())),
            _ => format!("there is no stream `{wanted}`"),
        })),
    }
}
