//! Rows as files have them: JSON lines, CSV, and Parquet by `parquet.rs`.
//!
//! CSV is RFC 4180, with a header. Spreadsheets take a cell that begins with `=`, `+`, `-` or `@` for a formula, and agents
//! choose texts: such a cell, and one that begins with a tab, a line break or a full-width form of these, gets an apostrophe in front. JSON lines
//! have the text as it is.

use std::io::{self, Write};

use serde::de::IgnoredAny;

use super::Output;
use super::parquet::Rows;
use crate::store::{Column, ExportedRow, Kept, Kind};

/// What files are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FileFormat {
    /// A JSON object a line.
    #[default]
    Jsonl,
    /// Comma-separated, with a header; safe for spreadsheets.
    Csv,
    /// Typed columns, compressed, for analysis.
    Parquet,
}

impl FileFormat {
    /// As in names of files.
    pub(super) const fn name(self) -> &'static str {
        match self {
            FileFormat::Jsonl => "jsonl",
            FileFormat::Csv => "csv",
            FileFormat::Parquet => "parquet",
        }
    }
}

/// Writes rows in a format.
pub(super) enum Writer<W: Write + Send> {
    /// Each row is a line; the buffer is for one.
    Lines { csv: bool, columns: &'static [Column], line: Vec<u8>, to: Output<W> },
    /// Rows in groups.
    Parquet(Box<Rows<Output<W>>>),
}

impl<W: Write + Send> Writer<W> {
    /// Begins with what stands before the rows.
    pub(super) fn begin(format: FileFormat, table: Kept, mut to: Output<W>) -> io::Result<Writer<W>> {
        let columns = table.columns();
        if format == FileFormat::Parquet {
            return Ok(Writer::Parquet(Box::new(Rows::begin(table, to)?)));
        }
        let csv = format == FileFormat::Csv;
        if csv {
            let names: Vec<&str> = columns.iter().map(|c| c.name).collect();
            to.line(format!("{}\r\n", names.join(",")).as_bytes())?;
        }
        Ok(Writer::Lines { csv, columns, line: Vec::new(), to })
    }

    /// One row.
    pub(super) fn row(&mut self, row: ExportedRow) -> io::Result<()> {
        match self {
            Writer::Lines { csv, columns, line, to } => {
                line.clear();
                match csv {
                    true => csv_line(columns, &row, line)?,
                    false => json_line(columns, &row, line)?,
                }
                to.line(line)
            }
            Writer::Parquet(rows) => rows.row(row),
        }
    }

    /// The end.
    pub(super) fn finish(self) -> io::Result<Output<W>> {
        let mut to = match self {
            Writer::Lines { to, .. } => to,
            Writer::Parquet(rows) => rows.finish()?,
        };
        to.flush()?;
        Ok(to)
    }
}

fn json_line(columns: &[Column], row: &ExportedRow, to: &mut Vec<u8>) -> io::Result<()> {
    for (n, (column, value)) in columns.iter().zip(row).enumerate() {
        let open = if n == 0 { '{' } else { ',' };
        write!(to, "{open}\"{}\":", column.name)?;
        match (value, column.kind) {
            (None, _) => to.write_all(b"null")?,
            (Some(text), Kind::Integer | Kind::Truth) => to.write_all(text.as_bytes())?,
            // JSON has no other numbers; the rest is told as text.
            (Some(text), Kind::Double) if text.parse().is_ok_and(f64::is_finite) => to.write_all(text.as_bytes())?,
            (Some(text), Kind::Json) => match serde_json::from_str::<IgnoredAny>(text) {
                // An agent may have written line breaks between members; within texts JSON has none.
                Ok(_) => to.write_all(text.replace(['\n', '\r'], " ").as_bytes())?,
                Err(_) => serde_json::to_writer(&mut *to, text)?,
            },
            (Some(text), Kind::Text | Kind::Time | Kind::Double) => serde_json::to_writer(&mut *to, text)?,
        }
    }
    to.write_all(b"}\n")
}

fn csv_line(columns: &[Column], row: &ExportedRow, to: &mut Vec<u8>) -> io::Result<()> {
    for (n, (column, value)) in columns.iter().zip(row).enumerate() {
        if n > 0 {
            to.write_all(b",")?;
        }
        let text = value.as_deref().unwrap_or_default();
        let guard = if column.kind == Kind::Text && is_formula(text) { "'" } else { "" };
        match text.contains([',', '"', '\n', '\r']) || !guard.is_empty() {
            true => write!(to, "\"{guard}{}\"", text.replace('"', "\"\""))?,
            false => to.write_all(text.as_bytes())?,
        }
    }
    to.write_all(b"\r\n")
}

/// Whether a spreadsheet may take a cell for a formula.
fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::store::Kept;

    fn event(target: &str, metadata: &str) -> ExportedRow {
        let texts = ["2026-01-05T10:00:00.000000Z", "k", "", "a", "s", "mcp_tool", target, "true", "g", "low"];
        let mut row: ExportedRow = texts.iter().map(|t| Some((*t).to_owned())).collect();
        row.extend([None, Some(metadata.to_owned()), Some("1".to_owned())]);
        row
    }

    type Line = fn(&[Column], &ExportedRow, &mut Vec<u8>) -> io::Result<()>;

    fn written(line: Line, row: &ExportedRow) -> String {
        let mut out = Vec::new();
        line(Kept::Events.columns(), row, &mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_json_line_is_one_line_and_keeps_texts_and_records() {
        let row = event("=1+\"\n\u{1b}", "{\"a\":\n1.50}");
        let line = written(json_line, &row);
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["target"], "=1+\"\n\u{1b}");
        assert_eq!((&value["metadata"]["a"], &value["allowed"]), (&1.5.into(), &true.into()));
        assert!(value["risk_score"].is_null());
    }

    #[test]
    fn a_number_that_json_has_not_is_text() {
        for (score, told) in [("1e+20", Value::from(1e20)), ("NaN", "NaN".into()), ("-Infinity", "-Infinity".into())] {
            let mut row = event("t", "{}");
            row[10] = Some(score.to_owned());
            let value: Value = serde_json::from_str(&written(json_line, &row)).expect("JSON");
            assert_eq!(value["risk_score"], told);
        }
    }

    #[test]
    fn a_cell_that_could_be_a_formula_is_text() {
        for hostile in ["=HYPERLINK(\"x\")", "+1", "-1", "@SUM", "\tx", "\rx", "\n=x", "＝1"] {
            let line = written(csv_line, &event(hostile, "{}"));
            let quoted = format!("\"'{}\"", hostile.replace('"', "\"\""));
            assert!(line.contains(&quoted), "{line}");
        }
        let line = written(csv_line, &event("a=1", "{\"a\":\"b,c\"}"));
        assert!(line.contains(",a=1,true,") && line.ends_with("low,,\"{\"\"a\"\":\"\"b,c\"\"}\",1\r\n"), "{line}");
    }
}
