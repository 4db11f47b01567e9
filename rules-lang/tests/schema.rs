//! The JSON Schema against the compiler: what one knows, the other knows.

mod golden;

use std::fs;
use std::path::Path;

use clawdstrike_rules::rule_tests::parse_tests;
use clawdstrike_rules::{Errors, SourceFile, compile, schema};
use jsonschema::Validator;
use serde_json::{Map, Value as Json, json};

fn validator(schema: &Json) -> Validator {
    jsonschema::meta::validate(schema).expect("a schema of draft 2020-12");
    jsonschema::validator_for(schema).expect("a schema whose references lead somewhere")
}

/// What the schema has against a file; `None` if it can't be read as YAML, of which a schema knows nothing.
fn complaints(validator: &Validator, file: &SourceFile) -> Option<Vec<String>> {
    let documents = schema::documents(file).ok()?;
    let said = |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    Some(documents.iter().flat_map(|document| validator.iter_errors(document).map(said).collect::<Vec<_>>()).collect())
}

/// The files of folders beside this crate, by the end of their names.
fn files(folders: &[&str], wanted: impl Fn(&str) -> bool) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).expect("a folder"));
    let files: Vec<_> = paths
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| wanted(&path.to_string_lossy()))
        .map(|path| SourceFile { name: path.display().to_string(), text: fs::read_to_string(path).expect("a text") })
        .collect();
    assert!(!files.is_empty(), "no files in {folders:?}");
    files
}

#[test]
fn what_ships_is_valid() {
    let (rules, tests) = (validator(&schema::rules()), validator(&schema::tests()));
    let is_test = |name: &str| name.ends_with(".test.yaml");
    let folders = ["../rules", "../packs"];
    for file in files(&folders, |name| name.ends_with(".yaml") && !is_test(name)) {
        assert_eq!(complaints(&rules, &file), Some(Vec::new()), "{}", file.name);
    }
    for file in files(&folders, is_test) {
        assert_eq!(complaints(&tests, &file), Some(Vec::new()), "{}", file.name);
    }
}

#[test]
fn what_is_imported_and_what_the_reference_shows_is_valid() {
    let rules = validator(&schema::rules());
    for file in files(&["tests/sigma"], |name| name.ends_with(".out.yaml")) {
        assert_eq!(complaints(&rules, &file), Some(Vec::new()), "{}", file.name);
    }
    let reference = include_str!("../../docs/rules/reference.md");
    let examples: Vec<_> = reference.split("```yaml\n").skip(1).map(|part| part.split("```").next()).collect();
    assert!(examples.len() >= 8, "the examples of the reference");
    for text in examples.into_iter().flatten() {
        let file = SourceFile { name: "reference.md".into(), text: text.into() };
        assert_eq!(complaints(&rules, &file), Some(Vec::new()), "{text}");
    }
}

/// Errors of shape: of keys, kinds, names, and lists that are too short or too long. All others (ids used twice, patterns
/// that don't compile, bounds of durations) are beyond a schema.
const SHAPE: [&str; 23] = [
    "E010", "E011", "E012", "E013", "E014", "E021", "E022", "E023", "E024", "E025", "E026", "E027", "E029", "E044",
    "E045", "E046", "E048", "E052", "E060", "E061", "E062", "E063", "E080",
];

#[test]
fn bad_files_are_rejected_where_a_schema_can_tell_and_all_others_are_not() {
    let rules = validator(&schema::rules());
    let (mut rejected, mut accepted) = (0, 0);
    for input in golden::inputs("errors", ".in.yaml") {
        let text = fs::read_to_string(&input).expect("an input");
        let set = golden::files("rules.yaml", &text);
        let errors = compile(&set).err().map(|errors| errors.errors).unwrap_or_default();
        for file in &set {
            let of_file: Vec<_> = errors.iter().filter(|error| error.file == file.name).collect();
            let Some(complaints) = complaints(&rules, file) else { continue };
            if of_file.iter().any(|error| SHAPE.contains(&error.code)) {
                assert!(!complaints.is_empty(), "{} has an error of shape, but is valid: {of_file:?}", input.display());
                rejected += 1;
            } else if of_file.is_empty() {
                assert_eq!(complaints, Vec::<String>::new(), "{} compiles", input.display());
                accepted += 1;
            }
        }
    }
    assert!(rejected > 20 && accepted > 5, "{rejected} rejected, {accepted} accepted: are these the golden files?");
}

/// The smallest value that a schema accepts.
fn sample(root: &Json, schema: &Json) -> Json {
    let schema = resolved(root, schema);
    let first = |key: &str| schema[key].as_array().and_then(|items| items.first()).cloned();
    if let Some(value) = schema.get("const").cloned().or(first("enum")).or(first("examples")) {
        return value;
    }
    if let Some(branch) = first("anyOf").or(first("oneOf")).filter(|_| schema.get("properties").is_none()) {
        return sample(root, &branch);
    }
    let kind = match &schema["type"] {
        Json::Array(kinds) => kinds[0].as_str(),
        kind => kind.as_str(),
    };
    match kind {
        Some("object") => Json::Object(object(root, &schema, None)),
        Some("array") => match schema["minItems"].as_u64() {
            Some(_) => json!([sample(root, &schema["items"])]),
            None => json!([]),
        },
        Some("integer" | "number") => json!(schema["minimum"].as_u64().unwrap_or(1)),
        Some("boolean") => json!(true),
        Some("null") => Json::Null,
        Some("string") | None => json!("x"),
        other => panic!("{other:?} in {schema}"),
    }
}

/// A schema with what its reference leads to, and what that one's leads to.
fn resolved(root: &Json, schema: &Json) -> Json {
    let Some(reference) = schema["$ref"].as_str() else { return schema.clone() };
    let name = reference.strip_prefix("#/$defs/").expect("a definition");
    let mut all = resolved(root, &root["$defs"][name]);
    for (key, value) in schema.as_object().into_iter().flatten().filter(|(key, _)| *key != "$ref") {
        all[key] = value.clone();
    }
    all
}

/// The smallest mapping that a schema accepts and that may hold `with`.
fn object(root: &Json, schema: &Json, with: Option<&str>) -> Map<String, Json> {
    let names = |schema: &Json| -> Vec<String> {
        schema["required"].as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect()
    };
    let mut required = names(schema);
    for alternatives in ["anyOf", "oneOf"].iter().filter_map(|key| schema[*key].as_array()) {
        let fits = |branch: &&Json| names(branch).iter().any(|name| Some(name.as_str()) == with);
        required.extend(names(alternatives.iter().find(fits).unwrap_or(&alternatives[0])));
    }
    if required.is_empty() && schema["minProperties"] == 1 && with.is_none() {
        required.extend(schema["properties"].as_object().and_then(|p| p.keys().next().cloned()));
    }
    required.into_iter().map(|name| (name.clone(), sample(root, &schema["properties"][&name]))).collect()
}

/// Names that the patterns of keys are tried with.
const PATHS: [&str; 4] = ["context.model.name", "extra.region", "event_type.x", "action.args.user"];
/// A key that nothing knows.
const MISSPELT: &str = "zzzz";

/// Values that a schema accepts, which hold each of its keys, in all places where it may stand, once; or, if `misspelt`,
/// values that hold one key more in one mapping.
fn variants(root: &Json, schema: &Json, within: &mut Vec<String>, misspelt: bool, out: &mut Vec<Json>) {
    let reference = schema["$ref"].as_str().map(str::to_owned);
    if let Some(name) = &reference {
        // A test may hold tests.
        if within.contains(name) {
            return;
        }
        within.push(name.clone());
    }
    let schema = resolved(root, schema);
    if !misspelt {
        out.push(sample(root, &schema));
    }
    let branches = ["anyOf", "oneOf"].iter().filter_map(|key| schema[*key].as_array()).flatten();
    // Some only narrow what stands beside them.
    let whole = |branch: &&Json| ["type", "$ref", "const"].iter().any(|key| branch.get(*key).is_some());
    for branch in branches.filter(whole) {
        variants(root, branch, within, misspelt, out);
    }
    if let Some(items) = schema.get("items") {
        let mut values = Vec::new();
        variants(root, items, within, misspelt, &mut values);
        // What the first of a list may not hold, the second may.
        let before: Vec<_> = schema.get("prefixItems").map(|_| sample(root, items)).into_iter().collect();
        out.extend(values.into_iter().map(|value| json!([before.clone(), vec![value]].concat())));
    }
    let mut keys: Vec<(&str, &Json)> = Vec::new();
    keys.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value)));
    for (pattern, value) in schema["patternProperties"].as_object().into_iter().flatten() {
        let pattern = regex::Regex::new(pattern).expect("a pattern");
        keys.extend(PATHS.into_iter().filter(|path| pattern.is_match(path)).map(|path| (path, value)));
    }
    for (name, value) in keys {
        let mut values = Vec::new();
        variants(root, value, within, misspelt, &mut values);
        for value in values {
            let mut object = object(root, &schema, Some(name));
            object.insert(name.to_owned(), value);
            out.push(Json::Object(object));
        }
    }
    if misspelt && schema["additionalProperties"] == false {
        let mut object = object(root, &schema, None);
        object.insert(MISSPELT.to_owned(), json!(1));
        out.push(Json::Object(object));
    }
    if reference.is_some() {
        within.pop();
    }
}

/// Holds a schema to what reads such files.
fn agree(root: &Json, read: impl Fn(&SourceFile) -> Result<(), Errors>) -> (usize, usize) {
    let judge = validator(root);
    let as_file = |document: &Json| SourceFile { name: "f.yaml".into(), text: document.to_string() };
    let mut known = Vec::new();
    variants(root, root, &mut Vec::new(), false, &mut known);
    for document in known.iter().filter(|document| document.is_object()) {
        let said: Vec<_> = judge.iter_errors(document).map(|error| error.to_string()).collect();
        assert_eq!(said, Vec::<String>::new(), "{document}");
        if let Err(errors) = read(&as_file(document)) {
            panic!("the schema accepts what isn't read: {errors}\n{document}");
        }
    }
    let mut unknown = Vec::new();
    variants(root, root, &mut Vec::new(), true, &mut unknown);
    for document in &unknown {
        assert!(!judge.is_valid(document), "the schema accepts \"{MISSPELT}\": {document}");
        let errors = read(&as_file(document)).expect_err(&format!("\"{MISSPELT}\" is read: {document}"));
        let codes: Vec<_> = errors.errors.iter().map(|error| error.code).collect();
        // An action, its parameters and operators are named in mappings, too.
        let names_it = |code: &&str| ["E011", "E026", "E027", "E061"].contains(code);
        assert!(codes.iter().all(names_it) && !codes.is_empty(), "{codes:?}: {document}");
    }
    (known.len(), unknown.len())
}

#[test]
fn every_key_of_the_schema_is_read_and_no_other_is() {
    let (known, unknown) = agree(&schema::rules(), |file| compile(std::slice::from_ref(file)).map(drop));
    assert!(known > 1_000 && unknown > 100, "{known} files with known keys, {unknown} with others");
    // An event has its type from itself or from defaults, which is beyond a schema.
    let with_default = |file: &SourceFile| {
        let mut document: Json = serde_json::from_str(&file.text).expect("JSON");
        let defaults = document.as_object_mut().expect("a mapping").entry("defaults").or_insert_with(|| json!({}));
        defaults.as_object_mut().expect("defaults").entry("event_type").or_insert_with(|| json!("mcp_tool"));
        SourceFile { name: file.name.clone(), text: document.to_string() }
    };
    let (known, unknown) = agree(&schema::tests(), |file| parse_tests(&with_default(file)).map(drop));
    assert!(known > 20 && unknown > 2, "{known} files with known keys, {unknown} with others");
}

#[test]
fn names_of_the_plan_are_names_of_the_schema() {
    use clawdstrike_rules::plan::EventTypes;
    let schema = schema::rules();
    let names = |value: &Json| value["enum"].as_array().expect("names").clone();
    let types = names(&schema["$defs"]["matcher"]["properties"]["event_type"]["anyOf"][0]);
    assert_eq!(types, EventTypes::NAMES.into_iter().chain(["any"]).collect::<Vec<_>>());
    assert_eq!(
        names(&schema["$defs"]["rule"]["properties"]["severity"]),
        ["info", "low", "medium", "high", "critical"]
    );
    assert_eq!(
        names(&schema["$defs"]["action"]["anyOf"][0]).len(),
        8,
        "every action of the plan: a new one is named here, too"
    );
    for name in ["sequence", "threshold", "pattern", "absence", "new_value"] {
        assert_eq!(schema["$defs"][name]["properties"]["type"]["const"], name);
    }
}

#[test]
fn every_key_is_described() {
    fn undescribed(schema: &Json, place: &str, out: &mut Vec<String>) {
        for (name, value) in schema["properties"].as_object().into_iter().flatten() {
            let told = ["description", "$ref"].iter().any(|key| value[*key].is_string());
            let described = told || *value == json!(false);
            out.extend((!described).then(|| format!("{place}/{name}")));
        }
        match schema {
            Json::Object(parts) => {
                parts.iter().for_each(|(name, part)| undescribed(part, &format!("{place}/{name}"), out));
            }
            Json::Array(parts) => parts.iter().for_each(|part| undescribed(part, place, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    undescribed(&schema::rules(), "", &mut out);
    undescribed(&schema::tests(), "", &mut out);
    assert_eq!(out, Vec::<String>::new());
}
