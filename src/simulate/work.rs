//! Normal work of agents: pools of targets and the unchanging parts of JSON lines, made once, so that an event costs a
//! few copies. Nothing here may satisfy a rule of `rules/ai-threats.yaml`, alone or together; `tests/simulate.rs` holds it.

use clawdstrike_telemetry::EventType;

/// Normal work of one event type.
pub(super) struct Kind {
    /// From the end of the timestamp to the start of the target.
    pub(super) head: Vec<u8>,
    /// JSON text without its quotes, never empty.
    pub(super) targets: Vec<Vec<u8>>,
    /// What stands before and after 16 hex digits in a target never seen before; `None`: this type has none.
    pub(super) fresh: Option<(&'static [u8], &'static [u8])>,
    /// From the end of the target to the request id, never empty.
    pub(super) allowed: Vec<Vec<u8>>,
    /// Likewise, of a violation; empty: this type has none, because a rule begins with it.
    pub(super) denied: Vec<Vec<u8>>,
}

/// All of normal work.
pub(super) struct Work {
    /// By [`EventType::index`].
    pub(super) kinds: [Kind; 7],
    /// Index of an event's type by a random byte.
    pub(super) mix: [u8; 256],
    /// Likewise, in a session under attack: only what none of the rules looks at.
    pub(super) quiet_mix: [u8; 256],
}

/// How many of 256 events have each type, in the order of [`EventType::ALL`].
const MIX: [usize; 7] = [96, 36, 38, 40, 36, 9, 1];
const QUIET_MIX: [usize; 7] = [0, 100, 0, 60, 80, 16, 0];

/// Share of normal events whose type can have a fresh target.
pub(super) const CAN_BE_FRESH: f64 = (MIX[1] + MIX[2] + MIX[3] + MIX[4] + MIX[5]) as f64 / 256.0;

const PROJECTS: [&str; 8] = ["atlas", "billing", "crawler", "dispatch", "editor", "forecast", "gateway", "helpdesk"];
const MODULES: [&str; 16] = [
    "auth", "batch", "cache", "client", "config", "errors", "events", "index", "jobs", "model", "parser", "queue",
    "routes", "schema", "session", "worker",
];

impl Work {
    pub(super) fn new() -> Self {
        Work { kinds: EventType::ALL.map(kind), mix: table(MIX), quiet_mix: table(QUIET_MIX) }
    }
}

fn table(shares: [usize; 7]) -> [u8; 256] {
    let mut table = [0; 256];
    let types = shares.iter().enumerate().flat_map(|(i, n)| std::iter::repeat_n(i as u8, *n));
    for (entry, event_type) in table.iter_mut().zip(types) {
        *entry = event_type;
    }
    table
}

fn kind(event_type: EventType) -> Kind {
    let (guard, args, denied) = match event_type {
        EventType::FileAccess => {
            ("forbidden_path", r#"{"offset":0,"limit":2000}"#, Some("path is outside of the workspace"))
        }
        EventType::FileWrite => {
            ("forbidden_path", r#"{"mode":"overwrite","bytes":4096}"#, Some("path is read-only for this agent"))
        }
        EventType::NetworkEgress => {
            ("egress_allowlist", r#"{"method":"GET","bytes_out":812}"#, Some("host is not on the allowlist"))
        }
        EventType::ShellCommand => ("shell_command", r#"{"timeout_ms":120000}"#, Some("command needs an approval")),
        EventType::McpTool => {
            ("mcp_tool", r#"{"server":"workspace","input_bytes":256}"#, Some("tool is not enabled for this agent"))
        }
        EventType::PatchApply => {
            ("patch_integrity", r#"{"hunks":3,"added":42,"removed":17}"#, Some("patch is too large"))
        }
        EventType::PromptInjectionAttempt => ("prompt_injection", r#"{"score":0.21,"detector":"heuristic"}"#, None),
    };
    let tails = |allowed: bool, severity: &str, message: &str| {
        ["model-l", "model-m", "model-s"]
            .map(|model| tail(event_type, args, guard, allowed, severity, message, model))
            .to_vec()
    };
    Kind {
        head: format!(r#"","event_type":"{}","action":{{"target":""#, event_type.name()).into_bytes(),
        targets: targets(event_type),
        fresh: fresh(event_type),
        allowed: tails(true, "info", "allowed"),
        denied: denied.map_or_else(Vec::new, |message| tails(false, "warning", message)),
    }
}

/// From the closing quote of the target to the opening one of the request id.
pub(super) fn tail(
    event_type: EventType,
    args: &str,
    guard: &str,
    allowed: bool,
    severity: &str,
    message: &str,
    model: &str,
) -> Vec<u8> {
    let hash = match event_type {
        EventType::FileWrite | EventType::PatchApply => r#""content_hash":"sha256:9f86d081884c7d65","#,
        _ => "",
    };
    format!(
        r#"",{hash}"args":{args}}},"result":{{"allowed":{allowed},"guard":"{guard}","severity":"{severity}","message":"{message}"}},"context":{{"model":"{model}","request_id":""#
    )
    .into_bytes()
}

/// What ends every line, after the request id.
pub(super) const END: &[u8] = b"\"}}\n";

fn fresh(event_type: EventType) -> Option<(&'static [u8], &'static [u8])> {
    Some(match event_type {
        // Many distinct files in a minute are what a rule looks for.
        EventType::FileAccess | EventType::PromptInjectionAttempt => return None,
        EventType::FileWrite => (b"/home/agent/projects/atlas/target/obj-", b".o"),
        EventType::NetworkEgress => (b"r", b".cdn.example.net:443"),
        EventType::ShellCommand => (b"git show --stat ", b""),
        EventType::McpTool => (b"documents.read_", b""),
        EventType::PatchApply => (b"/home/agent/projects/atlas/gen/p", b".rs"),
    })
}

fn targets(event_type: EventType) -> Vec<Vec<u8>> {
    let texts: Vec<String> = match event_type {
        EventType::FileAccess => sources("rs", 16),
        EventType::FileWrite => sources("tmp", 2),
        EventType::PatchApply => sources("rs", 1),
        EventType::NetworkEgress => hosts(),
        EventType::ShellCommand => commands(),
        EventType::McpTool => tools(),
        EventType::PromptInjectionAttempt => {
            (0..16).map(|i| format!("web:https://docs.example.net/page-{i}.html")).collect()
        }
    };
    texts.iter().map(|text| escaped(text)).collect()
}

/// A JSON text without its quotes.
pub(super) fn escaped(text: &str) -> Vec<u8> {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

fn sources(extension: &str, files: usize) -> Vec<String> {
    let mut paths = Vec::new();
    for project in PROJECTS {
        for module in MODULES {
            for file in 0..files {
                paths.push(format!("/home/agent/projects/{project}/src/{module}/part_{file:02}.{extension}"));
            }
        }
    }
    paths
}

fn hosts() -> Vec<String> {
    let fixed = [
        "api.openai.com:443",
        "api.anthropic.com:443",
        "api.github.com:443",
        "github.com:443",
        "pypi.org:443",
        "index.crates.io:443",
        "registry.npmjs.org:443",
        "proxy.golang.org:443",
        "deb.debian.org:80",
        "artifacts.corp.example:443",
        "vault.corp.example:8200",
        "https://docs.rs/serde/latest/serde/",
    ];
    let mirrors = (0..20).map(|i| format!("mirror-{i:02}.corp.example:443"));
    fixed.into_iter().map(str::to_owned).chain(mirrors).collect()
}

fn commands() -> Vec<String> {
    let fixed = [
        "git status --short",
        "git diff --stat HEAD~1",
        "ls -la src",
        "make -j4",
        "npm run build",
        r#"echo "done""#,
        "docker ps -a",
    ];
    let grep = MODULES.iter().map(|m| format!("grep -rn \"fn new\" src/{m}"));
    let test = PROJECTS.iter().flat_map(|p| MODULES.iter().map(move |m| format!("cargo test -p {p} --lib {m}::")));
    fixed.into_iter().map(str::to_owned).chain(grep).chain(test).collect()
}

fn tools() -> Vec<String> {
    let verbs = ["create", "delete", "get", "list", "search", "update"];
    let nouns = ["branches", "calendar", "comments", "documents", "issues", "reviews", "tickets", "wiki"];
    nouns.iter().flat_map(|noun| verbs.iter().map(move |verb| format!("{noun}.{verb}"))).collect()
}
