//! `/v1/actions`: the ledger of actions, and what may be decided of one.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::access::Caller;
use super::body::{Body, Shape};
use super::error::ApiError;
use super::params::{NoParams, Params, Segments};
use crate::response::{Actions, Decision, Entry, Filter, Objection, State, Stopping};

/// Nothing needs to be said. It is JSON all the same: pages of other sites can't send that unasked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl Shape for Nothing {
    const EXPECTED: &str = "{}";
}

/// `GET /v1/actions`: `{total, actions}`, the latest first.
pub(super) async fn list(Of(app): Of<App>, mut params: Params) -> Result<Json<Value>, ApiError> {
    let filter = Filter {
        state: params.named("state", &State::ALL.map(State::name).join(", "))?,
        alert_id: params.text("alert_id"),
        agent_id: params.text("agent_id"),
        rule_id: params.text("rule_id"),
    };
    let (limit, offset) = params.page()?;
    params.finish()?;
    let (total, rows) = ledger(&app)?.list(filter, limit, offset).await?;
    Ok(Json(json!({"total": total, "actions": rows.iter().map(Entry::to_json).collect::<Vec<_>>()})))
}

/// `GET /v1/actions/{id}`: `{action}`; the beginning of an id will do.
pub(super) async fn one(
    Of(app): Of<App>,
    Segments(id): Segments<String>,
    NoParams: NoParams,
) -> Result<Json<Value>, ApiError> {
    let found = ledger(&app)?.find(&id).await?;
    found.map(|entry| Json(json!({"action": entry.to_json()}))).ok_or_else(|| no_action(&id))
}

/// What waits is carried out.
pub(super) async fn approve(app: Of<App>, caller: Asking, id: Id, none: NoParams, body: Body<Nothing>) -> Decided {
    decide(Decision::Approve, app, caller, id, none, body).await
}

/// What waits, or was never sent, is not carried out.
pub(super) async fn reject(app: Of<App>, caller: Asking, id: Id, none: NoParams, body: Body<Nothing>) -> Decided {
    decide(Decision::Reject, app, caller, id, none, body).await
}

/// What failed is tried again.
pub(super) async fn retry(app: Of<App>, caller: Asking, id: Id, none: NoParams, body: Body<Nothing>) -> Decided {
    decide(Decision::Retry, app, caller, id, none, body).await
}

type Asking = Extension<Caller>;
type Id = Segments<String>;
/// `{action}`: as decided, durable.
type Decided = Result<Json<Value>, ApiError>;

async fn decide(
    decision: Decision,
    Of(app): Of<App>,
    Extension(caller): Asking,
    Segments(id): Id,
    NoParams: NoParams,
    Body(Nothing {}): Body<Nothing>,
) -> Decided {
    match ledger(&app)?.decide(&id, decision, &caller.name).await? {
        Ok(entry) => Ok(Json(json!({"action": entry.to_json()}))),
        Err(Objection::Unknown) => Err(no_action(&id)),
        Err(Objection::State(state)) => {
            let (what, fits) = match decision {
                Decision::Approve => ("approved", "waiting"),
                Decision::Reject => ("rejected", "waiting or pending"),
                Decision::Retry => ("tried again", "failed"),
            };
            Err(ApiError::new(
                StatusCode::CONFLICT,
                "wrong_state",
                format!("action \"{id}\" is {}: only what is {fits} can be {what}", state.name()),
                "GET /v1/actions/{id} shows how it stands",
            )
            .with("state", state.name().into()))
        }
        Err(Objection::Retracted) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "alert_retracted",
            format!("the alert of action \"{id}\" was retracted: there is nothing to act on any more"),
            "should the alert hold again, so does the action",
        )),
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
