//! Every route: what it answers, and what it refuses in which words.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clawdstrike_edr::api;
use clawdstrike_edr::config::Api;
use clawdstrike_edr::runtime::handle::{ActiveRules, Handle, Stats, feeds};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::backend::{Engine, HOSTILE, RULE, http, until};

/// The message and hint of an error answer.
fn error(body: &Value) -> String {
    format!("{}; {}", body["detail"].as_str().expect("a message"), body["hint"].as_str().expect("a hint"))
}

fn ids(rows: &Value, name: &str) -> Vec<String> {
    let rows = rows.as_array().expect("rows");
    rows.iter().map(|row| row[name].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn sessions_are_filtered_sorted_and_paged() {
    let engine = Engine::start().await;
    let (status, body) = engine.get("/v1/sessions?min_risk=20&limit=3").await;
    assert_eq!(status, 200);
    assert_eq!((&body["as_of"], &body["total"]), (&json!(7), &json!(4)));
    assert_eq!(ids(&body["sessions"], "agent_id"), ["a4", "a3", "a2"]);
    let next = body["next"].as_str().expect("a cursor");
    let (_, body) = engine.get(&format!("/v1/sessions?min_risk=20&cursor={next}")).await;
    assert_eq!(
        (ids(&body["sessions"], "agent_id"), &body["total"], &body["next"]),
        (vec!["a1".into()], &json!(4), &Value::Null)
    );
    let (_, body) = engine.get("/v1/sessions?sort=events&idle=true").await;
    assert_eq!(ids(&body["sessions"], "agent_id"), ["a3", "a1"]);
    let (_, body) = engine.get("/v1/sessions?tenant_id=t").await;
    assert_eq!(body["total"], 1);
    let (_, body) = engine.get("/v1/sessions?limit=0").await;
    assert_eq!((&body["total"], &body["sessions"], &body["next"]), (&json!(8), &json!([]), &Value::Null));
    let (_, body) = engine.get("/v1/sessions?since=2024-05-01T12:00:00.00006Z").await;
    assert_eq!(ids(&body["sessions"], "agent_id"), ["a4", "a3"]);
}

#[tokio::test]
async fn one_session_is_found_whatever_its_ids_hold() {
    let engine = Engine::start().await;
    let (status, body) = engine.get("/v1/sessions/a0/s").await;
    assert_eq!((status, &body["total"]), (200, &json!(1)));
    assert_eq!(body["sessions"][0]["tenant_id"], "");
    assert_eq!(body["sessions"][0]["last_events"][0]["target"], HOSTILE);
    let (_, body) = engine.get("/v1/sessions/a0/s?tenant_id=t").await;
    assert_eq!(body["sessions"][0]["tenant_id"], "t");
    let (status, body) = engine.get("/v1/sessions/a%2F..%2Fb%3Fc%23d/%252e").await;
    assert_eq!((status, &body["sessions"][0]["session_id"]), (200, &json!("%2e")));
    let (status, body) = engine.get("/v1/sessions/a0/nobody").await;
    assert_eq!(status, 404);
    assert!(error(&body).contains("\"nobody\""), "{body}");
}

#[tokio::test]
async fn alerts_leave_retracted_ones_out_unless_asked() {
    let engine = Engine::start().await;
    let (_, body) = engine.get("/v1/alerts").await;
    assert_eq!(ids(&body["alerts"], "alert_id"), ["id-critical", "id-high", "id-low"]);
    let (_, body) = engine.get("/v1/alerts?min_severity=high&status=retracted").await;
    assert_eq!(ids(&body["alerts"], "alert_id"), ["id-gone"]);
    let (status, body) = engine.get("/v1/alerts/id-high").await;
    assert_eq!((status, &body["alert"]["revision"], &body["as_of"]), (200, &json!(3), &json!(7)));
    let (status, body) = engine.get("/v1/alerts/id-none").await;
    assert_eq!((status, body["code"].as_str()), (404, Some("not_found")));
}

#[tokio::test]
async fn a_group_keeps_the_order_of_its_fields() {
    let engine = Engine::start().await;
    let response = http().get(engine.url("/v1/alerts/id-low")).send().await.expect("an answer");
    let text = response.text().await.expect("text");
    assert!(text.contains("\"group\":{\"session_id\":\"s\",\"agent_id\":"), "{text}");
}

#[tokio::test]
async fn agents_are_listed_with_times_in_utc() {
    let engine = Engine::start().await;
    let (status, body) = engine.get("/v1/agents?limit=1").await;
    assert_eq!((status, &body["total"], &body["as_of"]), (200, &json!(3), &json!(7)));
    assert_eq!(body["agents"][0]["last_seen"], "2024-05-01T12:00:00.000000Z");
}

/// All pages of a list put together: the ids of its rows.
async fn pages(engine: &Engine, list: &str, id: &str, limit: usize) -> Vec<String> {
    let rows = list.split('?').next().and_then(|route| route.rsplit('/').next()).expect("a route");
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, body) = engine.get(&format!("{list}&limit={limit}{cursor}")).await;
        assert_eq!(status, 200, "{body}");
        let page = ids(&body[rows], id);
        assert!(page.len() <= limit, "{body}");
        all.extend(page);
        match body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[tokio::test]
async fn pages_put_together_are_the_list() {
    let engine = Engine::start().await;
    for list in
        ["/v1/sessions?sort=events", "/v1/sessions?sort=first_seen", "/v1/alerts?sort=severity", "/v1/agents?sort=risk"]
    {
        let id = if list.contains("alerts") { "alert_id" } else { "agent_id" };
        let whole = pages(&engine, list, id, 1_000).await;
        for limit in 1..4 {
            assert_eq!(pages(&engine, list, id, limit).await, whole, "{list}");
        }
    }
    assert_eq!(pages(&engine, "/v1/alerts?sort=severity", "alert_id", 1).await, ["id-critical", "id-high", "id-low"]);
}

#[tokio::test]
async fn a_cursor_is_taken_only_by_its_list_and_as_it_was_given() {
    let engine = Engine::start().await;
    let (_, body) = engine.get("/v1/sessions?min_risk=20&limit=1").await;
    let next = body["next"].as_str().expect("a cursor").to_owned();
    let altered = format!("{}{}", &next[..next.len() - 1], if next.ends_with('0') { "1" } else { "0" });
    let cases = [
        (format!("/v1/sessions?cursor={next}"), "another list"),
        (format!("/v1/sessions?min_risk=21&cursor={next}"), "another list"),
        (format!("/v1/sessions?min_risk=20&sort=events&cursor={next}"), "another list"),
        (format!("/v1/alerts?cursor={next}"), "another list"),
        (format!("/v1/agents?min_risk=20&cursor={next}"), "another list"),
        (format!("/v1/actions?cursor={next}"), "another list"),
        (format!("/v1/audit?cursor={next}"), "another list"),
        (format!("/v1/sessions?min_risk=20&cursor={altered}"), "altered or cut"),
        ("/v1/alerts?cursor=".into(), "altered or cut"),
        ("/v1/agents?cursor=0".into(), "altered or cut"),
    ];
    for (route, expected) in cases {
        let (status, body) = engine.get(&route).await;
        assert_eq!((status, body["code"].as_str()), (400, Some("invalid_cursor")), "{route}: {body}");
        assert!(error(&body).contains(expected), "{route}: {body}");
    }
    let (status, _) = engine.get(&format!("/v1/sessions?min_risk=20&limit=7&cursor={next}")).await;
    assert_eq!(status, 200, "pages may differ in length");
}

#[tokio::test]
async fn wrong_parameters_are_refused_by_name() {
    let engine = Engine::start().await;
    let cases = [
        ("/v1/sessions?agnet_id=a", "\"agnet_id\" is unknown; expected one of \"tenant_id\", \"agent_id\""),
        ("/v1/sessions?limit=10001", "\"limit\" is \"10001\"; expected a whole number, at most 10000"),
        ("/v1/sessions?limit=-1", "\"limit\" is \"-1\""),
        ("/v1/sessions?offset=1", "\"offset\" is unknown"),
        ("/v1/sessions?since=yesterday", "\"since\" is \"yesterday\"; expected a time in RFC 3339"),
        ("/v1/sessions?sort=name", "\"sort\" is \"name\"; expected one of risk, last_seen"),
        ("/v1/sessions?min_risk=NaN", "\"min_risk\" is \"NaN\""),
        ("/v1/sessions?idle=yes", "\"idle\" is \"yes\"; expected true or false"),
        ("/v1/sessions?idle=true&idle=true", "\"idle\" is given twice"),
        ("/v1/sessions/a/s?tenant=t", "\"tenant\" is unknown"),
        ("/v1/alerts?min_severity=urgent", "\"min_severity\" is \"urgent\"; expected one of info, low"),
        ("/v1/alerts?status=OPEN", "\"status\" is \"OPEN\""),
        ("/v1/alerts/id-high?x=1", "\"x\" is unknown; this route takes none"),
        ("/v1/alerts/watch?limit=1", "\"limit\" is unknown"),
        ("/v1/agents?sort=name", "\"sort\" is \"name\"; expected one of risk"),
        ("/v1/rules?x", "\"x\" is unknown"),
        ("/metrics?x", "\"x\" is unknown"),
    ];
    for (route, expected) in cases {
        let (status, body) = engine.get(route).await;
        assert_eq!((status, body["code"].as_str()), (400, Some("invalid_parameter")), "{route}: {body}");
        assert!(error(&body).contains(expected), "{route}: {body}");
    }
}

#[tokio::test]
async fn a_rule_set_is_loaded_listed_and_shown() {
    let engine = Engine::start().await;
    let files = json!({"files": [{"name": "reads.yaml", "text": RULE}]});
    let (status, body) = engine.post("/v1/rules", &files).await;
    assert_eq!((status, &body["epoch"]), (200, &json!(8)), "{body}");
    let (_, body) = engine.get("/v1/rules").await;
    let rule = &body["rules"][0];
    assert_eq!((&body["epoch"], &body["total"], &body["last_error"]), (&json!(8), &json!(1), &Value::Null));
    assert_eq!((&rule["id"], &rule["severity"]), (&json!("MANY_READS"), &json!("high")));
    assert_eq!((&rule["file"], &rule["line"]), (&json!("reads.yaml"), &json!(2)));
    let (status, body) = engine.get("/v1/rules/MANY_READS").await;
    assert_eq!((status, &body["rule"]["version"]), (200, &rule["version"]));
    let (status, _) = engine.get("/v1/rules/NONE").await;
    assert_eq!(status, 404);
    assert_eq!(engine.get("/v1/rules/diff").await.0, 404);
    let named = json!({"files": [{"name": "reads.yaml", "text": RULE.replace("MANY_READS", "diff")}]});
    assert_eq!(engine.post("/v1/rules", &named).await.0, 200);
    let (status, body) = engine.get("/v1/rules/diff").await;
    assert_eq!((status, &body["rule"]["id"]), (200, &json!("diff")));
}

#[tokio::test]
async fn a_set_that_does_not_compile_changes_nothing_and_tells_all_errors() {
    let engine = Engine::start().await;
    engine.post("/v1/rules", &json!({"files": [{"name": "reads.yaml", "text": RULE}]})).await;
    let broken = RULE.replace("severity: high", "severity: hihg").replace("file_access", "file_acces");
    let files = json!({"files": [{"name": "good.yaml", "text": RULE}, {"name": "bad.yaml", "text": broken}]});
    let (status, body) = engine.post("/v1/rules", &files).await;
    assert_eq!((status, body["code"].as_str()), (422, Some("invalid_rules")));
    let lines: Vec<_> =
        body["diagnostics"].as_array().expect("diagnostics").iter().map(|d| d["line"].as_u64()).collect();
    assert!(lines.contains(&Some(4)) && lines.contains(&Some(6)), "{body}");
    let first = &body["diagnostics"][0];
    assert_eq!((&first["file"], &first["column"].is_u64()), (&json!("bad.yaml"), &true), "{first}");
    assert!(first["rendered"].as_str().is_some_and(|text| text.contains("bad.yaml:")), "{first}");
    let (_, body) = engine.get("/v1/rules").await;
    assert_eq!((&body["epoch"], &body["total"]), (&json!(8), &json!(1)));
    assert!(body["last_error"].as_str().is_some_and(|e| e.contains("bad.yaml")), "{body}");
}

/// A rule set without rules: nothing has to be read again for it.
fn none() -> Value {
    json!({"files": [{"name": "none.yaml", "text": "rules: []\n"}]})
}

#[tokio::test]
async fn a_proposed_set_tells_what_becomes_of_alerts_and_changes_nothing() {
    let engine = Engine::start().await;
    let (status, body) = engine.post("/v1/rules/diff", &none()).await;
    assert_eq!((status, &body["as_of"], &body["watermark"]), (200, &json!(7), &Value::Null), "{body}");
    // The open alerts' rules are in no set: they are marked. The retracted one stays as it is.
    let total = json!({"added": 0, "removed": 0, "changed": 3, "same": 0});
    assert_eq!((&body["total"], &body["added"], &body["removed"]), (&total, &json!([]), &json!([])));
    for pair in body["changed"].as_array().expect("pairs") {
        let mut from = pair["from"].clone();
        from["rule_removed"] = json!(true);
        assert_eq!((&pair["to"], pair["to"]["evidence"].is_array()), (&from, true));
    }
    assert_eq!(body["incomplete"], json!(["source \"silent\" says nothing"]));
    let (_, rules) = engine.get("/v1/rules").await;
    assert_eq!((&rules["epoch"], &rules["last_error"]), (&json!(0), &Value::Null));
    let broken = json!({"files": [{"name": "bad.yaml", "text": RULE.replace("severity: high", "severity: hihg")}]});
    let (status, body) = engine.post("/v1/rules/diff", &broken).await;
    assert_eq!((status, body["code"].as_str()), (422, Some("invalid_rules")), "{body}");
    assert!(body["diagnostics"][0]["rendered"].as_str().is_some_and(|text| text.contains("bad.yaml:")), "{body}");
    let (_, rules) = engine.get("/v1/rules").await;
    assert_eq!(rules["last_error"], Value::Null);
    let (_, trail) = engine.get("/v1/audit").await;
    assert_eq!(trail["rows"], json!([]), "nothing was written");
}

#[tokio::test]
async fn a_what_if_keeps_others_out_until_it_ends_or_its_client_goes() {
    let engine = Engine::start().await;
    let rule = json!({"files": [{"name": "reads.yaml", "text": RULE}]});
    let endless = tokio::spawn(http().post(engine.url("/v1/rules/diff")).json(&rule).send());
    until("another one is refused", || async {
        let (status, body) = engine.post("/v1/rules/diff", &none()).await;
        assert!(status == 200 || body["code"] == "what_if_busy", "{status} {body}");
        status == 409
    })
    .await;
    endless.abort();
    until("another one is let in", || async { engine.post("/v1/rules/diff", &none()).await.0 == 200 }).await;
    // A server that stops waits for none.
    let endless = tokio::spawn(http().post(engine.url("/v1/rules/diff")).json(&rule).send());
    until("the next one is under way", || async { engine.post("/v1/rules/diff", &none()).await.0 == 409 }).await;
    engine.stop().await;
    let answer = endless.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(body["code"], "stopping");
}

#[tokio::test]
async fn bodies_that_are_no_rule_set_are_refused() {
    for route in ["/v1/rules", "/v1/rules/diff"] {
        bodies_are_refused(route).await;
    }
}

async fn bodies_are_refused(route: &str) {
    let engine = Engine::start().await;
    let url = engine.url(route);
    let huge = format!("{{\"files\": [{{\"name\": \"a\", \"text\": \"{}\"}}]}}", "x".repeat(api::MAX_BODY_BYTES));
    let cases: [(&str, String, u16, &str); 6] = [
        ("application/json", "{\"files\": []}".into(), 400, "\"files\" is empty"),
        ("application/json", "{\"files\": [{\"name\": \"a\"}]}".into(), 400, "missing field `text`"),
        ("application/json", "{\"file\": []}".into(), 400, "unknown field `file`"),
        ("application/json", "{".into(), 400, "EOF"),
        ("text/plain", "{\"files\": []}".into(), 415, "content-type"),
        ("application/json", huge, 413, "16 MiB"),
    ];
    for (kind, body, expected, text) in cases {
        let request = http().post(&url).header("content-type", kind).body(body);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), expected, "{text}");
        let body: Value = response.json().await.expect("JSON");
        assert!(error(&body).contains(text), "{body}");
    }
}

#[tokio::test]
async fn every_documented_route_exists_and_every_other_is_refused_in_json() {
    let engine = Engine::start().await;
    let (_, document) = engine.get("/v1/openapi.json").await;
    let routes = document["paths"].as_object().expect("paths");
    for (route, methods) in routes {
        let path = route.replace("{agent}", "a0").replace("{session}", "s").replace("{id}", "id-high");
        for method in methods.as_object().expect("methods").keys() {
            let method = method.to_uppercase().parse().expect("a method");
            let response = http().request(method, engine.url(&path)).send().await.expect("an answer");
            let code = response.status().as_u16();
            assert!(code != 405, "{route} is documented with another method");
            if code == 404 {
                let body: Value = response.json().await.expect("JSON");
                assert!(!error(&body).contains("there is no"), "{route} is documented, and there is no such route");
            }
        }
    }
    for route in ["/", "/v1", "/v1/nothing", "/v1/sessions/a/b/c", "/%ff"] {
        let (status, body) = engine.get(route).await;
        assert_eq!((status, body["code"].as_str()), (404, Some("not_found")), "{route}");
    }
    let (status, body) = engine.post("/v1/sessions", &json!({})).await;
    assert_eq!((status, body["code"].as_str()), (405, Some("method_not_allowed")));
    let (status, body) = engine.get("/v1/alerts/%ff").await;
    assert_eq!((status, body["code"].as_str()), (400, Some("invalid_path")), "{body}");
}

#[tokio::test]
async fn a_request_for_another_host_is_refused() {
    let engine = Engine::start().await;
    let request = http().get(engine.url("/v1/sessions")).header("host", "rebound.example");
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 403);
}

fn idle_handle() -> (Handle, mpsc::Receiver<clawdstrike_edr::runtime::handle::Request>) {
    let (requests, inbox) = mpsc::channel(1);
    let active = ActiveRules {
        set: Arc::default(),
        warnings: vec![],
        files: vec![],
        digest: String::new(),
        epoch: 0,
        last_error: None,
    };
    let rules = Arc::new(watch::Sender::new(Arc::new(active)));
    let (_, stats) = watch::channel(Stats::default());
    (Handle::new(requests, feeds().1, rules, stats), inbox)
}

#[tokio::test]
async fn anonymous_access_needs_a_loopback_address() {
    let (handle, _inbox) = idle_handle();
    let outside = Api { listen: SocketAddr::from(([0, 0, 0, 0], 0)), allow_anonymous: true, ..Api::default() };
    let error = api::serve(&outside, Path::new("state"), handle, std::future::pending());
    let error = error.await.expect_err("must be refused");
    assert!(error.contains("allow_anonymous") && error.contains("loopback"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let engine = Engine::start().await;
    let (handle, _inbox) = idle_handle();
    let taken = Api { listen: engine.address, ..Api::default() };
    let error = api::serve(&taken, Path::new("state"), handle, std::future::pending()).await.expect_err("taken");
    assert!(error.contains(&engine.address.to_string()) && error.contains("another port"), "{error}");
}

#[tokio::test]
async fn an_engine_that_is_gone_is_told_not_hung_on() {
    let mut engine = Engine::start().await;
    let (status, body) = engine.get("/v1/ready").await;
    assert_eq!((status, &body["as_of"]), (200, &json!(7)));
    engine.kill_backend().await;
    let (status, body) = engine.get("/v1/ready").await;
    assert_eq!((status, body["code"].as_str()), (503, Some("not_ready")));
    let (status, body) = engine.get("/v1/alerts").await;
    assert_eq!((status, body["code"].as_str()), (503, Some("stopping")));
    let (status, body) = engine.get("/v1/health").await;
    assert_eq!((status, body["status"].as_str()), (200, Some("ok")), "health is about the process");
}

#[tokio::test]
async fn health_and_metrics_tell_the_counters() {
    let engine = Engine::start().await;
    let stats = Stats {
        epoch: 41,
        watermark: Some(1_714_564_800_500_000),
        events: 1_000,
        dead_letters: [("bad_json".to_owned(), 3)].into(),
        retimed: 2,
        alert_versions: 5,
        sessions_left: 7,
        lost_records: [("kafka".to_owned(), 12)].into(),
        archive_lost_records: [("kafka".to_owned(), 13)].into(),
        groups_shed: 8,
        archived: 900,
        archive_left_out: 90,
        positions: vec![(3, 1, 77)],
        lags: vec![(3, 1, 23)],
        store_waiting: (4, 6),
        exports_waiting: 1,
        degraded: [("store \"a\nb".to_owned(), "down".to_owned())].into(),
        ..Stats::default()
    };
    engine.stats.send_replace(stats);
    let (_, body) = engine.get("/v1/health").await;
    assert_eq!((body["status"].as_str(), &body["events"]), (Some("degraded"), &json!(1_000)));
    assert_eq!(body["watermark"], "2024-05-01T12:00:00.500000Z");
    let response = http().get(engine.url("/metrics")).send().await.expect("an answer");
    assert!(response.headers()["content-type"].to_str().is_ok_and(|t| t.starts_with("text/plain; version=0.0.4")));
    let text = response.text().await.expect("text");
    for line in [
        "# TYPE clawdstrike_events_total counter",
        "clawdstrike_events_total 1000",
        "clawdstrike_events_archived_total 900",
        "clawdstrike_archive_left_out_total 90",
        "clawdstrike_sessions_left_total 7",
        "clawdstrike_source_lost_records_total{source=\"kafka\"} 12",
        "clawdstrike_archive_lost_records_total{source=\"kafka\"} 13",
        "clawdstrike_groups_shed_total 8",
        "clawdstrike_dead_letters_total{reason=\"bad_json\"} 3",
        "clawdstrike_watermark_timestamp_seconds 1714564800.5",
        "clawdstrike_degraded{part=\"store \\\"a\\nb\"} 1",
        "clawdstrike_rules_load_failed 0",
        "clawdstrike_epoch 41",
        "clawdstrike_hits_total 3",
        "clawdstrike_source_position{partition=\"1\",source=\"3\"} 77",
        "clawdstrike_source_lag{partition=\"1\",source=\"3\"} 23",
        "clawdstrike_queue_depth{queue=\"store_sessions\"} 6",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }
}

#[tokio::test]
async fn errors_are_problem_details() {
    let engine = Engine::start().await;
    let response = http().get(engine.url("/v1/alerts/id-none")).send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body: Value = response.json().await.expect("JSON");
    assert_eq!((&body["type"], &body["title"]), (&json!("urn:clawdstrike-edr:problem:not_found"), &json!("not found")));
    assert_eq!((&body["status"], &body["code"]), (&json!(404), &json!("not_found")));
    assert!(body["detail"].is_string() && body["hint"].is_string(), "{body}");
}

#[tokio::test]
async fn answers_are_neither_cached_nor_sniffed() {
    let engine = Engine::start().await;
    let response = http().get(engine.url("/v1/alerts")).send().await.expect("an answer");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn analysts_acknowledge_close_and_comment() {
    let engine = Engine::start().await;
    for (deed, status) in [("acknowledge", "acknowledged"), ("close", "closed"), ("comment", "updated")] {
        let (code, body) = engine.post(&format!("/v1/alerts/id-high/{deed}"), &json!({"comment": "mine"})).await;
        let (alert, note) = (&body["alert"], &body["alert"]["handling"][0]);
        assert_eq!((code, alert["status"].as_str()), (200, Some(status)), "{body}");
        assert_eq!((&note["by"], &note["deed"], &note["comment"]), (&json!("anonymous"), &json!(deed), &json!("mine")));
        assert!(note["time"].as_str().is_some_and(|t| t.ends_with('Z')), "{note}");
    }
    let (_, trail) = engine.get("/v1/audit?limit=2").await;
    let (done, begun) = (&trail["rows"][0], &trail["rows"][1]);
    assert_eq!((&done["action"], &begun["action"]), (&json!("alerts.comment"), &json!("alerts.comment")), "{trail}");
    assert_eq!((&done["outcome"], &begun["outcome"]), (&json!("done"), &json!("begun")), "{trail}");
    let (code, body) = engine.post("/v1/alerts/id-high/acknowledge", &json!({})).await;
    assert_eq!((code, &body["alert"]["handling"][0]["comment"]), (200, &json!("")));
    for (route, sent, code, text) in [
        ("id-high/comment", json!({"comment": " "}), 400, "is empty"),
        ("id-high/comment", json!({"comment": "x".repeat(4_097)}), 400, "4097 bytes"),
        ("id-high/close", json!({"remark": "x"}), 400, "unknown field `remark`"),
        ("id-none/close", json!({}), 404, "not in the live view"),
    ] {
        let (status, body) = engine.post(&format!("/v1/alerts/{route}"), &sent).await;
        assert_eq!(status, code, "{body}");
        assert!(error(&body).contains(text), "{body}");
    }
}
