//! The commands, one room each: here what was typed becomes what is meant, and is done.

mod agent;
mod buy;
mod channels;
mod completions;
mod config;
mod control;
mod cost;
mod demo;
mod doctor;
mod earnings;
mod export;
mod find;
mod init;
mod man;
mod offline;
mod orders;
mod owner;
mod read;
mod rows;
mod sample;
mod search;
mod session;
mod show;
mod status;
mod subscribe;
mod terms;
mod verify;
mod wallet;

use crate::args::Command;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Outcome;

/// Runs a command to its exit code.
pub(crate) fn run(command: Command, context: &Context) -> Outcome<Exit> {
    match command {
        Command::Init(args) => init::run(&args, context),
        Command::Demo(args) => demo::run(&args, context),
        Command::Agent(args) => agent::run(&args, context),
        Command::Search(args) => search::run(&args, context),
        Command::Show(args) => show::run(&args, context),
        Command::Sample(args) => sample::run(&args, context),
        Command::Buy(args) => buy::run(&args, context),
        Command::Orders(args) => orders::run(&args, context),
        Command::Subscribe(args) => subscribe::run(&args, context),
        Command::Read(args) => read::run(&args, context),
        Command::Channels(args) => channels::run(&args, context),
        Command::Earnings(args) => earnings::run(&args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Wallet(args) => wallet::run(&args, context),
        Command::Cost(args) => cost::run(&args, context),
        Command::Status(_) => status::run(context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Config(args) => config::run(args.action, context),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args, context),
    }
}
