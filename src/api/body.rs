//! JSON bodies, refused in the API's own words.

use axum::Json;
use axum::extract::{FromRequest, Request, rejection::JsonRejection};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::openapi::{Operation, Taken};

/// What a body should be.
pub(super) trait Shape: DeserializeOwned + JsonSchema {
    /// An example of it.
    const EXPECTED: &str;
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: Shape> Taken for Body<T> {
    fn tell(told: &mut Operation<'_>) {
        told.body::<T>();
    }
}

impl<S: Send + Sync, T: Shape> FromRequest<S> for Body<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(body) = Json::<T>::from_request(request, state).await.map_err(refusal::<T>)?;
        Ok(Body(body))
    }
}

fn refusal<T: Shape>(rejection: JsonRejection) -> ApiError {
    let (code, hint) = match rejection.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            ("unsupported_media_type", "set the header `content-type: application/json`".to_owned())
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            ("body_too_large", "a body may have 16 MiB: split it, or take something out".to_owned())
        }
        _ => ("invalid_body", format!("expected {}", T::EXPECTED)),
    };
    // 422 is kept for rule sets that don't compile.
    let status = match rejection.status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        other => other,
    };
    ApiError::new(status, code, rejection.body_text(), hint)
}
