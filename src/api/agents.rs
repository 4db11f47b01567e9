//! `/v1/agents`: live sessions rolled up per agent.

use axum::Json;
use axum::extract::State;
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

use super::error::ApiError;
use super::params::Params;
use super::{App, unexpected_rows};
use crate::view::{AgentView, Query, Rows};

/// `GET /v1/agents`: `{epoch, total, agents}`, riskiest first.
pub(super) async fn list(State(app): State<App>, mut params: Params) -> Result<Json<Value>, ApiError> {
    let (limit, offset) = params.page()?;
    params.finish()?;
    let answer = app.handle.peek(Query::Agents { limit, offset }).await?;
    let Rows::Agents(rows) = answer.rows else {
        return Err(unexpected_rows("agents"));
    };
    let agents: Vec<Value> = rows.iter().map(agent_json).collect();
    Ok(Json(json!({"epoch": answer.epoch, "total": answer.total, "agents": agents})))
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
