//! What the API says when it can't answer: problem details (RFC 9457), with our `code` and `hint` as further members.
//!
//! Knows no route. Codes are stable, details and hints are for people.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::rules::Finding;
use crate::response;
use crate::runtime::handle::EngineError;

/// A refused or failed request.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: String,
    /// Further members of the body, and headers.
    more: Box<(Members, HeaderMap)>,
}

/// Problem details (RFC 9457).
#[derive(Serialize, JsonSchema)]
pub(super) struct Problem {
    /// `urn:clawdstrike-edr:problem:` and the code.
    r#type: String,
    /// The code in words.
    title: String,
    /// As in the answer's first line.
    status: u16,
    /// What is wrong.
    detail: String,
    /// Stable.
    code: &'static str,
    /// The way out.
    hint: String,
    #[serde(flatten)]
    members: Members,
}

/// What some problems tell besides.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Members {
    /// The permission that the caller's role doesn't have (`forbidden`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) permission: Option<&'static str>,
    /// The action's state (`wrong_state`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<response::State>,
    /// All that is wrong with the rule set (`invalid_rules`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) diagnostics: Option<Vec<Finding>>,
}

/// The media type of a problem.
pub(super) const PROBLEM: &str = "application/problem+json";
/// What a problem's `type` begins with; the code follows.
const TYPES: &str = "urn:clawdstrike-edr:problem:";

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        ApiError { status, code, message: message.into(), hint: hint.into(), more: Box::default() }
    }

    /// What is wrong.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// A parameter that isn't what it should be (400).
    pub(super) fn parameter(message: impl Into<String>, hint: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_parameter", message, hint)
    }

    /// A thing that isn't there (404).
    pub(super) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message, hint)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn with(mut self, members: Members) -> Self {
        self.more.0 = members;
        self
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.more.1.insert(name, value);
        self
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::Stopping => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                message,
                "ask again when /v1/ready answers 200",
            ),
            EngineError::Timeout(_) => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "engine_timeout",
                message,
                "/v1/health and /metrics show how far the engine has come",
            ),
            EngineError::WhatIfBusy => ApiError::new(
                StatusCode::CONFLICT,
                "what_if_busy",
                message,
                "ask again when it has ended; it ends early when whoever asked goes away",
            ),
            EngineError::WhatIfTimeout(_) => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "what_if_timeout",
                message,
                "propose rules with shorter windows, or use `rules diff --from` over the store's events",
            ),
            EngineError::WhatIfTooLarge(_) => ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "what_if_too_large",
                message,
                "propose fewer changes at a time, or rules that match less",
            ),
            EngineError::WhatIfFailed(_) => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "what_if_failed",
                message,
                "the engine's log may say more; nothing was changed",
            ),
            EngineError::Rules(diagnostics) => {
                let rows = diagnostics.iter().map(Finding::from).collect();
                ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid_rules",
                    message,
                    "`clawdstrike-edr rules check` finds the same errors without an engine",
                )
                .with(Members { diagnostics: Some(rows), ..Members::default() })
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (members, headers) = *self.more;
        let problem = Problem {
            r#type: format!("{TYPES}{}", self.code),
            title: self.code.replace('_', " "),
            status: self.status.as_u16(),
            detail: self.message,
            code: self.code,
            hint: self.hint,
            members,
        };
        // Texts and numbers: nothing that JSON has no words for.
        let body = serde_json::to_string(&problem).unwrap_or_default();
        (self.status, headers, [(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM))], body).into_response()
    }
}
