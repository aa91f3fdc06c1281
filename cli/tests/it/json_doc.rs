//! `docs/cli.md` names what each command prints with `--json`; whatever a test reads is held against it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

/// A row of the table: the words of the command, and the names in backticks.
struct Row {
    command: Vec<&'static str>,
    names: BTreeSet<&'static str>,
}

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let document = include_str!("../../../docs/cli.md");
    let (_, table) =
        document.split_once("| command | fields |\n|---|---|\n").expect("the table of the fields");
    let mut rows = Vec::new();
    for line in table.lines().take_while(|line| line.starts_with('|')) {
        let (commands, fields) = line[1..].split_once('|').expect("two columns");
        for command in quoted(commands) {
            rows.push(Row { command: command.split(' ').collect(), names: quoted(fields).collect() });
        }
    }
    rows
});

fn quoted(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2)
}

/// Asserts that all fields of what the command has printed are in the document, those of the objects in its lists, too.
#[track_caller]
pub(crate) fn check(words: &[String], printed: &Value) {
    let fits = |row: &&Row| row.command.iter().all(|word| words.iter().any(|given| given == word));
    let row = ROWS.iter().filter(fits).max_by_key(|row| row.command.len());
    let row = row.unwrap_or_else(|| panic!("docs/cli.md does not say what {words:?} prints with --json"));
    let known = |name: &str| {
        assert!(
            row.names.contains(name),
            "docs/cli.md lacks `{name}` in the row of {:?}: {printed:#}",
            row.command
        );
    };
    let Value::Object(fields) = printed else { panic!("no JSON object: {printed}") };
    for (name, value) in fields {
        known(name);
        match value {
            Value::String(event) if name == "event" => known(event),
            // Readings have the names of the stream's own fields.
            Value::Array(list) if name != "readings" => {
                list.iter()
                    .filter_map(Value::as_object)
                    .flat_map(|one| one.keys())
                    .for_each(|name| known(name));
            }
            _ => {}
        }
    }
}
