//! What a handler's types say of it. A handler with a part that isn't described here or beside its type doesn't compile.

use axum::extract::State;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::schema::{Schemas, properties};
use crate::api::error::ApiError;

/// What is told of one route.
pub(in crate::api) struct Operation<'a> {
    schemas: &'a mut Schemas,
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: Map<String, Value>,
}

impl<'a> Operation<'a> {
    pub(super) fn new(schemas: &'a mut Schemas) -> Operation<'a> {
        Operation { schemas, parameters: Vec::new(), body: None, responses: Map::new() }
    }

    /// The schema of something that is answered.
    pub(in crate::api) fn schema<T: JsonSchema>(&mut self) -> Value {
        self.schemas.answer::<T>()
    }

    /// The answer where nothing is refused: its `schema`, and what else there is to say of its content.
    pub(in crate::api) fn answer(&mut self, description: &str, media_type: &str, content: Value) {
        self.respond("200", json!({"description": description, "content": {media_type: content}}));
    }

    /// A header that is a text.
    pub(in crate::api) fn header(&mut self, name: &str, description: &str) {
        let schema = json!({"type": "string"});
        self.parameters.push(json!({"name": name, "in": "header", "description": description, "schema": schema}));
    }

    /// A body of JSON, which must be there.
    pub(in crate::api) fn body<T: JsonSchema>(&mut self) {
        let schema = self.schemas.asked::<T>();
        self.body = Some(json!({"required": true, "content": {"application/json": {"schema": schema}}}));
    }

    pub(super) fn respond(&mut self, status: &str, response: Value) {
        self.responses.insert(status.to_owned(), response);
    }

    /// Every field is a parameter in `place`.
    pub(in crate::api) fn parameters<T: JsonSchema>(&mut self, place: &str) {
        let schema = self.schemas.asked::<T>();
        for (name, mut schema, required) in properties(&schema) {
            let mut parameter = json!({"name": name, "in": place});
            if let Some(description) = schema.remove("description") {
                parameter["description"] = description;
            }
            if required {
                parameter["required"] = json!(true);
            }
            parameter["schema"] = Value::Object(schema);
            self.parameters.push(parameter);
        }
    }

    pub(super) fn into_members(self) -> impl Iterator<Item = (String, Value)> {
        let parameters = (!self.parameters.is_empty()).then(|| ("parameters".to_owned(), json!(self.parameters)));
        let body = self.body.map(|body| ("requestBody".to_owned(), body));
        parameters.into_iter().chain(body).chain([("responses".to_owned(), Value::Object(self.responses))])
    }
}

/// Tells of a handler, by its type.
pub(in crate::api) fn describe<H: Described<T>, T>(_: &H, told: &mut Operation<'_>) {
    H::tell(told);
}

/// A handler whose parts are all described.
pub(in crate::api) trait Described<T> {
    fn tell(told: &mut Operation<'_>);
}

/// Something of a request that handlers take.
pub(in crate::api) trait Taken {
    fn tell(told: &mut Operation<'_>);
}

/// Something that handlers answer.
pub(in crate::api) trait Answered {
    fn tell(told: &mut Operation<'_>);
}

macro_rules! described {
    ($($part:ident)+) => {
        impl<H, F, $($part),+> Described<($($part,)+)> for H
        where
            H: Fn($($part),+) -> F,
            F: Future<Output: Answered>,
            $($part: Taken,)+
        {
            fn tell(told: &mut Operation<'_>) {
                $($part::tell(told);)+
                F::Output::tell(told);
            }
        }
    };
}

described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);

/// Ours, not the client's.
impl<S> Taken for State<S> {
    fn tell(_: &mut Operation<'_>) {}
}

/// What stands before the route gives it.
impl<T> Taken for Extension<T> {
    fn tell(_: &mut Operation<'_>) {}
}

/// What the type says of itself is what is said of the answer.
impl<T: Serialize + JsonSchema> Answered for Json<T> {
    fn tell(told: &mut Operation<'_>) {
        let schema = told.schema::<T>();
        let description = told.schemas.description::<T>();
        told.answer(&description, "application/json", json!({"schema": schema}));
    }
}

/// Every route may refuse: the document says so of all of them.
impl<T: Answered> Answered for Result<T, ApiError> {
    fn tell(told: &mut Operation<'_>) {
        T::tell(told);
    }
}
