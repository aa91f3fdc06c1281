//! `sensora wallet`: the home's money.

mod backup;
mod chain;
mod export;
mod recover;
mod restore;

use sensora_chain::Satoshis;
use sensora_chain::keys::Address;
use sensora_chain::wallet::{Balance, HistoryEntry, Wallet};
use sensora_node::freeze::Freeze;
use sensora_node::home::{HomeError, HomePaths};
use sensora_node::store;
use sensora_node::store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::offline::Offline;
use super::session::Session;
use crate::args::{BalanceArgs, FundArgs, SendArgs, WalletAction, WalletArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{Table, sat, short_id, signed_sat, time_ms};

/// A balance in `--json`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct BalanceReport {
    /// Everything that is ours as far as the network knows.
    pub(super) total_sat: Satoshis,
    /// Spendable, in blocks.
    pub(super) confirmed_sat: Satoshis,
    /// Spendable, in no block yet.
    pub(super) unconfirmed_sat: Satoshis,
    /// Bound to payments the network has not seen yet.
    pub(super) reserved_sat: Satoshis,
}

impl From<Balance> for BalanceReport {
    fn from(balance: Balance) -> Self {
        Self {
            total_sat: balance.total,
            confirmed_sat: balance.confirmed,
            unconfirmed_sat: balance.unconfirmed,
            reserved_sat: balance.reserved,
        }
    }
}

/// Does what was asked.
pub(super) fn run(args: &WalletArgs, context: &Context) -> Outcome<Exit> {
    match &args.action {
        WalletAction::Address => address(context),
        WalletAction::Balance(args) => balance(args, context),
        WalletAction::History => history(context),
        WalletAction::Fund(args) => fund(args, context),
        WalletAction::Send(args) => send(args, context),
        WalletAction::Audit(args) if args.on_chain => chain::audit(args, context),
        WalletAction::Audit(_) => audit(context),
        WalletAction::Sweep(args) => chain::sweep(args, context),
        WalletAction::Freeze => freeze(context),
        WalletAction::Unfreeze => unfreeze(context),
        WalletAction::Words => words(context),
        WalletAction::Backup(args) => backup::write(args, context),
        WalletAction::VerifyBackup(args) => backup::verify(args, context),
        WalletAction::Restore(args) => restore::run(args, context),
        WalletAction::Recover(args) => recover::run(args, context),
        WalletAction::ExportKeys(args) => export::keys(args, context),
        WalletAction::ExportWatch(args) => export::watch_file(args, context),
        WalletAction::Watch(args) => export::watch(args, context),
    }
}

/// Works beside a process that holds the home: that asks before each payment.
fn freeze(context: &Context) -> Outcome<Exit> {
    let paths = existing(context)?;
    Freeze::of(Some(paths.root())).set().map_err(|error| Failure::file("freeze", paths.root(), &error))?;
    if context.out.is_json() {
        context.out.document(&json!({"frozen": true}))?;
    } else {
        context.out.line("frozen: no money leaves this home until `sensora wallet unfreeze`")?;
        context.out.note(
            "what was signed before can still be taken; refunds, closes and coins taken back still come in",
        );
    }
    Ok(Exit::Ok)
}

fn unfreeze(context: &Context) -> Outcome<Exit> {
    let paths = existing(context)?;
    let lifted = Freeze::of(Some(paths.root())).lift();
    let was = lifted.map_err(|error| Failure::file("unfreeze", paths.root(), &error))?;
    if context.out.is_json() {
        context.out.document(&json!({"frozen": false, "was_frozen": was}))?;
    } else {
        context.out.line(if was { "money can leave this home again" } else { "it was not frozen" })?;
    }
    Ok(Exit::Ok)
}

/// The home, which need not be free.
fn existing(context: &Context) -> Outcome<HomePaths> {
    let paths = context.paths()?;
    if !paths.key().exists() {
        return Err(HomeError::Missing { path: paths.root().to_owned() }.into());
    }
    Ok(paths)
}

fn address(context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    let store = &open.store;
    // Nobody else can change the wallet in between: this process holds the home.
    let mut wallet = store.read(store::wallet::get)?;
    let address = wallet.funding_address(open.identity.key(), open.network)?;
    store.write(|tx| store::wallet::put(tx, &wallet))?;
    if context.out.is_json() {
        context.out.document(&json!({"address": address.to_string(), "network": open.network}))?;
    } else {
        context.out.line(address.to_string())?;
    }
    Ok(Exit::Ok)
}

fn balance(args: &BalanceArgs, context: &Context) -> Outcome<Exit> {
    let balance = if args.refresh {
        let open = context.open_home()?;
        context.block_on(async {
            let session = Session::start(context, open, &args.network).await?;
            let balance = session.refreshed_balance().await;
            session.stop().await;
            balance
        })?
    } else {
        offline_wallet(&Offline::open(context)?)?.balance()?
    };
    show_balance(&balance, context)?;
    Ok(Exit::Ok)
}

fn show_balance(balance: &Balance, context: &Context) -> Outcome {
    let out = &context.out;
    if out.is_json() {
        return out.document(&BalanceReport::from(*balance));
    }
    out.field("total", out.paint().bold(&sat(balance.total)))?;
    out.field("confirmed", sat(balance.confirmed))?;
    out.field("unconfirmed", sat(balance.unconfirmed))?;
    out.field("reserved", sat(balance.reserved))
}

/// One line of the history in `--json`.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    txid: String,
    label: &'a str,
    delta_sat: i64,
    fee_sat: Option<Satoshis>,
    status: String,
}

fn history(context: &Context) -> Outcome<Exit> {
    let home = Offline::open(context)?;
    let mut lines: Vec<HistoryEntry> = home.store.read(store::wallet::archived)?;
    lines.sort_by_key(|line| line.time_ms);
    lines.extend(offline_wallet(&home)?.history());
    let out = &context.out;
    if out.is_json() {
        let lines: Vec<Line<'_>> = lines.iter().map(line).collect();
        out.document(&json!({ "history": lines }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["time", "#change", "#fee", "what", "status", "transaction"]);
    for entry in &lines {
        table.row([
            time_ms(entry.time_ms),
            signed_sat(entry.delta_sat),
            entry.fee.map(sat).unwrap_or_default(),
            entry.label.split(' ').map(short_word).collect::<Vec<_>>().join(" "),
            entry.status.to_string(),
            entry.txid.to_string(),
        ]);
    }
    if table.is_empty() {
        out.note("nothing has come in or gone out yet");
    } else {
        out.table(&table)?;
    }
    Ok(Exit::Ok)
}

/// The beginning of a word that is a hash, any other word as it is.
fn short_word(word: &str) -> String {
    let is_hash = word.len() == 64 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hash { short_id(&word) } else { word.to_owned() }
}

fn line(entry: &HistoryEntry) -> Line<'_> {
    Line {
        time: time_ms(entry.time_ms),
        txid: entry.txid.to_string(),
        label: &entry.label,
        delta_sat: entry.delta_sat,
        fee_sat: entry.fee,
        status: entry.status.to_string(),
    }
}

fn fund(args: &FundArgs, context: &Context) -> Outcome<Exit> {
    let amount = Satoshis::new(args.sat).map_err(|error| Failure::usage(error.to_string()))?;
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let done = session.node.wallet().fund_from_faucet(amount).await.map_err(Failure::from);
        let balance = session.node.wallet().balance().map_err(Failure::from);
        session.stop().await;
        let (txid, balance) = (done?, balance?);
        if context.out.is_json() {
            let balance = BalanceReport::from(balance);
            context.out.document(&json!({"txid": txid, "received_sat": amount, "balance": balance}))?;
        } else {
            context.out.field("received", sat(amount))?;
            context.out.field("transaction", txid)?;
            context.out.field("balance", sat(balance.total))?;
        }
        Ok(Exit::Ok)
    })
}

fn send(args: &SendArgs, context: &Context) -> Outcome<Exit> {
    let amount = Satoshis::new(args.sat).map_err(|error| Failure::usage(error.to_string()))?;
    let open = context.open_home()?;
    let address =
        Address::parse(&args.address, open.network).map_err(|error| Failure::usage(error.to_string()))?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let sent = session.node.wallet().send(&address, amount).await.map_err(Failure::from);
        let balance = session.node.wallet().balance().map_err(Failure::from);
        session.stop().await;
        let (built, balance) = (sent?, balance?);
        if context.out.is_json() {
            let balance = BalanceReport::from(balance);
            let (txid, fee) = (built.txid, built.fee);
            context
                .out
                .document(&json!({"txid": txid, "sent_sat": amount, "fee_sat": fee, "balance": balance}))?;
        } else {
            context.out.field("sent", format!("{} to {address}", sat(amount)))?;
            context.out.field("fee", sat(built.fee))?;
            context.out.field("transaction", built.txid)?;
            context.out.field("balance", sat(balance.total))?;
        }
        Ok(Exit::Ok)
    })
}

fn audit(context: &Context) -> Outcome<Exit> {
    let home = Offline::open(context)?;
    let balance = offline_wallet(&home)?.audit().map_err(|error| {
        Failure::new(Exit::Unverified, format!("the wallet contradicts itself: {error}"))
            .hint("stop using this home and keep a copy of it")
    })?;
    if context.out.is_json() {
        context.out.document(&json!({"ok": true, "balance": BalanceReport::from(balance)}))?;
    } else {
        let (good, total) = (context.out.paint().good("agree"), sat(balance.total));
        context.out.line(format!("coins and history {good}: {total}"))?;
    }
    Ok(Exit::Ok)
}

fn words(context: &Context) -> Outcome<Exit> {
    let key = context.open_key(&context.paths()?)?;
    let phrase = key.words().phrase();
    if context.out.is_json() {
        context.out.document(&json!({ "words": phrase.as_str() }))?;
    } else {
        context.out.line(phrase.as_str())?;
    }
    Ok(Exit::Ok)
}

/// The wallet's stored record.
pub(super) fn offline_wallet(home: &Offline) -> Outcome<Wallet> {
    Ok(home.store.read::<_, StoreError>(store::wallet::get)?)
}
