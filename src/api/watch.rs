//! `/v1/alerts/watch` and `/v1/sessions/watch`: changes as server-sent events, which a client that was cut off can resume.
//!
//! The first event is `watching` ({as_of}), from then on `alert` or `session` with the JSON that the lists show. Their ids say
//! how far the client has come: one that sends the last as `Last-Event-ID` goes on there. Where what came after it isn't kept
//! any more, `reset` ({as_of, total, reason}) comes first, then everything that passes the filter now, without ids, then `watching`.
//! `cut_off` ({missed, reason}) is the last event where a client was too slow, or the engine can't go on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{Stream, unfold};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::error::ApiError;
use super::params::Params;
use super::{App, alerts, sessions};
use crate::alert::Alert;
use crate::runtime::handle::{Change, Feed, Feeds, Gap, Told, Watcher};
use crate::session::SessionView;
use crate::view::{AlertFilter, AlertSort, Place, Query, Ranked, Rows, SessionFilter, SessionSort};

/// Watches that may be open at once.
pub const MAX_WATCHERS: usize = 512;
/// A comment is sent after this time without a change, so that both sides notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client that was cut off shall wait before it comes back.
const RETRY: Duration = Duration::from_secs(2);
/// Rows that are asked for at a time when a watch begins anew.
const ROWS: usize = 200;

/// The places of watches.
pub(super) struct Watches {
    places: Arc<Semaphore>,
    cut_off: AtomicU64,
}

impl Watches {
    pub(super) fn new() -> Watches {
        Watches { places: Arc::new(Semaphore::new(MAX_WATCHERS)), cut_off: AtomicU64::new(0) }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        MAX_WATCHERS - self.places.available_permits()
    }

    /// How many were cut off because they were too slow.
    pub(super) fn cut_off(&self) -> u64 {
        self.cut_off.load(Ordering::Relaxed)
    }
}

/// What can be watched.
trait Watched: Ranked + Told + Sized {
    /// Which of them.
    type Filter: Send + 'static;
    /// Their events.
    const EVENT: &'static str;
    /// The order in which a watch that begins anew tells what there is.
    const SORT: Self::Sort;
    fn feed(feeds: &Feeds) -> &Feed<Self>;
    fn accepts(filter: &Self::Filter, now: &Self) -> bool;
    fn json(now: &Self) -> Value;
    fn query(filter: &Self::Filter, limit: usize, after: Option<Place>) -> Query;
    fn rows(rows: Rows) -> Option<Vec<Self>>;
}

impl Watched for Alert {
    type Filter = AlertFilter;
    const EVENT: &'static str = "alert";
    const SORT: AlertSort = AlertSort::FirstSeen;
    fn feed(feeds: &Feeds) -> &Feed<Alert> {
        &feeds.alerts
    }
    fn accepts(filter: &AlertFilter, now: &Alert) -> bool {
        filter.accepts_version(now)
    }
    fn json(now: &Alert) -> Value {
        alerts::json(now)
    }
    fn query(filter: &AlertFilter, limit: usize, after: Option<Place>) -> Query {
        Query::Alerts { filter: filter.clone(), sort: Self::SORT, limit, after }
    }
    fn rows(rows: Rows) -> Option<Vec<Alert>> {
        if let Rows::Alerts(rows) = rows { Some(rows) } else { None }
    }
}

impl Watched for SessionView {
    type Filter = SessionFilter;
    const EVENT: &'static str = "session";
    const SORT: SessionSort = SessionSort::FirstSeen;
    fn feed(feeds: &Feeds) -> &Feed<SessionView> {
        &feeds.sessions
    }
    fn accepts(filter: &SessionFilter, now: &SessionView) -> bool {
        filter.accepts(now)
    }
    fn json(now: &SessionView) -> Value {
        now.to_json()
    }
    fn query(filter: &SessionFilter, limit: usize, after: Option<Place>) -> Query {
        Query::Sessions { filter: filter.clone(), sort: Self::SORT, limit, after }
    }
    fn rows(rows: Rows) -> Option<Vec<SessionView>> {
        if let Rows::Sessions(rows) = rows { Some(rows) } else { None }
    }
}

type Events<S> = Result<Sse<S>, ApiError>;

/// `GET /v1/alerts/watch`: every version, retractions too unless `status` says otherwise.
pub(super) async fn alerts(
    State(app): State<App>,
    headers: HeaderMap,
    mut params: Params,
) -> Events<impl Stream<Item = Result<Event, Infallible>>> {
    let filter = alerts::filter(&mut params)?;
    params.finish()?;
    stream::<Alert>(app, headers, filter)
}

/// `GET /v1/sessions/watch`: sessions as they change, at a coarse beat.
pub(super) async fn sessions(
    State(app): State<App>,
    headers: HeaderMap,
    mut params: Params,
) -> Events<impl Stream<Item = Result<Event, Infallible>>> {
    let filter = sessions::filter(&mut params)?;
    params.finish()?;
    stream::<SessionView>(app, headers, filter)
}

/// One watch: it ends with the server, and holds its place as long as it lives.
struct Watch<T: Watched> {
    app: App,
    filter: T::Filter,
    changes: Watcher<T>,
    stopping: watch::Receiver<bool>,
    phase: Phase<T>,
    _place: OwnedSemaphorePermit,
}

/// How far a watch has come.
enum Phase<T> {
    /// Nothing is told yet.
    New { resumed: bool },
    /// It begins anew: rows of what there is now.
    Anew { rows: VecDeque<T>, told: bool, after: Option<Place> },
    /// Changes as they happen.
    Live,
    /// It was cut off.
    Over,
}

fn stream<T: Watched>(
    app: App,
    headers: HeaderMap,
    filter: T::Filter,
) -> Events<impl Stream<Item = Result<Event, Infallible>>> {
    let place = app.watches.places.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_watchers",
            format!("{MAX_WATCHERS} watches are open, and no more are allowed"),
            "close one, or ask the lists",
        )
    })?;
    let feed = T::feed(app.handle.feeds());
    let (changes, phase) = match headers.get("last-event-id").map(|id| feed.resume(id.to_str().unwrap_or_default())) {
        None => (feed.watch(), Phase::New { resumed: false }),
        Some(Some(changes)) => (changes, Phase::New { resumed: true }),
        Some(None) => (feed.watch(), Phase::Anew { rows: VecDeque::new(), told: false, after: None }),
    };
    let watch = Watch { changes, filter, stopping: app.stopping.clone(), app, phase, _place: place };
    let events = unfold(watch, |mut watch| async move { watch.next().await.map(|event| (Ok(event), watch)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl<T: Watched> Watch<T> {
    /// The next event; `None` when the server or the engine stops, or the watch was cut off.
    async fn next(&mut self) -> Option<Event> {
        loop {
            match &mut self.phase {
                Phase::New { resumed } => {
                    let resumed = *resumed;
                    return Some(self.go_live(resumed));
                }
                Phase::Anew { rows, .. } => {
                    if let Some(row) = rows.pop_front() {
                        return Some(event(T::EVENT, &T::json(&row).to_string()));
                    }
                    if let Some(event) = self.more().await {
                        return Some(event);
                    }
                }
                Phase::Live => return self.change().await,
                Phase::Over => return None,
            }
        }
    }

    fn go_live(&mut self, resumed: bool) -> Event {
        self.phase = Phase::Live;
        let as_of = self.app.handle.stats().epoch;
        event("watching", &json!({"as_of": as_of, "resumed": resumed}).to_string()).id(self.changes.id()).retry(RETRY)
    }

    /// Gets the next page of what there is now; what has changed since the watch began is told after it. Gives an event if
    /// one comes before its rows.
    async fn more(&mut self) -> Option<Event> {
        let Phase::Anew { told, after, .. } = &mut self.phase else { return None };
        let (first, after) = (!*told, after.take());
        if !first && after.is_none() {
            return Some(self.go_live(false));
        }
        let query = T::query(&self.filter, ROWS, after);
        let answer = match self.app.handle.peek(query).await {
            Ok(answer) => answer,
            Err(error) => return Some(self.cut_off(&json!({"missed": null, "reason": error.to_string()}))),
        };
        let (as_of, total) = (answer.epoch, answer.total);
        let rows: VecDeque<T> = T::rows(answer.rows).unwrap_or_default().into();
        let after = rows.back().filter(|_| rows.len() == ROWS).map(|row| row.place(T::SORT));
        self.phase = Phase::Anew { rows, told: true, after };
        if first {
            let reason = "what came after the Last-Event-ID is not kept any more: forget what you know, all that there is follows";
            return Some(event("reset", &json!({"as_of": as_of, "total": total, "reason": reason}).to_string()));
        }
        None
    }

    async fn change(&mut self) -> Option<Event> {
        loop {
            let change = tokio::select! {
                () = super::stopped(&mut self.stopping) => return None,
                change = self.changes.next() => change,
            };
            match change {
                Ok(change) if T::accepts(&self.filter, &change.now) => return Some(self.tell(&change)),
                Ok(_) => {}
                Err(Gap::Missed(missed)) => {
                    self.app.watches.cut_off.fetch_add(1, Ordering::Relaxed);
                    let reason =
                        "changes came faster than they were read: connect again, all that there is then comes first";
                    return Some(self.cut_off(&json!({"missed": missed, "reason": reason})));
                }
                Err(Gap::Ended) => return None,
            }
        }
    }

    fn tell(&self, change: &Change<T>) -> Event {
        event(T::EVENT, change.text(|now| T::json(now).to_string())).id(self.changes.id())
    }

    fn cut_off(&mut self, why: &Value) -> Event {
        self.phase = Phase::Over;
        event("cut_off", &why.to_string())
    }
}

/// `data` is JSON: it has no raw line breaks, so a target can't forge an event of its own.
fn event(name: &str, data: &str) -> Event {
    Event::default().event(name).data(data)
}
