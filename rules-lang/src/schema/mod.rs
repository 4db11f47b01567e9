//! The JSON Schema (draft 2020-12) of rule files and of their tests, for editors.
//!
//! Made of the tables that the resolver reads by, so it says nothing of its own about keys, names and bounds. What no
//! schema can say (ids used twice, regexes that don't compile, windows out of bounds) is left to `rules check`.

pub(crate) mod value;

use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};

use crate::context::Context;
use crate::diagnostic::Errors;
use crate::resolve::{self, CONDITIONS};
use crate::shape::{KeyShape, Needs, Rest, Shape};
use crate::{SourceFile, rule_tests, yaml};

/// The schema of a rule file: rules, allowlist entries, or both.
pub fn rules() -> Json {
    let shapes = [
        &resolve::RULE,
        &resolve::STEP,
        &resolve::DISTINCT,
        &resolve::ANY_OF,
        &resolve::MATCHER,
        &resolve::ENTRY,
        &resolve::TIMES,
    ];
    let mut definitions: Map<_, _> = shapes.map(|shape| (shape.name.to_owned(), mapping(shape))).into_iter().collect();
    for kind in &CONDITIONS {
        let mut condition = mapping(kind.shape);
        condition["properties"]["type"] = json!({"description": kind.shape.doc, "const": kind.name});
        definitions.insert(kind.shape.name.to_owned(), condition);
    }
    let conditions: Vec<_> = CONDITIONS.iter().map(|kind| value::of(kind.shape)).collect();
    definitions.insert("condition".to_owned(), json!({"oneOf": conditions}));
    definitions.insert("action".to_owned(), resolve::action_schema());
    definitions.insert("field".to_owned(), resolve::fields_schema());
    definitions.insert("test".to_owned(), resolve::test_schema());
    definitions.insert("operators".to_owned(), resolve::operators_schema());
    let mut file = document("Rule file of clawdstrike-edr", &resolve::FILE, definitions);
    // A file of comments alone is one.
    file["type"] = json!(["object", "null"]);
    file
}

/// The schema of a file of tests.
pub fn tests() -> Json {
    let shapes = [&rule_tests::TEST, &rule_tests::EVENT, &rule_tests::DEFAULTS, &rule_tests::EXPECTED];
    let definitions = shapes.map(|shape| (shape.name.to_owned(), mapping(shape))).into_iter().collect();
    document("Tests of rules of clawdstrike-edr", &rule_tests::FILE, definitions)
}

/// The documents of a file as the values that a schema judges: plain scalars are those of YAML 1.2's core schema.
///
/// # Errors
/// It is no YAML, or more of it than a file may hold.
pub fn documents(file: &SourceFile) -> Result<Vec<Json>, Errors> {
    let mut none = HashSet::new();
    let mut cx = Context::new(&file.name, &file.text, &mut none);
    let documents = yaml::documents(&mut cx, &file.text).iter().map(yaml::Node::to_json).collect();
    match cx.into_diagnostics() {
        errors if errors.is_empty() => Ok(documents),
        errors => Err(Errors { errors, warnings: Vec::new() }),
    }
}

fn document(title: &str, file: &Shape, definitions: Map<String, Json>) -> Json {
    let mut schema = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title});
    for (key, value) in mapping(file).as_object().into_iter().flatten() {
        schema[key] = value.clone();
    }
    schema["$defs"] = Json::Object(definitions);
    schema
}

/// A mapping by its table.
fn mapping(shape: &Shape) -> Json {
    let mut properties: Map<_, _> = shape.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut patterns = Map::new();
    if shape.rest == Rest::Matcher {
        properties.insert(resolve::EVENT_TYPE.name.to_owned(), property(&resolve::EVENT_TYPE));
        properties
            .extend(resolve::TARGET_KEYS.iter().map(|target| (target.key.name.to_owned(), property(&target.key))));
        resolve::path_keys(&mut properties, &mut patterns);
    }
    let mut schema = json!({"description": shape.doc, "type": "object", "properties": properties});
    if !patterns.is_empty() {
        schema["patternProperties"] = Json::Object(patterns);
    }
    if shape.rest != Rest::Paths {
        schema["additionalProperties"] = json!(false);
    }
    let required: Vec<_> = shape.keys.iter().filter(|key| key.example.is_some()).map(|key| key.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let each = |names: &[&str]| names.iter().map(|name| json!({"required": [name]})).collect::<Json>();
    match shape.needs {
        Needs::Nothing => {}
        Needs::AnyOf(names) => schema["anyOf"] = each(names),
        Needs::OneOf(names) => schema["oneOf"] = each(names),
    }
    schema
}

/// A key's value, with what is said of the key and of such values.
pub(crate) fn property(key: &KeyShape) -> Json {
    let mut value = (key.value)();
    let of_value = value["description"].as_str().map(|more| format!(" {more}"));
    value["description"] = json!(format!("{}{}", key.doc, of_value.unwrap_or_default()));
    value
}
