//! The flags of `sensora channels` and `sensora earnings`.

use clap::{Args, Subcommand};

use super::{NetworkArgs, StreamArgs};

/// Payment channels: list them, open or close one.
///
/// A channel is opened with one transaction and closed with one; in between, any number of readings is paid with signed vouchers that cost
/// nothing. `sensora buy` and `sensora subscribe` open one by themselves where that is worth it (buyer.channel_sat). What is not paid out of
/// a channel comes back when it is closed; if the seller never answers again, at the channel's refund height, by itself.
#[derive(Args, Debug)]
pub(crate) struct ChannelsArgs {
    /// What to do [default: list]
    #[command(subcommand)]
    pub(crate) action: Option<ChannelsAction>,
}

/// What can be done with channels.
#[derive(Debug, Subcommand)]
pub(crate) enum ChannelsAction {
    /// All channels of this home, as buyer and as seller
    List,
    Open(OpenChannelArgs),
    Close(CloseChannelArgs),
}

/// Open a channel with the seller of a stream.
#[derive(Args, Debug)]
pub(crate) struct OpenChannelArgs {
    /// Whose channel.
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// How much is put into it, in satoshis [default: buyer.channel_sat]
    #[arg(long, value_name = "SAT")]
    pub(crate) value: Option<u64>,
    /// How many blocks it lasts [default: buyer.channel_blocks]
    #[arg(long, value_name = "N")]
    pub(crate) blocks: Option<u32>,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// Close a channel, on either side.
///
/// As buyer what is left in it comes back with the next block. As seller what was paid comes into the wallet: the orders on it end first, at the latest
/// three blocks from now. Where an agent runs on the home, it does it.
#[derive(Args, Debug)]
pub(crate) struct CloseChannelArgs {
    /// The channel: its id, or as much of its beginning as is unique
    #[arg(value_name = "CHANNEL")]
    pub(crate) channel: String,
    /// How to reach others.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// What was earned: each order, who paid it, by which transaction or voucher, and why it is not paid if it is not.
#[derive(Args, Debug)]
pub(crate) struct EarningsArgs {
    /// Only orders of this buyer, by peer id
    #[arg(long, value_name = "PEER")]
    pub(crate) buyer: Option<String>,
    /// Only orders that are not paid to the end
    #[arg(long)]
    pub(crate) unpaid: bool,
}
