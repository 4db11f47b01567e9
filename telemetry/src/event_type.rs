//! The kinds of guarded action. Knows their names and their order, nothing of what a rule makes of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a guarded action; in JSON its snake_case name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum EventType {
    /// A file was read; the target is a path.
    FileAccess = 0,
    /// A file was written; the target is a path.
    FileWrite,
    /// A connection was opened; the target is `host[:port]` or a URL.
    NetworkEgress,
    /// A command was run; the target is its text.
    ShellCommand,
    /// A tool of an MCP server was called; the target is its name.
    McpTool,
    /// A patch was applied; the target is a path.
    PatchApply,
    /// Text that tries to instruct the agent was seen; the target is its origin.
    PromptInjectionAttempt,
}

impl EventType {
    /// Every type, in order of `index`.
    pub const ALL: [EventType; 7] = [
        EventType::FileAccess,
        EventType::FileWrite,
        EventType::NetworkEgress,
        EventType::ShellCommand,
        EventType::McpTool,
        EventType::PatchApply,
        EventType::PromptInjectionAttempt,
    ];

    /// The name in records and rules, e.g. `file_access`.
    pub const fn name(self) -> &'static str {
        match self {
            EventType::FileAccess => "file_access",
            EventType::FileWrite => "file_write",
            EventType::NetworkEgress => "network_egress",
            EventType::ShellCommand => "shell_command",
            EventType::McpTool => "mcp_tool",
            EventType::PatchApply => "patch_apply",
            EventType::PromptInjectionAttempt => "prompt_injection_attempt",
        }
    }

    /// The place in [`EventType::ALL`], from 0.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The type of this name, by case; `None` for any other text.
    pub fn from_name(name: &str) -> Option<EventType> {
        Some(match name {
            "file_access" => EventType::FileAccess,
            "file_write" => EventType::FileWrite,
            "network_egress" => EventType::NetworkEgress,
            "shell_command" => EventType::ShellCommand,
            "mcp_tool" => EventType::McpTool,
            "patch_apply" => EventType::PatchApply,
            "prompt_injection_attempt" => EventType::PromptInjectionAttempt,
            _ => return None,
        })
    }

    /// Whether targets of this type are paths.
    pub const fn has_path(self) -> bool {
        matches!(self, EventType::FileAccess | EventType::FileWrite | EventType::PatchApply)
    }

    /// Whether targets of this type are hosts.
    pub const fn has_host(self) -> bool {
        matches!(self, EventType::NetworkEgress)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number that is no event type's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownEventType(pub u8);

impl fmt::Display for UnknownEventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event type \"{}\" is unknown: expected 0 to 6", self.0)
    }
}

impl std::error::Error for UnknownEventType {}

impl TryFrom<u8> for EventType {
    type Error = UnknownEventType;

    fn try_from(index: u8) -> Result<Self, UnknownEventType> {
        EventType::ALL.get(usize::from(index)).copied().ok_or(UnknownEventType(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_indices_and_json_agree() {
        for (index, event_type) in EventType::ALL.into_iter().enumerate() {
            assert_eq!(event_type.index(), index);
            assert_eq!(EventType::try_from(index as u8), Ok(event_type));
            assert_eq!(EventType::from_name(event_type.name()), Some(event_type));
            let json = serde_json::to_string(&event_type).expect("a unit variant is a string");
            assert_eq!(json, format!("\"{}\"", event_type.name()));
        }
        assert_eq!(EventType::try_from(7), Err(UnknownEventType(7)));
        assert_eq!(EventType::from_name("File_access"), None);
    }
}
