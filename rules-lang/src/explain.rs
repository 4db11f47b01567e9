//! How a rule set was read: for `rules explain`, as data and as text.
//!
//! Decides nothing: it tells what the plan says, in words.

use std::fmt;

use serde::Serialize;

use crate::diagnostic::printable;
use crate::duration;
use crate::plan::{
    AllowEntry, Condition, EventTypes, Field, FieldTest, HostPart, Matcher, PatternForm, Rule, RuleSet, Scalar,
    Severity, TargetPattern, Test, TimeWindow,
};

/// A rule set in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// In order of their ids.
    pub rules: Vec<RuleReading>,
    /// In the order of files and lines.
    pub allowlist: Vec<EntryReading>,
}

/// How one rule was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleReading {
    /// The rule's id.
    pub id: String,
    /// The rule's name.
    pub name: String,
    /// Content hash.
    pub version: String,
    /// `file:line`.
    pub origin: String,
    /// How bad a match is.
    pub severity: Severity,
    /// The group's fields; the tenant belongs to every group besides.
    pub by: Vec<String>,
    /// Each condition.
    pub conditions: Vec<ConditionReading>,
    /// Such as `5m`.
    pub suppress_for: String,
    /// Names with parameters.
    pub actions: Vec<String>,
    /// Raises marked alerts, runs no actions.
    pub shadow: bool,
}

/// How one condition was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConditionReading {
    /// `sequence`, `threshold`, `pattern`, `absence` or `new_value`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Such as `5m`.
    pub window: String,
    /// One line for each part.
    pub parts: Vec<String>,
    /// Every target pattern in it.
    pub patterns: Vec<PatternReading>,
    /// What a group keeps, and until when.
    pub state: String,
}

/// How one alternative of a target pattern was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PatternReading {
    /// As written.
    pub text: String,
    /// Glob or regex.
    pub form: PatternForm,
    /// The regex for paths.
    pub path: Option<String>,
    /// The regex for hosts.
    pub host: Option<String>,
    /// What the regex for hosts is tried on.
    pub host_on: Option<HostPart>,
    /// The regex for everything else.
    pub other: Option<String>,
}

/// How one allowlist entry was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntryReading {
    /// `file:line`.
    pub origin: String,
    /// What it is for, in one line.
    pub says: String,
    /// Its target patterns.
    pub patterns: Vec<PatternReading>,
}

/// Tells how a rule set was read.
pub fn explain(set: &RuleSet) -> Explanation {
    Explanation { rules: set.rules.iter().map(rule).collect(), allowlist: set.allowlist.iter().map(entry).collect() }
}

fn rule(rule: &Rule) -> RuleReading {
    let action = |action: &crate::plan::Action| {
        let params: Vec<_> = action.params.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let name = serde_json::json!(action.kind).as_str().unwrap_or_default().to_owned();
        if params.is_empty() { name } else { format!("{name} {{{}}}", params.join(", ")) }
    };
    RuleReading {
        id: rule.id.clone(),
        name: rule.name.clone(),
        version: rule.version.clone(),
        origin: format!("{}:{}", rule.origin.file, rule.origin.line),
        severity: rule.severity,
        by: rule.by.iter().map(field).collect(),
        conditions: rule.conditions.iter().map(condition).collect(),
        suppress_for: duration::format(rule.suppress_for),
        actions: rule.actions.iter().map(action).collect(),
        shadow: rule.shadow,
    }
}

fn condition(condition: &Condition) -> ConditionReading {
    let window = duration::format(condition.window());
    let mut matchers: Vec<&Matcher> = Vec::new();
    let (kind, parts, state) = match condition {
        Condition::Sequence(c) => {
            let mut parts = Vec::new();
            for (index, step) in c.steps.iter().enumerate() {
                let count = if step.count == 1 { String::new() } else { format!("{} times ", step.count) };
                parts.push(format!("step {}: {count}{}", index + 1, matcher(&step.matcher)));
                parts.extend(step.without.iter().map(|without| format!("  no {} before it", matcher(without))));
                matchers.extend(std::iter::once(&step.matcher).chain(&step.without));
            }
            parts.extend(c.until.iter().map(|until| format!("until {}", matcher(until))));
            matchers.extend(&c.until);
            let kept: u64 = c.steps.iter().map(|step| u64::from(step.count)).sum();
            ("sequence", parts, format!("the events of one window, of them {kept} as evidence of an open match"))
        }
        Condition::Threshold(c) => {
            matchers.push(&c.matcher);
            let mut parts = vec![matcher(&c.matcher)];
            parts.extend(c.count.map(|k| format!("at least {k} events")));
            parts.extend(c.unique_targets.map(|k| format!("at least {k} distinct targets")));
            parts.extend(
                c.distinct.iter().map(|d| format!("at least {} distinct values of {}", d.at_least, field(&d.field))),
            );
            ("threshold", parts, "the matching events of one window, a time and a hash each".to_owned())
        }
        Condition::Pattern(c) => {
            matchers.extend(&c.matchers);
            let mut parts = vec![format!("at least {} of {}, in any order:", c.at_least, c.matchers.len())];
            parts.extend(c.matchers.iter().map(|m| format!("  {}", matcher(m))));
            (
                "pattern",
                parts,
                format!("the latest event of each of {} matchers, and what may come late", c.matchers.len()),
            )
        }
        Condition::Absence(c) => {
            matchers.extend([&c.trigger, &c.absent]);
            let parts = vec![matcher(&c.trigger), format!("and not {} within the window after it", matcher(&c.absent))];
            ("absence", parts, "the triggers of one window that nothing has answered".to_owned())
        }
        Condition::NewValue(c) => {
            matchers.push(&c.matcher);
            let mut parts = vec![matcher(&c.matcher), format!("a new value of {}", field(&c.field))];
            if c.learn > 0 {
                parts.push(format!("once the group is {} old", duration::format(c.learn)));
            }
            ("new_value", parts, "the distinct values of one window, a time and a hash each".to_owned())
        }
    };
    let state = format!("{state}; kept for {window} and the lateness");
    ConditionReading { kind, window, parts, patterns: patterns(matchers.into_iter()), state }
}

fn patterns<'m>(matchers: impl Iterator<Item = &'m Matcher>) -> Vec<PatternReading> {
    let mut readings: Vec<PatternReading> = Vec::new();
    for test in matchers.flat_map(|matcher| &matcher.tests) {
        if let Test::Target(patterns) | Test::NotTarget(patterns) = test {
            readings.extend(patterns.iter().map(pattern));
        }
    }
    let mut seen = std::collections::HashSet::new();
    readings.retain(|reading| seen.insert((reading.text.clone(), reading.form == PatternForm::Glob)));
    readings
}

fn pattern(pattern: &TargetPattern) -> PatternReading {
    PatternReading {
        text: pattern.text.clone(),
        form: pattern.form,
        path: pattern.path.clone(),
        host: pattern.host.as_ref().map(|host| host.regex.clone()),
        host_on: pattern.host.as_ref().map(|host| host.on),
        other: pattern.other.clone(),
    }
}

/// A matcher in one line.
fn matcher(matcher: &Matcher) -> String {
    let mut parts = vec![event_types(matcher.event_types)];
    parts.extend(matcher.tests.iter().map(|test| match test {
        Test::Target(patterns) => format!("target is one of {}", texts(patterns)),
        Test::NotTarget(patterns) => format!("target is none of {}", texts(patterns)),
        Test::TargetRegex(regex) => format!("target has /{regex}/"),
        Test::Field(path, test) => format!("{} {}", field(path), field_test(test)),
    }));
    parts.join(", ")
}

fn texts(patterns: &[TargetPattern]) -> String {
    let texts: Vec<_> = patterns.iter().map(|pattern| pattern.text.as_str()).collect();
    format!("[{}]", texts.join(", "))
}

fn event_types(types: EventTypes) -> String {
    if types == EventTypes::ANY {
        return "any event".to_owned();
    }
    let names = EventTypes::NAMES.iter().zip(0u8..).filter(|(_, index)| types.contains(*index)).map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(" or ")
}

fn field(field: &Field) -> String {
    match field {
        Field::Target => "target".to_owned(),
        Field::Path(parts) => parts.join("."),
    }
}

fn field_test(test: &FieldTest) -> String {
    match test {
        FieldTest::All(tests) => tests.iter().map(field_test).collect::<Vec<_>>().join(" and "),
        FieldTest::Not(test) => format!("not ({})", field_test(test)),
        FieldTest::In(values) if values.len() == 1 => format!("= {}", scalar(&values[0])),
        FieldTest::In(values) => format!("is one of [{}]", values.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        FieldTest::Regex(regex) => format!("has /{regex}/"),
        FieldTest::Contains(text) => format!("contains {text:?}"),
        FieldTest::StartsWith(text) => format!("starts with {text:?}"),
        FieldTest::EndsWith(text) => format!("ends with {text:?}"),
        FieldTest::Gt(number) => format!("> {}", number.0),
        FieldTest::Gte(number) => format!(">= {}", number.0),
        FieldTest::Lt(number) => format!("< {}", number.0),
        FieldTest::Lte(number) => format!("<= {}", number.0),
        FieldTest::Exists(true) => "exists".to_owned(),
        FieldTest::Exists(false) => "is absent".to_owned(),
    }
}

fn scalar(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Bool(flag) => flag.to_string(),
        Scalar::Number(number) => number.0.to_string(),
        Scalar::Text(text) => format!("{text:?}"),
    }
}

fn entry(entry: &AllowEntry) -> EntryReading {
    let mut parts = vec![event_types(entry.event_types)];
    parts.extend(entry.agent.iter().map(|agent| format!("agent /{agent}/")));
    if !entry.targets.is_empty() {
        parts.push(format!("target is one of {}", texts(&entry.targets)));
    }
    parts.extend(entry.times.iter().map(time_window));
    parts.extend(entry.expires.map(|micros| format!("before {}", time(micros))));
    let rules = if entry.rules.is_empty() { "all rules".to_owned() } else { entry.rules.join(", ") };
    parts.push(format!("for {rules}"));
    if !entry.reason.is_empty() {
        parts.push(format!("because: {}", entry.reason));
    }
    EntryReading {
        origin: format!("{}:{}", entry.origin.file, entry.origin.line),
        says: parts.join(", "),
        patterns: entry.targets.iter().map(pattern).collect(),
    }
}

fn time_window(times: &TimeWindow) -> String {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let days: Vec<_> = (0..7).filter(|day| times.days >> day & 1 == 1).map(|day| DAYS[day]).collect();
    let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let zone = times.zone.as_deref().unwrap_or("the configured zone");
    let next = if times.to <= times.from { " of the next day" } else { "" };
    format!("{} from {} to {}{next} ({zone})", days.join(" "), clock(times.from), clock(times.to))
}

fn time(micros: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok();
    let text = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| format!("{micros} us after 1970"))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            write!(f, "{rule}")?;
        }
        for entry in &self.allowlist {
            writeln!(f, "allowlist ({})", printable(&entry.origin))?;
            writeln!(f, "  {}", printable(&entry.says))?;
            show_patterns(f, &entry.patterns)?;
        }
        Ok(())
    }
}

impl fmt::Display for RuleReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} \"{}\" ({})", printable(&self.id), printable(&self.name), printable(&self.origin))?;
        writeln!(f, "  version       {}", self.version)?;
        writeln!(f, "  severity      {}", format!("{:?}", self.severity).to_lowercase())?;
        writeln!(f, "  group         {} (and tenant_id)", printable(&self.by.join(", ")))?;
        writeln!(f, "  suppress_for  {}", self.suppress_for)?;
        let actions = if self.actions.is_empty() { "none".to_owned() } else { self.actions.join(", ") };
        writeln!(f, "  actions       {}{}", printable(&actions), if self.shadow { " (shadow: not run)" } else { "" })?;
        for condition in &self.conditions {
            writeln!(f, "  {} within {}", condition.kind, condition.window)?;
            for part in &condition.parts {
                writeln!(f, "    {}", printable(part))?;
            }
            writeln!(f, "    state of a group: {}", condition.state)?;
            show_patterns(f, &condition.patterns)?;
        }
        Ok(())
    }
}

fn show_patterns(f: &mut fmt::Formatter<'_>, patterns: &[PatternReading]) -> fmt::Result {
    for pattern in patterns {
        let form = match pattern.form {
            PatternForm::Glob => "glob",
            PatternForm::Regex => "regex",
        };
        writeln!(f, "    pattern {} is a {form}", printable(&pattern.text))?;
        let on = match pattern.host_on {
            Some(HostPart::Host) => "host",
            Some(HostPart::HostPort) => "host:port",
            Some(HostPart::Either) | None => "host or host:port",
        };
        let lines = [("path", &pattern.path), (on, &pattern.host), ("other", &pattern.other)];
        for (kind, regex) in lines {
            match regex {
                Some(regex) => writeln!(f, "      {kind}: {}", printable(regex))?,
                None => writeln!(f, "      {kind}: never")?,
            }
        }
    }
    Ok(())
}
