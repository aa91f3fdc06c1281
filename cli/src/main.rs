//! The `sensora` command: arguments in, exit code out. What it does is done by the crates below.

mod args;
mod cmd;
mod context;
mod exit;
mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use args::Cli;
use context::Context;
use exit::Exit;
use failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(refuse(&error).number()),
    };
    let is_service = matches!(cli.command, args::Command::Agent(_));
    let context = Context::new(&cli.global, is_service);
    let exit = match cmd::run(cli.command, &context) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.report(context.out.is_json(), context.out.note_paint());
            failure.exit
        }
    };
    ExitCode::from(exit.number())
}

/// Answers a command line that does not parse: help and version are answers, the rest are usage errors, told as JSON
/// where `--json` was among the words.
fn refuse(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Where standard output is gone there is nobody to tell.
            let _ = error.print();
            Exit::Ok
        }
        _ if std::env::args_os().any(|word| word == "--json") => {
            let text = error.render().to_string();
            let message = text.lines().next().unwrap_or_default();
            let message = message.strip_prefix("error: ").unwrap_or(message);
            let rest = text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty());
            let hint = rest.filter(|line| !line.starts_with("For more")).collect::<Vec<_>>().join("; ");
            let failure = Failure::usage(message);
            let failure = if hint.is_empty() { failure } else { failure.hint(hint) };
            failure.report(true, output::Paint::new(args::ColorChoice::Never, false));
            Exit::Usage
        }
        _ => {
            let _ = error.print();
            Exit::Usage
        }
    }
}
