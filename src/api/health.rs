//! `/livez` (does the process answer), `/v1/health` (is it at work), `/v1/ready` (does the whole dataflow answer).

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use clawdstrike_telemetry::time;
use serde_json::{Value, json};

use super::App;
use super::error::ApiError;
use super::params::NoParams;
use crate::view::Query;

/// How long the dataflow may take to show that it is ready.
const READY: Duration = Duration::from_secs(2);

/// `GET /livez`: 200, and nothing that a stranger shouldn't know.
pub(super) async fn live(NoParams: NoParams) -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /v1/health`: 200 with `status` `ok` or `degraded`, and the counters.
pub(super) async fn health(State(app): State<App>, NoParams: NoParams) -> Json<Value> {
    let stats = app.handle.stats();
    Json(json!({
        "status": if stats.degraded.is_empty() { "ok" } else { "degraded" },
        "degraded": stats.degraded,
        "as_of": stats.epoch,
        "watermark": stats.watermark.map(time::format),
        "events": stats.events,
        "dead_letters": stats.dead_letters,
        "retimed": stats.retimed,
        "alert_versions": stats.alert_versions,
        "sessions_left": stats.sessions_left,
        "groups_shed": stats.groups_shed,
        "lost_records": stats.lost_records,
        "archive_lost_records": stats.archive_lost_records,
        "archived": stats.archived,
        "archive_left_out": stats.archive_left_out,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// `GET /v1/ready`: 200 with the epoch, once every worker answers; 503 until then.
pub(super) async fn ready(State(app): State<App>, NoParams: NoParams) -> Result<Json<Value>, ApiError> {
    let unready = |why: String| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why, "ask again; /v1/health tells what is degraded")
    };
    // Asks for nothing, of all workers: what answers is the whole way through the dataflow.
    match tokio::time::timeout(READY, app.handle.peek(Query::SessionsById(Vec::new()))).await {
        Ok(Ok(answer)) => Ok(Json(json!({"ready": true, "as_of": answer.epoch}))),
        Ok(Err(error)) => Err(unready(error.to_string())),
        Err(_) => Err(unready(format!("the dataflow did not answer within {} s", READY.as_secs()))),
    }
}
