//! `/livez` (does the process answer), `/v1/health` (is it at work), `/v1/ready` (does the whole dataflow answer), `/metrics` (Prometheus text).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use clawdstrike_telemetry::time;
use prometheus::core::Collector;
use prometheus::{Encoder, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};
use serde_json::{Value, json};

use super::App;
use super::error::ApiError;
use super::params::NoParams;
use crate::metrics::{self, Kind, Metric};
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

/// `GET /metrics`: Prometheus' text format.
pub(super) async fn metrics(State(app): State<App>, NoParams: NoParams) -> Result<impl IntoResponse, ApiError> {
    let text = render(&app).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string(), "/v1/health has the same numbers")
    })?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

fn render(app: &App) -> prometheus::Result<Vec<u8>> {
    let stats = app.handle.stats();
    let rules = app.handle.rules();
    let flag = |on: bool| f64::from(u8::from(on));
    let registry = Registry::new();
    let one = |metric, value| add(&registry, metric, [("", value)]);
    one(metrics::EVENTS, stats.events as f64)?;
    one(metrics::RETIMED, stats.retimed as f64)?;
    one(metrics::ALERT_VERSIONS, stats.alert_versions as f64)?;
    one(metrics::SESSIONS_LEFT, stats.sessions_left as f64)?;
    one(metrics::GROUPS_SHED, stats.groups_shed as f64)?;
    one(metrics::ARCHIVED, stats.archived as f64)?;
    one(metrics::EPOCH, stats.epoch as f64)?;
    one(metrics::RULES, rules.set.rules.len() as f64)?;
    one(metrics::RULES_LOAD_FAILED, flag(rules.last_error.is_some()))?;
    one(metrics::WATCHERS, app.watches.open() as f64)?;
    one(metrics::WATCHERS_CUT_OFF, app.watches.cut_off() as f64)?;
    if let Some(watermark) = stats.watermark {
        one(metrics::WATERMARK, watermark as f64 / 1e6)?;
    }
    let by_reason: BTreeMap<&str, f64> = stats.dead_letters.iter().map(|(k, n)| (k.as_str(), *n as f64)).collect();
    add(&registry, metrics::DEAD_LETTERS, by_reason)?;
    for (metric, lost) in
        [(metrics::LOST_RECORDS, &stats.lost_records), (metrics::ARCHIVE_LOST_RECORDS, &stats.archive_lost_records)]
    {
        add(&registry, metric, lost.iter().map(|(source, n)| (source.as_str(), *n as f64)))?;
    }
    add(&registry, metrics::DEGRADED, stats.degraded.keys().map(|part| (part.as_str(), 1.0)))?;
    let mut out = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut out)?;
    Ok(out)
}

/// Registers one metric with its value for each label value (`""` where it has no label).
fn add<'a>(
    registry: &Registry,
    metric: Metric,
    values: impl IntoIterator<Item = (&'a str, f64)>,
) -> prometheus::Result<()> {
    let opts = Opts::new(metric.name, metric.help);
    let labels: Vec<&str> = metric.label.into_iter().collect();
    let labelled = |value: &'a str| -> Vec<&'a str> { labels.iter().map(|_| value).collect() };
    let collector: Box<dyn Collector> = match metric.kind {
        Kind::Counter => {
            let counters = IntCounterVec::new(opts, &labels)?;
            for (label, value) in values {
                counters.with_label_values(&labelled(label)).inc_by(value as u64);
            }
            Box::new(counters)
        }
        Kind::Gauge => {
            let gauges = GaugeVec::new(opts, &labels)?;
            for (label, value) in values {
                gauges.with_label_values(&labelled(label)).set(value);
            }
            Box::new(gauges)
        }
    };
    registry.register(collector)
}
