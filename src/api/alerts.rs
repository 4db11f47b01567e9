//! `/v1/alerts`: alerts of the live view, listed or one by one.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::cursor::Page;
use super::error::ApiError;
use super::params::{NoParams, Params, Segments};
use super::{App, unexpected_rows};
use crate::alert::Alert;
use crate::view::{AlertFilter, AlertSort, Answer, Query, Ranked, Rows};

/// `GET /v1/alerts`: `{as_of, total, alerts, next}`.
pub(super) async fn list(State(app): State<App>, mut params: Params) -> Result<Json<Value>, ApiError> {
    let filter = filter(&mut params)?;
    let sort: AlertSort = params.named("sort", "last_seen, first_seen, severity, risk")?.unwrap_or_default();
    let page = Page::take(&mut params, &("alerts", &filter, sort))?;
    params.finish()?;
    let query = Query::Alerts { filter, sort, limit: page.rows(), after: page.after.clone() };
    let (as_of, total, mut alerts) = rows(app.handle.peek(query).await?)?;
    let next = page.cut(&mut alerts, |alert| alert.place(sort));
    let alerts: Vec<Value> = alerts.iter().map(json).collect();
    Ok(Json(json!({"as_of": as_of, "total": total, "alerts": alerts, "next": next})))
}

/// `GET /v1/alerts/{id}`: `{as_of, alert}`.
pub(super) async fn one(
    State(app): State<App>,
    Segments(id): Segments<String>,
    NoParams: NoParams,
) -> Result<Json<Value>, ApiError> {
    let answer = app.handle.peek(Query::Alert(id.clone())).await?;
    let (as_of, _, alerts) = rows(answer)?;
    match alerts.first() {
        Some(alert) => Ok(Json(json!({"as_of": as_of, "alert": json(alert)}))),
        None => Err(no_alert(&id)),
    }
}

/// There is no such alert.
pub(super) fn no_alert(id: &str) -> ApiError {
    ApiError::not_found(
        format!("alert \"{id}\" is not in the live view"),
        "GET /v1/alerts lists what there is; old alerts leave the live view, the store keeps them",
    )
}

/// Takes the alert filter's parameters.
pub(super) fn filter(params: &mut Params) -> Result<AlertFilter, ApiError> {
    Ok(AlertFilter {
        tenant_id: params.text("tenant_id"),
        rule_id: params.text("rule_id"),
        agent_id: params.text("agent_id"),
        session_id: params.text("session_id"),
        min_severity: params.named("min_severity", "info, low, medium, high, critical")?,
        status: params.named("status", "open, updated, retracted, acknowledged, closed")?,
        since: params.time("since")?,
    })
}

/// The alert's JSON with its revision, by which a reader knows the later of two versions.
pub(super) fn json(alert: &Alert) -> Value {
    let mut out = alert.to_json();
    out["revision"] = json!(alert.revision);
    out
}

fn rows(answer: Answer) -> Result<(u64, u64, Vec<Alert>), ApiError> {
    match answer.rows {
        Rows::Alerts(rows) => Ok((answer.epoch, answer.total, rows)),
        _ => Err(unexpected_rows("alerts")),
    }
}
