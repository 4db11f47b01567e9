//! The one table of routes: what each does, and what it needs. The router and the OpenAPI document are built from it, so no
//! route is without its row. What a route takes and gives, its handler's types say.

use axum::handler::Handler;
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};

use super::guard::{self, Gate};
use super::openapi::{self, Operation};
use super::{
    App, actions, agents, alerts, audit, handling, health, metrics, no_method, no_route, rules, sessions, watch,
};
use crate::config::roles::Permission;

/// What a route needs of whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: probes have no token.
    Nothing,
    /// Any token that holds.
    Token,
    /// This permission.
    Permission(Permission),
    /// Both of these.
    Both(Permission, Permission),
}

/// A row.
pub struct Route {
    /// In capitals.
    pub method: &'static str,
    /// With variable segments in braces.
    pub path: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// What the audit trail calls it, if it changes something.
    pub action: Option<&'static str>,
    /// What it does: lines, a summary first.
    pub(super) told: &'static [&'static str],
    /// What it may refuse besides what every route does, and when.
    pub(super) refuses: &'static [(u16, &'static str)],
    handler: fn() -> MethodRouter<App>,
    /// Describes what the handler takes and gives.
    pub(super) describe: fn(&mut Operation<'_>),
}

/// A row of each: what it does, the method, the path and the handler, what it needs; of writes what the audit trail calls them.
macro_rules! routes {
    ($(
        $(#[doc = $told:literal])+
        $method:ident $path:expr => $handler:expr, $needs:expr
        $(, audited $action:literal)?
        $(, refuses $refuses:expr)?;
    )+) => {
        &[$(Route {
            method: stringify!($method),
            path: $path,
            needs: $needs,
            action: routes!(@one $($action)?),
            told: &[$($told),+],
            refuses: routes!(@all $($refuses)?),
            handler: || routes!(@$method $handler),
            describe: |told| openapi::describe(&$handler, told),
        }),+]
    };
    (@one) => { None };
    (@one $action:literal) => { Some($action) };
    (@all) => { &[] };
    (@all $refuses:expr) => { $refuses };
    (@GET $handler:expr) => { get($handler) };
    (@POST $handler:expr) => { post($handler) };
}

const fn may(permission: Permission) -> Needs {
    Needs::Permission(permission)
}

/// What a proposed rule set would do: longer than others in coming.
pub(super) const DIFF: &str = "/v1/rules/diff";

/// Of decisions about actions.
const OF_DECISIONS: &[(u16, &str)] =
    &[(409, "It is in another state (`wrong_state`), or its alert was retracted (`alert_retracted`).")];

/// All of them.
pub const ROUTES: &[Route] = routes! {
    /// Whether the process answers
    GET "/livez" => health::live, Needs::Nothing;

    /// Whether the whole dataflow answers (503 until then)
    GET "/v1/ready" => health::ready, Needs::Nothing;

    /// This document
    GET "/v1/openapi.json" => openapi::serve, Needs::Token;

    /// Whether the process is at work, and its counters
    GET "/v1/health" => health::health, may(Permission::ReadHealth);

    /// Prometheus' text format
    GET "/metrics" => metrics::metrics, may(Permission::ReadMetrics);

    /// Live sessions
    GET "/v1/sessions" => sessions::list, may(Permission::ReadSessions);

    /// Sessions as they change (server-sent events)
    GET "/v1/sessions/watch" => watch::sessions, may(Permission::ReadSessions);

    /// Every live life of one session
    GET "/v1/sessions/{agent}/{session}" => sessions::one, may(Permission::ReadSessions);

    /// Alerts of the live view
    GET "/v1/alerts" => alerts::list, may(Permission::ReadAlerts);

    /// Alert versions as they happen (server-sent events)
    GET "/v1/alerts/watch" => watch::alerts, may(Permission::ReadAlerts);

    /// One alert
    GET "/v1/alerts/{id}" => alerts::one, may(Permission::ReadAlerts);

    /// Acknowledge an alert
    ///
    /// Somebody has seen it, and takes care of it. Further matches leave it acknowledged.
    POST "/v1/alerts/{id}/acknowledge" => handling::acknowledge, may(Permission::WriteAlertAck), audited "alerts.acknowledge";

    /// Close an alert
    ///
    /// It is done with. A further match opens it again.
    POST "/v1/alerts/{id}/close" => handling::close, may(Permission::WriteAlertAck), audited "alerts.close";

    /// Say something about an alert
    ///
    /// Kept with the alert: at most 100 notes, of more the first go.
    POST "/v1/alerts/{id}/comment" => handling::comment, may(Permission::WriteAlertAck), audited "alerts.comment";

    /// Actions of the ledger, the latest first
    GET "/v1/actions" => actions::list, may(Permission::ReadAlerts);

    /// One action
    GET "/v1/actions/{id}" => actions::one, may(Permission::ReadAlerts);

    /// Approve an action
    ///
    /// Of what is waiting: it is carried out. Under `[response] four_eyes` the first approval is noted (`approved_by`) and the
    /// action goes on waiting; a second one by the same person is 409 with the code `second_person_needed`.
    POST "/v1/actions/{id}/approve" => actions::approve, may(Permission::WriteResponses),
        audited "actions.approve", refuses OF_DECISIONS;

    /// Reject an action
    ///
    /// Of what is waiting, or pending and never sent: it is not carried out.
    POST "/v1/actions/{id}/reject" => actions::reject, may(Permission::WriteResponses),
        audited "actions.reject", refuses OF_DECISIONS;

    /// Try an action again
    ///
    /// Of what has failed, unless its alert was retracted. It is sent with the same Idempotency-Key.
    POST "/v1/actions/{id}/retry" => actions::retry, may(Permission::WriteResponses),
        audited "actions.retry", refuses OF_DECISIONS;

    /// Live sessions rolled up per agent, riskiest first
    GET "/v1/agents" => agents::list, may(Permission::ReadAgents);

    /// The rule set in force
    GET "/v1/rules" => rules::list, may(Permission::ReadRules);

    /// Replaces the rule set, all or nothing
    POST "/v1/rules" => rules::load, may(Permission::WriteRules), audited "rules.load",
        refuses &[(422, "The set doesn't compile; the running set stays.")];

    // A rule may be called like the route.
    /// The rule in force whose id is `diff`
    ///
    /// As `/v1/rules/{id}`, which this path would hide.
    GET DIFF => rules::one_called_diff, may(Permission::ReadRules);

    // It shows alerts.
    /// What loading a rule set would do to alerts, and nothing else
    ///
    /// The set runs over the live window in a dataflow beside the running one, which reads the sources again as a load does; it
    /// may take up to 120 s, and ends when the client goes away. Nothing is changed, sent, stored or audited. Alerts have no
    /// `revision` here: only a load gives one.
    POST DIFF => rules::diff, Needs::Both(Permission::ReadRules, Permission::ReadAlerts), refuses &[
        (409, "Another what-if is under way (`what_if_busy`)."),
        (422, "The set doesn't compile (`invalid_rules`), or it touches or raises more than 100,000 alerts (`what_if_too_large`)."),
        (503, "It couldn't be made (`what_if_failed`), or the engine is stopping (`stopping`)."),
        (504, "The live window wasn't read again in time (`what_if_timeout`), or the dataflow didn't answer (`engine_timeout`)."),
    ];

    /// The audit trail, the latest row first
    GET "/v1/audit" => audit::list, may(Permission::ReadAudit);

    /// One rule in force, as compiled
    GET "/v1/rules/{id}" => rules::one, may(Permission::ReadRules);
};

/// The router of the table. What isn't in it tells only holders of tokens that it isn't there.
pub(super) fn router(app: &App) -> Router<App> {
    let gate = |needs, action| {
        let gate = Gate { access: app.access.clone(), recorder: app.recorder.clone(), needs, action };
        middleware::from_fn_with_state(gate, guard::authorise)
    };
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, (route.handler)().route_layer(gate(route.needs, route.action)));
    }
    router
        .fallback(no_route.layer(gate(Needs::Token, None)))
        .method_not_allowed_fallback(no_method.layer(gate(Needs::Token, None)))
}
