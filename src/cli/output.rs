//! What commands print: tables and JSON, with everything that telemetry could smuggle to a terminal made visible.
//!
//! Knows no command. Standard output goes through [`Out`] alone, so that a reader who has seen enough (`| head`) ends a
//! command quietly.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Table as Layout, presets};
use serde_json::Value;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Whoever read standard output has gone; the command ends with success.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct Closed;

/// Standard output.
pub struct Out {
    to: io::BufWriter<io::Stdout>,
    colour: bool,
}

impl Default for Out {
    fn default() -> Self {
        Out::new()
    }
}

impl Out {
    /// Standard output, with colour if it is a terminal and neither NO_COLOR nor TERM=dumb forbids it.
    pub fn new() -> Out {
        let stdout = io::stdout();
        let colour = stdout.is_terminal() && anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
        Out { to: io::BufWriter::new(stdout), colour }
    }

    /// Prints text that is safe already, and a line break.
    pub fn line(&mut self, text: &str) -> anyhow::Result<()> {
        writeln!(self.to, "{text}").map_err(closed)
    }

    /// Prints text of several lines from elsewhere, escaped but for its line breaks.
    pub fn text(&mut self, text: &str) -> anyhow::Result<()> {
        text.lines().try_for_each(|line| self.line(&escape(line)))
    }

    /// Prints one JSON document over several lines.
    pub fn document(&mut self, value: &Value) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(&escape_json(&text))
    }

    /// Prints one JSON document on one line.
    pub fn json_line(&mut self, value: &Value) -> anyhow::Result<()> {
        self.line(&escape_json(&value.to_string()))
    }

    /// Prints a table.
    pub fn table(&mut self, table: &Table) -> anyhow::Result<()> {
        for (line, style) in table.lines() {
            self.styled(&line, style)?;
        }
        Ok(())
    }

    /// Prints a line in a style, where there is colour.
    pub fn styled(&mut self, line: &str, style: Style) -> anyhow::Result<()> {
        match self.colour && style != Style::new() {
            true => self.line(&format!("{style}{line}{style:#}")),
            false => self.line(line),
        }
    }

    /// Hands on what is buffered: after each line of a watch, and at the end.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.to.flush().map_err(closed)
    }
}

fn closed(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Closed.into(),
        _ => anyhow::Error::new(error).context("standard output can't be written"),
    }
}

/// Says something on standard error: text of one or more lines, escaped but for its line breaks.
pub fn tell(text: &str) {
    let mut to = io::stderr().lock();
    for line in text.lines() {
        // Nobody is left to be told that nobody listens; `eprintln!` would panic.
        let _nobody_listens = writeln!(to, "{}", escape(line));
    }
}

/// The style of a row about something of this severity.
pub fn severity_style(severity: &str) -> Style {
    match severity {
        "critical" => AnsiColor::Red.on_default().bold(),
        "high" => AnsiColor::Red.on_default(),
        "medium" => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    }
}

/// The style of a row about something with this risk score.
pub fn risk_style(risk: f64) -> Style {
    match risk {
        r if r >= 75.0 => severity_style("critical"),
        r if r >= 50.0 => severity_style("medium"),
        _ => Style::new(),
    }
}

/// A table of one line a row. Cells are escaped, and no cell is ever wrapped.
pub struct Table {
    layout: Layout,
    styles: Vec<Style>,
}

impl Table {
    /// A table with these column names.
    pub fn new<const N: usize>(columns: [&str; N]) -> Table {
        let mut layout = Layout::new();
        layout.load_style(presets::NOTHING).set_header(columns);
        Table { layout, styles: vec![Style::new().bold()] }
    }

    /// Adds a row; its cells are escaped here.
    pub fn row<const N: usize>(&mut self, style: Style, cells: [String; N]) {
        self.layout.add_row(cells.map(|cell| escape(&cell).into_owned()));
        self.styles.push(style);
    }

    fn lines(&self) -> impl Iterator<Item = (String, Style)> {
        let lines = self.layout.lines().map(|line| line.trim().to_owned());
        lines.zip(self.styles.iter().copied())
    }
}

/// The first `chars` characters, and `...` if there are more.
pub fn shorten(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}...", &text[..at]).into(),
        None => text.into(),
    }
}

/// A field of a JSON object as a table shows it: texts as they are, nothing for null and absent fields.
pub fn field(object: &Value, name: &str) -> String {
    match &object[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a character could move a cursor, hide or reorder what is shown.
fn hidden(c: char) -> bool {
    c.is_control() || invisible(c)
}

/// Format characters: bidi controls, zero-width ones, line separators, tags.
fn invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with every control, bidi and invisible character as a visible `\u{..}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hidden(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    out.into()
}

/// JSON text that is safe on a terminal, and the same document: serde escapes U+0000-001F, here follow U+007F-009F and the
/// invisible ones, which in JSON text can only stand within strings.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    let unsafe_in_json = |c: char| ('\u{7f}'..='\u{9f}').contains(&c) || invisible(c);
    if !json.contains(unsafe_in_json) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if !unsafe_in_json(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_characters_become_visible() {
        let hostile = "a\u{1b}[31m\u{9b}2J\r\nb\u{202e}c\u{200b}\u{e0041}d\u{7f}é\t";
        let shown = escape(hostile);
        assert_eq!(shown, "a\\u{1b}[31m\\u{9b}2J\\u{d}\\u{a}b\\u{202e}c\\u{200b}\\u{e0041}d\\u{7f}é\\u{9}");
        assert!(matches!(escape("/home/ü/ .ssh"), Cow::Borrowed(_)));
    }

    #[test]
    fn escaped_json_is_the_same_document_without_hostile_characters() {
        let value = serde_json::json!({"t\u{9b}": "\u{1b}]0;x\u{7}\u{202e}\u{e0041}\u{7f}\"é"});
        let text = serde_json::to_string(&value).expect("a value is JSON");
        let shown = escape_json(&text);
        assert!(!shown.contains(hidden), "{shown}");
        assert_eq!(serde_json::from_str::<Value>(&shown).expect("still JSON"), value);
    }

    #[test]
    fn a_row_stays_one_line_whatever_its_cells_hold() {
        let mut table = Table::new(["A", "B"]);
        table.row(Style::new(), ["x\ny".into(), "z".repeat(500)]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].0.starts_with("x\\u{a}y"), "{}", lines[1].0);
    }

    #[test]
    fn shortening_cuts_between_characters() {
        assert_eq!(shorten("äöü", 2), "äö...");
        assert_eq!(shorten("äö", 2), "äö");
    }
}
