//! `detection`: selections of fields and values to one Boolean expression.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::condition::{CORRELATE, Parser};
use super::expr::{Check, Expr, Subject, any_text, literal};
use super::logsource::{Place as Where, RAW_TARGET, Source, Target};
use super::modifier::{self, Form, Modifiers};
use super::value::{Place, Text};
use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::pattern;
use crate::yaml::{Key, Node, Value};

/// The most values of a list.
const MAX_VALUES: usize = 10_000;

/// Reads `detection`.
pub(super) fn read(cx: &mut Context<'_>, node: &Node, source: &Source) -> Option<Rc<Expr>> {
    let mut keys = cx.keys(node, "\"detection\"")?;
    let condition = keys.require(cx, "condition", "\"detection\"", "selection");
    if let Some((key, _)) = keys.entry("timeframe") {
        cx.error(key.span, "E094", "\"timeframe\" belongs to conditions that Sigma gave up").hint(CORRELATE);
        return None;
    }
    let mut selections = BTreeMap::new();
    let mut places = BTreeMap::new();
    let mut sound = true;
    for (key, value) in keys.rest() {
        match selection(cx, value, source) {
            Some(expr) => {
                selections.insert(key.name.clone(), Rc::new(expr));
                places.insert(key.name.clone(), key.span);
            }
            None => sound = false,
        }
    }
    let conditions = cx.texts(condition?, "\"condition\"", MAX_VALUES)?;
    if !sound {
        return None;
    }
    let mut parts = Vec::new();
    for (text, at) in conditions {
        let mut parser = Parser::new(text, &selections);
        match parser.parse() {
            Ok(expr) => parts.push(expr),
            Err(wrong) => {
                let at = cx.within(at, &wrong.word);
                cx.error(at, "E094", wrong.message).hint(wrong.hint);
                return None;
            }
        }
        for name in &parser.used {
            places.remove(name);
        }
    }
    for (name, at) in places {
        cx.warn(at, "W022", format!("selection {} is in no condition", quoted(&name)))
            .hint("it says nothing here, as it says nothing in Sigma");
    }
    Some(Rc::new(Expr::Or(parts)))
}

fn selection(cx: &mut Context<'_>, node: &Node, source: &Source) -> Option<Expr> {
    match &node.value {
        Value::Map(entries) if entries.is_empty() => {
            cx.error(node.span, "E013", "this selection is empty").hint("give it a field and a value");
            None
        }
        Value::Map(entries) => {
            let parts: Vec<_> = entries.iter().filter_map(|(key, value)| field(cx, key, value, source)).collect();
            (parts.len() == entries.len()).then(|| Expr::And(parts.into_iter().map(Rc::new).collect()))
        }
        Value::List(_) => {
            let items = cx.list(node, "a selection", MAX_VALUES)?;
            let (maps, words): (Vec<_>, Vec<_>) = items.iter().partition(|item| matches!(item.value, Value::Map(_)));
            let mut parts: Vec<_> = maps.iter().filter_map(|item| selection(cx, item, source)).collect();
            let all = parts.len() == maps.len();
            if !words.is_empty() {
                parts.push(keywords(cx, node, &words, false)?);
            }
            all.then(|| Expr::Or(parts.into_iter().map(Rc::new).collect()))
        }
        _ => keywords(cx, node, &[node], false),
    }
}

/// Values without a field.
fn keywords(cx: &mut Context<'_>, node: &Node, words: &[&Node], all: bool) -> Option<Expr> {
    cx.warn(node.span, "W020", "keywords are looked for in the target alone")
        .hint("events have no message; name a field if another one is meant");
    let subject = Subject::Field(RAW_TARGET.to_owned());
    let parts: Vec<_> = words
        .iter()
        .filter_map(|word| {
            let text = Text::parse(&plain(cx, word)?, Place::Anywhere, false);
            any_check(cx, word.span, &text)?;
            Some((text, word.span))
        })
        .collect();
    if parts.len() < words.len() {
        return None;
    }
    Some(match all {
        true => {
            Expr::And(parts.into_iter().map(|(text, at)| Rc::new(any_text(&subject, vec![text], false, at))).collect())
        }
        false => any_text(&subject, parts.into_iter().map(|(text, _)| text).collect(), false, node.span),
    })
}

fn field(cx: &mut Context<'_>, key: &Key, node: &Node, source: &Source) -> Option<Expr> {
    let words: Vec<&str> = key.name.split('|').collect();
    let (name, words) = (words[0], &words[1..]);
    if name.is_empty() {
        let modifiers = modifier::read(cx, key, words)?;
        let plain = Modifiers { all: false, ..modifiers.clone() };
        if plain.form != Form::Text(Place::Whole) || plain.cased || plain.windash || plain.negated {
            cx.error(key.span, "E093", "keywords take the modifier \"all\" alone").hint("name a field");
            return None;
        }
        let items: Vec<&Node> = match &node.value {
            Value::List(_) => cx.list(node, "keywords", MAX_VALUES)?.iter().collect(),
            _ => vec![node],
        };
        return keywords(cx, node, &items, modifiers.all);
    }
    let at = cx.within(key.span, name);
    let place = source.place(cx, name, at);
    let modifiers = modifier::read(cx, key, words)?;
    let values: Vec<&Node> = match &node.value {
        Value::List(_) => cx.list(node, &quoted(&key.name), MAX_VALUES)?.iter().collect(),
        _ => vec![node],
    };
    let test = Test { source, place: place?, modifiers: &modifiers, at: key.span };
    let expr = test.read(cx, &values)?;
    Some(if modifiers.negated { Expr::Not(Rc::new(expr)) } else { expr })
}

/// A field under test.
struct Test<'a> {
    source: &'a Source,
    place: Where,
    modifiers: &'a Modifiers,
    at: Span,
}

impl Test<'_> {
    fn read(&self, cx: &mut Context<'_>, values: &[&Node]) -> Option<Expr> {
        if self.place == Where::Program {
            cx.warn(self.at, "W020", "the program is taken from the first word of the command line")
                .hint("a command that a shell runs within another one is found by CommandLine|contains");
        }
        // Texts that are alternatives of each other make one test.
        let mut texts = Vec::new();
        let mut parts = Vec::new();
        for value in values {
            match self.value(cx, value)? {
                One::Text(text) if self.place == Where::Program => {
                    let regex =
                        Check::Regex(format!("(?{}:{})", if self.modifiers.cased { "" } else { "i" }, text.program()));
                    parts.push(literal(Subject::Field(RAW_TARGET.to_owned()), regex, value.span));
                }
                One::Text(text) if self.modifiers.all => {
                    parts.push(any_text(&self.subject(), vec![text], self.modifiers.cased, value.span));
                }
                One::Text(text) => texts.push(text),
                One::Expr(expr) => parts.push(expr),
            }
        }
        if !texts.is_empty() {
            parts.push(any_text(&self.subject(), texts, self.modifiers.cased, self.at));
        }
        let parts = parts.into_iter().map(Rc::new).collect();
        Some(if self.modifiers.all { Expr::And(parts) } else { Expr::Or(parts) })
    }

    fn subject(&self) -> Subject {
        match &self.place {
            Where::Field(path) => Subject::Field(path.clone()),
            Where::Program => Subject::Field(RAW_TARGET.to_owned()),
            _ => Subject::Target,
        }
    }

    /// The field itself, for tests of its presence and numbers.
    fn raw(&self) -> Subject {
        match self.subject() {
            Subject::Target => Subject::Field(RAW_TARGET.to_owned()),
            subject => subject,
        }
    }

    fn value(&self, cx: &mut Context<'_>, node: &Node) -> Option<One> {
        let at = node.span;
        let test = |subject, check| Some(One::Expr(literal(subject, check, at)));
        let typed = self.source.is_typed() && matches!(self.place, Where::Field(_));
        match (&self.modifiers.form, &node.value) {
            (Form::Exists, Value::Bool(true)) => test(self.raw(), Check::Exists),
            (Form::Exists, Value::Bool(false)) | (Form::Text(Place::Whole), Value::Null) => {
                Some(One::Expr(Expr::Not(Rc::new(literal(self.raw(), Check::Exists, at)))))
            }
            (Form::Exists, _) => self.wrong(cx, node, "true or false"),
            (Form::Compare(operator), Value::Number(number)) if typed => {
                test(self.raw(), Check::Compare(operator, *number))
            }
            (Form::Compare(_), _) => {
                self.wrong(cx, node, "a number of a field that holds numbers (product clawdstrike)")
            }
            (_, Value::Null | Value::List(_) | Value::Map(_)) => self.wrong(cx, node, "a text, number or boolean"),
            (Form::Text(Place::Whole), Value::Number(number)) if typed => {
                test(self.raw(), Check::Numbers(vec![*number]))
            }
            (Form::Text(Place::Whole), Value::Bool(flag)) if typed => test(self.raw(), Check::Flag(*flag)),
            // Events hold it as a boolean, however a rule writes it.
            (Form::Text(Place::Whole), Value::Text(text))
                if self.is_allowed() && matches!(text.as_str(), "true" | "false") =>
            {
                test(self.raw(), Check::Flag(text == "true"))
            }
            (Form::Text(_), _) if self.place == Where::Port => self.port(cx, node),
            (Form::Text(_), _) if matches!(self.place, Where::Always(_)) => self.constant(cx, node),
            (Form::Text(Place::Whole), Value::Text(text)) if Text::parse(text, Place::Whole, false).is_star() => {
                test(self.raw(), Check::Exists)
            }
            (Form::Text(place), _) => self.text(cx, node, *place).map(One::Text),
            (Form::Regex(flags), _) => self.regex(cx, node, flags).map(One::Expr),
        }
    }

    fn is_allowed(&self) -> bool {
        self.place == Where::Field("result.allowed".to_owned())
    }

    fn wrong<T>(&self, cx: &mut Context<'_>, node: &Node, expected: &str) -> Option<T> {
        let found = match &node.value {
            Value::Text(text) => quoted(text),
            Value::Number(_) | Value::Bool(_) => quoted(&cx.written(node.span)),
            other => other.kind().to_owned(),
        };
        cx.error(node.span, "E095", format!("this takes {expected}, found {found}"))
            .hint("change the value or the modifier");
        None
    }

    fn text(&self, cx: &mut Context<'_>, node: &Node, place: Place) -> Option<Text> {
        let written = plain(cx, node)?;
        let text = Text::parse(&written, place, self.modifiers.windash);
        if place != Place::Whole {
            any_check(cx, node.span, &text)?;
        }
        if self.subject() != Subject::Target || self.source.target != Target::Path {
            return Some(text);
        }
        let text = text.path();
        if text.ends_with_slash() {
            cx.error(node.span, "E095", format!("no path ends with {}", quoted(&written)))
                .label("paths are compared without a separator at their end")
                .hint("leave it out, or use contains for what lies below");
            return None;
        }
        Some(text)
    }

    fn regex(&self, cx: &mut Context<'_>, node: &Node, flags: &str) -> Option<Expr> {
        let text = plain(cx, node)?;
        if matches!(self.place, Where::Program | Where::Port | Where::Always(_)) {
            cx.error(node.span, "E093", "modifier \"re\" can't be expressed for this field")
                .hint("use startswith, endswith or contains");
            return None;
        }
        if self.subject() == Subject::Target && self.source.target == Target::Path && text.contains("\\\\") {
            cx.error(node.span, "E095", "this regex looks for \"\\\", but paths are compared with \"/\"")
                .hint("write `/` for `\\\\`");
            return None;
        }
        pattern::search(cx, &text, node.span, false)?;
        Some(literal(self.subject(), Check::Regex(format!("(?{flags}:{text})")), node.span))
    }

    fn port(&self, cx: &mut Context<'_>, node: &Node) -> Option<One> {
        let port = plain(cx, node)?.parse::<u16>().ok();
        match port.filter(|_| self.modifiers.form == Form::Text(Place::Whole)) {
            Some(port) => Some(One::Expr(literal(Subject::Target, Check::Ports(vec![port]), node.span))),
            None => self.wrong(cx, node, "a port from 0 to 65535, as a whole"),
        }
    }

    /// A test of what all such events have in common: it holds, or never does.
    fn constant(&self, cx: &mut Context<'_>, node: &Node) -> Option<One> {
        let Where::Always(always) = self.place else { return None };
        let holds = plain(cx, node)?.eq_ignore_ascii_case(always);
        cx.warn(
            node.span,
            "W021",
            format!("this {} holds for \"{}\" events", if holds { "always" } else { "never" }, self.source.event_type),
        )
        .hint("agents report what they begin themselves");
        Some(One::Expr(if holds { Expr::And(Vec::new()) } else { Expr::Or(Vec::new()) }))
    }
}

/// What one value says.
enum One {
    Text(Text),
    Expr(Expr),
}

/// A scalar as it is written: `0777` and `1.10` are texts to Sigma.
fn plain(cx: &mut Context<'_>, node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(cx.written(node.span)),
        _ => {
            cx.mistyped(node, "a value", "a text");
            None
        }
    }
}

/// Refuses a text that is part of every text.
fn any_check(cx: &mut Context<'_>, at: Span, text: &Text) -> Option<()> {
    if text.is_any() {
        cx.error(at, "E095", "this is part of every text").hint("use exists if any value will do");
        return None;
    }
    Some(())
}
