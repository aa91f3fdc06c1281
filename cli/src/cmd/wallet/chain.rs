//! `sensora wallet audit --on-chain` and `sweep`: the wallet beside the chain, and the excess out of reach.

use sensora_chain::Satoshis;
use sensora_chain::keys::Address;
use sensora_chain::wallet::{Difference, MIN_SWEEP, TIDY_DEPTH};
use sensora_node::wallet::SweepPolicy;
use serde_json::json;

use super::BalanceReport;
use crate::args::{AuditArgs, NetworkArgs, SweepArgs};
use crate::cmd::session::Session;
use crate::context::{Context, OpenHome};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{counted, sat};

/// A node that follows the chain and has seen its newest block.
async fn on_chain(context: &Context, open: OpenHome, flags: &NetworkArgs) -> Outcome<Session> {
    let session = Session::start_alone(context, open, flags).await?;
    let ready = async {
        if session.node.chain().dev_chain().is_none() {
            session.ready(context).await?;
        }
        session.refreshed_balance().await
    };
    match ready.await {
        Ok(_) => Ok(session),
        Err(failure) => {
            session.stop().await;
            Err(failure)
        }
    }
}

/// Whether nobody but whoever was asked says so.
fn is_hearsay(difference: &Difference) -> bool {
    !matches!(difference, Difference::SpentElsewhere { mined: true, .. } | Difference::StaleProof { .. })
}

/// Adds the wallet up, and lays it beside the chain.
pub(super) fn audit(args: &AuditArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    context.block_on(async {
        let session = on_chain(context, open, &args.network).await?;
        let wallet = session.node.wallet();
        let sums = wallet.audit();
        let compared = wallet.audit_chain().await;
        session.stop().await;
        let balance = sums.map_err(|error| {
            Failure::new(Exit::Unverified, format!("the wallet contradicts itself: {error}"))
                .hint("stop using this home and keep a copy of it")
        })?;
        let compared = compared?;
        let (out, differences) = (&context.out, &compared.differences);
        if out.is_json() {
            let lines: Vec<_> = differences
                .iter()
                .map(|difference| json!({"text": difference.to_string(), "proven": !is_hearsay(difference)}))
                .collect();
            out.document(&json!({
                "ok": differences.is_empty(),
                "balance": BalanceReport::from(balance),
                "coins": compared.coins,
                "transactions": compared.transactions,
                "differences": lines,
            }))?;
            return Ok(if differences.is_empty() { Exit::Ok } else { Exit::Unverified });
        }
        let (good, total) = (out.paint().good("agree"), sat(balance.total));
        out.line(format!("coins and history {good}: {total}"))?;
        for difference in differences {
            out.line(format!("{} {difference}", out.paint().bad("differs:")))?;
        }
        let count = |count: usize, thing: &str| counted(u64::try_from(count).unwrap_or(u64::MAX), thing);
        let what =
            format!("{} and {}", count(compared.coins, "coin"), count(compared.transactions, "transaction"));
        if differences.is_empty() {
            out.line(format!("{what} {} with the chain", out.paint().good("agree")))?;
            return Ok(Exit::Ok);
        }
        let failure =
            Failure::new(Exit::Unverified, format!("{} of {what} differ from the chain", differences.len()));
        Err(failure.hint(if differences.iter().all(is_hearsay) {
            "nothing of it is proven: ask again, or another service"
        } else {
            "`sensora wallet recover` takes in what the chain proves"
        }))
    })
}

/// Sends the excess to a cold address.
pub(super) fn sweep(args: &SweepArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    let to = args.to.as_deref().map(|text| Address::parse(text, open.network)).transpose();
    let to = to.map_err(|error| Failure::usage(error.to_string()))?;
    let keep = args.keep.map(Satoshis::new).transpose().map_err(|error| Failure::usage(error.to_string()))?;
    context.block_on(async {
        let session = on_chain(context, open, &args.network).await?;
        let wallet = session.node.wallet();
        let configured = wallet.sweep_policy();
        let policy = SweepPolicy { to: to.or(configured.to), keep: keep.unwrap_or(configured.keep) };
        let swept = async {
            wallet.set_sweep(policy)?;
            let swept = wallet.sweep_now().await?;
            Ok::<_, Failure>((swept, wallet.balance()?))
        };
        let swept = swept.await;
        session.stop().await;
        let (swept, balance) = swept?;
        let out = &context.out;
        let amount = swept.as_ref().and_then(|built| built.tx.outputs.first()).map(|output| output.value);
        if out.is_json() {
            out.document(&json!({
                "txid": swept.as_ref().map(|built| built.txid),
                "swept_sat": amount.unwrap_or(Satoshis::ZERO),
                "fee_sat": swept.as_ref().map(|built| built.fee),
                "to": policy.to.map(|to| to.to_string()),
                "keep_sat": policy.keep,
                "balance": BalanceReport::from(balance),
            }))?;
            return Ok(Exit::Ok);
        }
        match (swept, policy.to) {
            (Some(built), Some(to)) => {
                out.field("swept", format!("{} to {to}", sat(amount.unwrap_or(Satoshis::ZERO))))?;
                out.field("fee", sat(built.fee))?;
                out.field("transaction", built.txid)?;
            }
            _ => out.line(format!(
                "nothing is swept: less than {} above what is kept ({}) is {TIDY_DEPTH} blocks deep, or a sweep is under way",
                sat(Satoshis::from_sat(MIN_SWEEP)),
                sat(policy.keep)
            ))?,
        }
        out.field("balance", sat(balance.total))?;
        Ok(Exit::Ok)
    })
}
