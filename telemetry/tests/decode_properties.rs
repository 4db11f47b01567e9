//! The decoder against a slow one: the same contract, read from a tree that serde_json builds.

use std::fmt;

use clawdstrike_telemetry::{ACTION_FIELDS, DeadLetter, EventType, RESULT_FIELDS, TOP_LEVEL_FIELDS, decode, time};
use proptest::{prelude::*, sample::select};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// JSON that keeps a key that stands twice.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Number,
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Number)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Number)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Number)
    }
    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tree, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Tree::Object(object))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

impl Tree {
    fn depth(&self) -> usize {
        match self {
            Tree::List(items) => 1 + items.iter().map(Tree::depth).max().unwrap_or(0),
            Tree::Object(members) => 1 + members.iter().map(|(_, member)| member.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn members(&self) -> Option<&[(String, Tree)]> {
        if let Tree::Object(members) = self { Some(members) } else { None }
    }
}

/// What the decoder gives, owned.
#[derive(Debug, PartialEq)]
struct Plain {
    ids: [String; 3],
    event_id: Option<String>,
    timestamp: i64,
    event_type: EventType,
    target: String,
    allowed: bool,
    texts: [String; 3],
}

fn fast(raw: &[u8]) -> Result<Plain, DeadLetter> {
    decode(raw).map(|event| Plain {
        ids: [event.agent_id, event.session_id, event.tenant_id].map(|id| id.into_owned()),
        event_id: event.event_id.map(|id| id.into_owned()),
        timestamp: event.timestamp,
        event_type: event.event_type,
        target: event.target.into_owned(),
        allowed: event.allowed,
        texts: [event.guard, event.severity, event.message].map(|text| text.into_owned()),
    })
}

/// The members of an object by name; `None` if one of `names` stands twice.
fn unique<'t>(object: &'t [(String, Tree)], names: &[&str]) -> Option<impl Fn(&str) -> &'t Tree> {
    let twice = |name: &&&str| object.iter().filter(|(key, _)| key == **name).count() > 1;
    let get = move |name: &str| object.iter().find(|(key, _)| key == name).map_or(&Tree::Null, |(_, value)| value);
    (!names.iter().any(|name| twice(&name))).then_some(get)
}

/// A text, absent or null as `Some(None)`, anything else as `None`.
fn text(tree: &Tree) -> Option<Option<String>> {
    match tree {
        Tree::Null => Some(None),
        Tree::Text(text) => Some(Some(text.clone())),
        _ => None,
    }
}

fn identifier(text: String) -> Option<String> {
    ((1..=256).contains(&text.len()) && !text.chars().any(char::is_control)).then_some(text)
}

fn slow(raw: &[u8]) -> Option<Plain> {
    let record: Tree = serde_json::from_slice(raw).ok()?;
    if raw.len() > 1 << 20 || record.depth() > 64 {
        return None;
    }
    let field = unique(record.members()?, &TOP_LEVEL_FIELDS)?;
    let action = unique(field("action").members()?, &ACTION_FIELDS)?;
    let result = unique(field("result").members()?, &RESULT_FIELDS)?;
    text(action("content_hash"))?;
    let tenant_id = match text(field("tenant_id"))? {
        Some(id) => identifier(id)?,
        None => String::new(),
    };
    Some(Plain {
        ids: [identifier(text(field("agent_id"))??)?, identifier(text(field("session_id"))??)?, tenant_id],
        event_id: text(field("event_id"))?.map_or(Some(None), |id| (!id.is_empty()).then_some(Some(id)))?,
        timestamp: time::parse(&text(field("timestamp"))??)?,
        event_type: EventType::from_name(&text(field("event_type"))??)?,
        target: text(action("target"))??,
        allowed: if let Tree::Bool(allowed) = result("allowed") {
            *allowed
        } else {
            return None;
        },
        texts: [
            text(result("guard"))?.unwrap_or_default(),
            text(result("severity"))?.unwrap_or_default().to_lowercase(),
            text(result("message"))?.unwrap_or_default(),
        ],
    })
}

/// Values that fit some field or none.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(vec![
            "\"a\"", "\"\"", "null", "true", "false", "1", "-0.5e3", "1e400", "[]", "{}", "[1,{\"a\":[null]}]", "\"file_access\"",
            "\"network_egress\"", "\"2024-05-06T10:00:00Z\"", "\"2024-13-06T10:00:00Z\"", "\"HIGH\"", "\"\\u0041\\n\"", "\"\\ud800\"",
            "\"\\ud83d\\ude00\"", "\"\u{85}\"", "\"C:\\\\x\"", "\"\\/\"", "tru", "\"a",
        ]).prop_map(str::to_owned),
        2 => any::<String>().prop_map(|text| Value::from(text).to_string()),
        1 => "[a-zÄ \\\\]{250,260}".prop_map(|text| Value::from(text).to_string()),
    ]
}

fn key() -> impl Strategy<Value = String> {
    let names: Vec<&str> = [&TOP_LEVEL_FIELDS[..], &ACTION_FIELDS, &RESULT_FIELDS].concat();
    prop_oneof![
        6 => select(names).prop_map(str::to_owned),
        1 => Just("\\u0061gent_id".to_owned()),
        1 => "[a-z_]{0,12}",
    ]
}

/// An object with the given members, sometimes one of them changed, doubled, left out or another added.
fn object(members: Vec<(&'static str, BoxedStrategy<String>)>) -> BoxedStrategy<String> {
    let named = members.into_iter().map(|(name, value)| value.prop_map(move |value| (name.to_owned(), value)).boxed());
    let change = prop_oneof![4 => Just(0usize), 1 => Just(1), 1 => Just(2), 1 => Just(3)];
    let space = select(vec!["", " ", "\n\t", "\r\n"]);
    (named.collect::<Vec<_>>(), change, any::<prop::sample::Index>(), key(), value(), space)
        .prop_map(|(mut members, change, place, key, value, space)| {
            let place = place.index(members.len());
            match change {
                1 => members[place].1 = value,
                2 => members.push((key, value)),
                3 => drop(members.remove(place)),
                _ => {}
            }
            let members: Vec<_> =
                members.iter().map(|(name, value)| format!("{space}\"{name}\"{space}:{space}{value}{space}")).collect();
            format!("{{{}}}", members.join(","))
        })
        .boxed()
}

fn fixed(values: &[&'static str]) -> BoxedStrategy<String> {
    select(values.to_vec()).prop_map(str::to_owned).boxed()
}

/// Records that are mostly valid events and otherwise nearly.
fn record() -> impl Strategy<Value = String> {
    let action = object(vec![("target", fixed(&["\"/x\"", "\"\\\\etc\"", "\"é\""])), ("args", value().boxed())]);
    let result = object(vec![
        ("allowed", fixed(&["true", "false"])),
        ("severity", fixed(&["\"Critical\"", "\"info\"", "\"ΑΣ\"", "null"])),
        ("guard", fixed(&["\"g\"", "\"\\t\""])),
    ]);
    object(vec![
        ("agent_id", fixed(&["\"ag1\"", "\"агент\"", "\"a\\u00e9\""])),
        ("session_id", fixed(&["\"s1\"", "\"a long session id of 33 characters\""])),
        ("timestamp", fixed(&["\"2024-05-06T10:00:00.123456Z\"", "\"2024-05-06 10:00:00.1+02:00\""])),
        ("event_type", fixed(&["\"file_access\"", "\"shell_command\""])),
        ("action", action),
        ("result", result),
        ("context", value().boxed()),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn agrees_with_the_slow_decoder_on_records(raw in record()) {
        prop_assert_eq!(fast(raw.as_bytes()).ok(), slow(raw.as_bytes()), "{}", raw);
    }

    #[test]
    fn agrees_with_the_slow_decoder_on_damaged_records(
        raw in record(),
        place in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), select(b"\"\\{}[],:0eE.+- \n\x1f\x7f\x80\xc2".to_vec())],
        damage in 0..3,
    ) {
        let mut raw = raw.into_bytes();
        let place = place.index(raw.len());
        match damage {
            0 => raw[place] = byte,
            1 => raw.insert(place, byte),
            _ => drop(raw.remove(place)),
        }
        prop_assert_eq!(fast(&raw).ok(), slow(&raw), "{}", raw.escape_ascii());
    }

    #[test]
    fn never_panics_on_any_bytes(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(fast(&raw).ok(), slow(&raw));
    }

    #[test]
    fn every_event_has_a_document(raw in record()) {
        if let Ok(event) = decode(raw.as_bytes()) {
            let document = event.document();
            prop_assert_eq!(document["agent_id"].as_str(), Some(&*event.agent_id));
            prop_assert_eq!(document["action"]["target"].as_str(), Some(&*event.target));
            prop_assert_eq!(document["result"]["severity"].as_str(), Some(&*event.severity));
            prop_assert_eq!(&document["context"], &event.context_value());
            prop_assert_eq!(&document["action"]["args"], &event.args_value());
            prop_assert_eq!(document["result"]["allowed"].as_bool(), Some(event.allowed));
        }
    }
}
