//! The OpenAPI document: that a copy of it is checked in, that it says something of everything, and that answers are what it says.

use std::path::Path;

use serde_json::{Value, json};

use super::backend::{Engine, RULE, http};

/// Where it is checked in.
const COPY: &str = "docs/api.openapi.json";

#[tokio::test]
async fn the_checked_in_document_is_the_one_that_is_served() {
    let engine = Engine::start().await;
    let served = http().get(engine.url("/v1/openapi.json")).send().await.expect("an answer");
    let served = served.text().await.expect("text");
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).join(COPY);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&copy, &served).expect("written");
    }
    let copied = std::fs::read_to_string(&copy).unwrap_or_default();
    assert!(
        copied == served,
        "\"{COPY}\" isn't what the API's routes and types say now. If that change is meant, write it anew and read its diff:\n\
         UPDATE_GOLDEN=1 cargo test --test api document\n\
         git diff {COPY}"
    );
}

/// Where a schema, or what has one, says nothing of itself.
fn silent(place: &str, told: &Value, found: &mut Vec<String>) {
    let says = told["description"].as_str().is_some_and(|text| !text.trim().is_empty());
    if !says && told.get("$ref").is_none() {
        found.push(place.to_owned());
    }
}

#[tokio::test]
async fn everything_is_described() {
    let engine = Engine::start().await;
    let (_, document) = engine.get("/v1/openapi.json").await;
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, told) in methods.as_object().expect("methods") {
            assert!(told["summary"].is_string(), "{method} {path}");
            for parameter in told["parameters"].as_array().into_iter().flatten() {
                silent(&format!("{method} {path} {}", parameter["name"]), parameter, &mut found);
            }
            let body = &told["requestBody"]["content"]["application/json"]["schema"];
            for (name, schema) in body["properties"].as_object().into_iter().flatten() {
                silent(&format!("{method} {path} body {name}"), schema, &mut found);
            }
            for (status, answer) in told["responses"].as_object().expect("responses") {
                silent(&format!("{method} {path} {status}"), answer, &mut found);
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        jsonschema::meta::validate(schema).unwrap_or_else(|e| panic!("{name}: no schema: {e}"));
        for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
            silent(&format!("{name} {property}"), schema, &mut found);
        }
    }
    assert!(found.is_empty(), "nothing is said of {found:#?}");
}

/// axum looks for the variables of a path by the names of a struct's fields, and only once a request comes.
#[tokio::test]
async fn handlers_take_the_segments_that_their_paths_have() {
    let engine = Engine::start().await;
    let (_, document) = engine.get("/v1/openapi.json").await;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let there: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        for told in methods.as_object().expect("methods").values() {
            let parameters = told["parameters"].as_array().into_iter().flatten();
            let named: Vec<_> = parameters.filter(|p| p["in"] == "path").map(|p| p["name"].as_str()).collect();
            assert_eq!(named, there.iter().copied().map(Some).collect::<Vec<_>>(), "{path}");
        }
    }
}

#[tokio::test]
async fn answers_are_what_it_says() {
    let engine = Engine::start().await;
    let (_, document) = engine.get("/v1/openapi.json").await;
    let set = json!({"files": [{"name": "reads.yaml", "text": RULE}]});
    let none = json!({"files": [{"name": "none.yaml", "text": "rules: []\n"}]});
    let asked = [
        ("/livez", "/livez", None),
        ("/v1/ready", "/v1/ready", None),
        ("/v1/health", "/v1/health", None),
        ("/v1/sessions", "/v1/sessions", None),
        ("/v1/sessions/{agent}/{session}", "/v1/sessions/a0/s", None),
        ("/v1/alerts", "/v1/alerts?status=retracted", None),
        ("/v1/alerts/{id}/comment", "/v1/alerts/id-high/comment", Some(json!({"comment": "mine"}))),
        ("/v1/alerts/{id}", "/v1/alerts/id-high", None),
        ("/v1/alerts/{id}", "/v1/alerts/id-none", None),
        ("/v1/actions", "/v1/actions", None),
        ("/v1/agents", "/v1/agents", None),
        ("/v1/rules/diff", "/v1/rules/diff", Some(none)),
        ("/v1/rules", "/v1/rules", Some(set)),
        ("/v1/rules", "/v1/rules", Some(json!({"files": [{"name": "bad.yaml", "text": "rules: {"}]}))),
        ("/v1/rules", "/v1/rules", None),
        ("/v1/rules/{id}", "/v1/rules/MANY_READS", None),
        ("/v1/audit", "/v1/audit", None),
    ];
    for (path, route, body) in asked {
        let (method, (status, answer)) = match &body {
            None => ("get", engine.get(route).await),
            Some(body) => ("post", engine.post(route, body).await),
        };
        let told = &document["paths"][path][method]["responses"];
        let mut told = told.get(status.to_string()).unwrap_or(&told["default"]);
        if let Some(component) = told["$ref"].as_str() {
            told = document.pointer(&component[1..]).expect("a component");
        }
        let (_, content) = told["content"].as_object().and_then(|types| types.iter().next()).expect("a type");
        let mut schema = content["schema"].clone();
        schema["components"] = document["components"].clone();
        jsonschema::validate(&schema, &answer).unwrap_or_else(|e| panic!("{method} {route} {status}: {answer}: {e}"));
    }
}
