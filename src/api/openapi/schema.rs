//! Schemas of types, in the form in which people and generators of clients read them best. Knows no route.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Where the document keeps the schemas of types that have a name.
const COMPONENTS: &str = "/components/schemas";

/// Makes schemas; those of answers share what they have in common.
pub(super) struct Schemas {
    answers: SchemaGenerator,
    asked: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Schemas {
        let settings = SchemaSettings::draft2020_12;
        Schemas {
            answers: settings().for_serialize().with(|s| s.definitions_path = COMPONENTS.into()).into_generator(),
            asked: settings().for_deserialize().with(|s| s.inline_subschemas = true).into_generator(),
        }
    }

    /// Of something that is answered: a reference to its component, if its type has one.
    pub(super) fn answer<T: JsonSchema>(&mut self) -> Value {
        tidy(self.answers.subschema_for::<T>().to_value())
    }

    /// Of something that is asked with, whole.
    pub(super) fn asked<T: JsonSchema>(&mut self) -> Value {
        tidy(self.asked.subschema_for::<T>().to_value())
    }

    /// What a type says of itself.
    pub(super) fn description<T: JsonSchema>(&mut self) -> String {
        let schema = tidy(T::json_schema(&mut self.answers).to_value());
        schema["description"].as_str().unwrap_or("The answer.").to_owned()
    }

    /// The components that answers refer to, by name.
    pub(super) fn components(&mut self) -> Value {
        let components = self.answers.take_definitions(false);
        components.into_iter().map(|(name, schema)| (name, tidy(schema))).collect::<Map<_, _>>().into()
    }
}

/// The members of an object's schema: name, schema, and whether they must be there.
pub(super) fn properties(schema: &Value) -> Vec<(String, Map<String, Value>, bool)> {
    let must = |name: &String| schema["required"].as_array().is_some_and(|names| names.contains(&json!(name)));
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.filter_map(|(name, one)| Some((name.clone(), one.as_object()?.clone(), must(name)))).collect()
}

/// The lines of a paragraph as one, links to code as code.
pub(super) fn flowing(text: &str) -> String {
    let paragraphs: Vec<String> =
        text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    paragraphs.join("\n\n").replace("[`", "`").replace("`]", "`")
}

fn tidy(schema: Value) -> Value {
    let Value::Object(schema) = schema else { return schema };
    let mut out: Map<String, Value> = schema.into_iter().map(|(name, value)| tidy_member(name, value)).collect();
    if let Some(names) = names(&out) {
        name(&mut out, names);
    }
    // Left out where there is none, so never null.
    let required = out.get("required").cloned().unwrap_or_default();
    if let Some(Value::Object(properties)) = out.get_mut("properties") {
        for (name, property) in properties {
            if !required.as_array().is_some_and(|names| names.contains(&json!(name))) {
                never_null(property);
            }
        }
    }
    Value::Object(out)
}

fn tidy_member(name: String, value: Value) -> (String, Value) {
    let value = match (name.as_str(), value) {
        ("description", Value::String(text)) => Value::String(flowing(&text)),
        ("properties", Value::Object(all)) => all.into_iter().map(|(name, schema)| (name, tidy(schema))).collect(),
        ("oneOf" | "anyOf" | "allOf" | "prefixItems", Value::Array(all)) => all.into_iter().map(tidy).collect(),
        ("items" | "additionalProperties", schema) => tidy(schema),
        (_, other) => other,
    };
    (name, value)
}

/// What each of the names of an enum means; schemars has a schema for each name.
fn names(schema: &Map<String, Value>) -> Option<Vec<(Value, Option<String>)>> {
    let mut names = Vec::new();
    for one in schema.get("oneOf")?.as_array()? {
        let means = one["description"].as_str().map(str::to_owned);
        match (&one["const"], &one["enum"]) {
            (name @ Value::String(_), _) => names.push((name.clone(), means)),
            (_, Value::Array(some)) => names.extend(some.iter().map(|name| (name.clone(), None))),
            _ => return None,
        }
    }
    Some(names)
}

/// One list of names, and what they mean in words: generators of clients know that better.
fn name(schema: &mut Map<String, Value>, names: Vec<(Value, Option<String>)>) {
    let before = schema.get("description").and_then(Value::as_str).map(str::to_owned);
    let means = names.iter().filter_map(|(name, means)| Some(format!("- `{}`: {}", name.as_str()?, means.as_ref()?)));
    let description: Vec<String> = before.into_iter().chain([means.collect::<Vec<_>>().join("\n")]).collect();
    schema.remove("oneOf");
    schema.insert("type".to_owned(), json!("string"));
    schema.insert("enum".to_owned(), names.into_iter().map(|(name, _)| name).collect());
    schema.insert("description".to_owned(), json!(description.join("\n\n").trim()));
}

fn never_null(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = &mut types[..] {
            let one = one.take();
            schema.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(names)) = schema.get_mut("enum") {
        names.retain(|name| !name.is_null());
    }
    let Some(Value::Array(mut any)) = schema.remove("anyOf") else { return };
    any.retain(|one| *one != json!({"type": "null"}));
    match (any.len(), any.pop()) {
        (1, Some(Value::Object(only))) => {
            for (name, value) in only {
                schema.entry(name).or_insert(value);
            }
        }
        (_, Some(last)) => {
            any.push(last);
            schema.insert("anyOf".to_owned(), Value::Array(any));
        }
        (_, None) => {}
    }
}
