//! `POST /v1/alerts/{id}/acknowledge`, `/close`, `/comment`: what analysts do with alerts.

use axum::extract::State;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::App;
use super::alerts::{self, AlertId};
use super::answer::Version;
use super::audit::Write;
use super::body::{Body, Shape};
use super::error::ApiError;
use super::params::{NoParams, Segments};
use crate::alert::{Deed, Handling, Note};
use crate::wall_clock;

/// What may be said with a deed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Remark {
    /// Kept with the alert; at most 4,096 bytes.
    #[serde(default)]
    #[schemars(length(max = Handling::COMMENT_BYTES))]
    comment: String,
}

/// What there is to say.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Comment {
    /// Kept with the alert; at most 4,096 bytes.
    #[schemars(length(min = 1, max = Handling::COMMENT_BYTES))]
    comment: String,
}

impl Shape for Remark {
    const EXPECTED: &str = "{\"comment\": \"what there is to say\"}";
}

impl Shape for Comment {
    const EXPECTED: &str = Remark::EXPECTED;
}

/// The version that says so; it is durable.
#[derive(Serialize, JsonSchema)]
pub(super) struct Handled {
    alert: Version,
}

type Writing = Extension<Write>;
type Id = Segments<AlertId>;
type Answer = Result<Json<Handled>, ApiError>;

/// The alert is seen, and taken care of.
pub(super) async fn acknowledge(app: State<App>, write: Writing, id: Id, _: NoParams, said: Body<Remark>) -> Answer {
    handle(Deed::Acknowledge, app, write, id, said.0.comment).await
}

/// The alert is done with, until a further match.
pub(super) async fn close(app: State<App>, write: Writing, id: Id, _: NoParams, said: Body<Remark>) -> Answer {
    handle(Deed::Close, app, write, id, said.0.comment).await
}

/// Something is said of the alert.
pub(super) async fn comment(app: State<App>, write: Writing, id: Id, _: NoParams, said: Body<Comment>) -> Answer {
    let comment = said.0.comment;
    if comment.trim().is_empty() {
        return Err(ApiError::parameter("\"comment\" is empty", "send {\"comment\": \"what there is to say\"}"));
    }
    handle(Deed::Comment, app, write, id, comment).await
}

async fn handle(
    deed: Deed,
    State(app): State<App>,
    Extension(write): Writing,
    Segments(AlertId { id }): Id,
    comment: String,
) -> Answer {
    if comment.len() > Handling::COMMENT_BYTES {
        let (has, most) = (comment.len(), Handling::COMMENT_BYTES);
        return Err(ApiError::parameter(
            format!("\"comment\" has {has} bytes, expected at most {most}"),
            "say the rest in a further comment",
        ));
    }
    let note = Note { at: wall_clock::now(), by: write.who().label(), deed, comment, matches: 0 };
    let detail = [("alert_id", json!(id))];
    let handling = async move {
        let alert = app.handle.handle_alert(&id, note).await?.ok_or_else(|| alerts::no_alert(&id))?;
        let detail = json!({"status": alert.status, "revision": alert.revision});
        Ok((alert, detail))
    };
    let alert = write.carry_out(detail, handling).await?;
    Ok(Json(Handled { alert: Version(alert) }))
}
