//! `/v1/rules`: the rule set in force, and its replacement, all or nothing.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use clawdstrike_rules::plan::Rule;
use clawdstrike_rules::{Diagnostic, SourceFile};
use clawdstrike_telemetry::time;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::audit::Write;
use super::body::{Body, Shape};
use super::error::ApiError;
use super::params::{NoParams, Segments};
use crate::alert::Alert;
use crate::rule_files;
use crate::runtime::handle::{ActiveRules, EngineError};

/// `GET /v1/rules`: the set in force.
pub(super) async fn list(State(app): State<App>, NoParams: NoParams) -> Json<Value> {
    let as_of = app.handle.stats().epoch;
    Json(set_json(&app.handle.rules(), as_of))
}

/// `GET /v1/rules/{id}`: `{as_of, epoch, rule}`, the whole compiled rule.
pub(super) async fn one(
    State(app): State<App>,
    Segments(id): Segments<String>,
    NoParams: NoParams,
) -> Result<Json<Value>, ApiError> {
    rule(&app, &id)
}

/// `GET /v1/rules/diff`: the rule of that id, which another route would hide.
pub(super) async fn one_called_diff(State(app): State<App>, NoParams: NoParams) -> Result<Json<Value>, ApiError> {
    rule(&app, "diff")
}

fn rule(app: &App, id: &str) -> Result<Json<Value>, ApiError> {
    let as_of = app.handle.stats().epoch;
    let active = app.handle.rules();
    match active.set.rules.iter().find(|rule| rule.id == id) {
        Some(rule) => Ok(Json(json!({"as_of": as_of, "epoch": active.epoch, "rule": rule}))),
        None => Err(ApiError::not_found(
            format!("rule \"{id}\" is not in force"),
            "GET /v1/rules lists the set in force; rules with `enabled: false` aren't part of it",
        )),
    }
}

/// A rule set as it is sent: all files of it, for a load replaces the whole set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    files: Vec<LoadFile>,
}

impl Shape for Load {
    const EXPECTED: &str = "{\"files\": [{\"name\": \"a.yaml\", \"text\": \"rules: ...\"}]}";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadFile {
    name: String,
    text: String,
}

impl Load {
    fn files(self) -> Result<Vec<SourceFile>, ApiError> {
        if self.files.is_empty() {
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_body",
                "\"files\" is empty: it would take all rules out of force",
                "send every file of the set as {\"name\", \"text\"}",
            ));
        }
        Ok(self.files.into_iter().map(|f| SourceFile { name: f.name, text: f.text }).collect())
    }
}

/// `POST /v1/rules/diff`: what loading the set would do to the alerts of the live view. It changes nothing, so the audit trail
/// has no row of it.
pub(super) async fn diff(
    State(app): State<App>,
    NoParams: NoParams,
    Body(load): Body<Load>,
) -> Result<Json<Value>, ApiError> {
    let files = load.files()?;
    let mut stopping = app.stopping.clone();
    let (foretold, warnings) = tokio::select! {
        foretold = app.handle.what_if(&files) => foretold?,
        () = super::stopped(&mut stopping) => return Err(EngineError::Stopping.into()),
    };
    // Revisions are given by a load only.
    let pair = |(from, to): &(Alert, Alert)| json!({"from": from.to_json(), "to": to.to_json()});
    let (added, removed, changed) = foretold.totals;
    Ok(Json(json!({
        "as_of": foretold.epoch,
        "watermark": foretold.watermark.map(time::format),
        "total": {"added": added, "removed": removed, "changed": changed, "same": foretold.same},
        "added": foretold.added.iter().map(Alert::to_json).collect::<Vec<_>>(),
        "removed": foretold.removed.iter().map(pair).collect::<Vec<_>>(),
        "changed": foretold.changed.iter().map(pair).collect::<Vec<_>>(),
        "incomplete": foretold.incomplete,
        "warnings": warnings.iter().map(diagnostic_json).collect::<Vec<_>>(),
    })))
}

/// `POST /v1/rules`: the set now in force, or 422 with all diagnostics.
pub(super) async fn load(
    State(app): State<App>,
    Extension(write): Extension<Write>,
    NoParams: NoParams,
    Body(load): Body<Load>,
) -> Result<Json<Value>, ApiError> {
    let files = load.files()?;
    let handle = app.handle.clone();
    let (before, after) = (handle.rules().digest.clone(), rule_files::digest(&files));
    let detail = [("files", json!(files.len())), ("before", json!(before)), ("after", json!(after))];
    let loading = async move {
        let active = handle.load_rules(files).await?;
        let detail = json!({"epoch": active.epoch, "rules": active.set.rules.len()});
        Ok((active, detail))
    };
    let active = write.carry_out(detail, loading).await?;
    let as_of = active.epoch.max(app.handle.stats().epoch);
    Ok(Json(set_json(&active, as_of)))
}

/// `epoch`: from which the set holds; `as_of`: when that was so.
fn set_json(active: &ActiveRules, as_of: u64) -> Value {
    let rules: Vec<Value> = active.set.rules.iter().map(rule_json).collect();
    json!({
        "as_of": as_of,
        "epoch": active.epoch,
        "total": rules.len(),
        "rules": rules,
        "files": active.files,
        "warnings": active.warnings.iter().map(diagnostic_json).collect::<Vec<_>>(),
        "last_error": active.last_error,
    })
}

fn rule_json(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "name": rule.name,
        "severity": rule.severity,
        "version": rule.version,
        "shadow": rule.shadow,
        "file": rule.origin.file,
        "line": rule.origin.line,
    })
}

/// A diagnostic with its text as a terminal shows it (`rendered`).
pub(super) fn diagnostic_json(diagnostic: &Diagnostic) -> Value {
    let mut out = json!(diagnostic);
    out["rendered"] = json!(diagnostic.to_string());
    out
}
