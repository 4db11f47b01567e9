//! `/livez` (does the process answer), `/v1/health` (is it at work), `/v1/ready` (does the whole dataflow answer).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::App;
use super::answer::AsOf;
use super::error::ApiError;
use super::params::NoParams;
use crate::timestamp::Timestamp;
use crate::view::Query;

/// How long the dataflow may take to show that it is ready.
const READY: Duration = Duration::from_secs(2);

/// It does.
#[derive(Serialize, JsonSchema)]
pub(super) struct Alive {
    /// Nothing that a stranger shouldn't know.
    status: Fine,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Fine {
    Ok,
}

/// How the process is, and its counters since its start.
#[derive(Serialize, JsonSchema)]
pub(super) struct Health {
    /// Whether all parts work as they should.
    status: Condition,
    /// Parts that don't, with the reason.
    degraded: BTreeMap<String, String>,
    as_of: AsOf,
    /// Up to where event time is taken to be complete; null: not known yet.
    watermark: Option<Timestamp>,
    /// Valid events, copies included.
    events: u64,
    /// Dead letters by reason.
    dead_letters: BTreeMap<String, u64>,
    /// Events whose time was replaced by the reference time.
    retimed: u64,
    /// Alert versions emitted.
    alert_versions: u64,
    /// Lives of sessions that left the live view for want of room.
    sessions_left: u64,
    /// Groups that lost kept events for want of room.
    groups_shed: u64,
    /// Records that were gone from their source before they could be read, by source.
    lost_records: BTreeMap<String, u64>,
    /// The same of the archive stage, which reads by itself.
    archive_lost_records: BTreeMap<String, u64>,
    /// Events that the archive stage has written to the store.
    archived: u64,
    /// Low-risk events that it has left out, because only a share of them is kept.
    archive_left_out: u64,
    /// The engine's version.
    version: &'static str,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "HealthStatus")]
enum Condition {
    Ok,
    Degraded,
}

/// The whole dataflow answers.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ready {
    /// True; until then the answer is 503.
    ready: bool,
    as_of: AsOf,
}

/// `GET /livez`.
pub(super) async fn live(_: NoParams) -> Json<Alive> {
    Json(Alive { status: Fine::Ok })
}

/// `GET /v1/health`.
pub(super) async fn health(State(app): State<App>, _: NoParams) -> Json<Health> {
    let stats = app.handle.stats();
    Json(Health {
        status: if stats.degraded.is_empty() { Condition::Ok } else { Condition::Degraded },
        degraded: stats.degraded,
        as_of: AsOf(stats.epoch),
        watermark: stats.watermark.map(Timestamp),
        events: stats.events,
        dead_letters: stats.dead_letters,
        retimed: stats.retimed,
        alert_versions: stats.alert_versions,
        sessions_left: stats.sessions_left,
        groups_shed: stats.groups_shed,
        lost_records: stats.lost_records,
        archive_lost_records: stats.archive_lost_records,
        archived: stats.archived,
        archive_left_out: stats.archive_left_out,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// `GET /v1/ready`: once every worker answers; 503 until then.
pub(super) async fn ready(State(app): State<App>, _: NoParams) -> Result<Json<Ready>, ApiError> {
    let unready = |why: String| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why, "ask again; /v1/health tells what is degraded")
    };
    // Asks for nothing, of all workers: what answers is the whole way through the dataflow.
    match tokio::time::timeout(READY, app.handle.peek(Query::SessionsById(Vec::new()))).await {
        Ok(Ok(answer)) => Ok(Json(Ready { ready: true, as_of: AsOf(answer.epoch) })),
        Ok(Err(error)) => Err(unready(error.to_string())),
        Err(_) => Err(unready(format!("the dataflow did not answer within {} s", READY.as_secs()))),
    }
}
