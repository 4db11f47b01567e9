//! Who may do what: every route with every role, tokens from their creation to their end, and rates.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use clawdstrike_edr::api::routes::{Needs, ROUTES};
use clawdstrike_edr::config::Api;
use clawdstrike_edr::config::roles::{Grant, Permission, Role, Roles};
use serde_json::{Value, json};

use super::backend::{Engine, http, until};
use super::local::{edr, run};

/// A path that the stand-in has something for.
fn path(route: &str) -> String {
    route.replace("{agent}", "a0").replace("{session}", "s").replace("{id}", "id-high")
}

/// The permissions that it takes, all of them.
fn asked(needs: Needs) -> Vec<Permission> {
    match needs {
        Needs::Nothing | Needs::Token => vec![],
        Needs::Permission(asked) => vec![asked],
        Needs::Both(one, other) => vec![one, other],
    }
}

/// The built-in roles, one without any permission, and one for each permission alone.
fn roles() -> Roles {
    let mut roles = Roles::default();
    roles.0.insert("nothing".into(), Role::default());
    for permission in Permission::ALL {
        let role = Role { permissions: vec![Grant::One(permission)] };
        roles.0.insert(permission.name().replace(':', "-"), role);
    }
    roles
}

#[tokio::test]
async fn every_route_lets_in_the_roles_that_have_its_permission_and_no_others() {
    let roles = roles();
    let engine = Engine::start_with(Api { roles: roles.clone(), requests_per_second: 1_000, ..Api::default() }).await;
    let mut tokens = BTreeMap::new();
    for role in roles.0.keys() {
        tokens.insert(role, engine.token(role).await);
    }
    for route in ROUTES {
        let (status, headers, body) = engine.ask(route.method, &path(route.path), None).await;
        match route.needs {
            Needs::Nothing => assert_eq!(status, 200, "{}", route.path),
            _ => {
                assert_eq!((status, body["code"].as_str()), (401, Some("unauthorized")), "{}", route.path);
                assert!(headers["www-authenticate"].to_str().is_ok_and(|v| v.starts_with("Bearer")), "{headers:?}");
                assert!(body["hint"].as_str().is_some_and(|h| h.contains("token create")), "{body}");
            }
        }
        for (role, token) in &tokens {
            let (status, headers, body) = engine.ask(route.method, &path(route.path), Some(token)).await;
            let what = format!("{} {} as {role}: {status} {body}", route.method, route.path);
            match asked(route.needs).into_iter().find(|asked| !roles.0[*role].permits(*asked)) {
                Some(asked) => {
                    assert_eq!((status, body["permission"].as_str()), (403, Some(asked.name())), "{what}");
                    assert!(
                        body["detail"].as_str().is_some_and(|d| d.contains(asked.name()) && d.contains(*role)),
                        "{what}"
                    );
                    assert!(
                        headers["www-authenticate"].to_str().is_ok_and(|v| v.contains("insufficient_scope")),
                        "{what}"
                    );
                }
                // A load without a body has come as far as its route.
                None => assert!(![401, 403, 405].contains(&status) && !what.contains("there is no"), "{what}"),
            }
        }
    }
}

#[tokio::test]
async fn the_built_in_roles_may_what_their_names_say() {
    let allowed = |role: &str| -> BTreeSet<String> {
        let role = &Roles::default().0[role];
        let may = |needs| {
            let asked = asked(needs);
            !asked.is_empty() && asked.into_iter().all(|asked| role.permits(asked))
        };
        ROUTES.iter().filter(|r| may(r.needs)).map(|r| format!("{} {}", r.method, r.path)).collect()
    };
    let analyst = allowed("soc_analyst");
    // What came of an alert is read with it; deciding about that is another matter.
    let of_alerts_and_sessions =
        |route: &String| ["/v1/alerts", "/v1/sessions", "GET /v1/actions"].iter().any(|part| route.contains(part));
    assert!(!analyst.is_empty() && analyst.iter().all(of_alerts_and_sessions), "{analyst:?}");
    assert!(allowed("security_engineer").contains("POST /v1/rules"));
    assert!(allowed("security_engineer").contains("POST /v1/rules/diff"));
    let both: BTreeSet<String> = allowed("security_engineer").union(&analyst).cloned().collect();
    assert_eq!(both, allowed("administrator"));
}

#[tokio::test]
async fn the_document_tells_every_route_and_what_it_needs() {
    let engine = Engine::start().await;
    let (_, document) = engine.get("/v1/openapi.json").await;
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, told) in methods.as_object().expect("methods") {
            documented.insert((
                method.to_uppercase(),
                path.clone(),
                told["x-permission"].to_string(),
                told["security"].to_string(),
            ));
            let answers = told["responses"].as_object().expect("responses");
            let guarded = ["401", "403", "429"].iter().filter(|code| answers.contains_key(**code)).count();
            assert_eq!(guarded, if told["security"] == json!([]) { 1 } else { 3 }, "{method} {path}");
        }
    }
    let row = |route: &clawdstrike_edr::api::routes::Route| {
        let (permission, security) = match route.needs {
            Needs::Nothing => (Value::Null, json!([])),
            Needs::Token => (Value::Null, Value::Null),
            needs => {
                let names: Vec<&str> = asked(needs).into_iter().map(Permission::name).collect();
                (json!(names.join(" ")), Value::Null)
            }
        };
        (route.method.to_owned(), route.path.to_owned(), permission.to_string(), security.to_string())
    };
    let there: BTreeSet<_> = ROUTES.iter().map(row).collect();
    assert!(documented == there, "documented: {documented:#?}\nthere: {there:#?}");
    assert_eq!(document["security"], json!([{"bearer": []}]));
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[tokio::test]
async fn a_token_holds_from_its_creation_to_its_end_without_a_restart() {
    let engine = Engine::start_as(false).await;
    let status = |token: String| {
        let engine = &engine;
        async move { engine.ask("GET", "/v1/alerts", Some(&token)).await.0 }
    };
    assert_eq!(status("cse_0000".into()).await, 401, "before there is any");
    let told = engine.tokens().create("dana", "soc_analyst", 0, None).expect("a token");
    until("the new token holds", || async { status(told.secret.clone()).await == 200 }).await;
    engine.tokens().revoke("dana").expect("revoked");
    until("the revoked token is refused", || async { status(told.secret.clone()).await == 401 }).await;
    let old = engine.tokens().create("old", "soc_analyst", 0, Some(1)).expect("a token");
    until("the expired token is named", || async {
        let (status, headers, body) = engine.ask("GET", "/v1/alerts", Some(&old.secret)).await;
        assert_eq!(status, 401);
        let challenge = headers["www-authenticate"].to_str().expect("text").to_owned();
        challenge.contains("invalid_token") && body["detail"] == "the token \"old\" has expired"
    })
    .await;
}

#[tokio::test]
async fn what_is_no_token_of_ours_is_refused_also_where_anonymous_callers_are_let_in() {
    let engine = Engine::start().await;
    for header in ["Basic YTpi", "Bearer", "Bearer ", "Bearer cse_0", "cse_0"] {
        let request = http().get(engine.url("/v1/alerts")).header("authorization", header);
        assert_eq!(request.send().await.expect("an answer").status().as_u16(), 401, "{header}");
    }
    let analyst = engine.token("soc_analyst").await;
    assert_eq!(engine.ask("GET", "/v1/rules", None).await.0, 200, "anonymous");
    assert_eq!(engine.ask("GET", "/v1/rules", Some(&analyst)).await.0, 403, "a token is taken at its word");
}

#[tokio::test]
async fn tokens_of_unknown_roles_and_files_that_others_may_write_let_nobody_in() {
    let engine = Engine::start_as(false).await;
    let token = engine.tokens().create("ghost", "gone", 0, None).expect("a token").secret;
    until("the role is named", || async {
        let (status, _, body) = engine.ask("GET", "/v1/alerts", Some(&token)).await;
        status == 403 && body["detail"].as_str().is_some_and(|d| d.contains("no role \"gone\""))
    })
    .await;
    let analyst = engine.token("soc_analyst").await;
    let path = engine.tokens().path().to_owned();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("a mode");
    until("tokens are refused", || async { engine.ask("GET", "/v1/alerts", Some(&analyst)).await.0 == 503 }).await;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    until("tokens hold again", || async { engine.ask("GET", "/v1/alerts", Some(&analyst)).await.0 == 200 }).await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_ask_again() {
    let engine = Engine::start_with(Api { requests_per_second: 10, ..Api::default() }).await;
    let token = engine.token("soc_analyst").await;
    let hurry = |token: Option<String>| {
        let engine = &engine;
        async move {
            for _ in 0..1_000 {
                let (status, headers, body) = engine.ask("GET", "/v1/alerts", token.as_deref()).await;
                if status == 429 {
                    assert!(headers["retry-after"].to_str().is_ok_and(|s| s == "1"), "{headers:?}");
                    assert_eq!(body["code"], "too_many_requests");
                    return;
                }
            }
            panic!("a thousand requests at once were answered");
        }
    };
    hurry(Some(token)).await;
    let other = engine.tokens().create("other", "soc_analyst", 0, None).expect("a token").secret;
    until("another token isn't held up", || async { engine.ask("GET", "/v1/alerts", Some(&other)).await.0 == 200 })
        .await;
    hurry(None).await;
    until("an address that shows no token is held up", || async { engine.ask("GET", "/livez", None).await.0 == 429 })
        .await;
}

#[tokio::test]
async fn the_command_line_makes_shows_and_revokes_tokens_and_sends_them() {
    let engine = Engine::start_as(false).await;
    let config = engine.state.path().join("workers.toml");
    std::fs::write(&config, "[cluster]\nstate = \".\"\n").expect("a file");
    let config = config.to_str().expect("UTF-8").to_owned();
    let url = engine.url("");
    let edr = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = edr(arguments);
        command.env("CLAWDSTRIKE_API", &url).envs(variables.iter().copied());
        tokio::task::spawn_blocking(move || run(&mut command))
    };
    let create =
        ["token", "create", "--config", &config, "--role", "soc_analyst", "--name", "dana", "--expires", "30d"];
    let (code, token, err) = edr(&create, &[]).await.expect("no panic");
    assert_eq!(code, 0, "{err}");
    let token = token.trim_end();
    assert!(token.starts_with("cse_") && err.contains("this once") && !err.contains(token), "{err}");
    until("the token holds", || async { engine.ask("GET", "/v1/alerts", Some(token)).await.0 == 200 }).await;
    let file = engine.state.path().join("token");
    std::fs::write(&file, format!("{token}\n")).expect("a file");
    let file = file.to_str().expect("UTF-8");
    for (arguments, variables) in [
        (vec!["alerts", "list", "--token", token], vec![]),
        (vec!["alerts", "list"], vec![("CLAWDSTRIKE_TOKEN", token)]),
        (vec!["alerts", "list", "--token-file", file], vec![]),
    ] {
        let (code, out, err) = edr(&arguments, &variables).await.expect("no panic");
        assert!(code == 0 && out.contains("id-high"), "{arguments:?}: {err}");
    }
    let (code, _, err) = edr(&["rules", "list", "--token-file", file], &[]).await.expect("no panic");
    assert!(code == 1 && err.contains("403") && err.contains("\"read:rules\"") && !err.contains(token), "{err}");
    let (_, help, _) = edr(&["alerts", "list", "--help"], &[("CLAWDSTRIKE_TOKEN", token)]).await.expect("no panic");
    assert!(help.contains("CLAWDSTRIKE_TOKEN") && !help.contains(token), "{help}");
    let (code, out, _) = edr(&["token", "list", "--config", &config], &[]).await.expect("no panic");
    assert!(code == 0 && out.contains("dana") && out.contains("valid") && !out.contains(token), "{out}");
    let again = edr(&create, &[]).await.expect("no panic");
    assert!(again.0 == 1 && again.2.contains("\"dana\" already"), "{}", again.2);
    let boss = ["token", "create", "--config", &config, "--role", "boss", "--name", "x"];
    let (code, _, err) = edr(&boss, &[]).await.expect("no panic");
    assert!(code == 1 && err.contains("no role \"boss\"") && err.contains("\"administrator\""), "{err}");
    let (code, out, _) = edr(&["token", "revoke", "dana", "--config", &config], &[]).await.expect("no panic");
    assert!(code == 0 && out.contains("\"dana\""), "{out}");
    until("the token is refused", || async { engine.ask("GET", "/v1/alerts", Some(token)).await.0 == 401 }).await;
}
