//! What stands in the audit trail after writes, tried and refused, and what shows that somebody was at it.

use clawdstrike_edr::audit::Audit;
use serde_json::{Value, json};

use super::backend::{Engine, RULE, http};
use super::local::{edr, run};

fn trail(engine: &Engine) -> Audit {
    Audit::of(engine.state.path())
}

/// The trail's rows, the first one first.
fn rows(engine: &Engine) -> Vec<Value> {
    let mut rows = trail(engine).page(None, 1_000).expect("a trail").rows;
    rows.reverse();
    rows
}

fn set(text: &str) -> Value {
    json!({"files": [{"name": "reads.yaml", "text": text}]})
}

async fn load(engine: &Engine, token: Option<&str>, body: &Value) -> u16 {
    let mut request = http().post(engine.url("/v1/rules")).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn every_write_and_every_refused_one_has_its_row() {
    let engine = Engine::start_as(false).await;
    let engineer = engine.token("security_engineer").await;
    let analyst = engine.token("soc_analyst").await;
    assert_eq!(load(&engine, Some(&engineer), &set(RULE)).await, 200);
    assert_eq!(load(&engine, Some(&engineer), &set("rules: [{id: x}]")).await, 422);
    assert_eq!(load(&engine, Some(&engineer), &json!({"files": []})).await, 400);
    assert_eq!(load(&engine, Some(&analyst), &set(RULE)).await, 403);
    assert_eq!(load(&engine, None, &set(RULE)).await, 401);
    assert_eq!(engine.ask("GET", "/v1/rules", Some(&analyst)).await.0, 403, "a read leaves no row");
    let rows = rows(&engine);
    let told: Vec<(&str, &str, &str)> = rows
        .iter()
        .map(|row| {
            let text = |value: &Value| value.as_str().map(|t| t.to_owned().leak() as &str).unwrap_or_default();
            (text(&row["who"]["kind"]), text(&row["who"]["role"]), text(&row["outcome"]))
        })
        .collect();
    let engineer = |outcome| ("token", "security_engineer", outcome);
    assert_eq!(
        told,
        [
            engineer("begun"),
            engineer("done"),
            engineer("begun"),
            engineer("failed"),
            engineer("refused"),
            ("token", "soc_analyst", "refused"),
            ("nobody", "", "refused"),
        ],
        "{rows:#?}"
    );
    assert!(
        rows.iter()
            .all(|row| row["action"] == "rules.load" && row["from"].as_str().is_some_and(|f| f.starts_with("127.")))
    );
    let (first, done, second) = (&rows[0]["detail"], &rows[1]["detail"], &rows[2]["detail"]);
    assert_eq!((&done["of"], &done["epoch"]), (&json!(1), &json!(8)));
    // printf "$RULE" | sha256sum, its first column hashed again.
    assert_eq!(first["after"], "64001b7e60da3facfa972c86c22224e597fed9122a7961b4cd62ca4e574a6bca");
    assert_eq!((&second["before"], &first["files"]), (&first["after"], &json!(1)));
    assert!(second["after"] != first["after"]);
    let codes: Vec<_> = rows[4..].iter().map(|row| (&row["detail"]["status"], &row["detail"]["code"])).collect();
    assert_eq!(codes[1..], [(&json!(403), &json!("forbidden")), (&json!(401), &json!("unauthorized"))]);
    assert_eq!(codes[0].0, &json!(400));
    trail(&engine).verify().expect("a whole chain");
}

#[tokio::test]
async fn a_flood_of_refused_writes_is_counted_instead_of_filling_the_disk() {
    let engine = Engine::start_as(false).await;
    for _ in 0..100 {
        assert_eq!(load(&engine, None, &set(RULE)).await, 401);
    }
    let engineer = engine.token("security_engineer").await;
    assert_eq!(load(&engine, Some(&engineer), &set(RULE)).await, 200);
    let rows = rows(&engine);
    let refused = rows.iter().filter(|row| row["outcome"] == "refused").count() as u64;
    let left_out: u64 = rows.iter().filter_map(|row| row["detail"]["refused_left_out"].as_u64()).sum();
    assert!(refused < 50 && refused + left_out == 100, "{refused} rows, {left_out} left out");
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done() {
    let engine = Engine::start().await;
    let path = engine.state.path().join("audit.jsonl");
    std::fs::create_dir(&path).expect("something in the way");
    let (status, body) = engine.post("/v1/rules", &set(RULE)).await;
    assert_eq!((status, body["code"].as_str()), (503, Some("audit_unwritable")), "{body}");
    let (_, body) = engine.get("/v1/rules").await;
    assert_eq!(body["total"], 0);
    std::fs::remove_dir(&path).expect("out of the way");
    assert_eq!(engine.post("/v1/rules", &set(RULE)).await.0, 200);
}

#[tokio::test]
async fn the_trail_is_shown_in_pages_to_who_may_read_it() {
    let engine = Engine::start().await;
    for _ in 0..3 {
        assert_eq!(engine.post("/v1/rules", &set(RULE)).await.0, 200);
    }
    let numbers = |body: &Value| {
        let rows = body["rows"].as_array().expect("rows").iter();
        rows.map(|row| row["seq"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let (_, body) = engine.get("/v1/audit?limit=4").await;
    assert_eq!(numbers(&body), [6, 5, 4, 3]);
    let next = body["next"].as_str().expect("a cursor").to_owned();
    assert_eq!(body["rows"][0]["who"], json!({"kind": "anonymous"}));
    // What comes meanwhile shifts nothing.
    assert_eq!(engine.post("/v1/rules", &set(RULE)).await.0, 200);
    let (_, body) = engine.get(&format!("/v1/audit?limit=4&cursor={next}")).await;
    assert_eq!((numbers(&body), &body["next"]), (vec![2, 1], &Value::Null));
    let analyst = engine.token("soc_analyst").await;
    assert_eq!(engine.ask("GET", "/v1/audit", Some(&analyst)).await.0, 403);
}

#[tokio::test]
async fn the_command_line_lists_the_trail_and_names_the_first_broken_row() {
    let engine = Engine::start().await;
    let config = engine.state.path().join("workers.toml");
    std::fs::write(&config, "[cluster]\nstate = \".\"\n").expect("a file");
    let config = config.to_str().expect("UTF-8").to_owned();
    let url = engine.url("");
    let edr = |arguments: &[&str]| {
        let mut command = edr(arguments);
        command.env("CLAWDSTRIKE_API", &url);
        tokio::task::spawn_blocking(move || run(&mut command))
    };
    let create = ["token", "create", "--config", &config, "--role", "administrator", "--name", "root"];
    let (code, token, err) = edr(&create).await.expect("no panic");
    assert_eq!(code, 0, "{err}");
    assert_eq!(engine.post("/v1/rules", &set(RULE)).await.0, 200);
    let (code, _, err) = edr(&["token", "revoke", "root", "--config", &config]).await.expect("no panic");
    assert_eq!(code, 0, "{err}");
    let (code, out, err) = edr(&["audit", "list", "--limit", "3"]).await.expect("no panic");
    assert!(code == 0 && err.contains("3 shown; --limit shows more"), "{err}");
    assert!(out.contains("token.revoke") && out.contains("command line uid") && !out.contains("token.create"), "{out}");
    let verify = ["audit", "verify", "--config", &config];
    let (code, out, _) = edr(&verify).await.expect("no panic");
    assert!(code == 0 && out.contains("rows 1 to 4 are whole"), "{out}");
    let path = engine.state.path().join("audit.jsonl");
    let text = std::fs::read_to_string(&path).expect("a trail");
    assert!(!text.contains(token.trim()), "a token stands in the trail");
    std::fs::write(&path, text.replacen("anonymous", "nobody", 1)).expect("written");
    let (code, out, _) = edr(&verify).await.expect("no panic");
    assert!(code == 1 && out.contains("line 2") && out.starts_with("broken: "), "{out}");
    let file = path.to_str().expect("UTF-8");
    let (code, out, _) = edr(&["audit", "verify", file, "--output", "json"]).await.expect("no panic");
    assert!(code == 1 && out.contains("\"ok\": false"), "{out}");
}
