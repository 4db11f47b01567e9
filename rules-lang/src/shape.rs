//! What each mapping of the language may hold: one table for a mapping. The resolver takes keys by it, and the JSON Schema
//! ([`crate::schema`]) is made of it.
//!
//! A key that the table doesn't name is unknown, whatever the resolver reads: so neither can know a key that the other
//! doesn't.

use serde_json::Value as Json;

use crate::context::{Context, Keys, unknown_key};
use crate::diagnostic::Span;
use crate::yaml::{Key, Node};

/// A kind of mapping.
pub(crate) struct Shape {
    /// Its name among the schema's definitions.
    pub(crate) name: &'static str,
    /// As messages call it.
    pub(crate) what: &'static str,
    /// For who writes one.
    pub(crate) doc: &'static str,
    pub(crate) keys: &'static [KeyShape],
    pub(crate) rest: Rest,
    pub(crate) needs: Needs,
}

/// What a mapping takes besides its own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing.
    Unknown,
    /// The keys of a matcher.
    Matcher,
    /// Any field of a record, by its path.
    Paths,
}

/// Which of its optional keys a mapping can't all do without.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Needs {
    Nothing,
    /// At least one of these.
    AnyOf(&'static [&'static str]),
    /// Exactly one of these.
    OneOf(&'static [&'static str]),
}

/// A key of a mapping.
pub(crate) struct KeyShape {
    pub(crate) name: &'static str,
    /// For who writes one.
    pub(crate) doc: &'static str,
    /// What to write where a key is missing that has to be there; optional keys have none.
    pub(crate) example: Option<&'static str>,
    /// The schema of its value.
    pub(crate) value: fn() -> Json,
}

impl KeyShape {
    pub(crate) const fn optional(name: &'static str, doc: &'static str, value: fn() -> Json) -> Self {
        KeyShape { name, doc, example: None, value }
    }

    pub(crate) const fn required(
        name: &'static str,
        example: &'static str,
        doc: &'static str,
        value: fn() -> Json,
    ) -> Self {
        KeyShape { name, doc, example: Some(example), value }
    }
}

impl Shape {
    /// The names of its own keys.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    fn key(&self, name: &str) -> Option<&'static KeyShape> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// A mapping that is being taken apart by its table.
pub(crate) struct Mapping<'n> {
    pub(crate) span: Span,
    /// As messages call this one.
    pub(crate) what: String,
    pub(crate) shape: &'static Shape,
    keys: Keys<'n>,
}

impl Context<'_> {
    /// A node as a mapping of this shape; reports one that is none.
    pub(crate) fn mapping<'n>(&mut self, node: &'n Node, shape: &'static Shape) -> Option<Mapping<'n>> {
        self.mapping_called(node, shape, shape.what)
    }

    /// Likewise, of a mapping that messages call `what`.
    pub(crate) fn mapping_called<'n>(
        &mut self,
        node: &'n Node,
        shape: &'static Shape,
        what: &str,
    ) -> Option<Mapping<'n>> {
        let keys = self.keys(node, what)?;
        Some(Mapping { span: keys.span, what: what.to_owned(), shape, keys })
    }
}

impl<'n> Mapping<'n> {
    /// The same mapping, once its kind is known.
    pub(crate) fn of(self, shape: &'static Shape) -> Self {
        Mapping { what: shape.what.to_owned(), shape, ..self }
    }

    pub(crate) fn entry(&mut self, name: &str) -> Option<&'n (Key, Node)> {
        self.keys.entry(name)
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<&'n Node> {
        self.keys.take(name)
    }

    /// Like `take`, but reports a key that isn't there.
    pub(crate) fn require(&mut self, cx: &mut Context<'_>, name: &str) -> Option<&'n Node> {
        let example = self.shape.key(name).and_then(|key| key.example).unwrap_or("...");
        self.keys.require(cx, name, &self.what, example)
    }

    /// Everything that wasn't taken yet, or isn't in the table; taken now.
    pub(crate) fn rest(&mut self) -> Vec<&'n (Key, Node)> {
        self.keys.rest_but(|name| self.shape.key(name).is_some())
    }

    /// Reports every key that wasn't taken or isn't in the table.
    pub(crate) fn finish(mut self, cx: &mut Context<'_>) {
        let known = self.shape.names();
        for (key, _) in self.rest() {
            unknown_key(cx, key, &self.what, &known);
        }
    }
}
