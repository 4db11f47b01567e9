//! What the compiler has to say about a rule file: coded, placed, with the offending text and a way out.
//!
//! Knows nothing of rules: it renders what it is given, and lets no control character of a file reach a terminal.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// How much a diagnostic weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The set doesn't compile.
    Error,
    /// The set compiles, but probably doesn't say what its author means.
    Warning,
}

/// One finding, at one place of one file. `docs/rules/errors.md` explains every code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Diagnostic {
    /// `E001`.. for errors, `W001`.. for warnings.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Level,
    /// The file as it was named to the compiler.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// The offending text, on one line, at most [`EXCERPT_CHARS`] characters.
    pub excerpt: String,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands under the caret; may be empty.
    pub label: String,
    /// The way out.
    pub hint: Option<String>,
    /// The source line, shortened around the place.
    #[serde(skip)]
    source: SourceLine,
}

/// A source line as it is shown, with the place of the caret in it (characters, from 0).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SourceLine {
    text: String,
    caret: usize,
    width: usize,
}

/// The longest excerpt, in characters.
pub const EXCERPT_CHARS: usize = 120;
/// The longest part of a source line that is shown, in characters.
const LINE_CHARS: usize = 140;
/// What is shown before the caret when a line is too long.
const LINE_LEAD: usize = 60;

/// A place in a file: a run of characters on one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// From 1.
    pub(crate) line: u32,
    /// From 1, in characters.
    pub(crate) column: u32,
    /// In characters; 0 is "to the end of the line".
    pub(crate) len: u32,
}

impl Diagnostic {
    pub(crate) fn new(
        severity: Level,
        code: &'static str,
        file: &str,
        lines: &[&str],
        span: Span,
        message: String,
    ) -> Self {
        let line = (span.line as usize).checked_sub(1).and_then(|index| lines.get(index)).copied().unwrap_or("");
        let column = (span.column as usize).saturating_sub(1);
        let rest: String = line.chars().skip(column).collect();
        let rest = rest.trim_end();
        let width = match span.len {
            0 => rest.chars().count(),
            len => (len as usize).min(rest.chars().count()),
        };
        let excerpt = rest.chars().take(width.min(EXCERPT_CHARS)).collect::<String>();
        Diagnostic {
            code,
            severity,
            file: printable(file),
            line: span.line,
            column: span.column,
            excerpt: printable(excerpt.trim_end()),
            message: said(&message),
            label: String::new(),
            hint: None,
            source: SourceLine::around(line, column, width),
        }
    }

    pub(crate) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = said(&label.into());
        self
    }

    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(said(&hint.into()));
        self
    }
}

impl SourceLine {
    fn around(line: &str, column: usize, width: usize) -> Self {
        let from = if line.chars().count() > LINE_CHARS { column.saturating_sub(LINE_LEAD) } else { 0 };
        let text: String = line.chars().skip(from).take(LINE_CHARS).collect();
        let text = printable(text.trim_end());
        let caret = column - from;
        let room = text.chars().count().saturating_sub(caret);
        SourceLine { text, caret, width: width.min(room).max(1) }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        let number = self.line.to_string();
        let pad = " ".repeat(number.len());
        writeln!(f, "{kind}[{}]: {}", self.code, self.message)?;
        writeln!(f, "{pad}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{pad} |")?;
        writeln!(f, "{number} | {}", self.source.text)?;
        let blank = " ".repeat(self.source.caret);
        let carets = "^".repeat(self.source.width);
        writeln!(f, "{}", format!("{pad} | {blank}{carets} {}", self.label).trim_end())?;
        if let Some(hint) = &self.hint {
            writeln!(f, "{pad} = hint: {hint}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a set of files. At least one of `errors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// In the order of files and places.
    pub errors: Vec<Diagnostic>,
    /// Likewise; shown with the errors, but none of them stops the set.
    pub warnings: Vec<Diagnostic>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in self.errors.iter().chain(&self.warnings) {
            writeln!(f, "{diagnostic}")?;
        }
        let count = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        write!(f, "{}, {}", count(self.errors.len(), "error"), count(self.warnings.len(), "warning"))
    }
}

impl std::error::Error for Errors {}

/// What a diagnostic says, which may hold a file's text: printable and bounded.
fn said(text: &str) -> String {
    const SAID_CHARS: usize = 400;
    printable(&text.chars().take(SAID_CHARS).collect::<String>())
}

/// `text` with every character that could move a cursor, hide or reorder text replaced by one visible character.
pub(crate) fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let shown = |c: char| match c {
        '\t' => ' ',
        c if hidden(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// A name from a file as messages show it: in quotes, printable, shortened.
pub(crate) fn quoted(name: &str) -> String {
    const NAME_CHARS: usize = 60;
    let short: String = name.chars().take(NAME_CHARS).collect();
    let more = if name.chars().nth(NAME_CHARS).is_some() { "..." } else { "" };
    format!("\"{}{more}\"", printable(&short))
}
