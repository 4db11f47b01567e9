//! `/v1/alerts/watch` and `/v1/sessions/watch`: changes as server-sent events.
//!
//! The first event is `watching` ({epoch}); then `alert` or `session`, each with the JSON that the lists show; `lagged`
//! ({missed}) where a reader was so slow that changes of all kinds were dropped for it: it should list again.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{Stream, unfold};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};

use super::error::ApiError;
use super::params::Params;
use super::{App, MAX_WATCHERS, alerts, sessions};
use crate::runtime::handle::Change;
use crate::view::AlertFilter;

/// A comment is sent after this time without a change, so that both sides notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/alerts/watch`: every version, retractions too unless `status` says otherwise.
pub(super) async fn alerts(
    State(app): State<App>,
    mut params: Params,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let filter = alerts::filter(&mut params)?;
    params.finish()?;
    stream(app, "alert", move |change| match change {
        Change::Alert(alert) => {
            // Who watches must see corrections, whereas a list without `status` leaves retracted alerts out.
            let filter = AlertFilter { status: filter.status.or(Some(alert.status)), ..filter.clone() };
            filter.accepts(alert).then(|| alerts::json(alert))
        }
        Change::Session(_) => None,
    })
}

/// `GET /v1/sessions/watch`: views that changed, at a coarse beat.
pub(super) async fn sessions(
    State(app): State<App>,
    mut params: Params,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let filter = sessions::filter(&mut params)?;
    params.finish()?;
    stream(app, "session", move |change| match change {
        Change::Session(session) => filter.accepts(session).then(|| session.to_json()),
        Change::Alert(_) => None,
    })
}

/// One watch: it ends with the server, and holds its place among [`MAX_WATCHERS`] as long as it lives.
struct Watch<F> {
    greeting: Option<Event>,
    changes: broadcast::Receiver<Change>,
    stopping: watch::Receiver<bool>,
    name: &'static str,
    select: F,
    _place: OwnedSemaphorePermit,
}

fn stream<F: Fn(&Change) -> Option<Value> + Send + 'static>(
    app: App,
    name: &'static str,
    select: F,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let place = app.watchers.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_watchers",
            format!("{MAX_WATCHERS} watches are open, and no more are allowed"),
            "close one, or ask the lists",
        )
    })?;
    let changes = app.handle.watch();
    let greeting = event("watching", &json!({"epoch": app.handle.stats().epoch}));
    let watch = Watch { greeting: Some(greeting), changes, stopping: app.stopping, name, select, _place: place };
    let events = unfold(watch, |mut watch| async move { watch.next().await.map(|event| (Ok(event), watch)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl<F: Fn(&Change) -> Option<Value>> Watch<F> {
    /// The next event; `None` when the server or the engine stops.
    async fn next(&mut self) -> Option<Event> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        loop {
            let change = tokio::select! {
                () = super::stopped(&mut self.stopping) => return None,
                change = self.changes.recv() => change,
            };
            match change {
                Ok(change) => {
                    if let Some(json) = (self.select)(&change) {
                        return Some(event(self.name, &json));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Some(event("lagged", &json!({"missed": missed})));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

fn event(name: &str, data: &Value) -> Event {
    // JSON has no raw line breaks, so a target can't forge an event of its own.
    Event::default().event(name).data(data.to_string())
}
