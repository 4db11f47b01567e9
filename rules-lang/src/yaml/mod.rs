//! Text to a tree of spanned YAML 1.2 values: core schema, no key twice, bounded in bytes, depth and nodes.
//!
//! Knows nothing of rules. The events come from `saphyr-parser`; what it leaves open (aliases, duplicate keys, schema)
//! is settled here, so that a "billion laughs" file is an error and not an outage.

mod scalar;

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as Marks, Tag};
use serde_json::Value as Json;

use crate::context::Context;
use crate::diagnostic::{Span, quoted};

/// The longest file, in bytes: 20,000 rules of a page each.
pub const MAX_FILE_BYTES: usize = 8 << 20;
/// The deepest nesting: rules need some ten levels.
pub const MAX_DEPTH: usize = 64;
/// The most values in a file, aliases counted as often as they are expanded.
pub const MAX_NODES: usize = 1_000_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

impl Node {
    /// As JSON; whole numbers stay whole.
    pub(crate) fn to_json(&self) -> Json {
        // The largest magnitude below which every whole number is a double.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(flag) => Json::from(*flag),
            Value::Number(number) if number.fract() == 0.0 && number.abs() < EXACT => Json::from(*number as i64),
            Value::Number(number) => Json::from(*number),
            Value::Text(text) => Json::from(text.as_str()),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => entries.iter().map(|(key, value)| (key.name.clone(), value.to_json())).collect(),
        }
    }
}

/// A value of the core schema.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// Finite.
    Number(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, no key twice.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) span: Span,
    pub(crate) name: String,
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// The documents of a file. What is wrong is reported to `cx`; after a syntax error the file has none.
pub(crate) fn documents(cx: &mut Context<'_>, text: &str) -> Vec<Node> {
    if text.len() > MAX_FILE_BYTES {
        cx.error(START, "E002", format!("a rule file may have {MAX_FILE_BYTES} bytes, this one has {}", text.len()))
            .hint("split it into several files");
        return Vec::new();
    }
    let mut builder = Builder { cx, open: Vec::new(), anchors: HashMap::new(), nodes: 0, documents: Vec::new() };
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    while let Some(event) = parser.next_event() {
        let outcome = match event {
            Ok((event, marks)) => builder.take(event, span(marks)),
            Err(error) => {
                let marker = error.marker();
                let at = Span { line: marker.line() as u32, column: marker.col() as u32 + 1, len: 1 };
                builder
                    .cx
                    .error(at, "E001", format!("this is no YAML: {}", error.info().to_lowercase()))
                    .hint("check indentation, quotes and brackets here and on the lines above");
                Err(Stop)
            }
        };
        if outcome.is_err() {
            return Vec::new();
        }
    }
    builder.documents
}

const START: Span = Span { line: 1, column: 1, len: 0 };

/// The file can't be read any further; the reason is reported.
struct Stop;

struct Builder<'c, 'f> {
    cx: &'c mut Context<'f>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    documents: Vec<Node>,
}

/// Reads a mapping's key; `None` if it stands there a second time, which is reported.
fn entry_key(cx: &mut Context<'_>, seen: &mut HashMap<String, u32>, node: &Node) -> Result<Option<Key>, Stop> {
    let Some(name) = key_name(&node.value) else {
        cx.error(node.span, "E010", format!("a key must be a text, found {}", node.value.kind()))
            .hint("put the key in quotes");
        return Err(Stop);
    };
    if let Some(first) = seen.insert(name.clone(), node.span.line) {
        cx.error(node.span, "E003", format!("key {} stands here a second time", quoted(&name)))
            .label(format!("first used on line {first}"))
            .hint("keep one of the two; YAML 1.2 allows a key only once in a mapping");
        return Ok(None);
    }
    Ok(Some(Key { span: node.span, name }))
}

/// A list or mapping whose end hasn't come.
struct Open {
    span: Span,
    anchor: usize,
    nodes_before: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        seen: HashMap<String, u32>,
        /// The key whose value comes next; the inner `None` is one that stands there a second time.
        key: Option<Option<Key>>,
    },
}

impl Builder<'_, '_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, span)?;
                let value = self.scalar(&text, style, tag.as_deref(), span);
                self.place(Node { span, value }, anchor, 1)
            }
            Event::SequenceStart(anchor, tag) => {
                self.container_tag(tag.as_deref(), "seq", span);
                self.begin(span, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.container_tag(tag.as_deref(), "map", span);
                let content = Content::Map { entries: Vec::new(), seen: HashMap::new(), key: None };
                self.begin(span, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, span),
        }
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        self.cx
            .error(
                span,
                "E002",
                format!("a rule file may have {MAX_NODES} values, aliases counted as often as they are used"),
            )
            .hint("split the file, or write out what the aliases repeat");
        Err(Stop)
    }

    fn begin(&mut self, span: Span, anchor: usize, content: Content) -> Result<(), Stop> {
        if self.open.len() >= MAX_DEPTH {
            self.cx
                .error(span, "E002", format!("a rule file may be {MAX_DEPTH} levels deep"))
                .hint("no part of a rule needs more than some ten levels");
            return Err(Stop);
        }
        self.count(1, span)?;
        self.open.push(Open { span, anchor, nodes_before: self.nodes - 1, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        let nodes = self.nodes - open.nodes_before;
        self.place(Node { span: open.span, value }, open.anchor, nodes)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Stop> {
        let Some((_, nodes)) = self.anchors.get(&anchor) else {
            self.cx
                .error(span, "E001", "this alias stands inside what it names".to_owned())
                .hint("a value can't contain itself");
            return Err(Stop);
        };
        let nodes = *nodes;
        self.count(nodes, span)?;
        let node = self.anchors[&anchor].0.clone();
        if self.open.len() + depth(&node) > MAX_DEPTH {
            self.cx
                .error(span, "E002", format!("a rule file may be {MAX_DEPTH} levels deep, aliases expanded"))
                .hint("no part of a rule needs more than some ten levels");
            return Err(Stop);
        }
        self.place(node, 0, nodes)
    }

    /// Puts a finished value where it belongs; anchor 0 is none.
    fn place(&mut self, mut node: Node, anchor: usize, nodes: usize) -> Result<(), Stop> {
        if anchor != 0 {
            // The copy is paid for like an alias, or a chain of anchors would be free.
            self.count(nodes, node.span)?;
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        let (entries, seen, key) = match &mut open.content {
            Content::List(items) => {
                items.push(node);
                return Ok(());
            }
            Content::Map { entries, seen, key } => (entries, seen, key),
        };
        let Some(pending) = key.take() else {
            *key = Some(entry_key(self.cx, seen, &node)?);
            return Ok(());
        };
        if let Some(key) = pending {
            if matches!(node.value, Value::Null) && node.span.len == 0 {
                node.span = key.span;
            }
            entries.push((key, node));
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Value {
        let plain = style == ScalarStyle::Plain;
        match tag {
            None if plain => self.plain(text, span),
            None => Value::Text(text.to_owned()),
            Some(tag) if is_core(tag, "str") || (tag.handle.is_empty() && tag.suffix == "!") => {
                Value::Text(text.to_owned())
            }
            Some(tag) if ["null", "bool", "int", "float"].iter().any(|name| is_core(tag, name)) => {
                self.plain(text, span)
            }
            Some(tag) => {
                self.unknown_tag(tag, span);
                Value::Text(text.to_owned())
            }
        }
    }

    fn plain(&mut self, text: &str, span: Span) -> Value {
        scalar::resolve(text).unwrap_or_else(|scalar::NotFinite| {
            self.cx
                .error(span, "E004", format!("{} is no finite number", quoted(text)))
                .hint("events hold finite doubles only; put it in quotes if a text is meant");
            Value::Number(0.0)
        })
    }

    fn container_tag(&mut self, tag: Option<&Tag>, expected: &str, span: Span) {
        if let Some(tag) = tag.filter(|tag| !is_core(tag, expected)) {
            self.unknown_tag(tag, span);
        }
    }

    fn unknown_tag(&mut self, tag: &Tag, span: Span) {
        self.cx
            .error(span, "E005", format!("tag {} means nothing here", quoted(&tag.to_string())))
            .hint("leave it out; known are !!str, !!int, !!float, !!bool, !!null, !!seq and !!map");
    }
}

fn is_core(tag: &Tag, name: &str) -> bool {
    tag.is_yaml_core_schema() && tag.suffix == name
}

fn key_name(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// How many levels a value has; recursion ends because [`MAX_DEPTH`] holds for what is built.
fn depth(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| depth(value)).max().unwrap_or(0),
        _ => 0,
    }
}

fn span(marks: Marks) -> Span {
    let (start, end) = (marks.start, marks.end);
    let len = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { 0 };
    Span { line: start.line() as u32, column: start.col() as u32 + 1, len: len as u32 }
}
