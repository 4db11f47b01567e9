//! How a rule set was read: for `rules explain`, as data and as text.
//!
//! Decides nothing: it tells what the plan says, in words.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::diagnostic::printable;
use crate::duration;
use crate::plan::{
    AllowEntry, Condition, EventTypes, Field, FieldTest, HostPart, Matcher, PatternForm, Rule, RuleSet, Scalar,
    Severity, TargetPattern, Test, TimeWindow,
};
use crate::resolve;

/// A rule set in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// In order of their ids.
    pub rules: Vec<RuleReading>,
    /// In the order of files and lines.
    pub allowlist: Vec<EntryReading>,
    /// Every matcher once, however many conditions hold it: an event is tried on each once for all of them.
    pub predicates: Vec<PredicateReading>,
    /// Every `by` list once; the session's is the first, whether or not a rule has it.
    pub groups: Vec<GroupReading>,
}

/// A matcher, and where it is used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PredicateReading {
    /// From 1, in the order of rules and conditions.
    pub number: usize,
    /// In one line.
    pub says: String,
    /// Ids of the rules that use it, in order.
    pub rules: Vec<String>,
}

/// A `by` list, and who has it: all conditions of these rules look at the same groups and share what is kept of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReading {
    /// From 0.
    pub number: usize,
    /// Its fields; the tenant belongs to every group besides.
    pub by: Vec<String>,
    /// It is that of the session, which is kept for the session's view anyway.
    pub session: bool,
    /// Ids of the rules that have it, in order.
    pub rules: Vec<String>,
}

/// A part of a condition that is a predicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PredicateUse {
    /// Which part: `step 1`, `without of step 2`, `until`, `events`, `matcher 1`, `trigger`, `absent`.
    pub part: String,
    /// The number of its [`PredicateReading`].
    pub predicate: usize,
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
    /// The machine that computes it.
    pub operator: &'static str,
    /// The number of the [`GroupReading`] whose groups that machine runs in.
    pub group: usize,
    /// Its matchers.
    pub predicates: Vec<PredicateUse>,
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
    let mut shared = Shared::default();
    let rules = set.rules.iter().map(|r| rule(r, &mut shared)).collect();
    Explanation {
        rules,
        allowlist: set.allowlist.iter().map(entry).collect(),
        predicates: shared.predicates,
        groups: shared.groups,
    }
}

impl Explanation {
    /// Leaves only the rule with this id, and what it uses; says whether there is one.
    pub fn only(&mut self, id: &str) -> bool {
        self.rules.retain(|rule| rule.id == id);
        self.allowlist.clear();
        self.predicates.retain(|predicate| predicate.rules.iter().any(|rule| rule == id));
        self.groups.retain(|group| group.rules.iter().any(|rule| rule == id));
        !self.rules.is_empty()
    }
}

/// What several rules have in common: equal matchers and equal `by` lists, as the engine numbers them by content.
struct Shared<'p> {
    predicates: Vec<PredicateReading>,
    numbers: HashMap<&'p Matcher, usize>,
    groups: Vec<GroupReading>,
    group_numbers: HashMap<Vec<Field>, usize>,
}

impl Default for Shared<'_> {
    fn default() -> Self {
        let by = resolve::session();
        let session = GroupReading { number: 0, by: by.iter().map(field).collect(), session: true, rules: Vec::new() };
        Shared {
            predicates: Vec::new(),
            numbers: HashMap::new(),
            groups: vec![session],
            group_numbers: HashMap::from([(by, 0)]),
        }
    }
}

impl<'p> Shared<'p> {
    fn predicate(&mut self, of: &'p Matcher, rule: &str) -> usize {
        let next = self.predicates.len() + 1;
        let number = *self.numbers.entry(of).or_insert(next);
        if number == next {
            self.predicates.push(PredicateReading { number, says: matcher(of), rules: Vec::new() });
        }
        used_by(&mut self.predicates[number - 1].rules, rule);
        number
    }

    fn group(&mut self, by: &[Field], rule: &str) -> usize {
        let next = self.groups.len();
        let number = *self.group_numbers.entry(by.to_vec()).or_insert(next);
        if number == next {
            let by = by.iter().map(field).collect();
            self.groups.push(GroupReading { number, by, session: false, rules: Vec::new() });
        }
        used_by(&mut self.groups[number].rules, rule);
        number
    }
}

/// Notes a rule, which comes with all that it uses before the next one does.
fn used_by(rules: &mut Vec<String>, rule: &str) {
    if rules.last().is_none_or(|last| last != rule) {
        rules.push(rule.to_owned());
    }
}

fn rule<'p>(rule: &'p Rule, shared: &mut Shared<'p>) -> RuleReading {
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
        conditions: rule.conditions.iter().map(|c| condition(c, rule, shared)).collect(),
        suppress_for: duration::format(rule.suppress_for),
        actions: rule.actions.iter().map(action).collect(),
        shadow: rule.shadow,
    }
}

fn condition<'p>(condition: &'p Condition, rule: &Rule, shared: &mut Shared<'p>) -> ConditionReading {
    let window = duration::format(condition.window());
    let mut matchers: Vec<(String, &Matcher)> = Vec::new();
    let (kind, parts, state) = match condition {
        Condition::Sequence(c) => {
            let mut parts = Vec::new();
            for (index, step) in c.steps.iter().enumerate() {
                let count = if step.count == 1 { String::new() } else { format!("{} times ", step.count) };
                parts.push(format!("step {}: {count}{}", index + 1, matcher(&step.matcher)));
                parts.extend(step.without.iter().map(|without| format!("  no {} before it", matcher(without))));
                matchers.push((format!("step {}", index + 1), &step.matcher));
                matchers.extend(step.without.iter().map(|m| (format!("without of step {}", index + 1), m)));
            }
            parts.extend(c.until.iter().map(|until| format!("until {}", matcher(until))));
            matchers.extend(c.until.iter().map(|m| ("until".to_owned(), m)));
            let kept: u64 = c.steps.iter().map(|step| u64::from(step.count)).sum();
            ("sequence", parts, format!("the events of one window, of them {kept} as evidence of an open match"))
        }
        Condition::Threshold(c) => {
            matchers.push(("events".to_owned(), &c.matcher));
            let mut parts = vec![matcher(&c.matcher)];
            parts.extend(c.count.map(|k| format!("at least {k} events")));
            parts.extend(c.unique_targets.map(|k| format!("at least {k} distinct targets")));
            parts.extend(
                c.distinct.iter().map(|d| format!("at least {} distinct values of {}", d.at_least, field(&d.field))),
            );
            ("threshold", parts, "the matching events of one window, a time and a hash each".to_owned())
        }
        Condition::Pattern(c) => {
            matchers.extend(c.matchers.iter().enumerate().map(|(n, m)| (format!("matcher {}", n + 1), m)));
            let mut parts = vec![format!("at least {} of {}, in any order:", c.at_least, c.matchers.len())];
            parts.extend(c.matchers.iter().map(|m| format!("  {}", matcher(m))));
            (
                "pattern",
                parts,
                format!("the latest event of each of {} matchers, and what may come late", c.matchers.len()),
            )
        }
        Condition::Absence(c) => {
            matchers.extend([("trigger".to_owned(), &c.trigger), ("absent".to_owned(), &c.absent)]);
            let parts = vec![matcher(&c.trigger), format!("and not {} within the window after it", matcher(&c.absent))];
            ("absence", parts, "the triggers of one window that nothing has answered".to_owned())
        }
        Condition::NewValue(c) => {
            matchers.push(("events".to_owned(), &c.matcher));
            let mut parts = vec![matcher(&c.matcher), format!("a new value of {}", field(&c.field))];
            if c.learn > 0 {
                parts.push(format!("once the group is {} old", duration::format(c.learn)));
            }
            ("new_value", parts, "the distinct values of one window, a time and a hash each".to_owned())
        }
    };
    let state = format!("{state}; kept for {window} and the lateness");
    let patterns = patterns(matchers.iter().map(|(_, matcher)| *matcher));
    let predicates = matchers
        .into_iter()
        .map(|(part, matcher)| PredicateUse { part, predicate: shared.predicate(matcher, &rule.id) })
        .collect();
    let group = shared.group(&rule.by, &rule.id);
    ConditionReading { kind, window, parts, patterns, state, operator: kind, group, predicates }
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

/// How many rules a line of text names.
const MAX_NAMED: usize = 5;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            self.show_rule(f, rule)?;
        }
        for entry in &self.allowlist {
            writeln!(f, "allowlist ({})", printable(&entry.origin))?;
            writeln!(f, "  {}", printable(&entry.says))?;
            show_patterns(f, &entry.patterns)?;
        }
        Ok(())
    }
}

impl Explanation {
    fn show_rule(&self, f: &mut fmt::Formatter<'_>, rule: &RuleReading) -> fmt::Result {
        writeln!(f, "{} \"{}\" ({})", printable(&rule.id), printable(&rule.name), printable(&rule.origin))?;
        writeln!(f, "  version       {}", rule.version)?;
        writeln!(f, "  severity      {}", format!("{:?}", rule.severity).to_lowercase())?;
        writeln!(f, "  group         {} (and tenant_id)", printable(&rule.by.join(", ")))?;
        writeln!(f, "  suppress_for  {}", rule.suppress_for)?;
        let actions = if rule.actions.is_empty() { "none".to_owned() } else { rule.actions.join(", ") };
        writeln!(f, "  actions       {}{}", printable(&actions), if rule.shadow { " (shadow: not run)" } else { "" })?;
        for condition in &rule.conditions {
            writeln!(f, "  {} within {}", condition.kind, condition.window)?;
            for part in &condition.parts {
                writeln!(f, "    {}", printable(part))?;
            }
            writeln!(f, "    state of a group: {}", condition.state)?;
            self.show_shared(f, rule, condition)?;
            show_patterns(f, &condition.patterns)?;
        }
        Ok(())
    }

    /// The machine with its groups, and the predicates, each with the other rules that have it.
    fn show_shared(&self, f: &mut fmt::Formatter<'_>, rule: &RuleReading, condition: &ConditionReading) -> fmt::Result {
        let operator = condition.operator;
        if let Ok(index) = self.groups.binary_search_by_key(&condition.group, |group| group.number) {
            let group = &self.groups[index];
            let whose = if group.session { "the session's groups" } else { "groups of its own `by` list" };
            writeln!(f, "    runs as {operator} in {whose}, {}", others(&group.rules, &rule.id))?;
        }
        for part in &condition.predicates {
            let number = part.predicate;
            if let Ok(index) = self.predicates.binary_search_by_key(&number, |predicate| predicate.number) {
                let with = others(&self.predicates[index].rules, &rule.id);
                writeln!(f, "    {} is predicate {number}, {with}", part.part)?;
            }
        }
        Ok(())
    }
}

/// Which other rules have it.
fn others(rules: &[String], own: &str) -> String {
    let named: Vec<_> = rules.iter().filter(|rule| *rule != own).take(MAX_NAMED).map(|rule| printable(rule)).collect();
    match rules.len().saturating_sub(1) {
        0 => "shared with no other rule".to_owned(),
        all if all > named.len() => format!("shared with {} and {} more", named.join(", "), all - named.len()),
        _ => format!("shared with {}", named.join(", ")),
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
