//! `/v1/rules`: the rule set in force, and its replacement, all or nothing.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use clawdstrike_rules::plan::{Rule, Severity};
use clawdstrike_rules::{Diagnostic, SourceFile};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::App;
use super::answer::{AsOf, Proposed};
use super::audit::Write;
use super::body::{Body, Shape};
use super::error::ApiError;
use super::params::{NoParams, Segments};
use crate::rule_files;
use crate::runtime::handle::{ActiveRules, EngineError, WHAT_IF_SHOWN};
use crate::timestamp::Timestamp;

/// The rule set in force, from `epoch` on.
#[derive(Serialize, JsonSchema)]
pub(super) struct RuleSet {
    as_of: AsOf,
    /// The epoch from which the set holds.
    epoch: u64,
    /// How many rules it has.
    total: u64,
    /// All of them, in short.
    rules: Vec<RuleRow>,
    /// The names of its files.
    files: Vec<String>,
    /// What the compiler said of it.
    warnings: Vec<Finding>,
    /// Why the latest load was refused; null: it wasn't.
    last_error: Option<String>,
}

/// A rule in short.
#[derive(Serialize, JsonSchema)]
struct RuleRow {
    /// Unique in its set.
    id: String,
    /// For people.
    name: String,
    /// How bad a match is.
    severity: Severity,
    /// The rule's content hash.
    version: String,
    /// It raises marked alerts, and runs no actions.
    shadow: bool,
    /// The file that it stands in.
    file: String,
    /// Its line there, from 1.
    line: u32,
}

/// One rule in force.
#[derive(Serialize, JsonSchema)]
pub(super) struct OneRule {
    as_of: AsOf,
    /// The epoch from which the set holds.
    epoch: u64,
    /// As compiled.
    rule: Rule,
}

/// Which rule.
#[derive(Deserialize, JsonSchema)]
pub(super) struct RuleId {
    /// The rule's id.
    id: String,
}

/// What a load at this moment would do.
#[derive(Serialize, JsonSchema)]
pub(super) struct WhatIf {
    as_of: AsOf,
    /// New and changed rules look back from here by their windows; null: not known yet.
    watermark: Option<Timestamp>,
    /// How many alerts there are of each kind; lists show 1,000 at most.
    total: Totals,
    /// Alerts that it would open, as they would be.
    #[schemars(length(max = WHAT_IF_SHOWN))]
    added: Vec<Proposed>,
    /// Open alerts that it would retract or close: as they are, and as they would be.
    #[schemars(length(max = WHAT_IF_SHOWN))]
    removed: Vec<Pair>,
    /// Alerts that would stay open and say something else.
    #[schemars(length(max = WHAT_IF_SHOWN))]
    changed: Vec<Pair>,
    /// What couldn't be seen, and why; empty: everything could.
    incomplete: Vec<String>,
    /// What the compiler said of the set.
    warnings: Vec<Finding>,
}

/// Numbers of alerts.
#[derive(Serialize, JsonSchema)]
struct Totals {
    /// That it would open.
    added: u64,
    /// That it would retract or close.
    removed: u64,
    /// That would say something else.
    changed: u64,
    /// Open alerts that stay as they are.
    same: u64,
}

/// An alert before and after.
#[derive(Serialize, JsonSchema)]
struct Pair {
    /// As it is.
    from: Proposed,
    /// As it would be.
    to: Proposed,
}

/// A finding of the compiler.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Finding {
    #[serde(flatten)]
    diagnostic: Diagnostic,
    /// As a terminal shows it.
    rendered: String,
}

impl From<&Diagnostic> for Finding {
    fn from(diagnostic: &Diagnostic) -> Finding {
        Finding { rendered: diagnostic.to_string(), diagnostic: diagnostic.clone() }
    }
}

/// `GET /v1/rules`: the set in force.
pub(super) async fn list(State(app): State<App>, _: NoParams) -> Json<RuleSet> {
    let as_of = app.handle.stats().epoch;
    Json(set(&app.handle.rules(), as_of))
}

/// `GET /v1/rules/{id}`: the whole compiled rule.
pub(super) async fn one(
    State(app): State<App>,
    Segments(RuleId { id }): Segments<RuleId>,
    _: NoParams,
) -> Result<Json<OneRule>, ApiError> {
    rule(&app, &id)
}

/// `GET /v1/rules/diff`: the rule of that id, which another route would hide.
pub(super) async fn one_called_diff(State(app): State<App>, _: NoParams) -> Result<Json<OneRule>, ApiError> {
    rule(&app, "diff")
}

fn rule(app: &App, id: &str) -> Result<Json<OneRule>, ApiError> {
    let as_of = AsOf(app.handle.stats().epoch);
    let active = app.handle.rules();
    match active.set.rules.iter().find(|rule| rule.id == id) {
        Some(rule) => Ok(Json(OneRule { as_of, epoch: active.epoch, rule: rule.clone() })),
        None => Err(ApiError::not_found(
            format!("rule \"{id}\" is not in force"),
            "GET /v1/rules lists the set in force; rules with `enabled: false` aren't part of it",
        )),
    }
}

/// A rule set as it is sent: all files of it, for a load replaces the whole set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    /// All of them.
    #[schemars(length(min = 1))]
    files: Vec<LoadFile>,
}

impl Shape for Load {
    const EXPECTED: &str = "{\"files\": [{\"name\": \"a.yaml\", \"text\": \"rules: ...\"}]}";
}

/// A file of rules.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoadFile {
    /// What findings call it.
    name: String,
    /// Its YAML.
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
    _: NoParams,
    Body(load): Body<Load>,
) -> Result<Json<WhatIf>, ApiError> {
    let files = load.files()?;
    let mut stopping = app.stopping.clone();
    let (foretold, warnings) = tokio::select! {
        foretold = app.handle.what_if(&files) => foretold?,
        () = super::stopped(&mut stopping) => return Err(EngineError::Stopping.into()),
    };
    let pair = |(from, to)| Pair { from: Proposed(from), to: Proposed(to) };
    let (added, removed, changed) = foretold.totals;
    Ok(Json(WhatIf {
        as_of: AsOf(foretold.epoch),
        watermark: foretold.watermark.map(Timestamp),
        total: Totals { added, removed, changed, same: foretold.same },
        added: foretold.added.into_iter().map(Proposed).collect(),
        removed: foretold.removed.into_iter().map(pair).collect(),
        changed: foretold.changed.into_iter().map(pair).collect(),
        incomplete: foretold.incomplete,
        warnings: warnings.iter().map(Finding::from).collect(),
    }))
}

/// `POST /v1/rules`: the set now in force, or 422 with all diagnostics.
pub(super) async fn load(
    State(app): State<App>,
    Extension(write): Extension<Write>,
    _: NoParams,
    Body(load): Body<Load>,
) -> Result<Json<RuleSet>, ApiError> {
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
    Ok(Json(set(&active, as_of)))
}

/// `as_of`: when that was so.
fn set(active: &ActiveRules, as_of: u64) -> RuleSet {
    let rules: Vec<RuleRow> = active.set.rules.iter().map(RuleRow::from).collect();
    RuleSet {
        as_of: AsOf(as_of),
        epoch: active.epoch,
        total: rules.len() as u64,
        rules,
        files: active.files.clone(),
        warnings: active.warnings.iter().map(Finding::from).collect(),
        last_error: active.last_error.clone(),
    }
}

impl From<&Rule> for RuleRow {
    fn from(rule: &Rule) -> RuleRow {
        RuleRow {
            id: rule.id.clone(),
            name: rule.name.clone(),
            severity: rule.severity,
            version: rule.version.clone(),
            shadow: rule.shadow,
            file: rule.origin.file.clone(),
            line: rule.origin.line,
        }
    }
}
