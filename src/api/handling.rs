//! `POST /v1/alerts/{id}/acknowledge`, `/close`, `/comment`: what analysts do with alerts.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Write;
use super::body::{Body, Shape};
use super::error::ApiError;
use super::params::{NoParams, Segments};
use super::{App, alerts};
use crate::alert::{Deed, Handling, Note};
use crate::wall_clock;

/// What is said with it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    #[serde(default)]
    comment: String,
}

impl Shape for Said {
    const EXPECTED: &str = "{\"comment\": \"what there is to say\"}";
}

/// The alert is seen, and taken care of.
pub(super) async fn acknowledge(app: State<App>, write: Writing, id: Id, none: NoParams, said: Body<Said>) -> Handled {
    handle(Deed::Acknowledge, app, write, id, none, said).await
}

/// The alert is done with, until a further match.
pub(super) async fn close(app: State<App>, write: Writing, id: Id, none: NoParams, said: Body<Said>) -> Handled {
    handle(Deed::Close, app, write, id, none, said).await
}

/// Something is said of the alert.
pub(super) async fn comment(app: State<App>, write: Writing, id: Id, none: NoParams, said: Body<Said>) -> Handled {
    if said.0.comment.trim().is_empty() {
        return Err(ApiError::parameter("\"comment\" is empty", "send {\"comment\": \"what there is to say\"}"));
    }
    handle(Deed::Comment, app, write, id, none, said).await
}

type Writing = Extension<Write>;
type Id = Segments<String>;
/// `{alert}`: the version that says so, durable.
type Handled = Result<Json<Value>, ApiError>;

async fn handle(
    deed: Deed,
    State(app): State<App>,
    Extension(write): Writing,
    Segments(id): Id,
    NoParams: NoParams,
    Body(said): Body<Said>,
) -> Handled {
    if said.comment.len() > Handling::COMMENT_BYTES {
        let (has, most) = (said.comment.len(), Handling::COMMENT_BYTES);
        return Err(ApiError::parameter(
            format!("\"comment\" has {has} bytes, expected at most {most}"),
            "say the rest in a further comment",
        ));
    }
    let note = Note { at: wall_clock::now(), by: write.who().label(), deed, comment: said.comment, matches: 0 };
    let detail = [("alert_id", json!(id))];
    let handling = async move {
        let alert = app.handle.handle_alert(&id, note).await?.ok_or_else(|| alerts::no_alert(&id))?;
        let detail = json!({"status": alert.status, "revision": alert.revision});
        Ok((alert, detail))
    };
    let alert = write.carry_out(detail, handling).await?;
    Ok(Json(json!({"alert": alerts::json(&alert)})))
}
