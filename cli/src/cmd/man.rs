//! `sensora man [DIR]`: the manual pages, made from the same words as `--help`.

use std::fs;
use std::io::Write as _;

use clap::CommandFactory as _;
use serde_json::json;

use crate::args::{Cli, ManArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;

/// Writes one page for each command into a directory, or the main page to standard output.
pub(super) fn run(args: &ManArgs, context: &Context) -> Outcome<Exit> {
    let mut command = Cli::command();
    command.build();
    let Some(dir) = &args.dir else {
        let page = page(command)?;
        let mut out = Out::raw();
        out.write_all(&page).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))?;
        return Ok(Exit::Ok);
    };
    fs::create_dir_all(dir).map_err(|error| Failure::file("make", dir, &error))?;
    let mut pages = vec![("sensora".to_owned(), command.clone())];
    let mut written = Vec::new();
    while let Some((name, command)) = pages.pop() {
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            pages.push((format!("{name}-{}", inner.get_name()), inner.clone()));
        }
        let path = dir.join(format!("{name}.1"));
        fs::write(&path, page(command)?).map_err(|error| Failure::file("write", &path, &error))?;
        written.push(path);
    }
    written.sort();
    if context.out.is_json() {
        context.out.document(&json!({ "pages": written }))?;
    } else {
        context.out.line(format!(
            "{} pages in {}: see `man -l {}/sensora.1`",
            written.len(),
            dir.display(),
            dir.display()
        ))?;
    }
    Ok(Exit::Ok)
}

fn page(command: clap::Command) -> Outcome<Vec<u8>> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command).manual("Sensora").render(&mut page);
    rendered.map_err(|error| Failure::other(format!("cannot make a manual page: {error}")))?;
    Ok(page)
}
