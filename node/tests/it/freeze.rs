//! The kill switch against what was signed before it was set: nothing of that goes out, and what brings money back does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sensora_chain::wallet::Status;
use sensora_chain::{Network, Satoshis, Script, TxOut};
use sensora_node::buyer::{BuyError, BuyRequest};
use sensora_node::freeze::Freeze;
use sensora_node::store::outbox::{self, Outgoing};
use sensora_node::store::{budget, orders};
use sensora_node::wallet::WalletHandleError;
use sensora_protocol::market::budget::{Budgets, Commitment};
use sensora_protocol::market::channel::buyer::BuyerChannelState;
use sensora_protocol::market::delivery::receive::ChannelPurchaseState;
use sensora_protocol::market::message::{Request, Response};
use sensora_protocol::market::purchase::Purchase;
use sensora_protocol::market::refusal::Refusal;

use crate::live::{channel_limits, sat};
use crate::live_seller::{Served, Stage, ended};
use crate::world::{limits, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_wallet_pays_no_voucher_and_counts_none_as_paid() {
    let home = tempfile::tempdir().unwrap();
    let freeze = Freeze::of(Some(home.path()));
    let stage = Stage::with(Budgets::UNLIMITED, Some(home.path())).await;
    let buyer = stage.buyer.buyer();
    let mut streams = stage.double.takes_streams();
    let mut live = stage.subscribe(600).await;
    let mut served = Served::accept(&mut streams).await;
    served.begins(0, 100).await;
    served.sends(&stage.double, 5).await;
    served.gets(10).await;
    freeze.set().unwrap();
    served.sends(&stage.double, 20).await;
    let error = ended(&mut live).await.unwrap_err();
    assert!(matches!(&*error, BuyError::Frozen(_)), "{error}");
    let paid = served.gone().await;
    assert_eq!(stage.channel(), (paid, 600 - paid), "what was not sent is not paid");
    let purchase = buyer.channel_purchase(&live.order()).unwrap();
    assert_eq!((purchase.next, purchase.state), (5, ChannelPurchaseState::Running));

    // Nor does anything new begin.
    let other = BuyRequest { limits: limits(), ..stage.range(0, 10) };
    for error in [
        buyer.buy_through_channel(&stage.range(0, 10), |_| {}).await.unwrap_err(),
        buyer.buy(&other, |_| {}).await.unwrap_err(),
        buyer.open_channel(&stage.double.key(), sat(2_000), 500, channel_limits()).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("frozen"), "{error}");
    }
    assert_eq!((buyer.orders().unwrap().len(), buyer.channels().unwrap().len()), (1, 1));

    freeze.lift().unwrap();
    let mut live = buyer.subscribe_again(&live.order()).unwrap();
    let mut served = Served::accept(&mut streams).await;
    assert_eq!(served.begin.next, 5);
    served.begins(paid, 100).await;
    served.sends(&stage.double, 20).await;
    served.ends(&stage.double).await;
    assert_eq!(ended(&mut live).await.unwrap().value().paid, sat(50));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_was_signed_before_the_freeze_is_not_sent_and_can_be_taken_back() {
    let home = tempfile::tempdir().unwrap();
    let freeze = Freeze::of(Some(home.path()));
    let stage = Stage::without_channel(Budgets::UNLIMITED, Some(home.path())).await;
    let buyer = stage.buyer.buyer();
    let request = BuyRequest { limits: limits(), ..stage.range(0, 10) };
    let offer = buyer.quote(&request).await.unwrap();
    let order = buyer.order(&offer).unwrap().id;
    assert_eq!(stage.used(), 20);
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    stage.double.intercepts(move |request| match request {
        Request::Purchase(_) => {
            count.fetch_add(1, Ordering::Relaxed);
            Some(Response::Refused(Refusal::NotSelling))
        }
        _ => None,
    });
    freeze.set().unwrap();
    let error = buyer.resume_order(&order, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("frozen"), "{error}");
    let resumed = buyer.resume(|_| {}).await.unwrap();
    assert!(matches!(&resumed[..], [(id, Err(_))] if *id == order), "{resumed:?}");
    assert_eq!(sent.load(Ordering::Relaxed), 0, "the seller has not seen the payment");

    // The coins come back all the same, and with them their part of the budget.
    let error = buyer.give_up(&order).await.unwrap_err();
    assert!(matches!(error, BuyError::GivenUp { taken_back: true, .. }), "{error}");
    assert_eq!(stage.buyer.wallet().balance().unwrap().reserved, Satoshis::ZERO);
    assert_eq!(stage.used(), 0);

    // An order that came to no payment commits nothing either, once it is dropped.
    let purchase = Purchase::agree(&offer, [1; 16], stage.buyer.identity(), Network::Regtest, 0).unwrap();
    let (at_ms, seller) = (stage.double.clock.now_ms(), stage.double.key());
    stage
        .store
        .write(|tx| {
            let commitment = Commitment { seller, at_ms, amount: sat(20) };
            budget::commit::<BuyError>(tx, &Budgets::UNLIMITED, &purchase.id, &commitment)?;
            Ok::<_, BuyError>(orders::put_purchase(tx, &purchase)?)
        })
        .unwrap();
    assert_eq!(stage.used(), 20);
    assert!(buyer.resume(|_| {}).await.unwrap().is_empty());
    assert_eq!(stage.used(), 0);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_funding_that_was_signed_before_the_freeze_is_not_sent() {
    let home = tempfile::tempdir().unwrap();
    let freeze = Freeze::of(Some(home.path()));
    let stage = Stage::without_channel(Budgets::UNLIMITED, Some(home.path())).await;
    let buyer = stage.buyer.buyer();
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    stage.double.intercepts(move |request| match request {
        Request::OpenChannel(_) => {
            count.fetch_add(1, Ordering::Relaxed);
            Some(Response::Refused(Refusal::ChainUnavailable))
        }
        _ => None,
    });
    buyer.open_channel(&stage.double.key(), sat(2_000), 500, channel_limits()).await.unwrap_err();
    let before = sent.load(Ordering::Relaxed);
    assert!(before > 0);
    let state = || buyer.channels().unwrap().remove(0).state;
    assert_eq!(state(), BuyerChannelState::Funding);
    freeze.set().unwrap();
    stage.double.repents();
    let resumed = buyer.resume_channels().await;
    assert!(matches!(&resumed[..], [(_, Err(error))] if error.to_string().contains("frozen")), "{resumed:?}");
    assert_eq!(state(), BuyerChannelState::Funding, "the seller has not seen it again");
    freeze.lift().unwrap();
    buyer.resume_channels().await.remove(0).1.unwrap();
    assert_eq!(state(), BuyerChannelState::Open);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_keeps_what_it_has_while_the_wallet_is_frozen() {
    let home = tempfile::tempdir().unwrap();
    let freeze = Freeze::of(Some(home.path()));
    let stage = Stage::without_channel(Budgets::UNLIMITED, Some(home.path())).await;
    let wallet = stage.buyer.wallet();
    let to = TxOut { value: sat(5_000), locking: Script::p2pkh(&[9; 20]) };
    let spec = wallet.spec(vec![to], "somewhere").unwrap();
    freeze.set().unwrap();
    let built = wallet
        .update(|wallet, tx| {
            let built = wallet.build(stage.buyer.identity().key(), spec, 0)?;
            outbox::put(tx, &Outgoing { txid: built.txid, beef: built.beef.clone() })?;
            Ok::<_, WalletHandleError>(built)
        })
        .unwrap();
    let error = wallet.deliver(&built.txid, &built.beef).await.unwrap_err();
    assert!(matches!(error, WalletHandleError::Frozen(_)), "{error}");
    // Each block has the outbox looked at.
    let look = async || {
        stage.bootstrap.chain().mine().await.unwrap();
        drop(stage.buyer.chain().refresh().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    for _ in 0..5 {
        look().await;
        assert_eq!(wallet.status(&built.txid), Some(Status::Built));
    }
    assert_eq!(stage.store.read(outbox::all).unwrap().len(), 1, "it is still there");
    freeze.lift().unwrap();
    until("it to go out", || async {
        look().await;
        wallet.status(&built.txid)?.is_settled().then_some(())
    })
    .await;
    stage.close().await;
}
