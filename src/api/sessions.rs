//! `/v1/sessions`: live sessions, listed or one by one.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::cursor::Page;
use super::error::ApiError;
use super::params::{Params, Segments};
use super::{App, unexpected_rows};
use crate::session::SessionView;
use crate::view::{Answer, Query, Ranked, Rows, SessionFilter, SessionSort};

/// `GET /v1/sessions`: `{as_of, total, sessions, next}`.
pub(super) async fn list(State(app): State<App>, mut params: Params) -> Result<Json<Value>, ApiError> {
    let filter = filter(&mut params)?;
    let sort: SessionSort = params.named("sort", "risk, last_seen, events, first_seen")?.unwrap_or_default();
    let page = Page::take(&mut params, &("sessions", &filter, sort))?;
    params.finish()?;
    let query = Query::Sessions { filter, sort, limit: page.rows(), after: page.after.clone() };
    let (as_of, total, mut rows) = rows(app.handle.peek(query).await?)?;
    let next = page.cut(&mut rows, |row| row.place(sort));
    Ok(Json(json!({"as_of": as_of, "total": total, "sessions": json(&rows), "next": next})))
}

/// `GET /v1/sessions/{agent}/{session}?tenant_id=`: `{as_of, total, sessions}`, every live life of the session.
pub(super) async fn one(
    State(app): State<App>,
    Segments((agent, session)): Segments<(String, String)>,
    mut params: Params,
) -> Result<Json<Value>, ApiError> {
    let tenant = params.text("tenant_id").unwrap_or_default();
    params.finish()?;
    let key = (tenant, agent, session);
    let answer = app.handle.peek(Query::SessionsById(vec![key.clone()])).await?;
    let (as_of, total, sessions) = rows(answer)?;
    if sessions.is_empty() {
        let (tenant, agent, session) = key;
        let of = if tenant.is_empty() { String::new() } else { format!(" of tenant \"{tenant}\"") };
        return Err(ApiError::not_found(
            format!("session \"{session}\" of agent \"{agent}\"{of} is not in the live view"),
            "check the ids and tenant_id; sessions leave the live view after session_retention, the store keeps them",
        ));
    }
    Ok(Json(json!({"as_of": as_of, "total": total, "sessions": json(&sessions)})))
}

/// Takes the session filter's parameters.
pub(super) fn filter(params: &mut Params) -> Result<SessionFilter, ApiError> {
    Ok(SessionFilter {
        tenant_id: params.text("tenant_id"),
        agent_id: params.text("agent_id"),
        session_id: params.text("session_id"),
        min_risk: params.finite("min_risk", "a number from 0 to 100")?,
        idle: params.parsed("idle", "true or false")?,
        since: params.time("since")?,
    })
}

fn json(rows: &[SessionView]) -> Vec<Value> {
    rows.iter().map(SessionView::to_json).collect()
}

fn rows(answer: Answer) -> Result<(u64, u64, Vec<SessionView>), ApiError> {
    match answer.rows {
        Rows::Sessions(rows) => Ok((answer.epoch, answer.total, rows)),
        _ => Err(unexpected_rows("sessions")),
    }
}
