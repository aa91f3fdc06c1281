//! `sensora completions SHELL`: the script to be sourced by the shell.

use std::io::Write as _;

use clap::CommandFactory as _;

use crate::args::{Cli, CompletionsArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;

/// Prints the completion script.
pub(super) fn run(args: &CompletionsArgs) -> Outcome<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sensora", &mut script);
    let mut out = Out::raw();
    out.write_all(&script).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))?;
    Ok(Exit::Ok)
}
