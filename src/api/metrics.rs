//! `/metrics`: Prometheus' text format.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus::core::Collector;
use prometheus::{Encoder, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};
use serde_json::json;
use tokio::sync::Mutex;

use super::App;
use super::error::ApiError;
use super::openapi::{Answered, Operation};
use super::params::NoParams;
use crate::metrics::{self, Kind, LIVE, Metric};
use crate::view::{Query, Rows, StateView};
use crate::wall_clock;

/// What operators hold is asked for at most so often: workers go through all of it.
const STATE_EVERY: Duration = Duration::from_secs(30);
/// How long they may take; without an answer there are no such figures.
const STATE_WAIT: Duration = Duration::from_secs(2);

/// What operators hold, and when they were asked.
pub(super) type Asked = Mutex<Option<(Instant, StateView)>>;

/// Metrics.
pub(super) struct Metrics(Vec<u8>);

impl IntoResponse for Metrics {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], self.0).into_response()
    }
}

impl Answered for Metrics {
    fn tell(told: &mut Operation<'_>) {
        told.answer("Metrics.", "text/plain", json!({"schema": {"type": "string"}}));
    }
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<App>, _: NoParams) -> Result<Metrics, ApiError> {
    let state = state(&app).await;
    let text = render(&app, state).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string(), "/v1/health has the main numbers")
    })?;
    Ok(Metrics(text))
}

async fn state(app: &App) -> Option<StateView> {
    let mut asked = app.state.lock().await;
    if let Some((at, state)) = *asked
        && at.elapsed() < STATE_EVERY
    {
        return Some(state);
    }
    let answer = tokio::time::timeout(STATE_WAIT, app.handle.peek(Query::State)).await;
    let state = answer.ok().and_then(Result::ok).and_then(|answer| match answer.rows {
        Rows::State(state) => Some(state),
        _ => None,
    });
    *asked = state.map(|state| (Instant::now(), state));
    state
}

fn render(app: &App, state: Option<StateView>) -> prometheus::Result<Vec<u8>> {
    let stats = app.handle.stats();
    let rules = app.handle.rules();
    let registry = Registry::new();
    let one = |metric, value: f64| add::<&str, 0>(&registry, metric, [([], value)]);
    one(metrics::EVENTS, stats.events as f64)?;
    one(metrics::RETIMED, stats.retimed as f64)?;
    one(metrics::ALERT_VERSIONS, stats.alert_versions as f64)?;
    one(metrics::SESSIONS_LEFT, stats.sessions_left as f64)?;
    one(metrics::GROUPS_SHED, stats.groups_shed as f64)?;
    one(metrics::ARCHIVED, stats.archived as f64)?;
    one(metrics::ARCHIVE_LEFT_OUT, stats.archive_left_out as f64)?;
    one(metrics::EPOCH, stats.epoch as f64)?;
    one(metrics::RULES, rules.set.rules.len() as f64)?;
    one(metrics::RULES_LOAD_FAILED, f64::from(u8::from(rules.last_error.is_some())))?;
    one(metrics::WATCHERS, app.watches.open() as f64)?;
    one(metrics::WATCHERS_CUT_OFF, app.watches.cut_off() as f64)?;
    let since = |micros: i64| wall_clock::now().saturating_sub(micros) as f64 / 1e6;
    if let Some(watermark) = stats.watermark {
        one(metrics::WATERMARK, watermark as f64 / 1e6)?;
        one(metrics::WATERMARK_DELAY, since(watermark))?;
    }
    if stats.closed_at > 0 {
        one(metrics::EPOCH_DELAY, since(stats.closed_at))?;
    }
    add(&registry, metrics::DEAD_LETTERS, stats.dead_letters.iter().map(|(why, n)| ([why.as_str()], *n as f64)))?;
    for (metric, lost) in
        [(metrics::LOST_RECORDS, &stats.lost_records), (metrics::ARCHIVE_LOST_RECORDS, &stats.archive_lost_records)]
    {
        add(&registry, metric, lost.iter().map(|(source, n)| ([source.as_str()], *n as f64)))?;
    }
    add(&registry, metrics::DEGRADED, stats.degraded.keys().map(|part| ([part.as_str()], 1.0)))?;
    for (metric, values) in [(metrics::POSITION, &stats.positions), (metrics::LAG, &stats.lags)] {
        let values = values.iter().map(|(source, partition, value)| {
            let name = app.sources.get(usize::from(*source)).cloned().unwrap_or_else(|| source.to_string());
            ([name, partition.to_string()], *value as f64)
        });
        add(&registry, metric, values)?;
    }
    let (alerts, sessions) = stats.store_waiting;
    let queues = [
        (["requests"], app.handle.waiting_requests() as f64),
        (["exports"], stats.exports_waiting as f64),
        (["store_alerts"], alerts as f64),
        (["store_sessions"], sessions as f64),
    ];
    add(&registry, metrics::QUEUE, queues)?;
    if let Some(state) = state {
        one(metrics::HITS, state.hits as f64)?;
        let held = state.by_operator();
        add(&registry, metrics::STATE_BYTES, held.map(|(operator, held)| ([operator], held.bytes as f64)))?;
        add(&registry, metrics::STATE_ROWS, held.map(|(operator, held)| ([operator], held.rows as f64)))?;
    }
    let mut families = registry.gather();
    families.extend(LIVE.registry.gather());
    let mut out = Vec::new();
    TextEncoder::new().encode(&families, &mut out)?;
    Ok(out)
}

/// Registers one metric with its value for each list of label values.
fn add<L: AsRef<str> + std::fmt::Debug, const N: usize>(
    registry: &Registry,
    metric: Metric,
    values: impl IntoIterator<Item = ([L; N], f64)>,
) -> prometheus::Result<()> {
    let opts = Opts::new(metric.name, metric.help);
    let collector: Box<dyn Collector> = if metric.kind == Kind::Counter {
        let counters = IntCounterVec::new(opts, metric.labels)?;
        for (labels, value) in values {
            counters.get_metric_with_label_values(&labels)?.inc_by(value as u64);
        }
        Box::new(counters)
    } else {
        let gauges = GaugeVec::new(opts, metric.labels)?;
        for (labels, value) in values {
            gauges.get_metric_with_label_values(&labels)?.set(value);
        }
        Box::new(gauges)
    };
    registry.register(collector)
}
