//! Whether an event is allowlisted for a rule.

use clawdstrike_rules::plan::{AllowEntry, TimeWindow};
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;

use crate::event::Event;
use crate::matcher::Patterns;

/// The configured zone of time windows that name none.
const DEFAULT_ZONE: &str = "UTC";

/// Whether some entry that speaks of the rule matches the event.
pub(crate) fn lists(list: &[AllowEntry], rule: &str, event: &Event, patterns: &Patterns) -> bool {
    list.iter()
        .filter(|entry| entry.rules.is_empty() || entry.rules.iter().any(|id| id == rule))
        .any(|entry| matches(entry, event, patterns))
}

fn matches(entry: &AllowEntry, event: &Event, patterns: &Patterns) -> bool {
    let agent = entry.agent.as_ref().is_none_or(|regex| patterns.finds(regex, &event.agent));
    let target = entry.targets.is_empty() || patterns.target(&event.target, &entry.targets);
    let times = entry.times.as_ref().is_none_or(|window| inside(window, event.time));
    agent
        && entry.event_types.contains(event.event_type as u8)
        && target
        && times
        && entry.expires.is_none_or(|end| event.time < end)
}

/// Whether the time lies in the weekly window, by the zone's local clock.
fn inside(window: &TimeWindow, time: i64) -> bool {
    let name = window.zone.as_deref().unwrap_or(DEFAULT_ZONE);
    let zone = TimeZone::get(name).unwrap_or_else(|e| panic!("a plan's time zone \"{name}\" can't be read: {e}"));
    let Ok(timestamp) = Timestamp::from_microsecond(time) else {
        // The last day of the year 9999 isn't in the zone data's range.
        return false;
    };
    let local = zone.to_datetime(timestamp);
    let minute = local.hour() as u16 * 60 + local.minute() as u16;
    let starts_on = |day: Weekday| window.days >> day.to_monday_zero_offset() & 1 == 1;
    let today = starts_on(local.weekday());
    let yesterday = starts_on(local.weekday().previous());
    if window.from < window.to {
        today && window.from <= minute && minute < window.to
    } else {
        today && window.from <= minute || yesterday && minute < window.to
    }
}
