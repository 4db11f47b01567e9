//! Query parameters and the variable segments of paths: structs, of which each part takes its own by name and type. What is left
//! over is refused by name.
//!
//! Knows no route and no view.

use std::fmt::Display;

use axum::extract::{FromRequestParts, Path, rejection::PathRejection};
use axum::http::request::Parts;
use schemars::JsonSchema;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, forward_to_deserialize_any};

use super::error::ApiError;
use super::openapi::{Operation, Taken};

/// What a route may be asked with: structs, whose fields are the parameters' names. `()`: nothing.
pub(super) struct Query<T>(pub(super) T);

/// For routes that take no query parameters.
pub(super) type NoParams = Query<()>;

/// An order, of those that a list knows.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Order<S: Default + Serialize> {
    /// Their order.
    #[serde(default)]
    pub(super) sort: S,
}

impl<S: Send + Sync, T: Asked> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut params = Params::parse(parts.uri.query().unwrap_or(""))?;
        let asked = T::take(&mut params).map_err(Refused::told)?;
        params.finish()?;
        Ok(Query(asked))
    }
}

impl<T: Asked> Taken for Query<T> {
    fn tell(told: &mut Operation<'_>) {
        T::tell(told);
    }
}

/// The parts of a query.
pub(super) trait Asked: Sized {
    fn take(params: &mut Params) -> Result<Self, Refused>;
    fn tell(told: &mut Operation<'_>);
}

impl Asked for () {
    fn take(_: &mut Params) -> Result<Self, Refused> {
        Ok(())
    }
    fn tell(_: &mut Operation<'_>) {}
}

macro_rules! asked {
    ($($part:ident)+) => {
        impl<$($part: DeserializeOwned + JsonSchema),+> Asked for ($($part,)+) {
            fn take(params: &mut Params) -> Result<Self, Refused> {
                Ok(($($part::deserialize(&mut *params)?,)+))
            }
            fn tell(told: &mut Operation<'_>) {
                $(told.parameters::<$part>("query");)+
            }
        }
    };
}

asked!(A);
asked!(A B);
asked!(A B C);

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

    /// Refuses what nobody has taken.
    fn finish(self) -> Result<(), ApiError> {
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

/// A struct takes the parameters that are called like its fields.
impl<'de> Deserializer<'de> for &mut Params {
    type Error = Refused;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.known.extend(fields);
        let (own, left) = std::mem::take(&mut self.left).into_iter().partition(|(n, _)| fields.contains(&n.as_str()));
        self.left = left;
        visitor.visit_map(Own { own, value: None })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        Err(de::Error::custom("a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The parameters of one struct; of the one whose name was given out, the value.
struct Own {
    own: Vec<(String, String)>,
    value: Option<(String, String)>,
}

impl<'de> MapAccess<'de> for Own {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        self.value = self.own.pop();
        let Some((name, _)) = &self.value else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let (name, value) = self.value.take().unwrap_or_default();
        let read = seed.deserialize(Text(&value));
        read.map_err(|refused| Refused { parameter: Some((name, value)), ..refused })
    }
}

/// A parameter's value.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn parsed<T: std::str::FromStr>(&self, expected: &str) -> Result<T, Refused> {
        self.0.parse().map_err(|_| de::Error::custom(expected))
    }
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_bool(self.parsed("true or false")?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_u64(self.parsed("a whole number")?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let number: f64 = self.parsed("a number")?;
        // Neither infinite nor NaN.
        if !number.is_finite() {
            return Err(de::Error::custom("a number"));
        }
        visitor.visit_f64(number)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// A parameter that isn't what it should be.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its name and value.
    parameter: Option<(String, String)>,
    expected: String,
}

impl Refused {
    fn told(self) -> ApiError {
        let Refused { parameter, expected } = self;
        match parameter {
            Some((name, value)) => ApiError::parameter(
                format!("query parameter \"{name}\" is \"{value}\""),
                format!("expected {expected}"),
            ),
            None => ApiError::parameter(expected, "/v1/openapi.json tells every route's parameters"),
        }
    }
}

impl de::Error for Refused {
    /// In a few words what would do.
    fn custom<T: Display>(expected: T) -> Self {
        Refused { parameter: None, expected: expected.to_string() }
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        de::Error::custom(format_args!("one of {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        de::Error::custom(format_args!("query parameter \"{field}\" is missing"))
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.expected)
    }
}

impl std::error::Error for Refused {}

/// The variable segments of a path, percent-decoded: a struct with a field for each.
pub(super) struct Segments<T>(pub(super) T);

impl<T: JsonSchema> Taken for Segments<T> {
    fn tell(told: &mut Operation<'_>) {
        told.parameters::<T>("path");
    }
}

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
