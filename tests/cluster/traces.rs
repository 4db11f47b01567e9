//! What a collector of traces is sent, read by the standard's own definition of it.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;

use super::*;

/// A span's name, with what it says.
type Span = (String, BTreeMap<String, String>);

/// A collector's address, and what it got: each span with what the process says of itself.
fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let got: Arc<Mutex<Vec<Span>>> = Arc::default();
    let keep = got.clone();
    let take = move |headers: axum::http::HeaderMap, body: axum::body::Bytes| {
        let keep = keep.clone();
        async move {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            assert_eq!(headers["x-key"], "secret");
            keep.lock().unwrap().extend(spans(ExportTraceServiceRequest::decode(body).unwrap()));
        }
    };
    (serve(axum::Router::new().route("/v1/traces", axum::routing::post(take))), got)
}

fn spans(sent: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in sent.resource_spans {
        let of_process = resource.resource.unwrap_or_default().attributes;
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push((span.name, of_process.iter().chain(&span.attributes).map(said).collect()));
        }
    }
    spans
}

fn said(attribute: &KeyValue) -> (String, String) {
    let value = match &attribute.value {
        Some(AnyValue { value: Some(Any::StringValue(text)) }) => text.clone(),
        Some(AnyValue { value: Some(Any::IntValue(number)) }) => number.to_string(),
        other => format!("{other:?}"),
    };
    (attribute.key.clone(), value)
}

#[test]
fn requests_checkpoints_writes_and_actions_are_traced_where_a_collector_is_named() {
    let (address, got) = collector();
    let (hook, _) = receiver();
    let config = format!("{FILES}[checkpoint]\nevery = \"1s\"\n[response]\nsoc_webhook = \"{hook}\"\n");
    let rule = ONE_RULE.trim_end().to_owned() + "\n    actions: [alert_soc]\n";
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let cluster = Cluster::start(&config, &[("tool.yaml", &rule)], &env);
    let data = cluster.path("data");
    wait("the data folder", || data.is_dir().then_some(()).or_else(|| std::fs::create_dir_all(&data).ok()));
    append(&data.join("a.jsonl"), &event("e1", "s-secret", 0, "mcp_tool", "t", true));
    wait("the alert", || (cluster.alerts_of("TOOL").len() == 1).then_some(()));
    wait("the session", || cluster.get("/v1/sessions/ag1/s-secret")?["sessions"][0]["events"].as_u64());
    let (code, ..) = cluster.cli(&["rules", "load", "--file", cluster.path("rules/tool.yaml").to_str().unwrap()]);
    assert_eq!(code, 0);
    let found = |name: &str, says: &[(&str, &str)]| {
        wait(&format!("a span \"{name}\" that says {says:?}"), || {
            let got = got.lock().unwrap();
            let fits = |span: &&Span| {
                span.0 == name && says.iter().all(|(key, value)| span.1.get(*key).is_some_and(|v| v == value))
            };
            got.iter().find(fits).map(|span| span.1.clone())
        })
    };
    let request = found("GET /v1/sessions/{agent}/{session}", &[("http.response.status_code", "200")]);
    assert_eq!(request["service.name"], "clawdstrike-edr");
    found("checkpoint", &[]);
    found("store", &[("what", "versions")]);
    found("store", &[("what", "events"), ("rows", "1")]);
    found("action", &[("receiver", "soc_webhook"), ("verdict", "Taken")]);
    found("rules", &[]);
    // The log has no spans, and no span has what agents wrote.
    assert!(!cluster.log.lock().unwrap().contains("idempotency_key"));
    assert!(!format!("{:?}", got.lock().unwrap()).contains("s-secret"));
    assert_eq!(cluster.stop(), 0);
}

#[test]
fn a_collector_that_is_away_stops_nothing_and_a_wrong_address_is_told() {
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    let cluster = Cluster::start(FILES, &[("tool.yaml", ONE_RULE)], &env);
    wait("the log tells of it", || cluster.log.lock().unwrap().contains("opentelemetry").then_some(()));
    assert!(cluster.get("/v1/health").is_some());
    assert_eq!(cluster.stop(), 0);
    let folder = tempfile::tempdir().unwrap();
    let out = Command::new(BINARY)
        .args(["worker", "--process", "0", "--config", "workers.toml"])
        .current_dir(folder.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "not an address")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(error.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && error.contains("http://127.0.0.1:4318"), "{error}");
}
