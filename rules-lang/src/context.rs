//! Where a file's findings are collected, and the typed ways into a YAML value that report what doesn't fit.

use std::collections::HashSet;

use crate::diagnostic::{Diagnostic, Level, Span, quoted};
use crate::suggest;
use crate::yaml::{Key, Node, Value};

/// The most errors, and the most warnings, of one file: a wrong file of megabytes may not fill the memory with reasons.
pub const MAX_FINDINGS: usize = 1_000;

/// One file under compilation.
pub(crate) struct Context<'f> {
    file: &'f str,
    lines: Vec<&'f str>,
    diagnostics: Vec<Diagnostic>,
    /// How many errors and warnings there are.
    shown: [usize; 2],
    /// The latest finding beyond [`MAX_FINDINGS`].
    unshown: Option<Diagnostic>,
    /// Regexes that are known to compile.
    pub(crate) compiled: &'f mut HashSet<String>,
}

impl<'f> Context<'f> {
    pub(crate) fn new(file: &'f str, text: &'f str, compiled: &'f mut HashSet<String>) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Context { file, lines: lines(text), diagnostics: Vec::new(), shown: [0; 2], unshown: None, compiled }
    }

    pub(crate) fn file(&self) -> &'f str {
        self.file
    }

    /// Whether nothing has been reported yet.
    pub(crate) fn is_clean(&self) -> bool {
        self.diagnostics.is_empty()
    }

    pub(crate) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        if let Some(mut last) = self.unshown.take() {
            last.code = if last.severity == Level::Error { "E006" } else { "W011" };
            last.message =
                format!("this file has more than {MAX_FINDINGS} findings of this kind, the others aren't shown");
            last.hint("correct these first");
            self.diagnostics.push(last);
        }
        self.diagnostics
    }

    pub(crate) fn error(&mut self, at: Span, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.report(Level::Error, at, code, message.into())
    }

    pub(crate) fn warn(&mut self, at: Span, code: &'static str, message: impl Into<String>) -> &mut Diagnostic {
        self.report(Level::Warning, at, code, message.into())
    }

    /// A warning that is reported elsewhere, if at all.
    pub(crate) fn warning(&self, at: Span, code: &'static str, message: String) -> Diagnostic {
        Diagnostic::new(Level::Warning, code, self.file, &self.lines, at, message)
    }

    fn report(&mut self, level: Level, at: Span, code: &'static str, message: String) -> &mut Diagnostic {
        let diagnostic = Diagnostic::new(level, code, self.file, &self.lines, self.inside(at), message);
        let shown = &mut self.shown[usize::from(level == Level::Warning)];
        if *shown == MAX_FINDINGS {
            return self.unshown.insert(diagnostic);
        }
        *shown += 1;
        let index = self.diagnostics.len();
        self.diagnostics.push(diagnostic);
        &mut self.diagnostics[index]
    }

    /// The place, or the end of the file: the parser counts one line more than a text has whose last one isn't ended.
    fn inside(&self, at: Span) -> Span {
        let end = |last: &&str| Span { line: self.lines.len() as u32, column: last.chars().count() as u32 + 1, len: 0 };
        match self.lines.last() {
            Some(last) if at.line as usize > self.lines.len() => end(last),
            _ => at,
        }
    }

    /// What stands at a place, as it is written.
    pub(crate) fn written(&self, at: Span) -> String {
        let line = (at.line as usize).checked_sub(1).and_then(|i| self.lines.get(i)).copied().unwrap_or("");
        line.chars().skip((at.column as usize).saturating_sub(1)).take(at.len as usize).collect()
    }

    /// The place of `part` within the text that starts at `whole`, or `whole` if it isn't written there literally.
    pub(crate) fn within(&self, whole: Span, part: &str) -> Span {
        let line = (whole.line as usize).checked_sub(1).and_then(|i| self.lines.get(i)).copied().unwrap_or("");
        let start = (whole.column as usize).saturating_sub(1);
        let from = line.char_indices().nth(start).map_or(line.len(), |(at, _)| at);
        match line[from..].find(part) {
            Some(offset) if !part.is_empty() => Span {
                column: (start + line[from..from + offset].chars().count()) as u32 + 1,
                len: part.chars().count() as u32,
                ..whole
            },
            _ => whole,
        }
    }

    /// Reports that `what` isn't of the expected kind.
    pub(crate) fn mistyped(&mut self, node: &Node, what: &str, expected: &str) {
        let found = node.value.kind();
        let diagnostic = self.error(node.span, "E010", format!("{what} must be {expected}, found {found}"));
        match (&node.value, expected) {
            (Value::Number(_) | Value::Bool(_), "a text") => diagnostic.hint("put it in quotes"),
            (Value::Text(text), "true or false")
                if ["yes", "no", "on", "off"].contains(&text.to_lowercase().as_str()) =>
            {
                diagnostic.hint("in YAML 1.2 `yes`, `no`, `on` and `off` are texts; write true or false")
            }
            (Value::Null, _) => diagnostic.hint("give it a value, or leave the key out"),
            (_, "a list") => diagnostic.hint("write [...], or one `- ...` a line"),
            _ => diagnostic.hint(format!("expected {expected}")),
        };
    }

    pub(crate) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.mistyped(node, what, "a text");
                None
            }
        }
    }

    /// A text that isn't empty.
    pub(crate) fn word<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let text = self.text(node, what)?;
        if text.trim().is_empty() {
            self.error(node.span, "E010", format!("{what} is empty")).hint("give it a value");
            return None;
        }
        Some(text)
    }

    pub(crate) fn flag(&mut self, node: &Node, what: &str) -> Option<bool> {
        match node.value {
            Value::Bool(flag) => Some(flag),
            _ => {
                self.mistyped(node, what, "true or false");
                None
            }
        }
    }

    /// A list with at least one and at most `most` items.
    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str, most: usize) -> Option<&'n [Node]> {
        let Value::List(items) = &node.value else {
            self.mistyped(node, what, "a list");
            return None;
        };
        if items.is_empty() {
            self.error(node.span, "E013", format!("{what} is an empty list")).hint("give it at least one item");
            return None;
        }
        self.at_most(node, what, items.len(), most).then_some(items)
    }

    fn at_most(&mut self, node: &Node, what: &str, len: usize, most: usize) -> bool {
        if len > most {
            self.error(node.span, "E014", format!("{what} has {len} items, at most {most} are allowed"))
                .hint("split it");
        }
        len <= most
    }

    /// One text, or a list of them.
    pub(crate) fn texts<'n>(&mut self, node: &'n Node, what: &str, most: usize) -> Option<Vec<(&'n str, Span)>> {
        if let Value::Text(text) = &node.value {
            return Some(vec![(text, node.span)]);
        }
        if !matches!(node.value, Value::List(_)) {
            self.mistyped(node, what, "a text or a list of texts");
            return None;
        }
        let items = self.list(node, what, most)?;
        let texts: Vec<_> = items.iter().filter_map(|item| Some((self.text(item, what)?, item.span))).collect();
        (texts.len() == items.len()).then_some(texts)
    }

    pub(crate) fn keys<'n>(&mut self, node: &'n Node, what: &str) -> Option<Keys<'n>> {
        match &node.value {
            Value::Map(entries) => Some(Keys { span: node.span, entries, used: vec![false; entries.len()] }),
            _ => {
                self.mistyped(node, what, "a mapping");
                None
            }
        }
    }
}

/// The lines as YAML counts them: after a line feed, a carriage return, or both.
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\n', '\r']) {
        lines.push(&rest[..at]);
        let end = if rest[at..].starts_with("\r\n") { at + 2 } else { at + 1 };
        rest = &rest[end..];
    }
    lines.push(rest);
    lines
}

/// A mapping that is being taken apart: what isn't taken in the end is unknown.
pub(crate) struct Keys<'n> {
    pub(crate) span: Span,
    entries: &'n [(Key, Node)],
    used: Vec<bool>,
}

impl<'n> Keys<'n> {
    pub(crate) fn entry(&mut self, name: &str) -> Option<&'n (Key, Node)> {
        let index = self.entries.iter().position(|(key, _)| key.name == name)?;
        self.used[index] = true;
        Some(&self.entries[index])
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<&'n Node> {
        self.entry(name).map(|(_, value)| value)
    }

    /// Like `take`, but reports a key that isn't there.
    pub(crate) fn require(&mut self, cx: &mut Context<'_>, name: &str, what: &str, example: &str) -> Option<&'n Node> {
        let value = self.take(name);
        if value.is_none() {
            cx.error(self.span, "E012", format!("{what} has no \"{name}\"")).hint(format!("add `{name}: {example}`"));
        }
        value
    }

    /// Everything that wasn't taken yet; taken now.
    pub(crate) fn rest(&mut self) -> Vec<&'n (Key, Node)> {
        self.rest_but(|_| true)
    }

    /// Everything that wasn't taken yet or isn't known; taken now.
    pub(crate) fn rest_but(&mut self, known: impl Fn(&str) -> bool) -> Vec<&'n (Key, Node)> {
        let used = std::mem::replace(&mut self.used, vec![true; self.entries.len()]);
        let open = |(entry, used): &(&(Key, Node), bool)| !*used || !known(&entry.0.name);
        self.entries.iter().zip(used).filter(open).map(|(entry, _)| entry).collect()
    }

    /// Reports every key that wasn't taken.
    pub(crate) fn finish(mut self, cx: &mut Context<'_>, what: &str, known: &[&str]) {
        for (key, _) in self.rest() {
            unknown_key(cx, key, what, known);
        }
    }
}

/// Reports one key that `what` doesn't know.
pub(crate) fn unknown_key(cx: &mut Context<'_>, key: &Key, what: &str, known: &[&str]) {
    let hint = match key.name.as_str() {
        "<<" => "merge keys belong to YAML 1.1; write the keys out".to_owned(),
        name => suggest::hint(name, known),
    };
    cx.error(key.span, "E011", format!("{what} has no key {}", quoted(&key.name))).hint(hint);
}
