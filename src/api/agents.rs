//! `/v1/agents`: live sessions rolled up per agent.

use axum::Json;
use axum::extract::State;
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

use super::cursor::Page;
use super::error::ApiError;
use super::params::Params;
use super::{App, unexpected_rows};
use crate::view::{AgentFilter, AgentSort, AgentView, Query, Ranked, Rows};

/// `GET /v1/agents`: `{as_of, total, agents, next}`.
pub(super) async fn list(State(app): State<App>, mut params: Params) -> Result<Json<Value>, ApiError> {
    let filter = AgentFilter {
        tenant_id: params.text("tenant_id"),
        agent_id: params.text("agent_id"),
        min_risk: params.finite("min_risk", "a number from 0 to 100")?,
    };
    let sort: AgentSort = params.named("sort", "risk, last_seen, events, open_alerts")?.unwrap_or_default();
    let page = Page::take(&mut params, &("agents", &filter, sort))?;
    params.finish()?;
    let query = Query::Agents { filter, sort, limit: page.rows(), after: page.after.clone() };
    let answer = app.handle.peek(query).await?;
    let Rows::Agents(mut rows) = answer.rows else {
        return Err(unexpected_rows("agents"));
    };
    let next = page.cut(&mut rows, |agent| agent.place(sort));
    let agents: Vec<Value> = rows.iter().map(agent_json).collect();
    Ok(Json(json!({"as_of": answer.epoch, "total": answer.total, "agents": agents, "next": next})))
}

fn agent_json(agent: &AgentView) -> Value {
    json!({
        "tenant_id": agent.tenant_id,
        "agent_id": agent.agent_id,
        "sessions": agent.sessions,
        "events": agent.events,
        "violations": agent.violations,
        "open_alerts": agent.open_alerts,
        "max_risk": agent.max_risk,
        "last_seen": time::format(agent.last_seen),
    })
}
