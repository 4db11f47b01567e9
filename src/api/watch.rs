//! `/v1/alerts/watch` and `/v1/sessions/watch`: changes as server-sent events, which a client that was cut off can resume.
//!
//! The first event is `watching` ({as_of}), from then on `alert` or `session` with the JSON that the lists show. Their ids say
//! how far the client has come: one that sends the last as `Last-Event-ID` goes on there. Where what came after it isn't kept
//! any more, `reset` ({as_of, total, reason}) comes first, then everything that passes the filter now, without ids, then `watching`.
//! `cut_off` ({missed, reason}) is the last event where a client was too slow, or the engine can't go on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch as signal};

use super::App;
use super::answer::AsOf;
use super::error::ApiError;
use super::openapi::{Answered, Operation, Taken};
use super::params::Query;
use crate::alert::{self, Alert};
use crate::runtime::handle::{Change, Feed, Feeds, Gap, Told, Watcher};
use crate::session::{self, SessionView};
use crate::view::{self, AlertFilter, AlertSort, Place, Ranked, Rows, SessionFilter, SessionSort};

/// Watches that may be open at once.
pub const MAX_WATCHERS: usize = 512;
/// A comment is sent after this time without a change, so that both sides notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client that was cut off shall wait before it comes back.
const RETRY: Duration = Duration::from_secs(2);
/// By which a client goes on where it was cut off.
const LAST_EVENT_ID: &str = "Last-Event-ID";
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
pub(super) trait Watched: Ranked + Told + Sized {
    /// Which of them.
    type Filter: Send + 'static;
    /// How people see them.
    type Shown: JsonSchema;
    /// Their events.
    const EVENT: &'static str;
    /// The order in which a watch that begins anew tells what there is.
    const SORT: Self::Sort;
    fn feed(feeds: &Feeds) -> &Feed<Self>;
    fn accepts(filter: &Self::Filter, now: &Self) -> bool;
    /// The JSON that lists show.
    fn json(now: &Self) -> String;
    fn query(filter: &Self::Filter, limit: usize, after: Option<Place>) -> view::Query;
    fn rows(rows: Rows) -> Option<Vec<Self>>;
}

impl Watched for Alert {
    type Filter = AlertFilter;
    type Shown = alert::Shown<'static>;
    const EVENT: &'static str = "alert";
    const SORT: AlertSort = AlertSort::FirstSeen;
    fn feed(feeds: &Feeds) -> &Feed<Alert> {
        &feeds.alerts
    }
    fn accepts(filter: &AlertFilter, now: &Alert) -> bool {
        filter.accepts_version(now)
    }
    fn json(now: &Alert) -> String {
        text(&now.shown_version())
    }
    fn query(filter: &AlertFilter, limit: usize, after: Option<Place>) -> view::Query {
        view::Query::Alerts { filter: filter.clone(), sort: Self::SORT, limit, after }
    }
    fn rows(rows: Rows) -> Option<Vec<Alert>> {
        if let Rows::Alerts(rows) = rows { Some(rows) } else { None }
    }
}

impl Watched for SessionView {
    type Filter = SessionFilter;
    type Shown = session::Shown<'static>;
    const EVENT: &'static str = "session";
    const SORT: SessionSort = SessionSort::FirstSeen;
    fn feed(feeds: &Feeds) -> &Feed<SessionView> {
        &feeds.sessions
    }
    fn accepts(filter: &SessionFilter, now: &SessionView) -> bool {
        filter.accepts(now)
    }
    fn json(now: &SessionView) -> String {
        text(&now.shown())
    }
    fn query(filter: &SessionFilter, limit: usize, after: Option<Place>) -> view::Query {
        view::Query::Sessions { filter: filter.clone(), sort: Self::SORT, limit, after }
    }
    fn rows(rows: Rows) -> Option<Vec<SessionView>> {
        if let Rows::Sessions(rows) = rows { Some(rows) } else { None }
    }
}

/// Changes of one kind, as server-sent events.
pub(super) struct Events<T> {
    events: BoxStream<'static, Result<Event, Infallible>>,
    of: PhantomData<T>,
}

impl<T> IntoResponse for Events<T> {
    fn into_response(self) -> Response {
        Sse::new(self.events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
    }
}

impl<T: Watched> Answered for Events<T> {
    fn tell(told: &mut Operation<'_>) {
        let (event, pause) = (T::EVENT, KEEP_ALIVE.as_secs());
        let description = format!(
            "`watching` first, then `{event}` with the object as in lists. Event ids are for `Last-Event-ID`. `reset`: what came \
             after that id is not kept any more; all that passes the filter now follows, without ids, then `watching`. \
             `cut_off`: the reader was too slow; nothing follows. A comment every {pause} s shows that the watch is alive. What \
             each event's data is, as JSON, `x-events` says."
        );
        let events = json!({
            "watching": told.schema::<Watching>(),
            event: told.schema::<T::Shown>(),
            "reset": told.schema::<Reset>(),
            "cut_off": told.schema::<CutOff>(),
        });
        let content = json!({"schema": {"type": "string"}, "x-events": events});
        told.answer(&description, "text/event-stream", content);
    }
}

/// From here on changes are told as they happen.
#[derive(Serialize, JsonSchema)]
struct Watching {
    as_of: AsOf,
    /// It goes on where the client was cut off.
    resumed: bool,
}

/// All that passes the filter follows: a client forgets what it knows.
#[derive(Serialize, JsonSchema)]
struct Reset {
    as_of: AsOf,
    /// How many rows follow.
    total: u64,
    /// For people.
    reason: &'static str,
}

/// The last event.
#[derive(Serialize, JsonSchema)]
struct CutOff {
    /// How many changes weren't told; null: it isn't known.
    missed: Option<u64>,
    /// For people.
    reason: String,
}

/// Where a client goes on that was cut off: the id of the last event that it has.
pub(super) struct LastEventId(Option<String>);

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let id = parts.headers.get(LAST_EVENT_ID);
        Ok(LastEventId(id.map(|id| id.to_str().unwrap_or_default().to_owned())))
    }
}

impl Taken for LastEventId {
    fn tell(told: &mut Operation<'_>) {
        told.header(LAST_EVENT_ID, "Go on after the event of this id.");
    }
}

/// `GET /v1/alerts/watch`: every version, retractions too unless `status` says otherwise.
pub(super) async fn alerts(
    State(app): State<App>,
    last: LastEventId,
    Query((filter,)): Query<(AlertFilter,)>,
) -> Result<Events<Alert>, ApiError> {
    watch(app, last, filter)
}

/// `GET /v1/sessions/watch`: sessions as they change, at a coarse beat.
pub(super) async fn sessions(
    State(app): State<App>,
    last: LastEventId,
    Query((filter,)): Query<(SessionFilter,)>,
) -> Result<Events<SessionView>, ApiError> {
    watch(app, last, filter)
}

/// One watch: it ends with the server, and holds its place as long as it lives.
struct Watch<T: Watched> {
    app: App,
    filter: T::Filter,
    changes: Watcher<T>,
    stopping: signal::Receiver<bool>,
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

fn watch<T: Watched + Send + Sync + 'static>(
    app: App,
    LastEventId(last): LastEventId,
    filter: T::Filter,
) -> Result<Events<T>, ApiError> {
    let place = app.watches.places.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_watchers",
            format!("{MAX_WATCHERS} watches are open, and no more are allowed"),
            "close one, or ask the lists",
        )
    })?;
    let feed = T::feed(app.handle.feeds());
    let (changes, phase) = match last.map(|id| feed.resume(&id)) {
        None => (feed.watch(), Phase::New { resumed: false }),
        Some(Some(changes)) => (changes, Phase::New { resumed: true }),
        Some(None) => (feed.watch(), Phase::Anew { rows: VecDeque::new(), told: false, after: None }),
    };
    let watch = Watch { changes, filter, stopping: app.stopping.clone(), app, phase, _place: place };
    let events = unfold(watch, |mut watch| async move { watch.next().await.map(|event| (Ok(event), watch)) });
    Ok(Events { events: events.boxed(), of: PhantomData })
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
                        return Some(event(T::EVENT, &T::json(&row)));
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
        let as_of = AsOf(self.app.handle.stats().epoch);
        event("watching", &text(&Watching { as_of, resumed })).id(self.changes.id()).retry(RETRY)
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
            Err(error) => return Some(self.cut_off(CutOff { missed: None, reason: error.to_string() })),
        };
        let (as_of, total) = (AsOf(answer.epoch), answer.total);
        let rows: VecDeque<T> = T::rows(answer.rows).unwrap_or_default().into();
        let after = rows.back().filter(|_| rows.len() == ROWS).map(|row| row.place(T::SORT));
        self.phase = Phase::Anew { rows, told: true, after };
        if first {
            let reason = "what came after the Last-Event-ID is not kept any more: forget what you know, all that there is follows";
            return Some(event("reset", &text(&Reset { as_of, total, reason })));
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
                    return Some(self.cut_off(CutOff { missed: Some(missed), reason: reason.to_owned() }));
                }
                Err(Gap::Ended) => return None,
            }
        }
    }

    fn tell(&self, change: &Change<T>) -> Event {
        event(T::EVENT, change.text(T::json)).id(self.changes.id())
    }

    fn cut_off(&mut self, why: CutOff) -> Event {
        self.phase = Phase::Over;
        event("cut_off", &text(&why))
    }
}

/// `data` is JSON: it has no raw line breaks, so a target can't forge an event of its own.
fn event(name: &str, data: &str) -> Event {
    Event::default().event(name).data(data)
}

/// As JSON: texts, numbers and lists of them, nothing that it has no words for.
fn text(row: &impl Serialize) -> String {
    serde_json::to_string(row).unwrap_or_default()
}
