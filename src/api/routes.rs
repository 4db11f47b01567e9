//! The one table of routes: what each takes, and what it needs. The router is built from it, so no route is without its row.

use axum::handler::Handler;
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};

use super::guard::{self, Gate};
use super::{
    App, actions, agents, alerts, audit, handling, health, metrics, no_method, no_route, openapi, rules, sessions,
    watch,
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
    handler: fn() -> MethodRouter<App>,
}

macro_rules! route {
    ($method:literal, $path:expr, $needs:expr, $handler:expr) => {
        Route { method: $method, path: $path, needs: $needs, action: None, handler: || $handler }
    };
    ($method:literal, $path:literal, $needs:expr, $handler:expr, $action:literal) => {
        Route { method: $method, path: $path, needs: $needs, action: Some($action), handler: || $handler }
    };
}

const fn may(permission: Permission) -> Needs {
    Needs::Permission(permission)
}

/// What a proposed rule set would do: longer than others in coming.
pub(super) const DIFF: &str = "/v1/rules/diff";

/// All of them.
pub const ROUTES: &[Route] = &[
    route!("GET", "/livez", Needs::Nothing, get(health::live)),
    route!("GET", "/v1/ready", Needs::Nothing, get(health::ready)),
    route!("GET", "/v1/openapi.json", Needs::Token, get(openapi)),
    route!("GET", "/v1/health", may(Permission::ReadHealth), get(health::health)),
    route!("GET", "/metrics", may(Permission::ReadMetrics), get(metrics::metrics)),
    route!("GET", "/v1/sessions", may(Permission::ReadSessions), get(sessions::list)),
    route!("GET", "/v1/sessions/watch", may(Permission::ReadSessions), get(watch::sessions)),
    route!("GET", "/v1/sessions/{agent}/{session}", may(Permission::ReadSessions), get(sessions::one)),
    route!("GET", "/v1/alerts", may(Permission::ReadAlerts), get(alerts::list)),
    route!("GET", "/v1/alerts/watch", may(Permission::ReadAlerts), get(watch::alerts)),
    route!("GET", "/v1/alerts/{id}", may(Permission::ReadAlerts), get(alerts::one)),
    route!(
        "POST",
        "/v1/alerts/{id}/acknowledge",
        may(Permission::WriteAlertAck),
        post(handling::acknowledge),
        "alerts.acknowledge"
    ),
    route!("POST", "/v1/alerts/{id}/close", may(Permission::WriteAlertAck), post(handling::close), "alerts.close"),
    route!(
        "POST",
        "/v1/alerts/{id}/comment",
        may(Permission::WriteAlertAck),
        post(handling::comment),
        "alerts.comment"
    ),
    route!("GET", "/v1/actions", may(Permission::ReadAlerts), get(actions::list)),
    route!("GET", "/v1/actions/{id}", may(Permission::ReadAlerts), get(actions::one)),
    route!(
        "POST",
        "/v1/actions/{id}/approve",
        may(Permission::WriteResponses),
        post(actions::approve),
        "actions.approve"
    ),
    route!("POST", "/v1/actions/{id}/reject", may(Permission::WriteResponses), post(actions::reject), "actions.reject"),
    route!("POST", "/v1/actions/{id}/retry", may(Permission::WriteResponses), post(actions::retry), "actions.retry"),
    route!("GET", "/v1/agents", may(Permission::ReadAgents), get(agents::list)),
    route!("GET", "/v1/rules", may(Permission::ReadRules), get(rules::list)),
    route!("POST", "/v1/rules", may(Permission::WriteRules), post(rules::load), "rules.load"),
    // A rule may be called like the route.
    route!("GET", DIFF, may(Permission::ReadRules), get(rules::one_called_diff)),
    // It shows alerts.
    route!("POST", DIFF, Needs::Both(Permission::ReadRules, Permission::ReadAlerts), post(rules::diff)),
    route!("GET", "/v1/audit", may(Permission::ReadAudit), get(audit::list)),
    route!("GET", "/v1/rules/{id}", may(Permission::ReadRules), get(rules::one)),
];

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
