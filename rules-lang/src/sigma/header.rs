//! What Sigma rules and correlations say of themselves: title, level, tags and the like.

use super::emit::Yaml;
use crate::context::{Context, Keys};
use crate::diagnostic::{Span, quoted};
use crate::resolve::MAX_ITEMS;
use crate::suggest;
use crate::yaml::{Node, Value};

/// The longest id made from a title, in characters: the language takes 128, and a number may follow.
const ID_CHARS: usize = 100;
const LEVELS: [(&str, &str); 5] =
    [("informational", "info"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("critical", "critical")];
const STATUSES: [&str; 5] = ["stable", "test", "experimental", "deprecated", "unsupported"];
/// Keys of Sigma that say nothing about what is found or why.
const UNUSED: [&str; 8] =
    ["related", "fields", "license", "modified", "scope", "schema", "regression_tests_path", "simulation"];

/// The properties of a rule.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) title: String,
    /// `id` and `name`, by which correlations call the rule.
    pub(super) names: Vec<String>,
    severity: &'static str,
    description: String,
    attack: Vec<String>,
    tags: Vec<String>,
    references: Vec<String>,
    false_positives: Vec<String>,
}

/// Reads a header; `keys` then holds the rest.
pub(super) fn read(cx: &mut Context<'_>, keys: &mut Keys<'_>) -> Option<Header> {
    let title = keys.require(cx, "title", "a Sigma rule", "What it finds")?;
    let at = title.span;
    let title = cx.word(title, "\"title\"")?.to_owned();
    let names = ["id", "name"].map(|name| text(cx, keys, name));
    let description = [description(cx, keys)?, origin(cx, keys, &names[0])].join("\n\n");
    let severity = level(cx, keys, at)?;
    let (attack, tags) = tags(list(cx, keys, "tags")?);
    if let Some(taxonomy) = keys.take("taxonomy")
        && !matches!(&taxonomy.value, Value::Text(name) if name == "sigma")
    {
        cx.error(taxonomy.span, "E092", "fields of another taxonomy than Sigma's have no known places")
            .hint("translate the rule to Sigma's taxonomy");
        return None;
    }
    for name in UNUSED {
        keys.take(name);
    }
    Some(Header {
        title,
        names: names.into_iter().flatten().collect(),
        severity,
        description: description.trim().to_owned(),
        attack,
        tags,
        references: list(cx, keys, "references")?,
        false_positives: list(cx, keys, "falsepositives")?,
    })
}

/// Warns of what is left of a rule's keys.
pub(super) fn finish(cx: &mut Context<'_>, keys: &mut Keys<'_>) {
    for (key, _) in keys.rest() {
        cx.warn(key.span, "W022", format!("key {} isn't carried over", quoted(&key.name)))
            .hint("Sigma has no such key; put what matters into the description");
    }
}

impl Header {
    /// The id of our rule, before it is made unique.
    pub(super) fn id(&self) -> String {
        let mut id = String::new();
        for c in self.title.chars().take(ID_CHARS) {
            match c.is_ascii_alphanumeric() {
                true => id.push(c.to_ascii_uppercase()),
                false if !id.ends_with('_') && !id.is_empty() => id.push('_'),
                false => {}
            }
        }
        let id = id.trim_end_matches('_');
        if id.is_empty() { "SIGMA_RULE".to_owned() } else { id.to_owned() }
    }

    /// The properties of our rule, in the order in which they are written.
    pub(super) fn rule(&self, id: &str, by: Option<Yaml>, condition: Yaml) -> Vec<(String, Yaml)> {
        let list = |texts: &Vec<String>| Some(Yaml::texts(texts)).filter(|_| !texts.is_empty());
        let entries = [
            ("id", Some(Yaml::text(id))),
            ("name", Some(Yaml::text(&self.title))),
            ("severity", Some(Yaml::text(self.severity))),
            ("description", Some(Yaml::text(&self.description)).filter(|_| !self.description.is_empty())),
            ("by", by),
            ("conditions", Some(Yaml::List(vec![condition]))),
            ("attack", list(&self.attack)),
            ("tags", list(&self.tags)),
            ("references", list(&self.references)),
            ("false_positives", list(&self.false_positives)),
        ];
        entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// A text, or whatever scalar stands for one (dates, numbers); `None` if it isn't there.
fn text(cx: &mut Context<'_>, keys: &mut Keys<'_>, name: &str) -> Option<String> {
    let node = keys.take(name)?;
    match &node.value {
        Value::Text(text) => Some(text.trim().to_owned()),
        Value::Number(_) | Value::Bool(_) => Some(cx.written(node.span)),
        Value::Null => None,
        Value::List(_) | Value::Map(_) => {
            cx.warn(node.span, "W022", format!("key \"{name}\" isn't carried over: it is {}", node.value.kind()))
                .hint("write it as a text");
            None
        }
    }
}

fn description(cx: &mut Context<'_>, keys: &mut Keys<'_>) -> Option<String> {
    match keys.take("description") {
        None | Some(Node { value: Value::Null, .. }) => Some(String::new()),
        Some(node) => cx.text(node, "\"description\"").map(|text| text.trim().to_owned()),
    }
}

/// A line that tells where the rule comes from.
fn origin(cx: &mut Context<'_>, keys: &mut Keys<'_>, id: &Option<String>) -> String {
    let mut line = match id {
        Some(id) => format!("Sigma rule {id}"),
        None => "Sigma rule without id".to_owned(),
    };
    if let Some(node) = keys.take("status") {
        let status = cx.written(node.span);
        match STATUSES.contains(&status.as_str()) {
            true => line.push_str(&format!(", {status}")),
            false => {
                cx.warn(node.span, "W022", format!("{} is no status of Sigma", quoted(&status)))
                    .hint(suggest::hint(&status, &STATUSES));
            }
        }
    }
    for (name, lead) in [("author", ", by "), ("date", ", ")] {
        if let Some(text) = text(cx, keys, name) {
            line.push_str(&format!("{lead}{text}"));
        }
    }
    line + "."
}

fn level(cx: &mut Context<'_>, keys: &mut Keys<'_>, title: Span) -> Option<&'static str> {
    let Some(node) = keys.take("level") else {
        cx.warn(title, "W022", "this rule has no level: it is imported with severity \"medium\"")
            .hint("add `level: high`, or what fits");
        return Some("medium");
    };
    let level = cx.text(node, "\"level\"")?;
    let found = LEVELS.iter().find(|(name, _)| *name == level);
    if found.is_none() {
        let names = LEVELS.map(|(name, _)| name);
        cx.error(node.span, "E022", format!("{} is no level of Sigma", quoted(level)))
            .hint(suggest::hint(level, &names));
    }
    found.map(|(_, severity)| *severity)
}

/// A list of texts that may be absent or a single one.
fn list(cx: &mut Context<'_>, keys: &mut Keys<'_>, name: &str) -> Option<Vec<String>> {
    match keys.take(name) {
        None | Some(Node { value: Value::Null, .. }) => Some(Vec::new()),
        Some(Node { value: Value::List(items), .. }) if items.is_empty() => Some(Vec::new()),
        Some(node) => {
            let texts = cx.texts(node, &format!("\"{name}\""), MAX_ITEMS)?;
            Some(texts.into_iter().map(|(text, _)| text.to_owned()).collect())
        }
    }
}

/// ATT&CK and ATLAS ids, and all the other tags.
fn tags(tags: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut attack, mut others) = (Vec::new(), Vec::new());
    for tag in tags {
        match attack_id(&tag) {
            Some(id) if !attack.contains(&id) => attack.push(id),
            Some(_) => {}
            None => others.push(tag),
        }
    }
    (attack, others)
}

/// `attack.t1059.001` is T1059.001, `atlas.aml.t0051` is AML.T0051; names of tactics stay tags.
fn attack_id(tag: &str) -> Option<String> {
    let tag = tag.to_ascii_uppercase();
    let (id, prefix) = match tag.strip_prefix("ATTACK.") {
        Some(id) => (id, ""),
        None => (tag.strip_prefix("ATLAS.AML.")?, "AML."),
    };
    let number = id.strip_prefix("TA").or_else(|| id.strip_prefix('T'))?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    number.split('.').all(digits).then(|| format!("{prefix}{id}"))
}
