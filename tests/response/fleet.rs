//! A bad rule and a whole fleet: what is done unasked, what waits, who released it.

use std::process::{Child, Command, Stdio};

use clawdstrike_edr::audit::Audit;

use super::*;

const AGENTS: usize = 1_000;
const CAP: usize = 100;
/// Decisions asked for at a time.
const AT_A_TIME: usize = 16;

#[tokio::test]
async fn a_share_of_the_fleet_is_in_quarantine_and_the_rest_waits_for_who_approves() {
    let control = receiver();
    let config = config::Response { max_quarantined_percent: 5, ..config(None, Some(serve(&control).await)) };
    let running = Running::new(&config, quick());
    let names: Vec<String> = (0..AGENTS).map(|n| format!("agent-{n}")).collect();
    running.saw(names.iter().map(|name| ("", name.as_str()))).await;
    let running = running.crash(&config, quick()).await;
    for (n, agent_id) in names.iter().enumerate() {
        let alert = alert(&format!("a{n}"), &[action(ActionKind::QuarantineAgent)]);
        running.submit(n as u64, Arc::new(Alert { agent_id: agent_id.clone(), ..alert })).await;
    }
    all_done(&running).await;
    assert_eq!((control.deeds().len(), running.count(State::Waiting).await), (50, 950));
    let waiting = running.rows().await.into_iter().find(|row| row.state == State::Waiting).expect("one that waits");
    let reason = waiting.reason.expect("a reason");
    assert!(reason.contains("max_quarantined_percent (5)") && reason.contains("of 1000 agents 50 others"), "{reason}");
    running.actions().decide(&waiting.key, Decision::Approve, "ann").await.expect("a ledger").expect("approved");
    all_done(&running).await;
    assert_eq!(control.deeds().len(), 51);
}

const RULE: &str = "
rules:
  - id: BAD_RULE
    name: Fires for everybody
    severity: critical
    conditions:
      - {type: threshold, window: 1m, event_type: file_access, count: '>= 1'}
    actions: [quarantine_agent]
";

/// The engine with people's tokens.
struct Engine {
    up: Child,
    folder: tempfile::TempDir,
    api: String,
    tokens: [String; 2],
}

impl Engine {
    /// Agents are stopped by whoever is at this base URL; with these environment variables.
    fn start(control: &str, people: [&str; 2], environment: &[(&str, &str)]) -> Engine {
        let folder = tempfile::tempdir().expect("a folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let path = |name: &str| folder.path().join(name);
        for name in ["rules", "data"] {
            std::fs::create_dir(path(name)).expect("a folder");
        }
        std::fs::write(path("rules/bad.yaml"), RULE).expect("a file");
        let text = format!(
            "[[source]]\ntype = \"jsonl\"\nname = \"events\"\npath = \"data\"\n\
             [store]\ntype = \"none\"\n\
             [response]\nagent_control_api = \"{control}\"\nmax_actions_per_hour = {CAP}\nmax_quarantined_percent = 100\n\
             [api]\nlisten = \"127.0.0.1:{port}\"\nrequests_per_second = 100000\n"
        );
        std::fs::write(path("workers.toml"), text).expect("a file");
        let tokens = people.map(|name| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_clawdstrike-edr"));
            command.args(["token", "create", "--role", "security_engineer", "--name", name, "--config"]);
            let made = command.arg(path("workers.toml")).output().expect("the engine's program");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            String::from_utf8(made.stdout).expect("a token").trim().to_owned()
        });
        let log = std::fs::File::create(path("log")).expect("a file");
        let up = Command::new(env!("CARGO_BIN_EXE_clawdstrike-edr"))
            .args(["up", "--config"])
            .arg(path("workers.toml"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the engine's program");
        Engine { up, folder, api: format!("http://127.0.0.1:{port}"), tokens }
    }

    /// Writes whole lines into the source.
    fn write(&self, text: &str) {
        std::fs::write(self.folder.path().join("data/events.jsonl"), text).expect("a file");
    }

    async fn ask(&self, request: reqwest::RequestBuilder, person: usize) -> Option<(u16, Value)> {
        let answer = request.bearer_auth(&self.tokens[person]).send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    /// How many actions are in this state; `None`: nobody answers yet.
    async fn total(&self, state: &str) -> Option<u64> {
        let request = reqwest::Client::new().get(format!("{}/v1/actions?state={state}&limit=1", self.api));
        self.ask(request, 0).await?.1["total"].as_u64()
    }

    async fn until(&self, what: &str, expected: &[(&str, usize)]) {
        // A whole engine, on a machine that may be busy.
        let deadline = Instant::now() + 6 * DEADLINE;
        loop {
            let mut seen = Vec::new();
            for (state, _) in expected {
                seen.push(self.total(state).await);
            }
            if seen.iter().zip(expected).all(|(n, (_, expected))| *n == Some(*expected as u64)) {
                return;
            }
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: {seen:?} of {expected:?}\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A person decides of these.
    async fn decide(&self, ids: &[String], decision: &str, person: usize) {
        let client = reqwest::Client::new();
        for ids in ids.chunks(AT_A_TIME) {
            let mut asked = tokio::task::JoinSet::new();
            for id in ids {
                let request = client.post(format!("{}/v1/actions/{id}/{decision}", self.api)).json(&json!({}));
                asked.spawn(request.bearer_auth(&self.tokens[person]).send());
            }
            for answer in asked.join_all().await {
                assert_eq!(answer.expect("an answer").status().as_u16(), 200);
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Its processes end with it.
        self.up.kill().expect("a running engine");
        self.up.wait().expect("its end");
    }
}

/// The rule fires.
fn event(n: usize) -> String {
    json!({
        "event_id": format!("e{n}"), "agent_id": format!("agent-{n}"), "session_id": "s", "timestamp": "2024-05-06T10:00:00Z",
        "event_type": "file_access", "action": {"target": "/etc/hosts"},
        "result": {"allowed": true, "guard": "", "severity": "info", "message": ""}, "context": {},
    })
    .to_string()
        + "\n"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_through_the_proxy_of_the_environment() {
    let proxy = receiver();
    let address = format!("http://{}", serve(&proxy).await);
    let engine = Engine::start("http://agents.invalid/api", ["ann", "bob"], &[("HTTP_PROXY", &address)]);
    engine.write(&event(1));
    engine.until("it is done", &[("acknowledged", 1)]).await;
    assert_eq!(proxy.received()[0].headers["host"], "agents.invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_fires_for_every_agent_of_a_thousand_stops_at_the_cap_until_somebody_approves() {
    let control = receiver();
    let engine = Engine::start(&format!("http://{}/api", serve(&control).await), ["ann", "bob"], &[]);
    engine.write(&(0..AGENTS).map(event).collect::<String>());
    engine.until("the cap holds", &[("acknowledged", CAP), ("waiting", AGENTS - CAP)]).await;
    assert_eq!(control.deeds().len(), CAP);

    let list = reqwest::Client::new().get(format!("{}/v1/actions?state=waiting&limit=1000", engine.api));
    let (_, listed) = engine.ask(list, 0).await.expect("an answer");
    let rows = listed["actions"].as_array().expect("actions");
    assert!(
        rows.iter()
            .all(|row| row["reason"] == format!("the cap of [response] max_actions_per_hour ({CAP}) is reached"))
    );
    let ids: Vec<String> = rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect();
    let (bad, good) = ids.split_at(3);
    engine.decide(bad, "reject", 1).await;
    engine.decide(good, "approve", 0).await;
    engine.until("what was approved is done", &[("acknowledged", AGENTS - 3), ("rejected", 3), ("waiting", 0)]).await;

    let agents: BTreeSet<String> = control.deeds().into_iter().map(|deed| deed.agent_id).collect();
    assert_eq!((control.deeds().len(), agents.len()), (AGENTS - 3, AGENTS - 3), "each agent once");
    let trail = Audit::of(&engine.folder.path().join("state")).page(None, 10 * AGENTS).expect("a trail").rows;
    for (who, action, decided) in [("ann", "actions.approve", good), ("bob", "actions.reject", bad)] {
        let begun = trail.iter().filter(|row| row["action"] == action && row["outcome"] == "begun");
        let told: BTreeSet<(Option<&str>, Option<&str>)> =
            begun.map(|row| (row["who"]["name"].as_str(), row["detail"]["action_id"].as_str())).collect();
        assert_eq!(told, decided.iter().map(|id| (Some(who), Some(id.as_str()))).collect(), "{action}");
        let done = trail.iter().filter(|row| row["action"] == action && row["outcome"] == "done").count();
        assert_eq!(done, decided.len());
    }
}
