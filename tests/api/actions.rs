//! The ledger of actions through the API and the command line.

use clawdstrike_edr::alert::{Alert, Status};
use clawdstrike_edr::audit::Audit;
use clawdstrike_edr::config::{Api, Response};
use clawdstrike_rules::plan::{Action, ActionKind, Severity};
use serde_json::{Value, json};

use super::backend::{Engine, HOSTILE, alert, until};
use super::local::{edr, run};

/// Alerts that ask for a quarantine, which waits, and for the SOC, who isn't there. Of the second one the agent has no id
/// that fits a path, so its termination fails for good.
async fn with_actions() -> Engine {
    let engine = Engine::start().await;
    let action = |kind| Action { kind, params: Default::default() };
    let of = |id: &str, agent: &str, kinds: &[ActionKind]| Alert {
        agent_id: agent.into(),
        actions: kinds.iter().copied().map(action).collect(),
        ..alert(id, Severity::High, Status::Open)
    };
    let alerts = [
        of("one", HOSTILE, &[ActionKind::QuarantineAgent, ActionKind::AlertSoc]),
        of("two", "..", &[ActionKind::TerminateSession]),
    ];
    engine.response.submit(1, alerts.into()).await;
    until("one failed", || async { engine.get("/v1/actions?state=failed").await.1["total"] == 1 }).await;
    engine
}

async fn ask_for_quarantine(engine: &Engine) {
    let action = Action { kind: ActionKind::QuarantineAgent, params: Default::default() };
    let alert = Alert { actions: vec![action], ..alert("one", Severity::High, Status::Open) };
    engine.response.submit(1, [alert].into()).await;
}

fn first_id(body: &Value) -> String {
    body["actions"][0]["id"].as_str().expect("an id").to_owned()
}

async fn ask(engine: &Engine, arguments: &[&str]) -> (i32, String, String) {
    let mut command = edr(arguments);
    command.env("CLAWDSTRIKE_API", engine.url(""));
    tokio::task::spawn_blocking(move || run(&mut command)).await.expect("no panic")
}

#[tokio::test]
async fn actions_are_listed_shown_and_decided() {
    let engine = with_actions().await;
    let (code, body) = engine.get("/v1/actions").await;
    assert_eq!((code, &body["total"]), (200, &json!(3)));
    let (_, body) = engine.get("/v1/actions?state=waiting&alert_id=one").await;
    let id = first_id(&body);
    assert_eq!(body["actions"][0]["reason"], "[response] requires_approval names it");
    let (code, body) = engine.get(&format!("/v1/actions/{}", &id[..12])).await;
    assert_eq!((code, body["action"]["id"].as_str()), (200, Some(id.as_str())));
    let decide = async |what: &str| engine.post(&format!("/v1/actions/{id}/{what}"), &json!({})).await;
    let (code, body) = decide("retry").await;
    assert_eq!((code, &body["code"], &body["state"]), (409, &json!("wrong_state"), &json!("waiting")));
    let (code, body) = decide("reject").await;
    assert_eq!(
        (code, &body["action"]["state"], &body["action"]["decided_by"]),
        (200, &json!("rejected"), &json!("anonymous"))
    );
    assert_eq!(decide("approve").await.0, 409);
    let retracted =
        Alert { alert_id: "two".into(), status: Status::Retracted, ..alert("two", Severity::High, Status::Open) };
    let (_, body) = engine.get("/v1/actions?state=failed").await;
    let failed = first_id(&body);
    let (code, _) = engine.post(&format!("/v1/actions/{failed}/retry"), &json!({})).await;
    assert_eq!(code, 200);
    until("it failed again", || async {
        engine.get(&format!("/v1/actions/{failed}")).await.1["action"]["attempts"] == 2
    })
    .await;
    until("it is noted", || async { engine.get("/v1/actions?state=failed").await.1["total"] == 1 }).await;
    engine.response.submit(2, [retracted].into()).await;
    until("it is marked", || async {
        engine.post(&format!("/v1/actions/{failed}/retry"), &json!({})).await.1["code"] == "alert_retracted"
    })
    .await;
}

#[tokio::test]
async fn actions_are_listed_in_pages_that_nothing_shifts() {
    let engine = with_actions().await;
    let (_, whole) = engine.get("/v1/actions").await;
    let rows = whole["actions"].as_array().expect("rows");
    assert!(rows.len() > 1 && whole["next"].is_null() && whole["as_of"] == 7, "{whole}");
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = engine.get(&format!("/v1/actions?limit=1{cursor}")).await;
        pages.extend(page["actions"].as_array().expect("rows").iter().map(|row| row["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_no_action_or_no_state_is_refused() {
    let engine = with_actions().await;
    for (route, code) in [
        ("/v1/actions/ffffffff", 404),
        ("/v1/actions/%25", 404),
        ("/v1/actions?state=done", 400),
        ("/v1/actions?states=failed", 400),
    ] {
        assert_eq!(engine.get(route).await.0, code, "{route}");
    }
    // A form of another site has no JSON to offer.
    let form =
        reqwest::Client::new().post(engine.url("/v1/actions/ff/approve")).body("{}").send().await.expect("an answer");
    assert_eq!(form.status().as_u16(), 415);
}

#[tokio::test]
async fn readers_see_actions_and_only_responders_decide() {
    let engine = with_actions().await;
    let id = first_id(&engine.get("/v1/actions?state=waiting").await.1);
    let analyst = engine.token("soc_analyst").await;
    assert_eq!(engine.ask("GET", "/v1/actions", Some(&analyst)).await.0, 200);
    let (code, _, body) = engine.ask("POST", &format!("/v1/actions/{id}/approve"), Some(&analyst)).await;
    assert_eq!((code, &body["permission"]), (403, &json!("write:responses")));
}

#[tokio::test]
async fn four_eyes_are_two_tokens_and_the_trail_tells_both() {
    let api = Api { allow_anonymous: false, ..Api::default() };
    let engine = Engine::start_acting(api, Response { four_eyes: true, ..Response::default() }).await;
    let (ann, bob) = (engine.token("administrator").await, engine.token("security_engineer").await);
    ask_for_quarantine(&engine).await;
    let list = async || engine.ask("GET", "/v1/actions?state=waiting", Some(&ann)).await.2;
    until("it waits", || async { list().await["total"] == 1 }).await;
    let id = first_id(&list().await);
    let approve = async |token: &str| engine.act(&format!("/v1/actions/{id}/approve"), token).await;
    let (code, body) = approve(&ann).await;
    let action = &body["action"];
    assert_eq!((code, &action["state"], &action["approved_by"]), (200, &json!("waiting"), &json!("administrator")));
    let (code, body) = approve(&ann).await;
    assert_eq!((code, &body["code"]), (409, &json!("second_person_needed")));
    let (code, body) = approve(&bob).await;
    let action = &body["action"];
    assert_eq!(
        (code, &action["state"], &action["approved_by"], &action["decided_by"]),
        (200, &json!("pending"), &json!("administrator"), &json!("security_engineer"))
    );
    let trail = Audit::of(engine.state.path()).page(None, 100).expect("a trail").rows;
    let approvals = trail.iter().rev().filter(|row| row["action"] == "actions.approve" && row["outcome"] != "begun");
    let told: Vec<_> = approvals
        .map(|row| (&row["who"]["name"], &row["outcome"], &row["detail"]["state"], &row["detail"]["approved_by"]))
        .collect();
    let (ann, bob) = (&json!("administrator"), &json!("security_engineer"));
    let (done, failed, none) = (&json!("done"), &json!("failed"), &Value::Null);
    assert_eq!(
        told,
        [(ann, done, &json!("waiting"), ann), (ann, failed, none, none), (bob, done, &json!("pending"), ann)],
        "{trail:#?}"
    );
}

#[tokio::test]
async fn commands_list_show_and_decide() {
    let engine = with_actions().await;
    let (code, out, err) = ask(&engine, &["actions", "list", "--state", "waiting"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("quarantine_agent") && out.lines().count() == 2, "{out}");
    assert!(!out.contains('\u{1b}') && !out.lines().any(|line| line.starts_with("forged")), "{out}");
    let id = first_id(&engine.get("/v1/actions?state=waiting").await.1);
    let (code, out, err) = ask(&engine, &["actions", "show", &id[..16]]).await;
    assert!(code == 0 && out.contains("requires_approval names it"), "{out}{err}");
    let (code, out, _) = ask(&engine, &["actions", "approve", &id[..16]]).await;
    assert!(code == 0 && out.contains("is pending"), "{out}");
    let (code, out, _) = ask(&engine, &["actions", "retry", "--failed", "--output", "json"]).await;
    assert!(code == 0 && out.contains("terminate_session"), "{out}");
    let (code, _, err) = ask(&engine, &["actions", "reject", "ffff"]).await;
    assert!(code == 1 && err.contains("no action's id"), "{err}");
    assert_eq!(ask(&engine, &["actions", "retry"]).await.0, 2);
}
