//! What the API says when it can't answer: `{"error": {"code", "message", "hint"}}` with the status code that fits.
//!
//! Knows no route. Codes are stable, messages are for people.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::runtime::handle::EngineError;

/// A refused or failed request.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: String,
    /// Further members of the body, beside `error`.
    details: Box<Map<String, Value>>,
}

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        ApiError { status, code, message: message.into(), hint: hint.into(), details: Box::default() }
    }

    /// A parameter that isn't what it should be (400).
    pub(super) fn parameter(message: impl Into<String>, hint: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_parameter", message, hint)
    }

    /// A thing that isn't there (404).
    pub(super) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message, hint)
    }

    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.details.insert(name.to_owned(), value);
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
            EngineError::Rules(diagnostics) => {
                let rows = diagnostics.iter().map(super::rules::diagnostic_json).collect();
                ApiError::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid_rules",
                    message,
                    "`clawdstrike-edr rules check` finds the same errors without an engine",
                )
                .with("diagnostics", Value::Array(rows))
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = *self.details;
        body.insert("error".into(), json!({"code": self.code, "message": self.message, "hint": self.hint}));
        (self.status, Json(Value::Object(body))).into_response()
    }
}
