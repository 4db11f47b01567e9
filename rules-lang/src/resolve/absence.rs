//! `absence`: a trigger that is not followed by something.

use super::rule::TYPE;
use super::{matcher, window};
use crate::context::Context;
use crate::plan::Absence;
use crate::schema::value;
use crate::shape::{KeyShape, Mapping, Needs, Rest, Shape};

pub(crate) static ABSENCE: Shape = Shape {
    name: "absence",
    what: "an absence",
    doc: "A trigger that no `absent` event of the group follows within the window.",
    keys: &[
        TYPE,
        window::KEY,
        KeyShape::required("trigger", "{event_type: shell_command}", "What starts the wait.", || {
            value::of(&matcher::MATCHER)
        }),
        KeyShape::required("absent", "{event_type: mcp_tool}", "What ends the wait in peace.", || {
            value::of(&matcher::MATCHER)
        }),
    ],
    rest: Rest::Unknown,
    needs: Needs::Nothing,
};

pub(super) fn resolve(cx: &mut Context<'_>, mut keys: Mapping<'_>) -> Option<Absence> {
    let window = window::window(cx, &mut keys);
    let trigger = keys.require(cx, "trigger");
    let absent = keys.require(cx, "absent");
    keys.finish(cx);
    let trigger = trigger.and_then(|node| matcher::alone(cx, node, "\"trigger\""));
    let absent = absent.and_then(|node| matcher::alone(cx, node, "\"absent\""));
    Some(Absence { window: window?, trigger: trigger?, absent: absent? })
}
