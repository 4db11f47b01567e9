//! The API's OpenAPI document, made of the table of routes and of the types that handlers take and give (`handler.rs`).
//! `docs/api.openapi.json` is a copy of it, to be read without an engine; a test holds the two together.
//!
//! Knows what no route in particular does.

mod handler;
mod schema;

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::error::{PROBLEM, Problem};
use super::params::NoParams;
use super::routes::{Needs, ROUTES, Route};
pub(super) use handler::{Answered, Operation, Taken, describe};
use schema::Schemas;

/// The document's text.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// The document, as an answer.
pub(super) struct Document;

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
    }
}

impl Answered for Document {
    fn tell(told: &mut Operation<'_>) {
        told.answer("This document.", "application/json", json!({"schema": {"type": "object"}}));
    }
}

/// `GET /v1/openapi.json`.
pub(super) async fn serve(_: NoParams) -> Document {
    Document
}

fn document() -> Value {
    let mut schemas = Schemas::new();
    let problem = schemas.answer::<Problem>();
    let refusal = |why: &str, header: &str, value: Value| json!({"description": why, "headers": {header: value}, "content": {PROBLEM: {"schema": problem}}});
    let text = json!({"schema": {"type": "string"}});
    let seconds = json!({"description": "Seconds.", "schema": {"type": "integer"}});
    let responses = json!({
        "Unauthorized": refusal("No token, or none that holds.", "WWW-Authenticate", text.clone()),
        "Forbidden":
            refusal("The token's role doesn't have the permission that `permission` names.", "WWW-Authenticate", text),
        "TooManyRequests": refusal("Faster than [api] requests_per_second.", "Retry-After", seconds),
        "Problem": {"description": "Refused or failed.", "content": {PROBLEM: {"schema": problem}}},
    });
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operation(route, &problem, &mut schemas);
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Live sessions, alerts and rules of a running engine. Every read holds for one epoch. Unknown query \
                parameters are refused. What a route needs is its `x-permission` (of several, with spaces between, all of them); \
                without one, any token will do. What changes something has the name under which the audit trail tells of it: \
                `x-audit`.",
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "From `clawdstrike-edr token create`, or a JWT of the configured OIDC issuer. Where the \
                        configuration says allow_anonymous, callers on the same machine need none.",
                },
            },
            "responses": responses,
            "schemas": schemas.components(),
        },
    })
}

/// What the document says of one route.
fn operation(route: &Route, problem: &Value, schemas: &mut Schemas) -> Value {
    let told = route.told.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n");
    let (summary, description) = told.split_once("\n\n").unwrap_or((&told, ""));
    let mut out = Map::new();
    out.insert("summary".to_owned(), json!(schema::flowing(summary)));
    if !description.is_empty() {
        out.insert("description".to_owned(), json!(schema::flowing(description)));
    }
    let asked = match route.needs {
        Needs::Nothing | Needs::Token => vec![],
        Needs::Permission(one) => vec![one.name()],
        Needs::Both(one, other) => vec![one.name(), other.name()],
    };
    if !asked.is_empty() {
        out.insert("x-permission".to_owned(), json!(asked.join(" ")));
    }
    if let Some(action) = route.action {
        out.insert("x-audit".to_owned(), json!(action));
    }
    if route.needs == Needs::Nothing {
        out.insert("security".to_owned(), json!([]));
    }
    let mut operation = Operation::new(schemas);
    (route.describe)(&mut operation);
    let component = |name: &str| json!({"$ref": format!("#/components/responses/{name}")});
    if route.needs != Needs::Nothing {
        operation.respond("401", component("Unauthorized"));
        operation.respond("403", component("Forbidden"));
    }
    for (status, why) in route.refuses {
        let refusal = json!({"description": why, "content": {PROBLEM: {"schema": problem}}});
        operation.respond(&status.to_string(), refusal);
    }
    operation.respond("429", component("TooManyRequests"));
    operation.respond("default", component("Problem"));
    out.extend(operation.into_members());
    Value::Object(out)
}
