//! One rule: its own properties; each condition in its own file.

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::{absence, action, field, new_value, pattern, sequence, threshold, window};
use crate::context::{Context, Keys};
use crate::diagnostic::{Span, quoted};
use crate::duration::DAY;
use crate::plan::{Condition, Field, Origin, Rule, Severity};
use crate::suggest;
use crate::yaml::Node;

/// The most conditions of a rule.
pub const MAX_CONDITIONS: usize = 16;
/// The longest list of tags, references and the like.
pub const MAX_ITEMS: usize = 256;
/// The most fields of a group.
const MAX_BY: usize = 16;
/// The longest id, in characters.
const MAX_ID_CHARS: usize = 128;

const RULE_KEYS: [&str; 15] = [
    "id",
    "name",
    "severity",
    "conditions",
    "description",
    "by",
    "actions",
    "suppress_for",
    "attack",
    "tags",
    "references",
    "false_positives",
    "shadow",
    "enabled",
    "backfill_actions",
];
const CONDITIONS: [&str; 5] = ["sequence", "threshold", "pattern", "absence", "new_value"];
const SEVERITIES: [(&str, Severity); 5] = [
    ("info", Severity::Info),
    ("low", Severity::Low),
    ("medium", Severity::Medium),
    ("high", Severity::High),
    ("critical", Severity::Critical),
];

/// A rule whose id could be read.
pub(crate) struct Resolved {
    pub(crate) id: String,
    /// Where the id stands.
    pub(crate) at: Span,
    pub(crate) enabled: bool,
    /// `None` if anything is wrong with it.
    pub(crate) plan: Option<Rule>,
}

/// Resolves one item of `rules`. `None` if it has no usable id; reported.
pub(super) fn resolve(cx: &mut Context<'_>, node: &Node) -> Option<Resolved> {
    let mut keys = cx.keys(node, "a rule")?;
    let id_node = keys.require(cx, "id", "a rule", "MY_RULE");
    let id = id_node.and_then(|node| id(cx, node));
    let enabled = flag(cx, &mut keys, "enabled", true);
    let plan = plan(cx, &mut keys, id.unwrap_or_default());
    keys.finish(cx, "a rule", &RULE_KEYS);
    let at = id_node.map_or(node.span, |node| node.span);
    Some(Resolved { id: id?.to_owned(), at, enabled: enabled.unwrap_or(true), plan })
}

fn id<'n>(cx: &mut Context<'_>, node: &'n Node) -> Option<&'n str> {
    let id = cx.word(node, "\"id\"")?;
    if id.chars().count() > MAX_ID_CHARS || id.chars().any(|c| c.is_control()) || id.trim() != id {
        cx.error(node.span, "E021", format!("{} is no rule id", quoted(id)))
            .hint(format!("use 1 to {MAX_ID_CHARS} characters, no control characters, no blank at the ends"));
        return None;
    }
    Some(id)
}

fn plan(cx: &mut Context<'_>, keys: &mut Keys<'_>, id: &str) -> Option<Rule> {
    let origin = Origin { file: cx.file().to_owned(), line: keys.span.line };
    let name = keys.require(cx, "name", "a rule", "\"What it finds\"").and_then(|node| cx.word(node, "\"name\""));
    let severity = keys.require(cx, "severity", "a rule", "high").and_then(|node| severity(cx, node));
    let conditions =
        keys.require(cx, "conditions", "a rule", "[{type: threshold, window: 1m, event_type: any, count: \"> 100\"}]");
    let conditions = conditions.and_then(|node| self::conditions(cx, node));
    let description = optional(keys.take("description"), "", |node| cx.text(node, "\"description\""));
    let by = optional(keys.take("by"), session(), |node| group(cx, node));
    let actions = optional(keys.take("actions"), Vec::new(), |node| action::list(cx, node));
    let suppress_for =
        keys.take("suppress_for").map(|node| window::duration(cx, node, "\"suppress_for\"", (0, 7 * DAY)));
    let attack = keys.take("attack");
    let attack = optional(attack, Vec::new(), |node| attack_ids(cx, node));
    let [tags, references, false_positives] = ["tags", "references", "false_positives"]
        .map(|name| optional(keys.take(name), Vec::new(), |node| texts(cx, node, name)));
    let shadow = flag(cx, keys, "shadow", false);
    let backfill_actions = flag(cx, keys, "backfill_actions", false);
    let conditions = conditions?;
    let longest = conditions.iter().map(Condition::window).max().unwrap_or_default();
    let mut rule = Rule {
        id: id.to_owned(),
        name: name?.to_owned(),
        description: description?.to_owned(),
        severity: severity?,
        by: by?,
        conditions,
        actions: actions?,
        suppress_for: suppress_for.unwrap_or(Some(longest))?,
        attack: attack?,
        tags: tags?,
        references: references?,
        false_positives: false_positives?,
        shadow: shadow?,
        backfill_actions: backfill_actions?,
        version: String::new(),
        origin,
    };
    rule.version = version(&rule);
    Some(rule)
}

/// What an optional key says, its default if it isn't there, `None` if it is wrong.
fn optional<'n, T>(node: Option<&'n Node>, default: T, read: impl FnOnce(&'n Node) -> Option<T>) -> Option<T> {
    node.map_or(Some(default), read)
}

fn flag(cx: &mut Context<'_>, keys: &mut Keys<'_>, name: &str, default: bool) -> Option<bool> {
    optional(keys.take(name), default, |node| cx.flag(node, &format!("\"{name}\"")))
}

fn texts(cx: &mut Context<'_>, node: &Node, name: &str) -> Option<Vec<String>> {
    if matches!(&node.value, crate::yaml::Value::List(items) if items.is_empty()) {
        return Some(Vec::new());
    }
    let texts = cx.texts(node, &format!("\"{name}\""), MAX_ITEMS)?;
    Some(texts.into_iter().map(|(text, _)| text.to_owned()).collect())
}

/// MITRE ATT&CK (`T1552.001`, `TA0006`), ATLAS (`AML.T0051`) and OWASP Agentic (`ASI01`) ids.
fn attack_ids(cx: &mut Context<'_>, node: &Node) -> Option<Vec<String>> {
    let places = match &node.value {
        crate::yaml::Value::List(items) if items.is_empty() => Vec::new(),
        _ => cx.texts(node, "\"attack\"", MAX_ITEMS)?,
    };
    for (id, at) in &places {
        if !is_attack_id(id) {
            cx.warn(*at, "W007", format!("{} isn't written like an ATT&CK, ATLAS or OWASP Agentic id", quoted(id)))
                .hint("such as T1552.001, TA0006, AML.T0051.000 or ASI01");
        }
    }
    Some(places.into_iter().map(|(id, _)| id.to_owned()).collect())
}

fn is_attack_id(id: &str) -> bool {
    let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let id = id.strip_prefix("AML.").unwrap_or(id);
    if let Some(number) = id.strip_prefix("ASI").or_else(|| id.strip_prefix('M').filter(|_| id.len() > 4)) {
        return digits(number, number.len()) && !number.is_empty();
    }
    if let Some(number) = id.strip_prefix("TA") {
        return digits(number, 4);
    }
    let Some(number) = id.strip_prefix('T') else {
        return false;
    };
    match number.split_once('.') {
        Some((technique, part)) => digits(technique, 4) && digits(part, 3),
        None => digits(number, 4),
    }
}

fn severity(cx: &mut Context<'_>, node: &Node) -> Option<Severity> {
    let text = cx.text(node, "\"severity\"")?;
    if let Some((_, severity)) = SEVERITIES.iter().find(|(name, _)| *name == text) {
        return Some(*severity);
    }
    let names = SEVERITIES.map(|(name, _)| name);
    cx.error(node.span, "E022", format!("{} is no severity", quoted(text))).hint(suggest::hint(text, &names));
    None
}

fn session() -> Vec<Field> {
    ["agent_id", "session_id"].map(|name| Field::Path(vec![name.to_owned()])).to_vec()
}

fn group(cx: &mut Context<'_>, node: &Node) -> Option<Vec<Field>> {
    if matches!(&node.value, crate::yaml::Value::List(items) if items.is_empty()) {
        cx.error(node.span, "E052", "\"by\" is an empty list")
            .hint("leave it out for [agent_id, session_id]; [tenant_id] is the widest group");
        return None;
    }
    let items = cx.list(node, "\"by\"", MAX_BY)?;
    let mut fields: Vec<Field> = Vec::with_capacity(items.len());
    for item in items {
        let field = field::named(cx, item, "a field of \"by\"")?;
        if fields.contains(&field) {
            cx.error(item.span, "E053", "this field stands in \"by\" a second time").hint("keep one of them");
            return None;
        }
        fields.push(field);
    }
    Some(fields)
}

fn conditions(cx: &mut Context<'_>, node: &Node) -> Option<Vec<Condition>> {
    let items = cx.list(node, "\"conditions\"", MAX_CONDITIONS)?;
    let conditions: Vec<_> = items.iter().filter_map(|item| condition(cx, item)).collect();
    (conditions.len() == items.len()).then_some(conditions)
}

fn condition(cx: &mut Context<'_>, node: &Node) -> Option<Condition> {
    let mut keys = cx.keys(node, "a condition")?;
    let kind = keys.require(cx, "type", "a condition", "sequence")?;
    let name = cx.text(kind, "\"type\"")?;
    match name {
        "sequence" => sequence::resolve(cx, keys).map(Condition::Sequence),
        "threshold" => threshold::resolve(cx, keys).map(Condition::Threshold),
        "pattern" => pattern::resolve(cx, keys).map(Condition::Pattern),
        "absence" => absence::resolve(cx, keys).map(Condition::Absence),
        "new_value" => new_value::resolve(cx, keys).map(Condition::NewValue),
        "flow" => {
            cx.error(kind.span, "E024", "condition \"flow\" is not supported yet")
                .hint("a sequence with `by: [target]` follows one target across sessions");
            None
        }
        _ => {
            cx.error(kind.span, "E023", format!("{} is no condition", quoted(name)))
                .hint(suggest::hint(name, &CONDITIONS));
            None
        }
    }
}

/// SHA-256 in hex over the rule's JSON with sorted keys, without `version` and `origin`.
fn version(rule: &Rule) -> String {
    let mut json = serde_json::json!(rule);
    if let Some(object) = json.as_object_mut() {
        object.remove("version");
        object.remove("origin");
    }
    let text = sorted(json).to_string();
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same JSON with sorted keys, whatever order `serde_json` was built to keep.
fn sorted(json: Json) -> Json {
    match json {
        Json::Array(items) => items.into_iter().map(sorted).collect(),
        Json::Object(entries) => {
            let mut entries: Vec<_> = entries.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Json::Object(entries.into_iter().collect())
        }
        scalar => scalar,
    }
}
