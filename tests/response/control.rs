//! What goes to the agents' control API against its document, `docs/agent-control.openapi.json`, which others implement.

use clawdstrike_agent_control::{Keys, Received};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::*;

const DOCUMENT: &str = include_str!("../../docs/agent-control.openapi.json");
const KEY: &str = "0123456789abcdef";

fn document() -> Value {
    serde_json::from_str(DOCUMENT).expect("JSON")
}

/// What a part of the document is, also where it only refers to it.
fn resolved<'a>(document: &'a Value, part: &'a Value) -> &'a Value {
    let Some(at) = part["$ref"].as_str() else { return part };
    document.pointer(at.trim_start_matches('#')).unwrap_or_else(|| panic!("nothing at {at}"))
}

/// Each operation: path and what stands below its `post`.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths.iter().map(|(path, item)| (path.clone(), &item["post"])).collect()
}

fn has(template: &str, path: &str) -> bool {
    let (template, path): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    let fits = |(t, p): (&&str, &&str)| t == p || (t.starts_with('{') && !p.is_empty());
    template.len() == path.len() && template.iter().zip(&path).all(fits)
}

fn validate(schema: &Value, value: &Value, what: &str) {
    jsonschema::meta::validate(schema).unwrap_or_else(|e| panic!("{what}: no schema: {e}"));
    jsonschema::validate(schema, value).unwrap_or_else(|e| panic!("{what}: {value}: {e}"));
}

/// Every action that goes there, with the parameters that rules may give it.
fn all_actions() -> Vec<Action> {
    vec![
        action(ActionKind::TerminateSession),
        action(ActionKind::SnapshotSession),
        action(ActionKind::QuarantineAgent),
        with_params(ActionKind::QuarantineAgent, json!({"duration": "2d"})),
        action(ActionKind::RateLimit),
        with_params(ActionKind::RateLimit, json!({"requests_per_minute": 1})),
        action(ActionKind::IncreaseLogging),
        with_params(ActionKind::IncreaseLogging, json!({"level": "trace"})),
        with_params(ActionKind::UpdatePolicy, json!({"policy_patch": {"egress": "deny"}})),
    ]
}

/// A request against the document: the operation that it is.
fn conforms(document: &Value, request: &Received) -> String {
    let path = request.path.strip_prefix("/api").expect("the base");
    let operations = operations(document);
    let found: Vec<_> = operations.iter().filter(|(template, _)| has(template, path)).collect();
    let [(template, operation)] = found.as_slice() else { panic!("{path} is {} operations", found.len()) };
    let mut headers = 0;
    for parameter in operation["parameters"].as_array().expect("parameters") {
        let parameter = resolved(document, parameter);
        let name = parameter["name"].as_str().expect("a name");
        assert_eq!(parameter["in"], "header");
        match request.headers.get(name) {
            Some(value) => validate(&parameter["schema"], &json!(value.to_str().expect("a text")), name),
            None => assert_eq!(parameter["required"], false, "{path} has no {name}"),
        }
        headers += usize::from(request.headers.contains_key(name));
    }
    let ours = request.headers.keys().filter(|name| name.as_str().starts_with("x-") || *name == "idempotency-key");
    assert_eq!(ours.count(), headers, "headers that the document doesn't have: {:?}", request.headers);
    match operation.get("requestBody") {
        Some(body) => {
            let schema = &body["content"]["application/json"]["schema"];
            validate(schema, request.body.as_ref().expect("a body"), template);
            assert_eq!(request.headers["content-type"], "application/json");
        }
        None => assert!(request.raw.is_empty(), "{path} has a body"),
    }
    template.clone()
}

#[tokio::test]
async fn every_request_is_one_of_the_document_and_every_operation_is_asked_for() {
    let document = document();
    let control = receiver();
    let running = start(None, Some(serve(&control).await));
    running.submit(1, Arc::new(alert("a1", &all_actions()))).await;
    all_done(&running).await;
    let asked: BTreeSet<String> = control.received().iter().map(|request| conforms(&document, request)).collect();
    let all: BTreeSet<String> = operations(&document).into_iter().map(|(path, _)| path).collect();
    assert_eq!(asked, all);
    // The reference receiver has understood each of them.
    let deeds = control.deeds();
    assert_eq!(deeds.len(), all_actions().len());
    for (path, operation) in operations(&document) {
        let named = deeds.iter().any(|deed| operation["operationId"] == deed.action);
        assert!(named, "{path}: nothing was done that is called {}", operation["operationId"]);
    }
    assert_eq!(running.count(State::Acknowledged).await, deeds.len() as u64);
}

#[tokio::test]
async fn every_answer_of_the_document_means_what_it_says() {
    let document = document();
    let answers = operations(&document)[0].1["responses"].as_object().expect("responses").clone();
    assert!(operations(&document).iter().all(|(_, operation)| operation["responses"] == Value::from(answers.clone())));
    for (status, answer) in &answers {
        let status: u16 = status.parse().expect("a status");
        let given = StatusCode::from_u16(status).expect("a status");
        let control = receiver().but(move |index, _| (index == 0).then(|| given.into_response()));
        let running = start(None, Some(serve(&control).await));
        running.submit(1, Arc::new(alert("a1", &[action(ActionKind::TerminateSession)]))).await;
        all_done(&running).await;
        let row = running.rows().await.remove(0);
        let outcome = match (row.state, row.attempts) {
            (State::Acknowledged, 1) => "acknowledged",
            (State::Failed, 1) => "failed",
            (State::Acknowledged, 2) => "retried",
            other => panic!("{status}: {other:?}"),
        };
        assert_eq!(resolved(&document, answer)["x-outcome"], outcome, "{status}");
    }
}

/// What the reference receiver answers to a request, sent by hand: status and body.
async fn ask(address: SocketAddr, path: &str, key: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = reqwest::Client::new().post(format!("http://{address}{path}")).header("Idempotency-Key", key);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test]
async fn the_reference_receiver_does_each_thing_once_and_answers_as_the_document_says() {
    let document = document();
    let control = receiver();
    let address = serve(&control).await;
    let (one, two) = ("1".repeat(64), "2".repeat(64));
    let quarantine = |seconds: i64| Some(json!({ "duration_secs": seconds }));
    let (path, other) = ("/api/agents/a/quarantine", "/api/agents/b/quarantine");
    for (path, key, body, status, repeated) in [
        (path, one.as_str(), quarantine(60), 200, json!(false)),
        (path, one.as_str(), quarantine(60), 200, json!(true)),
        (path, one.as_str(), quarantine(61), 422, Value::Null),
        (other, one.as_str(), quarantine(60), 422, Value::Null),
        // What was refused isn't remembered.
        (other, two.as_str(), quarantine(-1), 400, Value::Null),
        (other, two.as_str(), quarantine(60), 200, json!(false)),
        (other, "", quarantine(60), 400, Value::Null),
        ("/api/agents/a/explode", two.as_str(), None, 404, Value::Null),
    ] {
        let (answered, said) = ask(address, path, key, body.clone()).await;
        assert_eq!((answered, &said["repeated"]), (status, &repeated), "{path} {key} {body:?}: {said}");
        let answer = &operations(&document)[0].1["responses"][answered.to_string()];
        validate(&resolved(&document, answer)["content"]["application/json"]["schema"], &said, path);
    }
    let done: Vec<(String, String)> = control.deeds().into_iter().map(|deed| (deed.agent_id, deed.key)).collect();
    assert_eq!(done, [("a".to_owned(), one), ("b".to_owned(), two)]);
}

#[tokio::test]
async fn each_receiver_gets_signatures_by_its_own_key_and_refuses_others() {
    let file = |text: &str| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("a file");
        let setting = format!("file:{}", file.path().display());
        (file, setting)
    };
    let (_webhook, webhook) = file("fedcba9876543210");
    let (_control, control) = file(KEY);
    let both =
        [action(ActionKind::AlertSoc), action(ActionKind::QuarantineAgent), action(ActionKind::TerminateSession)];
    for (names, taken) in [([&webhook, &control], 3), ([&control, &webhook], 0)] {
        let receiver = receiver().signed_with(Keys::new([KEY.as_bytes()]), Keys::new([b"fedcba9876543210".as_slice()]));
        let address = serve(&receiver).await;
        let config = config::Response {
            webhook_signing_keys: vec![names[0].clone()],
            control_signing_keys: vec![names[1].clone()],
            ..config(Some(address), Some(address))
        };
        let running = Running::new(&config, quick());
        running.submit(1, Arc::new(alert("a1", &both))).await;
        all_done(&running).await;
        assert_eq!(receiver.deeds().len(), taken, "{names:?}");
        assert_eq!(running.count(State::Failed).await, 3 - taken as u64);
        if taken > 0 {
            // And once more by hand, so that both ends can't be wrong together.
            receiver.received().iter().for_each(computed);
        }
    }
}

/// The signature is what the document and the operator's manual say.
fn computed(request: &Received) {
    let header = |name: &str| request.headers[name].to_str().expect("a text").to_owned();
    let (at, body) = (header("x-clawdstrike-timestamp"), String::from_utf8_lossy(&request.raw));
    let (key, text) = match request.path.strip_prefix("/api") {
        Some(path) => (KEY, format!("{at}.{}.{path}.{body}", request.key)),
        None => ("fedcba9876543210", format!("{at}.{body}")),
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key");
    mac.update(text.as_bytes());
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header("x-clawdstrike-signature"), format!("v1={expected}"), "{}", request.path);
}
