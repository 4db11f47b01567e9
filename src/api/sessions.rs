//! `/v1/sessions`: live sessions, listed or one by one.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::{AsOf, Life};
use super::cursor::{Next, Page, Paging};
use super::error::ApiError;
use super::params::{Order, Query, Segments};
use super::{App, unexpected_rows};
use crate::session::SessionView;
use crate::view::{self, Answer, Ranked, Rows, SessionFilter, SessionSort};

/// A page of sessions.
#[derive(Serialize, JsonSchema)]
pub(super) struct Sessions {
    as_of: AsOf,
    /// Rows that pass the filter, on all pages.
    total: u64,
    /// The rows of this page.
    sessions: Vec<Life>,
    next: Next,
}

/// Every live life of one session.
#[derive(Serialize, JsonSchema)]
pub(super) struct Lives {
    as_of: AsOf,
    /// How many there are.
    total: u64,
    /// All of them.
    sessions: Vec<Life>,
}

/// Which session.
#[derive(Deserialize, JsonSchema)]
pub(super) struct SessionId {
    /// Its agent_id.
    agent: String,
    /// Its session_id.
    session: String,
}

/// Whose session.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Tenant {
    /// Its tenant; without it, none.
    tenant_id: Option<String>,
}

/// `GET /v1/sessions`.
pub(super) async fn list(
    State(app): State<App>,
    Query((filter, Order { sort }, paging)): Query<(SessionFilter, Order<SessionSort>, Paging)>,
) -> Result<Json<Sessions>, ApiError> {
    let page = Page::of(paging, &("sessions", &filter, sort))?;
    let query = view::Query::Sessions { filter, sort, limit: page.rows(), after: page.after.clone() };
    let (as_of, total, mut rows) = rows(app.handle.peek(query).await?)?;
    let next = page.cut(&mut rows, |row| row.place(sort));
    Ok(Json(Sessions { as_of, total, sessions: rows.into_iter().map(Life).collect(), next }))
}

/// `GET /v1/sessions/{agent}/{session}`.
pub(super) async fn one(
    State(app): State<App>,
    Segments(SessionId { agent, session }): Segments<SessionId>,
    Query((Tenant { tenant_id },)): Query<(Tenant,)>,
) -> Result<Json<Lives>, ApiError> {
    let key = (tenant_id.unwrap_or_default(), agent, session);
    let answer = app.handle.peek(view::Query::SessionsById(vec![key.clone()])).await?;
    let (as_of, total, sessions) = rows(answer)?;
    if sessions.is_empty() {
        let (tenant, agent, session) = key;
        let of = if tenant.is_empty() { String::new() } else { format!(" of tenant \"{tenant}\"") };
        return Err(ApiError::not_found(
            format!("session \"{session}\" of agent \"{agent}\"{of} is not in the live view"),
            "check the ids and tenant_id; sessions leave the live view after session_retention, the store keeps them",
        ));
    }
    Ok(Json(Lives { as_of, total, sessions: sessions.into_iter().map(Life).collect() }))
}

fn rows(answer: Answer) -> Result<(AsOf, u64, Vec<SessionView>), ApiError> {
    match answer.rows {
        Rows::Sessions(rows) => Ok((AsOf(answer.epoch), answer.total, rows)),
        _ => Err(unexpected_rows("sessions")),
    }
}
