//! One rule: its own properties; each condition in its own file.

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::{absence, action, field, new_value, pattern, sequence, threshold, window};
use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::duration::DAY;
use crate::plan::{Condition, Field, OnRemoval, Origin, Rule, Severity};
use crate::schema::value;
use crate::shape::{KeyShape, Mapping, Needs, Rest, Shape};
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

pub(crate) static RULE: Shape = Shape {
    name: "rule",
    what: "a rule",
    doc: "One detection rule.",
    keys: &[
        KeyShape::required("id", "MY_RULE", "Unique in the set of files.", || {
            // No control characters, no blank at the ends.
            let (edge, any) = (r"[^\s\u0000-\u001f\u007f-\u009f]", r"[^\u0000-\u001f\u007f-\u009f]");
            let pattern = format!("^{edge}(?:{any}*{edge})?$");
            json!({"type": "string", "pattern": pattern, "maxLength": MAX_ID_CHARS, "examples": ["MY_RULE"]})
        }),
        KeyShape::required("name", "\"What it finds\"", "For people.", value::word),
        KeyShape::required(
            "severity",
            "high",
            "How bad a match is.",
            || json!({"type": "string", "enum": SEVERITIES.map(|(name, _)| name)}),
        ),
        KeyShape::required(
            "conditions",
            "[{type: threshold, window: 1m, event_type: any, count: \"> 100\"}]",
            "All must hold together; each is looked at within its own window.",
            || value::list(value::reference("condition"), 1, MAX_CONDITIONS),
        ),
        KeyShape::optional("description", "For the analyst who reads the alert.", value::text),
        KeyShape::optional(
            "by",
            "The group: each combination of these fields' values is looked at on its own. `tenant_id` is part of every one.",
            || {
                let mut by = value::list(field::schema(), 1, MAX_BY);
                by["uniqueItems"] = json!(true);
                by["default"] = json!(SESSION);
                by
            },
        ),
        KeyShape::optional("actions", "What an alert asks for, once.", || {
            value::list(value::reference("action"), 0, usize::MAX)
        }),
        KeyShape::optional(
            "suppress_for",
            "A match at most this long after the one before joins its alert; the longest window if it is left out.",
            || value::duration(SUPPRESSION),
        ),
        KeyShape::optional(
            "attack",
            "MITRE ATT&CK, ATLAS and OWASP Agentic ids: T1552.001, AML.T0051, ASI01.",
            any_texts,
        ),
        KeyShape::optional("tags", "Free words.", any_texts),
        KeyShape::optional("references", "Links.", any_texts),
        KeyShape::optional("false_positives", "When this fires on something harmless.", any_texts),
        KeyShape::optional("shadow", "Alerts are marked, and run no actions.", || value::flag(false)),
        KeyShape::optional("enabled", "False: the rule is left out.", || value::flag(true)),
        KeyShape::optional("backfill_actions", "Run actions also for alerts that back-fill opened.", || {
            value::flag(false)
        }),
        KeyShape::optional(
            "on_removal",
            "What becomes of open alerts when the rule goes.",
            || json!({"type": "string", "enum": OnRemoval::NAMES.map(|(name, _)| name), "default": "keep"}),
        ),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};
/// The default group.
const SESSION: [&str; 2] = ["agent_id", "session_id"];

fn any_texts() -> Json {
    value::texts(value::text(), 0, MAX_ITEMS)
}

/// Bounds of `suppress_for`.
const SUPPRESSION: (i64, i64) = (0, 7 * DAY);

/// A kind of condition.
pub(crate) struct ConditionKind {
    pub(crate) name: &'static str,
    pub(crate) shape: &'static Shape,
    read: fn(&mut Context<'_>, Mapping<'_>) -> Option<Condition>,
}

pub(crate) static CONDITIONS: [ConditionKind; 5] = [
    ConditionKind {
        name: "sequence",
        shape: &sequence::SEQUENCE,
        read: |cx, keys| sequence::resolve(cx, keys).map(Condition::Sequence),
    },
    ConditionKind {
        name: "threshold",
        shape: &threshold::THRESHOLD,
        read: |cx, keys| threshold::resolve(cx, keys).map(Condition::Threshold),
    },
    ConditionKind {
        name: "pattern",
        shape: &pattern::PATTERN,
        read: |cx, keys| pattern::resolve(cx, keys).map(Condition::Pattern),
    },
    ConditionKind {
        name: "absence",
        shape: &absence::ABSENCE,
        read: |cx, keys| absence::resolve(cx, keys).map(Condition::Absence),
    },
    ConditionKind {
        name: "new_value",
        shape: &new_value::NEW_VALUE,
        read: |cx, keys| new_value::resolve(cx, keys).map(Condition::NewValue),
    },
];
/// What tells the kinds apart.
pub(crate) const TYPE: KeyShape =
    KeyShape::required("type", "sequence", "The kind of condition.", || json!({"type": "string"}));
/// A condition whose kind isn't known yet.
static CONDITION: Shape = Shape {
    name: "condition",
    what: "a condition",
    doc: "What must hold.",
    keys: &[TYPE],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};
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
    let mut keys = cx.mapping(node, &RULE)?;
    let id_node = keys.require(cx, "id");
    let id = id_node.and_then(|node| id(cx, node));
    let enabled = flag(cx, &mut keys, "enabled", true);
    let plan = plan(cx, &mut keys, id.unwrap_or_default());
    keys.finish(cx);
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

fn plan(cx: &mut Context<'_>, keys: &mut Mapping<'_>, id: &str) -> Option<Rule> {
    let origin = Origin { file: cx.file().to_owned(), line: keys.span.line };
    let name = keys.require(cx, "name").and_then(|node| cx.word(node, "\"name\""));
    let severity = keys.require(cx, "severity").and_then(|node| severity(cx, node));
    let conditions = keys.require(cx, "conditions");
    let conditions = conditions.and_then(|node| self::conditions(cx, node));
    let description = optional(keys.take("description"), "", |node| cx.text(node, "\"description\""));
    let by = optional(keys.take("by"), session(), |node| group(cx, node));
    let actions = optional(keys.take("actions"), Vec::new(), |node| action::list(cx, node));
    let suppress_for =
        keys.take("suppress_for").map(|node| window::duration(cx, node, "\"suppress_for\"", SUPPRESSION));
    let attack = keys.take("attack");
    let attack = optional(attack, Vec::new(), |node| attack_ids(cx, node));
    let [tags, references, false_positives] = ["tags", "references", "false_positives"]
        .map(|name| optional(keys.take(name), Vec::new(), |node| texts(cx, node, name)));
    let shadow = flag(cx, keys, "shadow", false);
    let backfill_actions = flag(cx, keys, "backfill_actions", false);
    let on_removal = optional(keys.take("on_removal"), OnRemoval::Keep, |node| on_removal(cx, node));
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
        on_removal: on_removal?,
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

fn flag(cx: &mut Context<'_>, keys: &mut Mapping<'_>, name: &str, default: bool) -> Option<bool> {
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

fn on_removal(cx: &mut Context<'_>, node: &Node) -> Option<OnRemoval> {
    let text = cx.text(node, "\"on_removal\"")?;
    if let Some((_, choice)) = OnRemoval::NAMES.iter().find(|(name, _)| *name == text) {
        return Some(*choice);
    }
    let names = OnRemoval::NAMES.map(|(name, _)| name);
    let message = format!("\"on_removal\" is {}, which is nothing that alerts can do", quoted(text));
    cx.error(node.span, "E029", message).hint(suggest::hint(text, &names));
    None
}

/// The `by` list of sessions, and of a rule that has none of its own.
pub(crate) fn session() -> Vec<Field> {
    SESSION.map(|name| Field::Path(vec![name.to_owned()])).to_vec()
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
    let mut keys = cx.mapping(node, &CONDITION)?;
    let kind = keys.require(cx, TYPE.name)?;
    let name = cx.text(kind, "\"type\"")?;
    if let Some(kind) = CONDITIONS.iter().find(|kind| kind.name == name) {
        return (kind.read)(cx, keys.of(kind.shape));
    }
    match name {
        "flow" => {
            cx.error(kind.span, "E024", "condition \"flow\" is not supported yet")
                .hint("a sequence with `by: [target]` follows one target across sessions");
            None
        }
        _ => {
            cx.error(kind.span, "E023", format!("{} is no condition", quoted(name)))
                .hint(suggest::hint(name, &CONDITIONS.each_ref().map(|kind| kind.name)));
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
