//! Which cell of a row is what: learnt from a CSV file's first rows and from what was configured.

use std::time::Duration;

use sensora_protocol::stream::{Kind, Schema};

use super::RawReading;
use super::columns::{self, ColumnRef};
use super::csv::{CsvSpec, Header};
use super::csv_rows::Row;
use super::error::{RowError, RowProblem, SourceError};
use super::rows::value_from_text;
use super::time_format::{TimeError, TimeFormat, TimeParser, Zone};

/// So many rows tell which columns are numbers.
pub(super) const SAMPLE_ROWS: usize = 1001;

/// Names that columns of times have, in lower case and without what is no letter.
const TIME_NAMES: [&str; 12] = [
    "timestamp",
    "time",
    "datetime",
    "date",
    "ts",
    "utc",
    "utctime",
    "timeutc",
    "createdat",
    "recordedat",
    "unixtime",
    "epoch",
];

/// One of the first rows.
#[derive(Debug)]
pub(super) enum Sampled {
    Row(Row),
    /// A row that was passed over, and its line.
    TooLong(u64),
}

impl Sampled {
    fn row(&self) -> Option<&Row> {
        match self {
            Self::Row(row) => Some(row),
            Self::TooLong(_) => None,
        }
    }
}

/// Reads the rows of one file.
#[derive(Debug)]
pub(super) struct Layout {
    /// Cells in each row.
    cells: usize,
    /// The cell with the time.
    time: usize,
    time_name: String,
    time_parser: TimeParser,
    fields: Vec<FieldCell>,
    null: Vec<String>,
}

#[derive(Debug)]
struct FieldCell {
    cell: usize,
    name: String,
    kind: Kind,
}

impl Layout {
    /// Learns the layout; gives back the rows that are readings.
    pub(super) fn learn(
        what: &str,
        spec: &CsvSpec,
        mut sample: Vec<Sampled>,
    ) -> Result<(Self, Schema, Vec<Sampled>), SourceError> {
        let header = match sample.first() {
            None => return Err(SourceError::Empty { what: what.to_owned() }),
            Some(Sampled::Row(first)) if has_header(spec, first) => texts(first),
            Some(_) => Vec::new(),
        };
        if !header.is_empty() {
            sample.remove(0);
        }
        let rows: Vec<&Row> = sample.iter().filter_map(Sampled::row).collect();
        if rows.is_empty() {
            return Err(SourceError::Empty { what: what.to_owned() });
        }
        let (names, row_number) = names(header, &rows);
        let (time, time_parser) = find_time(what, spec, &names, &rows)?;

        let chosen: Vec<_> = if spec.columns.is_empty() {
            let numeric = numeric_columns(&names, &rows, &[Some(time), row_number], &spec.null);
            if numeric.is_empty() {
                return Err(SourceError::NoColumns {
                    what: what.to_owned(),
                    available: columns::list(&names),
                });
            }
            tracing::info!(
                file = what,
                time = names.get(time).map_or("", String::as_str),
                columns = ?numeric.iter().map(|(_, name, _)| name).collect::<Vec<_>>(),
                "columns of numbers found"
            );
            numeric.into_iter().map(|(cell, name, kind)| (cell, name.clone(), name, kind, None)).collect()
        } else {
            let mut chosen = Vec::new();
            for column in &spec.columns {
                let cell = columns::find(what, &names, &column.column)?;
                let name = names.get(cell).cloned().unwrap_or_default();
                let field = column.field.clone().unwrap_or_else(|| name.clone());
                chosen.push((cell, name, field, column.kind.unwrap_or(Kind::Float), column.unit));
            }
            chosen
        };
        let schema = columns::schema(
            what,
            chosen.iter().map(|(_, _, field, kind, unit)| (field.clone(), *kind, *unit)),
        )?;
        let fields =
            chosen.into_iter().map(|(cell, name, _, kind, _)| FieldCell { cell, name, kind }).collect();
        let layout = Self {
            cells: names.len(),
            time,
            time_name: names.get(time).cloned().unwrap_or_default(),
            time_parser,
            fields,
            null: spec.null.clone(),
        };
        Ok((layout, schema, sample))
    }

    /// Reads one row.
    pub(super) fn read(&self, row: &Row) -> Result<RawReading, RowError> {
        let error = |column: Option<&str>, problem| RowError {
            line: row.line,
            column: column.map(super::error::quote),
            problem,
        };
        if row.len() != self.cells {
            return Err(error(None, RowProblem::CellCount { expected: self.cells, found: row.len() }));
        }
        let text = |cell: usize, name: &str| {
            std::str::from_utf8(row.cell(cell).unwrap_or_default())
                .map_err(|_| error(Some(name), RowProblem::NotText))
        };
        let time = text(self.time, &self.time_name)?;
        if time.trim().is_empty() {
            return Err(error(Some(&self.time_name), RowProblem::NoTime));
        }
        let time = self
            .time_parser
            .parse(time)
            .map_err(|source| error(Some(&self.time_name), RowProblem::Time(source)))?;
        let mut values = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            let value = value_from_text(text(field.cell, &field.name)?, field.kind, &self.null);
            values.push(value.map_err(|problem| error(Some(&field.name), problem))?);
        }
        Ok(RawReading { time, values })
    }

    /// What is wrong with the first row, where not one of the sample can be read.
    pub(super) fn complaint(&self, sample: &[Sampled]) -> Option<RowError> {
        let mut first = None;
        for row in sample.iter().filter_map(Sampled::row) {
            match self.read(row) {
                Ok(_) => return None,
                Err(error) => first = first.or(Some(error)),
            }
        }
        first
    }

    /// The usual time between two rows: the median of those in the sample that go forward.
    pub(super) fn cadence(&self, sample: &[Sampled]) -> Option<Duration> {
        let mut times = sample.iter().filter_map(Sampled::row).filter_map(|row| self.read(row).ok());
        let mut before = times.next()?.time;
        let mut steps: Vec<u64> = Vec::new();
        for reading in times {
            let step = reading.time.saturating_sub(before);
            steps.extend(u64::try_from(step).ok().filter(|step| *step > 0));
            before = reading.time;
        }
        steps.sort_unstable();
        steps.get(steps.len() / 2).copied().map(Duration::from_nanos)
    }
}

fn texts(row: &Row) -> Vec<String> {
    row.cells().map(|cell| String::from_utf8_lossy(cell).trim().to_owned()).collect()
}

fn has_header(spec: &CsvSpec, first: &Row) -> bool {
    match spec.header {
        Header::Yes => true,
        Header::No => false,
        Header::Auto => {
            let is_data = |text: &String| {
                text.parse::<f64>().is_ok() || TimeParser::settle(&spec.time_format, &spec.zone, text).is_ok()
            };
            !texts(first).iter().any(is_data)
        }
    }
}

/// A name for each cell of a row, and which cell is a row number.
///
/// Some programs write a row number before each row and no name for it above, so that the names stand one cell to
/// the left of what they name. Where rows have just one cell more than there are names, the first is that number,
/// unless all last cells are empty: those are delimiters at the lines' ends.
fn names(header: Vec<String>, rows: &[&Row]) -> (Vec<String>, Option<usize>) {
    let width = usual_width(rows);
    let number = |index: usize| format!("#{}", index.saturating_add(1));
    if header.is_empty() {
        return ((0..width).map(number).collect(), None);
    }
    if width != header.len().saturating_add(1) {
        return (header, None);
    }
    let ends_empty = rows
        .iter()
        .filter(|row| row.len() == width)
        .all(|row| row.cells().last().is_some_and(|cell| cell.trim_ascii().is_empty()));
    let mut names = header;
    if ends_empty {
        names.push(number(width.saturating_sub(1)));
        (names, None)
    } else {
        names.insert(0, number(0));
        (names, Some(0))
    }
}

/// The most frequent number of cells; the first rows' where several are as frequent.
fn usual_width(rows: &[&Row]) -> usize {
    let mut widths: Vec<(usize, usize)> = Vec::new();
    for row in rows {
        match widths.iter_mut().find(|(width, _)| *width == row.len()) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => widths.push((row.len(), 1)),
        }
    }
    widths.iter().rev().max_by_key(|(_, count)| *count).map_or(0, |(width, _)| *width)
}

/// The texts of one column in the sample that are not "no value".
fn column<'a>(rows: &'a [&Row], cell: usize, null: &'a [String]) -> impl Iterator<Item = String> + 'a {
    rows.iter()
        .filter_map(move |row| row.cell(cell))
        .map(|cell| String::from_utf8_lossy(cell).trim().to_owned())
        .filter(move |text| !text.is_empty() && !null.contains(text))
}

/// Whether most of these are so, all but one or but one in ten: a few garbled rows do not hide what a column is.
fn mostly(texts: impl Iterator<Item = String>, is_so: impl Fn(&str) -> bool) -> bool {
    let (mut all, mut so) = (0_usize, 0_usize);
    for text in texts {
        all = all.saturating_add(1);
        so = so.saturating_add(usize::from(is_so(&text)));
    }
    let others = all.saturating_sub(so);
    so > others && others <= (all / 10).max(1)
}

fn find_time(
    what: &str,
    spec: &CsvSpec,
    names: &[String],
    rows: &[&Row],
) -> Result<(usize, TimeParser), SourceError> {
    // The format is learnt from the first row that can teach it.
    let settle = |cell: usize, format: &TimeFormat, zone: &Zone| -> Result<TimeParser, TimeError> {
        let mut first_error = None;
        for text in column(rows, cell, &spec.null) {
            match TimeParser::settle(format, zone, &text) {
                Ok(parser) => return Ok(parser),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or(TimeError::Unrecognised { text: String::new() }))
    };
    let fits = |cell: usize, parser: &TimeParser| {
        mostly(column(rows, cell, &spec.null), |text| parser.parse(text).is_ok())
    };
    if let Some(named) = &spec.time {
        let cell = columns::find(what, names, named)?;
        let parser = settle(cell, &spec.time_format, &spec.zone)
            .map_err(|source| SourceError::Time { what: what.to_owned(), source })?;
        return Ok((cell, parser));
    }
    let is_time_name = |name: &String| {
        let letters: String = name.chars().filter(char::is_ascii_alphabetic).collect();
        TIME_NAMES.contains(&letters.to_ascii_lowercase().as_str())
    };
    let sold = |cell: &usize| {
        spec.columns.iter().any(|column| match &column.column {
            ColumnRef::Index(index) => index == cell,
            ColumnRef::Name(name) => names.get(*cell) == Some(name),
        })
    };
    let (named, other): (Vec<usize>, Vec<usize>) = (0..names.len())
        .filter(|cell| !sold(cell))
        .partition(|cell| names.get(*cell).is_some_and(is_time_name));
    let candidates = named.iter().map(|cell| (*cell, true)).chain(other.iter().map(|cell| (*cell, false)));
    for (cell, is_named) in candidates {
        if let Ok(parser) = settle(cell, &spec.time_format, &spec.zone)
            // A number is a time only where the column's name says so.
            && (is_named || !parser.is_number())
            && fits(cell, &parser)
        {
            return Ok((cell, parser));
        }
    }
    Err(SourceError::NoTime { what: what.to_owned(), available: columns::list(names) })
}

/// The columns of numbers besides the time and a row number: cell, name and kind.
///
/// Numbers are floats even where the first rows are whole, because a later row that is not would otherwise be
/// refused; only whole numbers that a float cannot hold are kept as such.
fn numeric_columns(
    names: &[String],
    rows: &[&Row],
    not: &[Option<usize>],
    null: &[String],
) -> Vec<(usize, String, Kind)> {
    const EXACT_IN_FLOAT: u64 = 1 << 53;
    names
        .iter()
        .enumerate()
        .filter(|(cell, _)| !not.contains(&Some(*cell)))
        .filter(|(cell, _)| mostly(column(rows, *cell, null), |text| text.parse::<f64>().is_ok()))
        .map(|(cell, name)| {
            let mut large = false;
            let whole = column(rows, cell, null).all(|text| {
                text.parse::<i64>().is_ok_and(|number| {
                    large |= number.unsigned_abs() > EXACT_IN_FLOAT;
                    true
                })
            });
            (cell, name.clone(), if whole && large { Kind::Int } else { Kind::Float })
        })
        .collect()
}
