//! What a batch takes of the budgets, and what a frozen home still does for it.

use sensora_chain::{Network, Satoshis};
use sensora_node::buyer::{BuyError, OrderState, OrderSummary, PaidBy, ReleaseLimits};
use sensora_node::freeze::Freeze;
use sensora_protocol::ad::PaymentMode;
use sensora_protocol::market::budget::Budgets;
use sensora_protocol::market::channel::offer::ChannelLimits;
use sensora_protocol::market::choice::Mode;

use super::{COUNT, NOW, PRICE, follow, market_with, mine, seq, state};
use crate::world::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_takes_its_price_of_the_budgets_until_its_coin_is_back_which_no_freeze_stops() {
    let home = tempfile::tempdir().unwrap();
    let day = Satoshis::from_sat(2 * PRICE - 1);
    let world = market_with(4000, |config| {
        config.home = Some(home.path().to_owned());
        config.budgets = Budgets { seller_day: day, day };
    })
    .await;
    let buyer = world.buyer.buyer();
    let seller = *world.agent.identity().public();
    let used = || buyer.budgets(&seller).unwrap().1.day.as_u64();
    let request = world.request(seq(0, COUNT)).await;
    let modes = &request.ad.as_ref().unwrap().modes;
    assert!(modes.contains(&PaymentMode::KeyRelease), "its ad says so: {modes:?}");
    let none = ChannelLimits { max_value: Satoshis::ZERO, max_blocks: 0, max_close_fee: Satoshis::ZERO };
    let plan = buyer.plan(&request, Some(Mode::KeyRelease), none).await.unwrap();
    assert_eq!(plan.choice.unwrap().exposure.as_u64(), PRICE, "a cheat would have that");
    let order = world.locked(&request).await;
    assert_eq!(used(), PRICE);
    let summary = buyer.summary(&order).unwrap();
    assert!(matches!(summary.by, PaidBy::Coin { txid: Some(_) }), "{summary:?}");
    assert!(matches!(summary.state, OrderState::Release(_)) && !summary.state.is_final());
    assert_eq!((summary.total.as_u64(), summary.paid.as_u64(), summary.received), (PRICE, 0, 0));
    assert_eq!(OrderSummary::stored(world.buyer.store(), Network::Regtest).unwrap(), [summary]);
    let resumed = buyer.resume(|_| {}).await.unwrap();
    assert!(
        matches!(resumed[..], [(same, Err(BuyError::KeyAwaited { .. }))] if same == order),
        "{resumed:?}"
    );
    assert!(matches!(buyer.give_up(&order).await, Err(BuyError::KeyAwaited { .. })));

    let next = world.request(seq(COUNT, COUNT)).await;
    let error = world.buying(&next, NOW).await.unwrap().unwrap_err();
    assert!(matches!(error, BuyError::Budget(_)), "{error}");
    let freeze = Freeze::of(Some(home.path()));
    freeze.set().unwrap();
    let few = world.request(seq(COUNT, 600)).await;
    let error = buyer.buy_by_key_release(&few, ReleaseLimits::default(), NOW, |_| {}).await.unwrap_err();
    assert!(matches!(error, BuyError::Frozen(_)), "{error}");
    assert_eq!(
        (buyer.releases().unwrap().len(), used()),
        (1, PRICE),
        "what is refused leaves nothing behind"
    );

    world.agent.shutdown().await;
    let height = buyer.releases().unwrap()[0].refund_height;
    while world.bootstrap.chain().headers().tip().height < height {
        world.bootstrap.chain().mine().await.unwrap();
    }
    follow(&world.bootstrap, &[&world.buyer]).await;
    until("the refund, settled", || async {
        buyer.look_at_releases().await;
        mine(&world.bootstrap, &[&world.buyer], 1).await;
        (state(&world.buyer, &order) == "refunded").then_some(())
    })
    .await;
    assert_eq!(used(), 0, "the coin is back, and so is what it took of the budgets");
    assert_eq!(buyer.summary(&order).unwrap().paid, Satoshis::ZERO);
    world.buyer.shutdown().await;
    world.bootstrap.shutdown().await;
}
