//! `/v1/actions`: the ledger of actions, and what may be decided of one.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::audit::Write;
use super::body::{Body, Shape};
use super::cursor::Page;
use super::error::ApiError;
use super::params::{NoParams, Params, Segments};
use crate::response::{Actions, Decision, Filter, Objection, State, Stopping};

/// Nothing needs to be said. It is JSON all the same: pages of other sites can't send that unasked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl Shape for Nothing {
    const EXPECTED: &str = "{}";
}

/// `GET /v1/actions`: `{as_of, total, actions, next}`, the latest first.
pub(super) async fn list(Of(app): Of<App>, mut params: Params) -> Result<Json<Value>, ApiError> {
    let filter = Filter {
        state: params.named("state", &State::ALL.map(State::name).join(", "))?,
        alert_id: params.text("alert_id"),
        agent_id: params.text("agent_id"),
        rule_id: params.text("rule_id"),
    };
    let page = Page::take(&mut params, &("actions", &filter))?;
    params.finish()?;
    let as_of = app.handle.stats().epoch;
    let (total, mut rows) = ledger(&app)?.list(filter, page.rows(), page.after).await?;
    let next = page.cut(&mut rows, |(turn, _)| *turn);
    let rows: Vec<Value> = rows.iter().map(|(_, entry)| entry.to_json()).collect();
    Ok(Json(json!({"as_of": as_of, "total": total, "actions": rows, "next": next})))
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

/// What waits is carried out; under `four_eyes` once a second person says so too.
pub(super) async fn approve(app: Of<App>, write: Writing, id: Id, none: NoParams, body: Body<Nothing>) -> Decided {
    decide(Decision::Approve, app, write, id, none, body).await
}

/// What waits, or was never sent, is not carried out.
pub(super) async fn reject(app: Of<App>, write: Writing, id: Id, none: NoParams, body: Body<Nothing>) -> Decided {
    decide(Decision::Reject, app, write, id, none, body).await
}

/// What failed is tried again.
pub(super) async fn retry(app: Of<App>, write: Writing, id: Id, none: NoParams, body: Body<Nothing>) -> Decided {
    decide(Decision::Retry, app, write, id, none, body).await
}

type Writing = Extension<Write>;
type Id = Segments<String>;
/// `{action}`: as decided, durable.
type Decided = Result<Json<Value>, ApiError>;

async fn decide(
    decision: Decision,
    Of(app): Of<App>,
    Extension(write): Writing,
    Segments(id): Id,
    NoParams: NoParams,
    Body(Nothing {}): Body<Nothing>,
) -> Decided {
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
    let entry = write.carry_out(detail, deed).await?;
    Ok(Json(json!({"action": entry.to_json()})))
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
            .with("state", state.name().into())
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
