//! Sigma rules and correlations to rules of ours: text in, text out.
//!
//! What a part of a rule can't be expressed refuses that rule by name and place; the others are imported. Nothing is
//! left out of a rule in silence. Every rule that is given out compiles. `docs/rules/sigma.md` has the tables.

mod condition;
mod correlation;
mod detection;
mod emit;
mod expr;
mod header;
mod logsource;
mod matcher;
mod modifier;
mod value;

use std::collections::HashSet;

use serde::Serialize;

use crate::context::Context;
use crate::diagnostic::{Diagnostic, Level, Span};
use crate::yaml::{self, Node, Value};
use crate::{SourceFile, compile};
use correlation::{Base, Detects};
use emit::Yaml;
use header::Header;

/// The window of a rule that one event fills; also how long its alerts are suppressed.
const WINDOW: &str = "1m";
/// The most matchers of a pattern.
const MAX_MATCHERS: usize = 64;

/// What became of a set of Sigma files.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Imported {
    /// A rule file; empty if no rule could be imported.
    pub yaml: String,
    /// Ids of the rules in it, in their order.
    pub rules: Vec<String>,
    /// Rules that aren't in it, and aren't parts of one that is.
    pub refused: Vec<Refused>,
    /// Why, in the order of files and places.
    pub errors: Vec<Diagnostic>,
    /// What an author should look at in the rules that were imported.
    pub warnings: Vec<Diagnostic>,
}

/// A Sigma rule that can't be expressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Empty if it has none.
    pub title: String,
    /// As it was named.
    pub file: String,
    /// From 1.
    pub line: u32,
}

/// A document of a file, as far as it could be read.
struct Document {
    file: usize,
    at: Span,
    /// Empty if it has none.
    title: String,
    header: Option<Header>,
    body: Body,
}

enum Body {
    Rule(Option<Detects>),
    Correlation(Node),
    Unknown,
}

/// Imports the rules of all files; correlations may speak of rules in any of them.
///
/// ```
/// use clawdstrike_rules::{SourceFile, sigma};
/// let text = "
/// title: Netcat
/// logsource: {category: process_creation}
/// detection: {selection: {CommandLine|startswith: 'nc '}, condition: selection}
/// level: high";
/// let imported = sigma::import(&[SourceFile { name: "nc.yml".into(), text: text.into() }]);
/// assert_eq!(imported.rules, ["NETCAT"]);
/// assert!(imported.yaml.contains("severity: high"));
/// ```
pub fn import(files: &[SourceFile]) -> Imported {
    let mut compiled = HashSet::new();
    let mut diagnostics = Vec::new();
    let mut documents = Vec::new();
    let mut imported = Imported::default();
    for (index, file) in files.iter().enumerate() {
        let mut cx = Context::new(&file.name, &file.text, &mut compiled);
        let nodes = yaml::documents(&mut cx, &file.text);
        if !cx.is_clean() {
            // What was read isn't what is written: a key may have gone.
            imported.refused.push(Refused { title: String::new(), file: file.name.clone(), line: 1 });
            diagnostics.push(cx.into_diagnostics());
            continue;
        }
        for node in nodes {
            if !matches!(node.value, Value::Null) {
                documents.push(document(&mut cx, index, node));
            }
        }
        diagnostics.push(cx.into_diagnostics());
    }
    let bases: Vec<Base> = documents.iter().map(base).collect();
    let referenced = referenced(files, &documents);
    let mut ids = HashSet::new();
    let mut text = String::new();
    for (index, file) in files.iter().enumerate() {
        let mut cx = Context::new(&file.name, &file.text, &mut compiled);
        for document in documents.iter().filter(|document| document.file == index) {
            // A part of a correlation isn't a rule of its own, says Sigma.
            let sound = matches!(document.body, Body::Rule(Some(_))) && document.header.is_some();
            if sound && is_part(document, &referenced) {
                continue;
            }
            match rule(&mut cx, document, &bases, &mut ids) {
                Some((id, rule)) => {
                    text.push_str(&rule);
                    imported.rules.push(id);
                }
                None => imported.refused.push(Refused {
                    title: document.title.clone(),
                    file: file.name.clone(),
                    line: document.at.line,
                }),
            }
        }
        diagnostics[index].extend(cx.into_diagnostics());
    }
    if !text.is_empty() {
        imported.yaml = format!("rules:\n{text}");
    }
    for mut of_file in diagnostics {
        of_file.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        // A rule is read once more for every correlation that it is a part of.
        of_file.dedup();
        let (errors, warnings): (Vec<_>, Vec<_>) = of_file.into_iter().partition(|d| d.severity == Level::Error);
        imported.errors.extend(errors);
        imported.warnings.extend(warnings);
    }
    imported
}

fn document(cx: &mut Context<'_>, file: usize, node: Node) -> Document {
    let at = node.span;
    let mut read = Document { file, at, title: String::new(), header: None, body: Body::Unknown };
    let Some(mut keys) = cx.keys(&node, "a Sigma rule") else { return read };
    if let Some(Node { value: Value::Text(title), span }) = keys.take("title") {
        read.title.clone_from(title);
        read.at = *span;
    }
    for name in ["action", "filter"] {
        if let Some((key, _)) = keys.entry(name) {
            let what = if name == "filter" { "filters" } else { "documents with an \"action\"" };
            cx.error(key.span, "E090", format!("{what} can't be imported"))
                .hint("write what it says into each rule that it concerns");
            return read;
        }
    }
    let header = header::read(cx, &mut keys);
    let (source, detects) = (keys.take("logsource"), keys.take("detection"));
    let correlation = keys.take("correlation");
    header::finish(cx, &mut keys);
    read.body = match (source, detects, correlation) {
        (None, None, Some(node)) => Body::Correlation(node.clone()),
        (Some(source), Some(node), None) => Body::Rule(self::detects(cx, source, node)),
        (source, _, _) => {
            let missing = if source.is_none() { "logsource" } else { "detection" };
            cx.error(read.at, "E090", format!("this is no Sigma rule: it has no \"{missing}\""))
                .hint("a rule has logsource and detection, a correlation has correlation alone");
            Body::Unknown
        }
    };
    read.header = header;
    read
}

fn detects(cx: &mut Context<'_>, source: &Node, node: &Node) -> Option<Detects> {
    let source = logsource::Source::read(cx, source)?;
    let expr = detection::read(cx, node, &source)?;
    match expr::normal_form(&expr) {
        Ok(alternatives) if alternatives.is_empty() => {
            cx.error(node.span, "E096", "this condition never holds").hint("see the warnings of this rule");
            None
        }
        Ok(alternatives) => Some(Detects { source, alternatives }),
        Err(expr::TooMany) => {
            cx.error(node.span, "E096", "this condition has too many combinations")
                .hint("split the rule along its outermost `or`");
            None
        }
    }
}

fn base(document: &Document) -> Base {
    let detects = match &document.body {
        Body::Rule(detects) if document.header.is_some() => detects.clone(),
        _ => None,
    };
    Base { names: document.header.as_ref().map(|header| header.names.clone()).unwrap_or_default(), detects }
}

/// What correlations call their parts, without those that are to be rules of their own too.
fn referenced(files: &[SourceFile], documents: &[Document]) -> HashSet<String> {
    let mut names = HashSet::new();
    for document in documents {
        let Body::Correlation(node) = &document.body else { continue };
        let mut none = HashSet::new();
        let mut cx = Context::new(&files[document.file].name, "", &mut none);
        let Some(mut keys) = cx.keys(node, "") else { continue };
        let generate = keys.take("generate").is_some_and(|node| matches!(node.value, Value::Bool(true)));
        if let Some(parts) = correlation::names(&mut cx, &mut keys).filter(|_| !generate) {
            names.extend(parts.into_iter().map(|(name, _)| name.to_owned()));
        }
    }
    names
}

fn is_part(document: &Document, referenced: &HashSet<String>) -> bool {
    let names = document.header.iter().flat_map(|header| &header.names);
    names.into_iter().any(|name| referenced.contains(name))
}

/// Our rule and its id; `None` if there is none, which is reported.
fn rule(
    cx: &mut Context<'_>,
    document: &Document,
    bases: &[Base],
    ids: &mut HashSet<String>,
) -> Option<(String, String)> {
    let header = document.header.as_ref()?;
    let (by, condition) = match &document.body {
        Body::Rule(detects) => (None, plain(cx, detects.as_ref()?, document.at)?),
        Body::Correlation(node) => {
            let mut keys = cx.keys(node, "\"correlation\"")?;
            let names = correlation::names(cx, &mut keys)?;
            let (by, condition) = correlation::read(cx, keys, &names, bases)?;
            (Some(by), condition)
        }
        Body::Unknown => return None,
    };
    let id = unique(header.id(), ids);
    let text = emit::rule(&header.rule(&id, by, condition));
    compiles(cx, document.at, &text)?;
    Some((id, text))
}

/// A rule of Sigma speaks of one event.
fn plain(cx: &mut Context<'_>, detects: &Detects, at: Span) -> Option<Yaml> {
    let mut matchers = Vec::new();
    for conjunction in &detects.alternatives {
        matchers.push(matcher::write(cx, &detects.source, conjunction)?);
    }
    let text = |key: &str, value: &str| (key.to_owned(), Yaml::text(value));
    if matchers.len() == 1 {
        let mut keys = vec![text("type", "threshold"), text("window", WINDOW), text("count", ">= 1")];
        keys.extend(matchers.into_iter().flatten());
        return Some(Yaml::Map(keys));
    }
    if matchers.len() > MAX_MATCHERS {
        let message = format!("this condition needs {} matchers, a pattern has at most {MAX_MATCHERS}", matchers.len());
        cx.error(at, "E096", message).hint("split the rule along its outermost `or`");
        return None;
    }
    let any = vec![
        ("at_least".to_owned(), Yaml::Number(1.0)),
        ("matchers".to_owned(), Yaml::List(matchers.into_iter().map(Yaml::Map).collect())),
    ];
    Some(Yaml::Map(vec![text("type", "pattern"), text("window", WINDOW), ("any_of".to_owned(), Yaml::Map(any))]))
}

fn unique(id: String, ids: &mut HashSet<String>) -> String {
    let mut candidate = id.clone();
    let mut number = 1;
    while !ids.insert(candidate.clone()) {
        number += 1;
        candidate = format!("{id}_{number}");
    }
    candidate
}

/// The rule must compile; if it doesn't, its author is told so in the words of the compiler.
fn compiles(cx: &mut Context<'_>, at: Span, rule: &str) -> Option<()> {
    let file = SourceFile { name: "imported".to_owned(), text: format!("rules:\n{rule}") };
    match compile(&[file]) {
        Ok(compiled) => {
            // Doubtful paths were told of where they stand.
            for warning in compiled.warnings.into_iter().filter(|warning| warning.code != "W004") {
                let said = cx.warn(at, "W023", format!("the rule says {}: {}", warning.code, warning.message));
                if let Some(hint) = warning.hint {
                    said.hint(hint);
                }
            }
            Some(())
        }
        Err(errors) => {
            let error = errors.errors.first()?;
            let said = cx.error(at, "E099", format!("the rule doesn't compile: {}: {}", error.code, error.message));
            if let Some(hint) = &error.hint {
                said.hint(hint.clone());
            }
            None
        }
    }
}
