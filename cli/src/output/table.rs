//! Tables: framed on a terminal, tab-separated in a pipe.

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, presets};

use super::{Paint, printable};

/// A column's heading and which way its cells lean.
#[derive(Clone, Debug)]
enum Column {
    /// Text.
    Left(String),
    /// Numbers.
    Right(String),
}

impl Column {
    fn heading(&self) -> &str {
        match self {
            Self::Left(heading) | Self::Right(heading) => heading,
        }
    }
}

/// Rows of text under headings.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table. A heading that begins with `#` is a column of numbers, which leans right (the `#` is not shown).
    pub(crate) fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        Self::with_headings(headings.into_iter().map(str::to_owned))
    }

    /// As [`Table::new`], where the columns are known only at run time.
    pub(crate) fn with_headings(headings: impl IntoIterator<Item = String>) -> Self {
        let column = |heading: String| match heading.strip_prefix('#') {
            Some(number) => Column::Right(tame(number)),
            None => Column::Left(tame(&heading)),
        };
        Self { columns: headings.into_iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. Its texts may come from elsewhere.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.push(cells);
    }

    /// As [`Table::row`], where the columns are known only at run time.
    pub(crate) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| tame(&cell)).collect());
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, without a line break at its end.
    pub(crate) fn render(&self, is_terminal: bool, paint: Paint) -> String {
        if is_terminal { self.framed(paint) } else { self.plain() }
    }

    fn plain(&self) -> String {
        let headings: Vec<&str> = self.columns.iter().map(|column| column.heading()).collect();
        let lines = std::iter::once(headings.join("\t")).chain(self.rows.iter().map(|row| row.join("\t")));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn framed(&self, paint: Paint) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        if paint.0 {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(self.columns.iter().map(|column| {
            let cell = Cell::new(column.heading());
            if paint.0 { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        for row in &self.rows {
            table.add_row(row.iter().zip(&self.columns).map(|(text, column)| {
                let alignment = match column {
                    Column::Left(_) => CellAlignment::Left,
                    Column::Right(_) => CellAlignment::Right,
                };
                Cell::new(text).set_alignment(alignment)
            }));
        }
        table.trim_fmt()
    }
}

/// A text that stays in its cell.
fn tame(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ColorChoice;

    #[test]
    fn a_pipe_gets_tabs_and_a_terminal_a_frame() {
        let mut table = Table::new(["name", "#readings"]);
        table.row(["a\tb\x1b[2J".to_owned(), "12".to_owned()]);
        let paint = Paint::new(ColorChoice::Never, true);
        assert_eq!(table.render(false, paint), "name\treadings\na\u{fffd}b\u{fffd}[2J\t12");
        let framed = table.render(true, paint);
        assert!(framed.contains('─') && framed.contains("readings") && !framed.contains('\x1b'), "{framed}");
    }
}
