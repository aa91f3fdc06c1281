//! Servers that lie, each in its own way. Nothing they say is believed, they are charged for it, and the honest one
//! behind them is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sensora_chain::beef::{Beef, BeefLimits};
use sensora_chain::header::Header;
use sensora_chain::merkle_path::MerklePath;
use sensora_chain::sources::dev::DevChain;
use sensora_chain::{Satoshis, Txid};
use sensora_node::chain_access::{BroadcastError, ChainService, TxStanding};
use sensora_node::net::PeerId;
use sensora_protocol::chain_access::message::{MAX_HEADERS, ScanPage, Spending, Standing, Tip};
use sensora_protocol::chain_access::{Answer, Refusal, Request, Response};

use super::world::{
    Client, NOW_MS, Peer, clock, coin, fair_fee, key, new_chain, script_of, spend, with_data, within,
};

/// Answers like the honest service, but for what `lie` makes of it.
async fn liar(
    chain: &DevChain,
    lie: impl Fn(&Request, Response) -> Response + Clone + Send + Sync + 'static,
) -> (Peer, Arc<AtomicUsize>) {
    let service = ChainService::new(Some(chain.clone()), clock());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let peer = Peer::answering(move |peer: PeerId, body: &[u8]| {
        counter.fetch_add(1, Ordering::SeqCst);
        let honest = Response::from_bytes(&service.answer(peer, body)).unwrap();
        lie(&Request::from_bytes(body).unwrap(), honest).to_bytes().unwrap().into()
    });
    (peer.await, asked)
}

async fn raw(bytes: impl Fn() -> Bytes + Clone + Send + Sync + 'static) -> Peer {
    Peer::answering(move |_, _| bytes()).await
}

/// A header on `previous` that does not have the work it claims.
fn idle(previous: &Header) -> Header {
    let header = Header::new(1, previous.hash(), [7; 32], previous.time() + 1, 0x207f_ffff, 0);
    let network = sensora_chain::Network::Regtest;
    (0..).map(|nonce| header.with_nonce(nonce)).find(|header| !header.meets_target(network)).unwrap()
}

fn far_tip() -> Answer {
    Answer::Tip(Tip { height: 1_000_000, hash: sensora_chain::BlockHash([1; 32]) })
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_work_are_refused_and_the_honest_chain_followed() {
    let dev = new_chain();
    let (server, base) = (Peer::serving(&dev).await, dev.header(0).unwrap().unwrap());
    let (liar, _) = liar(&dev, move |request, honest| match request {
        Request::Tip => Response::Ok(far_tip()),
        Request::Headers { .. } => {
            let mut run = vec![idle(&base)];
            run.extend((1..MAX_HEADERS).scan(run[0], |last, _| {
                *last = idle(last);
                Some(*last)
            }));
            Response::Ok(Answer::Headers { headers: run.iter().flat_map(|header| header.0).collect() })
        }
        _ => honest,
    })
    .await;
    let client = Client::of(&[&liar, &server]).await;
    client.has_charged(liar.id()).await;
    client.follows(&dev).await;
    assert_eq!(client.chain.headers().tip().height, dev.tip().unwrap().height);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_follow_nothing_or_come_without_end_are_refused() {
    let dev = new_chain();
    let server = Peer::serving(&dev).await;
    // True headers, but from the middle: they follow nothing that was named.
    let middle: Vec<u8> = dev.headers(6, 10).unwrap().iter().flat_map(|header| header.0).collect();
    let (loose, _) = liar(&dev, move |request, honest| match request {
        Request::Tip => Response::Ok(far_tip()),
        Request::Headers { .. } => Response::Ok(Answer::Headers { headers: middle.clone() }),
        _ => honest,
    })
    .await;
    let (endless, asked) = liar(&dev, |request, honest| match (request, honest) {
        (Request::Tip, _) => Response::Ok(far_tip()),
        (_, Response::Ok(Answer::Headers { .. })) => {
            Response::Ok(Answer::Headers { headers: vec![0; 1_000_000 / 80 * 80] })
        }
        (_, other) => other,
    })
    .await;
    let client = Client::of(&[&loose, &endless, &server]).await;
    client.has_charged(loose.id()).await;
    client.has_charged(endless.id()).await;
    client.follows(&dev).await;
    assert!(asked.load(Ordering::SeqCst) < 20, "who answers with junk is left alone for a while");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_merkle_path_is_charged_and_the_next_peer_asked() {
    let (dev, owner) = (new_chain(), key(11));
    let paid = dev.faucet(&script_of(&owner), Satoshis::from_sat(5_000)).unwrap();
    let txid = paid.txid();
    let block = dev.mine(NOW_MS).unwrap();
    // Nearer to the tip it could be of a branch that competes with ours.
    for _ in 0..6 {
        dev.mine_empty(NOW_MS).unwrap();
    }
    let forged = MerklePath::for_block(block.height, &[txid, Txid([8; 32])], 0).unwrap().to_bytes();
    let lie = move |request: &Request, honest: Response| match request {
        Request::Proof { .. } => {
            Response::Ok(Answer::Proof { standings: vec![Standing::Mined { path: forged.clone() }] })
        }
        _ => honest,
    };
    let ((liar, asked), server) = (liar(&dev, lie).await, Peer::serving(&dev).await);
    let client = Client::of(&[&liar, &server]).await;
    client.follows(&dev).await;
    let before = asked.load(Ordering::SeqCst);
    let lines = within(client.chain.proofs(&[txid])).await.unwrap();
    let TxStanding::Mined(path) = &lines[0].1 else { panic!("{lines:?}") };
    assert_eq!(path.root_for(&txid), Some(block.header.merkle_root()));
    assert!(asked.load(Ordering::SeqCst) > before, "the liar was asked first");
    client.has_charged(liar.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_answers_and_junk_are_nobodys_chain() {
    let (dev, owner) = (new_chain(), key(12));
    let server = Peer::serving(&dev).await;
    let honest = ChainService::new(Some(dev.clone()), clock());
    let truncated = Peer::answering(move |peer, body| {
        let answer = honest.answer(peer, body);
        answer.slice(..answer.len() - 1)
    })
    .await;
    let junk = raw(|| Bytes::from(vec![0x9f; 1 << 20])).await;
    let oversize = raw(|| Bytes::from(vec![0; (1 << 20) + 1000])).await;
    let client = Client::of(&[&truncated, &junk, &oversize, &server]).await;
    for liar in [&truncated, &junk, &oversize] {
        client.has_charged(liar.id()).await;
    }
    client.follows(&dev).await;
    within(client.chain.faucet(&script_of(&owner), Satoshis::from_sat(1_000))).await.unwrap();
    assert_eq!(within(client.chain.proofs(&[Txid([1; 32])])).await.unwrap()[0].1, TxStanding::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_and_coins_that_do_not_hold_are_not_believed() {
    let (dev, owner, thief) = (new_chain(), key(13), key(15));
    let funding = dev.faucet(&script_of(&owner), Satoshis::from_sat(9_000)).unwrap();
    dev.mine(NOW_MS).unwrap();
    let mut beef = Beef::new();
    let path = dev.merkle_path(&funding.txid()).unwrap().unwrap();
    let txid = beef.add(funding, Some(&path)).unwrap();
    let source = coin(&beef.to_atomic(&txid).unwrap(), &owner);
    let (_, tx) = with_data(&source, &owner, &[b"other"]);
    dev.submit(&tx).unwrap();
    dev.mine(NOW_MS).unwrap();

    // What it says is true, but not what was asked for: other outputs, coins for somebody else.
    let own = ChainService::new(Some(dev.clone()), clock());
    let lie = move |request: &Request, honest: Response| {
        let other = match request {
            Request::Faucet { sat, .. } => Request::Faucet { locking: script_of(&thief), sat: *sat },
            Request::Scan { from, limit, .. } => {
                Request::Scan { prefix: b"other".to_vec(), from: *from, limit: *limit }
            }
            _ => return honest,
        };
        Response::from_bytes(&own.answer(PeerId::random(), &other.to_bytes().unwrap())).unwrap()
    };
    let ((liar, _), server) = (liar(&dev, lie).await, Peer::serving(&dev).await);
    let client = Client::of(&[&liar, &server]).await;
    client.follows(&dev).await;
    assert!(within(client.chain.scan(b"wanted", 0, 10)).await.unwrap().is_empty());
    client.has_charged(liar.id()).await;
    let client = Client::of(&[&liar, &server]).await;
    client.follows(&dev).await;
    let coins = within(client.chain.faucet(&script_of(&owner), Satoshis::from_sat(2_000))).await.unwrap();
    assert_eq!(coin(&coins, &owner).output.value, Satoshis::from_sat(2_000));
    client.has_charged(liar.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_whose_proof_was_changed_is_not_believed() {
    let (dev, owner) = (new_chain(), key(16));
    let server = Peer::serving(&dev).await;
    let (liar, _) = liar(&dev, |_, honest| match honest {
        Response::Ok(Answer::Scan(mut page)) => {
            for output in &mut page.outputs {
                let middle = output.beef.len() / 2;
                output.beef[middle] ^= 1;
            }
            Response::Ok(Answer::Scan(page))
        }
        other => other,
    })
    .await;
    let client = Client::of(&[&liar, &server]).await;
    let funding = within(client.chain.faucet(&script_of(&owner), Satoshis::from_sat(50_000))).await.unwrap();
    let (beef, tx) = with_data(&coin(&funding, &owner), &owner, &[b"SENSORA_ADV"]);
    within(client.chain.broadcast(&beef)).await.unwrap();
    dev.mine(NOW_MS).unwrap();
    client.follows(&dev).await;
    let found = within(client.chain.scan(b"SENSORA_ADV", 0, 10)).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].txid, tx.txid());
    client.has_charged(liar.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_goes_round_in_circles_ends() {
    let (dev, owner) = (new_chain(), key(17));
    let server = Peer::serving(&dev).await;
    // The first output over and over, as if each time there was another one behind it.
    let first: Arc<OnceLock<ScanPage>> = Arc::default();
    let (again, asked) = liar(&dev, move |_, honest| match honest {
        Response::Ok(Answer::Scan(mut page)) if !page.outputs.is_empty() => {
            page.outputs.truncate(1);
            page.next = page.outputs[0].at.next();
            Response::Ok(Answer::Scan(first.get_or_init(|| page).clone()))
        }
        other => other,
    })
    .await;
    // Nothing, and more of it behind each place.
    let (nothing, _) = liar(&dev, move |request, honest| match honest {
        Response::Ok(Answer::Scan(_)) => {
            let Request::Scan { from, .. } = request else { panic!("{request:?}") };
            Response::Ok(Answer::Scan(ScanPage { outputs: vec![], next: from.next() }))
        }
        other => other,
    })
    .await;
    let funding = dev.faucet(&script_of(&owner), Satoshis::from_sat(50_000)).unwrap();
    dev.mine(NOW_MS).unwrap();
    let mut beef = Beef::new();
    let path = dev.merkle_path(&funding.txid()).unwrap().unwrap();
    let txid = beef.add(funding, Some(&path)).unwrap();
    let source = coin(&beef.to_atomic(&txid).unwrap(), &owner);
    let (_, tx) = with_data(&source, &owner, &[b"SENSORA_ADV 1", b"SENSORA_ADV 2", b"SENSORA_ADV 3"]);
    dev.submit(&tx).unwrap();
    dev.mine(NOW_MS).unwrap();
    let client = Client::of(&[&nothing, &again, &server]).await;
    client.follows(&dev).await;
    let before = asked.load(Ordering::SeqCst);
    let found = within(client.chain.scan(b"SENSORA_ADV", 0, 1000)).await.unwrap();
    let vouts: Vec<u32> = found.iter().map(|output| output.vout).collect();
    assert_eq!(vouts, [0, 1, 2]);
    assert!(asked.load(Ordering::SeqCst) > before);
    client.has_charged(nothing.id()).await;
    client.has_charged(again.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_double_spend_must_be_shown_when_others_accept() {
    let (dev, owner) = (new_chain(), key(14));
    let server = Peer::serving(&dev).await;
    // Cries "double spend" at everything.
    let (denier, _) = liar(&dev, |request, honest| match request {
        Request::Broadcast { .. } => {
            Response::Refused(Refusal::Rejected { double_spent: true, code: 466, reason: "no".to_owned() })
        }
        Request::Spent { outpoints } => {
            Response::Ok(Answer::Spent { spendings: vec![Spending::Unspent; outpoints.len()] })
        }
        _ => honest,
    })
    .await;
    // Accepts everything, and sends nothing on.
    let (yes, _) = liar(&dev, |request, honest| match request {
        Request::Broadcast { beef } => {
            let beef = Beef::parse(beef, &BeefLimits::DEFAULT).unwrap();
            Response::Ok(Answer::Accepted { txid: beef.subject().unwrap() })
        }
        _ => honest,
    })
    .await;
    let client = Client::of(&[&denier, &yes, &server]).await;
    let funding = within(client.chain.faucet(&script_of(&owner), Satoshis::from_sat(50_000))).await.unwrap();
    let coin = coin(&funding, &owner);
    let (beef, tx) = spend(&coin, &owner, vec![], fair_fee(0));
    within(client.chain.broadcast(&beef)).await.expect("a denial without evidence is outweighed");
    assert!(dev.mempool().unwrap().contains(&tx.txid()));
    let (rival, _) = spend(&coin, &owner, vec![], fair_fee(0) + 1);
    let refused = within(client.chain.broadcast(&rival)).await.unwrap_err();
    assert!(matches!(refused, BroadcastError::Rejected { double_spent: true, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_another_question_is_no_answer() {
    let dev = new_chain();
    let server = Peer::serving(&dev).await;
    let (liar, _) = liar(&dev, |request, honest| match request {
        Request::Proof { .. } => Response::Ok(Answer::Accepted { txid: Txid([2; 32]) }),
        Request::Spent { .. } => Response::Ok(Answer::Spent { spendings: vec![] }),
        _ => honest,
    })
    .await;
    let client = Client::of(&[&liar, &server]).await;
    client.follows(&dev).await;
    assert_eq!(within(client.chain.proofs(&[Txid([1; 32])])).await.unwrap().len(), 1);
    client.has_charged(liar.id()).await;
}
