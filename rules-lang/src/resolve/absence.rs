//! `absence`: a trigger that is not followed by something.

use super::{matcher, window};
use crate::context::{Context, Keys};
use crate::plan::Absence;

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Keys<'_>) -> Option<Absence> {
    let window = window::window(cx, &mut keys, "an absence");
    let trigger = keys.require(cx, "trigger", "an absence", "{event_type: shell_command}");
    let absent = keys.require(cx, "absent", "an absence", "{event_type: mcp_tool}");
    keys.finish(cx, "an absence", &["type", "window", "trigger", "absent"]);
    let trigger = trigger.and_then(|node| matcher::alone(cx, node, "\"trigger\""));
    let absent = absent.and_then(|node| matcher::alone(cx, node, "\"absent\""));
    Some(Absence { window: window?, trigger: trigger?, absent: absent? })
}
