//! `/v1/actions`: the ledger of actions, and what may be decided of one.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::App;
use super::answer::AsOf;
use super::audit::Write;
use super::body::{Body, Shape};
use super::cursor::{Next, Page, Paging};
use super::error::{ApiError, Members};
use super::params::{NoParams, Query, Segments};
use crate::response::{Actions, Decision, Entry, Filter, Objection, Stopping};

/// Nothing needs to be said. It is JSON all the same: pages of other sites can't send that unasked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl Shape for Nothing {
    const EXPECTED: &str = "{}";
}

/// A page of actions.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ledger {
    as_of: AsOf,
    /// Rows that pass the filter, on all pages.
    total: u64,
    /// The rows of this page.
    actions: Vec<Entry>,
    next: Next,
}

/// One action, as it stands.
#[derive(Serialize, JsonSchema)]
pub(super) struct OneAction {
    action: Entry,
}

/// As decided; it is durable.
#[derive(Serialize, JsonSchema)]
pub(super) struct Decided {
    action: Entry,
}

/// Which action.
#[derive(Deserialize, JsonSchema)]
pub(super) struct ActionId {
    /// The action's id, or the beginning of it.
    id: String,
}

/// `GET /v1/actions`, the latest first.
pub(super) async fn list(
    Of(app): Of<App>,
    Query((filter, paging)): Query<(Filter, Paging)>,
) -> Result<Json<Ledger>, ApiError> {
    let page = Page::of(paging, &("actions", &filter))?;
    let as_of = AsOf(app.handle.stats().epoch);
    let (total, mut rows) = ledger(&app)?.list(filter, page.rows(), page.after).await?;
    let next = page.cut(&mut rows, |(turn, _)| *turn);
    Ok(Json(Ledger { as_of, total, actions: rows.into_iter().map(|(_, entry)| entry).collect(), next }))
}

/// `GET /v1/actions/{id}`; the beginning of an id will do.
pub(super) async fn one(
    Of(app): Of<App>,
    Segments(ActionId { id }): Segments<ActionId>,
    _: NoParams,
) -> Result<Json<OneAction>, ApiError> {
    let found = ledger(&app)?.find(&id).await?;
    found.map(|action| Json(OneAction { action })).ok_or_else(|| no_action(&id))
}

/// What waits is carried out; under `four_eyes` once a second person says so too.
pub(super) async fn approve(app: Of<App>, write: Writing, id: Id, _: NoParams, _: Body<Nothing>) -> Answer {
    decide(Decision::Approve, app, write, id).await
}

/// What waits, or was never sent, is not carried out.
pub(super) async fn reject(app: Of<App>, write: Writing, id: Id, _: NoParams, _: Body<Nothing>) -> Answer {
    decide(Decision::Reject, app, write, id).await
}

/// What failed is tried again.
pub(super) async fn retry(app: Of<App>, write: Writing, id: Id, _: NoParams, _: Body<Nothing>) -> Answer {
    decide(Decision::Retry, app, write, id).await
}

type Writing = Extension<Write>;
type Id = Segments<ActionId>;
type Answer = Result<Json<Decided>, ApiError>;

async fn decide(
    decision: Decision,
    Of(app): Of<App>,
    Extension(write): Writing,
    Segments(ActionId { id }): Id,
) -> Answer {
    let by = write.who().label();
    let detail = [("action_id", json!(id))];
    let deed = async move {
        let entry = ledger(&app)?.decide(&id, decision, &by).await?.map_err(|why| objected(&id, decision, why))?;
        let mut detail = json!({"alert_id": entry.alert_id, "action": entry.action, "state": entry.state.name()});
        if let Some(first) = &entry.approved_by {
            detail["approved_by"] = json!(first);
        }
        Ok((entry, detail))
    };
    let action = write.carry_out(detail, deed).await?;
    Ok(Json(Decided { action }))
}

fn objected(id: &str, decision: Decision, objection: Objection) -> ApiError {
    match objection {
        Objection::Unknown => no_action(id),
        Objection::State(state) => {
            let (what, fits) = match decision {
                Decision::Approve => ("approved", "waiting"),
                Decision::Reject => ("rejected", "waiting or pending"),
                Decision::Retry => ("tried again", "failed"),
            };
            ApiError::new(
                StatusCode::CONFLICT,
                "wrong_state",
                format!("action \"{id}\" is {}: only what is {fits} can be {what}", state.name()),
                "GET /v1/actions/{id} shows how it stands",
            )
            .with(Members { state: Some(state), ..Members::default() })
        }
        Objection::SecondNeeded => ApiError::new(
            StatusCode::CONFLICT,
            "second_person_needed",
            format!("you have approved action \"{id}\" already, and [response] four_eyes asks for a second person"),
            "let somebody with another token approve it",
        ),
        Objection::Retracted => ApiError::new(
            StatusCode::CONFLICT,
            "alert_retracted",
            format!("the alert of action \"{id}\" was retracted: there is nothing to act on any more"),
            "should the alert hold again, so does the action",
        ),
    }
}

fn ledger(app: &App) -> Result<&Actions, ApiError> {
    app.handle.actions().ok_or_else(|| Stopping.into())
}

fn no_action(id: &str) -> ApiError {
    ApiError::not_found(
        format!("no action's id is \"{id}\", or more than one begins so"),
        "GET /v1/actions lists what there is; old ones are forgotten after [response] keep_actions",
    )
}

impl From<Stopping> for ApiError {
    fn from(_: Stopping) -> Self {
        crate::runtime::handle::EngineError::Stopping.into()
    }
}
