//! The typed plan: what a compiled rule set says, and nothing of how it runs.
//!
//! Durations are microseconds. Thresholds are normalised to "at least". Everything here is plain data: it
//! serialises, compares and hashes by content, so that a process can compile a set once and send it to all workers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A compiled rule set: what one folder of rule files says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleSet {
    /// Enabled rules, in order of their ids.
    pub rules: Vec<Rule>,
    /// Allowlist entries, in the order of files and lines.
    pub allowlist: Vec<AllowEntry>,
}

/// One rule. Its durations are microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// Unique in its set.
    pub id: String,
    /// For people.
    pub name: String,
    /// For the analyst who reads the alert.
    pub description: String,
    /// How bad a match is.
    pub severity: Severity,
    /// The group: one chain of alerts for each distinct tuple of these fields' values. Never empty.
    pub by: Vec<Field>,
    /// All must hold together (SPEC §4, "Several conditions in one rule"). Never empty.
    pub conditions: Vec<Condition>,
    /// What an alert asks for.
    pub actions: Vec<Action>,
    /// A match at most this long after the one before joins its alert.
    pub suppress_for: i64,
    /// MITRE ATT&CK and ATLAS ids.
    pub attack: Vec<String>,
    /// Free words.
    pub tags: Vec<String>,
    /// Links.
    pub references: Vec<String>,
    /// When this fires on something harmless.
    pub false_positives: Vec<String>,
    /// Raise marked alerts, run no actions.
    pub shadow: bool,
    /// Run actions also for alerts that back-fill opened.
    pub backfill_actions: bool,
    /// What becomes of open alerts when the rule goes. (Left out of the JSON where it is the default.)
    #[serde(default, skip_serializing_if = "OnRemoval::is_default")]
    pub on_removal: OnRemoval,
    /// SHA-256, in hex, over the rule's canonical JSON (this struct without `version` and `origin`).
    pub version: String,
    /// Where the rule stands.
    pub origin: Origin,
}

/// What becomes of a rule's open alerts when it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRemoval {
    /// They stay open, and say that their rule is gone.
    #[default]
    Keep,
    /// They are closed.
    Close,
    /// They are retracted.
    Retract,
}

impl OnRemoval {
    /// The names in rules.
    pub const NAMES: [(&str, OnRemoval); 3] =
        [("keep", OnRemoval::Keep), ("close", OnRemoval::Close), ("retract", OnRemoval::Retract)];

    fn is_default(&self) -> bool {
        *self == OnRemoval::default()
    }
}

/// A place in a rule file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// The file as it was named to the compiler.
    pub file: String,
    /// From 1.
    pub line: u32,
}

/// Severities, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// The name in rules, JSON and stores.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

/// An action with its parameters, as the rule gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RuleAction")]
pub struct Action {
    /// Which.
    pub kind: ActionKind,
    /// Parameters by name; empty if the rule gives none (the defaults belong to the orchestrator). Checked:
    /// `duration` (a text that [`crate::duration::parse`] reads), `requests_per_minute` (a whole number from 1),
    /// `level` (a text), `policy_patch` (an object), and for every action `requires_approval` (a boolean).
    pub params: std::collections::BTreeMap<String, serde_json::Value>,
}

/// The actions of SPEC §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ActionKind {
    TerminateSession,
    QuarantineAgent,
    RateLimit,
    AlertSoc,
    Alert,
    IncreaseLogging,
    SnapshotSession,
    UpdatePolicy,
}

impl ActionKind {
    /// All of them.
    pub const ALL: [ActionKind; 8] = [
        ActionKind::TerminateSession,
        ActionKind::QuarantineAgent,
        ActionKind::RateLimit,
        ActionKind::AlertSoc,
        ActionKind::Alert,
        ActionKind::IncreaseLogging,
        ActionKind::SnapshotSession,
        ActionKind::UpdatePolicy,
    ];

    /// The name in rules, JSON, logs and the ledger.
    pub const fn name(self) -> &'static str {
        match self {
            ActionKind::TerminateSession => "terminate_session",
            ActionKind::QuarantineAgent => "quarantine_agent",
            ActionKind::RateLimit => "rate_limit",
            ActionKind::AlertSoc => "alert_soc",
            ActionKind::Alert => "alert",
            ActionKind::IncreaseLogging => "increase_logging",
            ActionKind::SnapshotSession => "snapshot_session",
            ActionKind::UpdatePolicy => "update_policy",
        }
    }
}

/// A field of an event: `target` is the normalised target, anything else a path into the record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Field {
    /// The normalised target (hosts with port).
    Target,
    /// A dotted path; `extra.<name>` is resolved to the unknown top-level field `<name>`.
    Path(Vec<String>),
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "each struct says what it is")]
pub enum Condition {
    Sequence(Sequence),
    Threshold(Threshold),
    Pattern(Pattern),
    Absence(Absence),
    NewValue(NewValue),
}

/// Steps in order within a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sequence {
    /// From the first to the last chosen event.
    pub window: i64,
    /// At least one.
    pub steps: Vec<Step>,
    /// No such event strictly between the first and the last chosen one.
    pub until: Option<Matcher>,
}

/// One step of a sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// What its events satisfy.
    pub matcher: Matcher,
    /// How many events the step takes, at least 1.
    pub count: u32,
    /// No such event strictly between the step before and this one; never on the first step.
    pub without: Option<Matcher>,
}

/// So many matching events, targets or values within a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Threshold {
    /// How far back an event looks.
    pub window: i64,
    /// Which events count.
    pub matcher: Matcher,
    /// At least so many events.
    pub count: Option<u64>,
    /// At least so many distinct normalised targets.
    pub unique_targets: Option<u64>,
    /// At least so many distinct values of a field.
    pub distinct: Option<Distinct>,
}

/// A number of distinct values of a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Distinct {
    /// Whose values.
    pub field: Field,
    /// At least so many.
    pub at_least: u64,
}

/// Matchers satisfied in any order within a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pattern {
    /// How far back an event looks.
    pub window: i64,
    /// At least one.
    pub matchers: Vec<Matcher>,
    /// How many of them must be satisfied (`all_of`: all).
    pub at_least: u32,
}

/// A trigger that is not followed by something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Absence {
    /// How long the wait is.
    pub window: i64,
    /// What starts it.
    pub trigger: Matcher,
    /// What ends it in peace.
    pub absent: Matcher,
}

/// A value not seen before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewValue {
    /// How far back "before" goes.
    pub window: i64,
    /// Which events count.
    pub matcher: Matcher,
    /// Whose value.
    pub field: Field,
    /// How old the group's history must be before anything is new.
    pub learn: i64,
}

impl Condition {
    /// The condition's window.
    pub fn window(&self) -> i64 {
        match self {
            Condition::Sequence(c) => c.window,
            Condition::Threshold(c) => c.window,
            Condition::Pattern(c) => c.window,
            Condition::Absence(c) => c.window,
            Condition::NewValue(c) => c.window,
        }
    }
}

/// A set of event types; bit `i` is the i-th of [`EventTypes::NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct EventTypes(pub u8);

impl EventTypes {
    /// The event types in SPEC §3's order, which is also the order of `telemetry::EventType`.
    pub const NAMES: [&'static str; 7] = [
        "file_access",
        "file_write",
        "network_egress",
        "shell_command",
        "mcp_tool",
        "patch_apply",
        "prompt_injection_attempt",
    ];
    /// `any`.
    pub const ANY: EventTypes = EventTypes(0x7f);

    /// Whether the type with this index is in the set.
    pub fn contains(self, index: u8) -> bool {
        self.0 >> index & 1 == 1
    }
}

/// All of its tests must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Matcher {
    /// Which event types.
    pub event_types: EventTypes,
    /// And all of these. Sorted and without duplicates.
    pub tests: Vec<Test>,
}

/// One test of a matcher.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Test {
    /// The normalised target matches one of the patterns (`target_pattern`, `target_in`, `target_glob`).
    Target(Vec<TargetPattern>),
    /// The normalised target matches none of them (`target_not_in`).
    NotTarget(Vec<TargetPattern>),
    /// `target_regex`: a search in the normalised target; for hosts in the host and in host:port. The regex holds the
    /// flag that makes `.` match newlines, as every regex of a plan does.
    TargetRegex(String),
    /// A field by path.
    Field(Field, FieldTest),
}

/// One alternative of a target pattern, read for each kind of target. The readings are regexes of crate `regex`
/// (Unicode, anchored at both ends, `.` matches newlines); `None` where the alternative can't match that kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct TargetPattern {
    /// The text in the rule.
    pub text: String,
    /// How it was read.
    pub form: PatternForm,
    /// For paths (file_access, file_write, patch_apply).
    pub path: Option<String>,
    /// For hosts (network_egress).
    pub host: Option<HostPattern>,
    /// For everything else.
    pub other: Option<String>,
}

/// How a pattern was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum PatternForm {
    Glob,
    Regex,
}

/// A pattern for hosts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct HostPattern {
    /// The regex.
    pub regex: String,
    /// What it is tried on.
    pub on: HostPart,
}

/// Which part of a host target a pattern sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostPart {
    /// The host alone (a pattern without port).
    Host,
    /// host:port; a target without port never matches.
    HostPort,
    /// Either of the two (an explicit regex).
    Either,
}

/// A test of a field's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FieldTest {
    /// All hold.
    All(Vec<FieldTest>),
    /// Holds exactly when the inner one doesn't, for lists and absent fields too.
    Not(Box<FieldTest>),
    /// Equals one of these.
    In(Vec<Scalar>),
    /// A text in which the regex is found. It holds its flags (`.` matches newlines; for `result.severity` any case).
    Regex(String),
    /// A text that contains this.
    Contains(String),
    /// A text that starts with this.
    StartsWith(String),
    /// A text that ends with this.
    EndsWith(String),
    /// A number greater than this.
    Gt(Number),
    /// A number at least this.
    Gte(Number),
    /// A number less than this.
    Lt(Number),
    /// A number at most this.
    Lte(Number),
    /// Present (and not null), or not.
    Exists(bool),
}

/// A JSON scalar other than null.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Scalar {
    Bool(bool),
    Number(Number),
    Text(String),
}

/// A finite double that compares by value (so -0 equals 0).
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Number(pub f64);

impl Number {
    fn key(self) -> u64 {
        (self.0 + 0.0).to_bits()
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Number {}
impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Number {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}
impl std::hash::Hash for Number {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// An allowlist entry: an event that it matches fills no step, matcher, trigger or count of the rules it names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllowEntry {
    /// Regex over the agent id (anchored), if given.
    pub agent: Option<String>,
    /// Which event types.
    pub event_types: EventTypes,
    /// One of these matches the normalised target; empty: any target.
    pub targets: Vec<TargetPattern>,
    /// Only at these times.
    pub times: Option<TimeWindow>,
    /// Ids of the rules it speaks of; empty: all.
    pub rules: Vec<String>,
    /// It holds for events before this time (microseconds since 1970).
    pub expires: Option<i64>,
    /// For the auditor.
    pub reason: String,
    /// Where it stands.
    pub origin: Origin,
}

/// A weekly window, `[from, to)`, in a time zone; past midnight it belongs to its starting day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeWindow {
    /// Bit 0 is Monday.
    pub days: u8,
    /// Minutes since midnight.
    pub from: u16,
    /// Minutes since midnight, up to 1440 (`24:00`); at most `from`: the window ends on the next day.
    pub to: u16,
    /// IANA name, or "UTC"; `None` is the configured zone.
    pub zone: Option<String>,
}
