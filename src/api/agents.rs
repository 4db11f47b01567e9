//! `/v1/agents`: live sessions rolled up per agent.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::answer::AsOf;
use super::cursor::{Next, Page, Paging};
use super::error::ApiError;
use super::params::{Order, Query};
use super::{App, unexpected_rows};
use crate::view::{self, AgentFilter, AgentSort, AgentView, Ranked, Rows};

/// A page of agents.
#[derive(Serialize, JsonSchema)]
pub(super) struct Agents {
    as_of: AsOf,
    /// Rows that pass the filter, on all pages.
    total: u64,
    /// The rows of this page.
    agents: Vec<AgentView>,
    next: Next,
}

/// `GET /v1/agents`.
pub(super) async fn list(
    State(app): State<App>,
    Query((filter, Order { sort }, paging)): Query<(AgentFilter, Order<AgentSort>, Paging)>,
) -> Result<Json<Agents>, ApiError> {
    let page = Page::of(paging, &("agents", &filter, sort))?;
    let query = view::Query::Agents { filter, sort, limit: page.rows(), after: page.after.clone() };
    let answer = app.handle.peek(query).await?;
    let Rows::Agents(mut agents) = answer.rows else {
        return Err(unexpected_rows("agents"));
    };
    let next = page.cut(&mut agents, |agent| agent.place(sort));
    Ok(Json(Agents { as_of: AsOf(answer.epoch), total: answer.total, agents, next }))
}
