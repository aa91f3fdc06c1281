//! The command line as it is typed, and `docs/cli.md`, which is made from it.

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = line.split('|').flat_map(|part| part.split(' ')).filter(|word| !word.is_empty());
    Cli::try_parse_from(std::iter::once("sensora").chain(words))
}

fn refused(line: &str) -> ErrorKind {
    match parse(line) {
        Ok(cli) => panic!("`{line}` was taken: {cli:?}"),
        Err(error) => error.kind(),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn global_flags_stand_before_or_after_the_command() {
    for line in [
        "--json --home /h wallet balance",
        "wallet balance --json --home /h",
        "wallet --json balance --home /h",
    ] {
        let cli = parse(line).unwrap();
        assert!(cli.global.json, "{line}");
        assert_eq!(cli.global.home.as_deref(), Some(std::path::Path::new("/h")), "{line}");
    }
    let cli = parse("-vv --color never --log json --network test status").unwrap();
    assert_eq!((cli.global.verbose, cli.global.network), (2, Some(Network::Test)));
    assert_eq!(refused("--network mainnet status"), ErrorKind::ValueValidation);
    assert_eq!(refused("--color pink status"), ErrorKind::InvalidValue);
    assert_eq!(refused("stauts"), ErrorKind::InvalidSubcommand);
}

#[test]
fn a_purchase_names_exactly_one_range() {
    for range in
        ["--latest", "--last 5", "--seq 0..5", "--from 2013-12-02", "--from 2013-12-02 --to 2013-12-03"]
    {
        parse(&format!("buy temp {range}")).unwrap();
    }
    assert_eq!(refused("buy temp"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("buy temp --latest --last 5"), ErrorKind::ArgumentConflict);
    assert_eq!(refused("buy temp --to 2013-12-02"), ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("buy temp --last 0"), ErrorKind::ValueValidation);
    assert_eq!(refused("buy temp --seq 5..5"), ErrorKind::ValueValidation);
    assert_eq!(refused("buy temp --latest --max-price -1"), ErrorKind::UnknownArgument);
    assert_eq!(refused("buy temp --latest --max-price 1.5"), ErrorKind::ValueValidation);
}

#[test]
fn an_agent_has_one_source_beside_the_host() {
    parse("agent").unwrap();
    parse("agent --host --sim").unwrap();
    let Command::Agent(args) = parse("agent --csv f.csv --price 0.25 --place -33.9,18.4,6").unwrap().command
    else {
        panic!("another command")
    };
    assert_eq!(args.price.unwrap().msat(), 250);
    assert_eq!(args.place.unwrap().geohash.len(), 6);
    assert_eq!(refused("agent --csv f --stdin"), ErrorKind::ArgumentConflict);
    assert_eq!(refused("agent --exec x --sim"), ErrorKind::ArgumentConflict);
    for wrong in ["--price 0", "--price 0.0001", "--price -1", "--place 91,0", "--place a"] {
        assert!(parse(&format!("agent --sim {wrong}")).is_err(), "{wrong}");
    }
}

/// The commands and their help, as they stand in `docs/cli.md`.
fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = String::new();
    let mut commands = vec![("sensora".to_owned(), &root)];
    while let Some((name, command)) = commands.pop() {
        let help = command.clone().color(clap::ColorChoice::Never).render_long_help().to_string();
        // The flags of every command are told once, with `sensora` itself.
        let help = match help.split_once("\nGlobal options:") {
            Some((own, shared)) if name != "sensora" => {
                let examples = shared.find("\nExamples:").and_then(|at| shared.get(at..)).unwrap_or_default();
                format!("{}\n{}", own.trim_end(), examples).trim_end().to_owned()
            }
            _ => help.trim_end().to_owned(),
        };
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        text.push_str(&format!("\n### `{name}`\n\n```text\n{}\n```\n", lines.join("\n")));
        let inner: Vec<_> = command.get_subcommands().filter(|inner| !inner.is_hide_set()).collect();
        for inner in inner.into_iter().rev() {
            commands.push((format!("{name} {}", inner.get_name()), inner));
        }
    }
    text
}

#[test]
fn the_document_says_what_help_says() {
    const BEGIN: &str = "<!-- reference: made by `SENSORA_BLESS=1 cargo test -p sensora` -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (before, _) = document.split_once(BEGIN).expect("the marker of the reference");
    let wanted = format!("{before}{BEGIN}{}", reference());
    if document != wanted && std::env::var_os("SENSORA_BLESS").is_some() {
        std::fs::write(path, wanted).unwrap();
        return;
    }
    assert!(
        document == wanted,
        "docs/cli.md is not what --help says: run SENSORA_BLESS=1 cargo test -p sensora"
    );
}
