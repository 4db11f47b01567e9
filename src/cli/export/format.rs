//! A row as JSON lines or CSV has it.
//!
//! CSV is RFC 4180, with a header. Spreadsheets take a cell that begins with `=`, `+`, `-` or `@` for a formula, and agents
//! choose texts: such a cell, and one that begins with a tab, a line break or a full-width form of these, gets an apostrophe in front. JSON lines
//! have the text as it is.

use std::io::{self, Write};

use serde::de::IgnoredAny;

use crate::store::{Column, ExportedRow, Kind};

/// What files are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FileFormat {
    /// A JSON object a line.
    #[default]
    Jsonl,
    /// Comma-separated, with a header; safe for spreadsheets.
    Csv,
}

impl FileFormat {
    /// As in names of files.
    pub(super) const fn name(self) -> &'static str {
        match self {
            FileFormat::Jsonl => "jsonl",
            FileFormat::Csv => "csv",
        }
    }

    /// What stands before the rows.
    pub(super) fn header(self, columns: &[Column], to: &mut impl Write) -> io::Result<()> {
        match self {
            FileFormat::Jsonl => Ok(()),
            FileFormat::Csv => {
                let names: Vec<&str> = columns.iter().map(|c| c.name).collect();
                write!(to, "{}\r\n", names.join(","))
            }
        }
    }

    /// One row.
    pub(super) fn row(self, columns: &[Column], row: &ExportedRow, to: &mut impl Write) -> io::Result<()> {
        match self {
            FileFormat::Jsonl => json_line(columns, row, to),
            FileFormat::Csv => csv_line(columns, row, to),
        }
    }
}

fn json_line(columns: &[Column], row: &ExportedRow, to: &mut impl Write) -> io::Result<()> {
    for (n, (column, value)) in columns.iter().zip(row).enumerate() {
        let open = if n == 0 { '{' } else { ',' };
        write!(to, "{open}\"{}\":", column.name)?;
        match (value, column.kind) {
            (None, _) => to.write_all(b"null")?,
            (Some(text), Kind::Plain) => to.write_all(text.as_bytes())?,
            (Some(text), Kind::Json) => match serde_json::from_str::<IgnoredAny>(text) {
                // An agent may have written line breaks between members; within texts JSON has none.
                Ok(_) => to.write_all(text.replace(['\n', '\r'], " ").as_bytes())?,
                Err(_) => serde_json::to_writer(&mut *to, text)?,
            },
            (Some(text), Kind::Text | Kind::Time) => serde_json::to_writer(&mut *to, text)?,
        }
    }
    to.write_all(b"}\n")
}

fn csv_line(columns: &[Column], row: &ExportedRow, to: &mut impl Write) -> io::Result<()> {
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
        row.extend([None, Some(metadata.to_owned())]);
        row
    }

    fn written(format: FileFormat, row: &ExportedRow) -> String {
        let mut out = Vec::new();
        format.row(Kept::Events.columns(), row, &mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_json_line_is_one_line_and_keeps_texts_and_records() {
        let row = event("=1+\"\n\u{1b}", "{\"a\":\n1.50}");
        let line = written(FileFormat::Jsonl, &row);
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["target"], "=1+\"\n\u{1b}");
        assert_eq!((&value["metadata"]["a"], &value["allowed"]), (&1.5.into(), &true.into()));
        assert!(value["risk_score"].is_null());
    }

    #[test]
    fn a_cell_that_could_be_a_formula_is_text() {
        for hostile in ["=HYPERLINK(\"x\")", "+1", "-1", "@SUM", "\tx", "\rx", "\n=x", "＝1"] {
            let line = written(FileFormat::Csv, &event(hostile, "{}"));
            let quoted = format!("\"'{}\"", hostile.replace('"', "\"\""));
            assert!(line.contains(&quoted), "{line}");
        }
        let line = written(FileFormat::Csv, &event("a=1", "{\"a\":\"b,c\"}"));
        assert!(line.contains(",a=1,true,") && line.ends_with("low,,\"{\"\"a\"\":\"\"b,c\"\"}\"\r\n"), "{line}");
    }
}
