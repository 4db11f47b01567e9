//! Query parameters: each is taken by name and type, and what is left over is refused by name.
//!
//! Knows no route and no view.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, rejection::PathRejection};
use axum::http::request::Parts;
use clawdstrike_telemetry::time;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::view::MAX_LIMIT;

/// Rows of an answer when `limit` isn't given.
pub(super) const DEFAULT_LIMIT: usize = 100;

/// The parameters of one request that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Params {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Params {
    fn parse(query: &str) -> Result<Params, ApiError> {
        let mut left: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if left.iter().any(|(n, _)| *n == name) {
                return Err(ApiError::parameter(format!("query parameter \"{name}\" is given twice"), "give it once"));
            }
            left.push((name.into_owned(), value.into_owned()));
        }
        Ok(Params { left, known: Vec::new() })
    }

    /// The value of this parameter as it was sent.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.left.iter().position(|(n, _)| n == name)?;
        Some(self.left.swap_remove(at).1)
    }

    /// The value as a number or a bool; `expected` says in a few words what would do.
    pub(super) fn parsed<T: FromStr>(
        &mut self,
        name: &'static str,
        expected: impl Display,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let value = text.parse().map_err(|_| wrong(name, &text, expected))?;
        Ok(Some(value))
    }

    /// The value as one of the names that serde knows the type's values by.
    pub(super) fn named<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        names: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let value = T::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&text))
            .map_err(|_| wrong(name, &text, format_args!("one of {names}")))?;
        Ok(Some(value))
    }

    /// `limit`, at most [`MAX_LIMIT`].
    pub(super) fn limit(&mut self) -> Result<usize, ApiError> {
        let expected = format!("a whole number, at most {MAX_LIMIT}");
        let limit = self.parsed("limit", &expected)?.unwrap_or(DEFAULT_LIMIT);
        if limit > MAX_LIMIT {
            return Err(wrong("limit", &limit.to_string(), format_args!("{expected}; `cursor` gets the next rows")));
        }
        Ok(limit)
    }

    /// The value as a time in RFC 3339, in microseconds since 1970.
    pub(super) fn time(&mut self, name: &'static str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let time = time::parse(&text);
        time.map(Some).ok_or_else(|| wrong(name, &text, "a time in RFC 3339, such as 2024-05-01T12:00:00Z"))
    }

    /// The value as a number that is one (neither infinite nor NaN).
    pub(super) fn finite(&mut self, name: &'static str, expected: &str) -> Result<Option<f64>, ApiError> {
        match self.parsed::<f64>(name, expected)? {
            Some(value) if !value.is_finite() => Err(wrong(name, &value.to_string(), expected)),
            value => Ok(value),
        }
    }

    /// Refuses what nobody has taken.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        let Some((name, _)) = self.left.first() else {
            return Ok(());
        };
        let known: Vec<String> = self.known.iter().map(|k| format!("\"{k}\"")).collect();
        let hint = match known.len() {
            0 => "this route takes none".to_owned(),
            _ => format!("expected one of {}", known.join(", ")),
        };
        Err(ApiError::parameter(format!("query parameter \"{name}\" is unknown"), hint))
    }
}

fn wrong(name: &str, value: &str, expected: impl Display) -> ApiError {
    ApiError::parameter(format!("query parameter \"{name}\" is \"{value}\""), format!("expected {expected}"))
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Params::parse(parts.uri.query().unwrap_or(""))
    }
}

/// For routes that take no query parameters.
pub(super) struct NoParams;

impl<S: Sync> FromRequestParts<S> for NoParams {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Params::parse(parts.uri.query().unwrap_or(""))?.finish()?;
        Ok(NoParams)
    }
}

/// The variable segments of a path, percent-decoded.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        let Path(segments) = path.map_err(|e: PathRejection| {
            ApiError::new(e.status(), "invalid_path", e.body_text(), "segments are percent-encoded UTF-8")
        })?;
        Ok(Segments(segments))
    }
}
