//! Where Sigma's log sources and fields are found in our events. `docs/rules/sigma.md` shows these tables.

use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::plan::EventTypes;
use crate::suggest;
use crate::yaml::Node;

/// What the normalised target of a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Text,
    Path,
    Host,
    /// Of several kinds.
    Mixed,
}

/// The events that a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// A name of [`EventTypes::NAMES`], or `any`.
    pub(super) event_type: &'static str,
    pub(super) target: Target,
    /// Whether fields are named as we name them.
    own: bool,
}

/// Where a field is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The normalised target.
    Target,
    /// The first word of the command line.
    Program,
    /// The port of the target.
    Port,
    /// The same in every such event.
    Always(&'static str),
    Field(String),
}

/// Our own product, whose categories are event types and whose fields are our paths.
const OWN: &str = "clawdstrike";

const CATEGORIES: [(&str, &str); 9] = [
    ("process_creation", "shell_command"),
    ("file_access", "file_access"),
    ("file_event", "file_write"),
    ("file_change", "file_write"),
    ("network_connection", "network_egress"),
    ("dns_query", "network_egress"),
    ("dns", "network_egress"),
    ("proxy", "network_egress"),
    ("firewall", "network_egress"),
];

const COMMAND_TARGETS: [&str; 2] = ["CommandLine", "ProcessCommandLine"];
const COMMAND_PROGRAMS: [&str; 2] = ["Image", "NewProcessName"];
const FILE_TARGETS: [&str; 3] = ["TargetFilename", "FileName", "path"];
const HOST_TARGETS: [&str; 10] = [
    "DestinationHostname",
    "DestinationIp",
    "QueryName",
    "query",
    "c-uri-host",
    "cs-host",
    "r-dns",
    "dst_host",
    "dst_ip",
    "dst",
];
const HOST_PORTS: [&str; 2] = ["DestinationPort", "dst_port"];
const URLS: [&str; 2] = ["c-uri", "url"];
const AGENTS: [&str; 4] = ["User", "user", "UserName", "cs-username"];
const SESSIONS: [&str; 3] = ["LogonId", "SessionId", "session_id"];

impl Source {
    /// Reads `logsource`.
    pub(super) fn read(cx: &mut Context<'_>, node: &Node) -> Option<Source> {
        let mut keys = cx.keys(node, "\"logsource\"")?;
        let mut text = |cx: &mut Context<'_>, name: &str| {
            let node = keys.take(name)?;
            cx.text(node, &format!("\"{name}\"")).map(|text| (text.to_lowercase(), node.span))
        };
        let (product, category) = (text(cx, "product"), text(cx, "category"));
        let service = text(cx, "service");
        // Free text for people.
        keys.take("definition");
        keys.finish(cx, "\"logsource\"", &["product", "category", "service", "definition"]);
        if let Some((name, at)) = service {
            cx.error(at, "E091", format!("no event of ours comes from service {}", quoted(&name)))
                .hint("leave it out if the category alone says what is meant");
            return None;
        }
        let own = product.as_ref().is_some_and(|(name, _)| name == OWN);
        let Some((category, at)) = category else {
            if own {
                return Some(Source { event_type: "any", target: Target::Mixed, own });
            }
            cx.error(node.span, "E091", "this log source has no category, so it says no event type")
                .hint(format!("one of: {}", names()));
            return None;
        };
        let known: Vec<&str> = if own { EventTypes::NAMES.to_vec() } else { CATEGORIES.map(|(name, _)| name).to_vec() };
        let found = known.iter().position(|name| *name == category);
        let Some(event_type) = found.map(|index| if own { EventTypes::NAMES[index] } else { CATEGORIES[index].1 })
        else {
            cx.error(at, "E091", format!("no event of ours is of category {}", quoted(&category)))
                .hint(suggest::hint(&category, &known));
            return None;
        };
        let target = match event_type {
            "file_access" | "file_write" | "patch_apply" => Target::Path,
            "network_egress" => Target::Host,
            _ => Target::Text,
        };
        Some(Source { event_type, target, own })
    }

    /// Where a field stands; reported if it has no place.
    pub(super) fn place(&self, cx: &mut Context<'_>, name: &str, at: Span) -> Option<Place> {
        if self.own {
            return self.own_place(cx, name, at);
        }
        let own = match self.target {
            Target::Path => FILE_TARGETS.to_vec(),
            Target::Host => [&HOST_TARGETS[..], &HOST_PORTS, &URLS, &["Initiated"]].concat(),
            Target::Text | Target::Mixed => [COMMAND_TARGETS, COMMAND_PROGRAMS].concat(),
        };
        let known: Vec<&str> = [&own[..], &AGENTS, &SESSIONS].concat();
        if !known.contains(&name) {
            cx.error(at, "E092", format!("field {} has no place in a \"{}\" event", quoted(name), self.event_type))
                .hint(suggest::hint(name, &known));
            return None;
        }
        Some(match name {
            "Initiated" => Place::Always("true"),
            _ if AGENTS.contains(&name) => Place::Field("agent_id".to_owned()),
            _ if SESSIONS.contains(&name) => Place::Field("session_id".to_owned()),
            _ if HOST_PORTS.contains(&name) => Place::Port,
            _ if URLS.contains(&name) => Place::Field(RAW_TARGET.to_owned()),
            _ if COMMAND_PROGRAMS.contains(&name) => Place::Program,
            _ => Place::Target,
        })
    }

    fn own_place(&self, cx: &mut Context<'_>, name: &str, at: Span) -> Option<Place> {
        match name {
            "target" if self.target != Target::Mixed => Some(Place::Target),
            "target" | "event_type" => {
                cx.error(at, "E092", format!("field \"{name}\" has no meaning without or beside one event type"))
                    .hint("give the log source a category, such as file_access");
                None
            }
            // The compiler's own reading, for its own errors.
            _ => crate::resolve::path(cx, name, at).map(|_| Place::Field(name.to_owned())),
        }
    }

    /// Whether numbers and booleans of a rule are numbers and booleans in events.
    pub(super) fn is_typed(&self) -> bool {
        self.own
    }
}

/// The target as the event holds it.
pub(super) const RAW_TARGET: &str = "action.target";

fn names() -> String {
    CATEGORIES.map(|(name, _)| name).join(", ")
}
