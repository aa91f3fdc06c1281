//! `sensora wallet recover`: coins found again on the chain.

use sensora_chain::Satoshis;
use sensora_chain::header::HeaderView as _;
use sensora_chain::sources::service::{Service, ServiceConfig, ServiceKind};
use sensora_chain::wallet::KeyRow;
use sensora_node::config::ChainSource;
use sensora_node::recovery::{
    BlockScan, Found, Progress as At, Scan, catch_up, find_signposts, mark_followed, scan_blocks,
    scan_dev_chain, scan_scripts,
};
use serde_json::json;

use super::BalanceReport;
use crate::args::RecoverArgs;
use crate::cmd::session::Session;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::{counted, sat};

/// How coins are looked for by their number.
enum Way {
    /// At services that know scripts.
    Scripts(Vec<Service>),
    /// In the blocks of a node.
    Blocks(Vec<Service>),
    /// In the blocks of the development chain of this home.
    DevChain,
    /// By the own anchors and ads that peers find.
    Signposts,
}

impl Way {
    const fn name(&self) -> &'static str {
        match self {
            Self::Scripts(_) => "scripts",
            Self::Blocks(_) => "blocks",
            Self::DevChain => "dev-chain",
            Self::Signposts => "anchors and ads",
        }
    }
}

/// Finds coins again.
pub(super) fn run(args: &RecoverArgs, context: &Context) -> Outcome<Exit> {
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start_still(context, open, &args.network, None).await?;
        let done = look(args, context, &session).await;
        session.stop().await;
        done
    })
}

async fn look(args: &RecoverArgs, context: &Context, session: &Session) -> Outcome<Exit> {
    let (wallet, chain) = (session.node.wallet(), session.node.chain());
    let identity = session.node.identity();
    if chain.dev_chain().is_none() {
        session.ready(context).await?;
    }
    session.sync().await?;
    let way = way(services(session)?, chain.dev_chain().is_some());
    let (found, waiting, gained) = {
        let found = find(&way, args, context, session).await?;
        let gained = found.credit_to(wallet, identity.key(), session.clock.now_ms())?;
        (found.coins().0, found.waiting.len(), gained)
    };
    let followed = catch_up(wallet, chain, identity, &session.clock, args.gap).await?;
    // A home that was restored has looked up now what happened since, unless whoever was asked does not know some of its coins.
    if followed.unknown == 0 {
        mark_followed(session.node.store())?;
    } else {
        let unknown = crate::output::counted(followed.unknown as u64, "coin");
        context.out.note(format!(
            "{unknown} of this wallet is not known to whoever was asked: try again, best with another service (--chain)"
        ));
    }
    let balance = session.refreshed_balance().await?;
    let next = |row| wallet.read(|wallet| wallet.next_number(row));
    let out = &context.out;
    if out.is_json() {
        out.document(&json!({
            "way": way.name(),
            "coins": found,
            "gained_sat": gained,
            "waiting": waiting,
            "followed": {
                "asked": followed.asked,
                "spending": followed.spending,
                "came_back": followed.came_back,
                "came_back_sat": followed.value,
            },
            "next_change": next(KeyRow::Change),
            "next_funding": next(KeyRow::Funding),
            "balance": BalanceReport::from(balance),
        }))?;
        return Ok(Exit::Ok);
    }
    let count = |count: usize, thing: &str| counted(u64::try_from(count).unwrap_or(u64::MAX), thing);
    out.field("looked for", format!("addresses and change by {}", way.name()))?;
    out.field("found", format!("{}, {} of it new", count(found, "coin"), sat(gained)))?;
    out.field(
        "followed",
        format!(
            "{}: {} unknown before spent some, {} came back ({})",
            count(followed.asked, "coin"),
            count(followed.spending, "transaction"),
            count(followed.came_back, "coin"),
            sat(followed.value)
        ),
    )?;
    if waiting > 0 {
        out.field("waiting", format!("{} in no block yet: look again later", count(waiting, "coin")))?;
    }
    out.field("balance", out.paint().bold(&sat(balance.total)))?;
    if gained == Satoshis::ZERO && followed.spending == 0 {
        out.note("\nNothing was found that the wallet did not know.");
    }
    Ok(Exit::Ok)
}

async fn find(way: &Way, args: &RecoverArgs, context: &Context, session: &Session) -> Outcome<Found> {
    let chain = session.node.chain();
    let identity = session.node.identity();
    let headers = chain.headers();
    let root = identity.key();
    let needs_block = matches!(way, Way::Blocks(_) | Way::DevChain);
    if needs_block && headers.header_at(args.from_height).is_none() {
        let text = format!(
            "there is no header at height {}: the headers of this home end at {}",
            args.from_height,
            headers.tip_height()
        );
        return Err(Failure::usage(text).hint("give --from-height the height at which the wallet was made, or less, but not below the first header known"));
    }
    let scan = || BlockScan::new(root, args.gap, args.from_height);
    let bar = match way {
        Way::Blocks(_) => {
            context.out.progress(u64::from(headers.tip_height().saturating_sub(args.from_height)), "blocks")
        }
        _ => context.out.progress(0, "keys"),
    };
    let progress = |at: At| {
        bar.at(match at {
            At::Key(_, number) => number,
            At::Block(height, _) => u64::from(height.saturating_sub(args.from_height)),
        });
    };
    Ok(match way {
        Way::Scripts(services) => {
            scan_scripts(Scan::new(root, args.gap), services, &headers, progress).await?
        }
        Way::Blocks(services) => scan_blocks(scan(), services, &headers, progress).await?,
        Way::DevChain => {
            let Some(dev) = chain.dev_chain().cloned() else {
                return Err(Failure::other("this home runs no development chain"));
            };
            let scan = scan();
            let read = tokio::task::spawn_blocking(move || scan_dev_chain(scan, &dev, &headers)).await;
            read.map_err(|error| Failure::other(format!("the blocks could not be read: {error}")))??
        }
        Way::Signposts => find_signposts(chain, identity, args.gap, args.from_height).await?,
    })
}

fn way(services: Vec<Service>, is_dev: bool) -> Way {
    let is_of = |kind: ServiceKind| services.iter().any(|service| service.config().kind == kind);
    if is_of(ServiceKind::WhatsOnChain) {
        Way::Scripts(services)
    } else if is_of(ServiceKind::NodeRpc) {
        Way::Blocks(services)
    } else if is_dev {
        Way::DevChain
    } else {
        Way::Signposts
    }
}

/// The services of the configuration, or of `--chain`, that can find coins.
fn services(session: &Session) -> Outcome<Vec<Service>> {
    if session.config.chain.source != ChainSource::Services {
        return Ok(Vec::new());
    }
    let configured = session.config.chain.services(session.network, |name| std::env::var(name).ok());
    let configured = configured.map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    let useful =
        |config: &ServiceConfig| matches!(config.kind, ServiceKind::WhatsOnChain | ServiceKind::NodeRpc);
    let made = configured.services.into_iter().filter(useful).map(Service::new);
    made.collect::<Result<_, _>>().map_err(|error| Failure::usage(error.to_string()))
}
