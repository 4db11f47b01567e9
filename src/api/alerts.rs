//! `/v1/alerts`: alerts of the live view, listed or one by one.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::{AsOf, Version};
use super::cursor::{Next, Page, Paging};
use super::error::ApiError;
use super::params::{NoParams, Order, Query, Segments};
use super::{App, unexpected_rows};
use crate::alert::Alert;
use crate::view::{self, AlertFilter, AlertSort, Answer, Ranked, Rows};

/// A page of alerts.
#[derive(Serialize, JsonSchema)]
pub(super) struct Alerts {
    as_of: AsOf,
    /// Rows that pass the filter, on all pages.
    total: u64,
    /// The rows of this page.
    alerts: Vec<Version>,
    next: Next,
}

/// One alert, as it stands.
#[derive(Serialize, JsonSchema)]
pub(super) struct OneAlert {
    as_of: AsOf,
    alert: Version,
}

/// Which alert.
#[derive(Deserialize, JsonSchema)]
pub(super) struct AlertId {
    /// Its alert_id.
    pub(super) id: String,
}

/// `GET /v1/alerts`.
pub(super) async fn list(
    State(app): State<App>,
    Query((filter, Order { sort }, paging)): Query<(AlertFilter, Order<AlertSort>, Paging)>,
) -> Result<Json<Alerts>, ApiError> {
    let page = Page::of(paging, &("alerts", &filter, sort))?;
    let query = view::Query::Alerts { filter, sort, limit: page.rows(), after: page.after.clone() };
    let (as_of, total, mut alerts) = rows(app.handle.peek(query).await?)?;
    let next = page.cut(&mut alerts, |alert| alert.place(sort));
    Ok(Json(Alerts { as_of, total, alerts: alerts.into_iter().map(Version).collect(), next }))
}

/// `GET /v1/alerts/{id}`.
pub(super) async fn one(
    State(app): State<App>,
    Segments(AlertId { id }): Segments<AlertId>,
    _: NoParams,
) -> Result<Json<OneAlert>, ApiError> {
    let answer = app.handle.peek(view::Query::Alert(id.clone())).await?;
    let (as_of, _, alerts) = rows(answer)?;
    let alert = alerts.into_iter().next().ok_or_else(|| no_alert(&id))?;
    Ok(Json(OneAlert { as_of, alert: Version(alert) }))
}

/// There is no such alert.
pub(super) fn no_alert(id: &str) -> ApiError {
    ApiError::not_found(
        format!("alert \"{id}\" is not in the live view"),
        "GET /v1/alerts lists what there is; old alerts leave the live view, the store keeps them",
    )
}

fn rows(answer: Answer) -> Result<(AsOf, u64, Vec<Alert>), ApiError> {
    match answer.rows {
        Rows::Alerts(rows) => Ok((AsOf(answer.epoch), answer.total, rows)),
        _ => Err(unexpected_rows("alerts")),
    }
}
