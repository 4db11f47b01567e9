//! Whether an event satisfies a matcher. Knows nothing of groups, windows or other events.

use std::cell::RefCell;
use std::collections::HashMap;

use clawdstrike_rules::plan::{FieldTest, HostPart, Matcher, Number, TargetPattern, Test};
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::event::{Event, Target, scalar};

/// A compiled regex may take this many bytes: more than the rules' compiler lets any take.
const REGEX_BYTES: usize = 256 << 20;

/// The plan's regexes, compiled at their first use.
#[derive(Default)]
pub(crate) struct Patterns {
    compiled: RefCell<HashMap<String, Regex>>,
}

impl Patterns {
    /// Whether the regex is found in the text.
    pub(crate) fn finds(&self, regex: &str, text: &str) -> bool {
        let mut compiled = self.compiled.borrow_mut();
        if !compiled.contains_key(regex) {
            let new = RegexBuilder::new(regex)
                .dot_matches_new_line(true)
                .size_limit(REGEX_BYTES)
                .build()
                .unwrap_or_else(|e| panic!("a plan's regex \"{regex}\" can't be read: {e}"));
            compiled.insert(regex.to_owned(), new);
        }
        compiled[regex].is_match(text)
    }

    /// Whether all of the matcher's keys hold.
    pub(crate) fn satisfies(&self, event: &Event, matcher: &Matcher) -> bool {
        matcher.event_types.contains(event.event_type as u8) && matcher.tests.iter().all(|test| self.holds(event, test))
    }

    fn holds(&self, event: &Event, test: &Test) -> bool {
        match test {
            Test::Target(patterns) => self.target(&event.target, patterns),
            Test::NotTarget(patterns) => !self.target(&event.target, patterns),
            Test::TargetRegex(regex) => match &event.target {
                Target::Host { host, with_port } => {
                    self.finds(regex, host) || with_port.as_ref().is_some_and(|t| self.finds(regex, t))
                }
                Target::Path(text) | Target::Text(text) => self.finds(regex, text),
            },
            Test::Field(field, test) => self.field(event.value(field).as_ref(), test),
        }
    }

    /// Whether one of the patterns matches the target.
    pub(crate) fn target(&self, target: &Target, patterns: &[TargetPattern]) -> bool {
        patterns.iter().any(|pattern| match target {
            Target::Path(text) => self.reading(pattern.path.as_ref(), text),
            Target::Text(text) => self.reading(pattern.other.as_ref(), text),
            Target::Host { host, with_port } => pattern.host.as_ref().is_some_and(|reading| {
                let on_host = reading.on != HostPart::HostPort;
                let on_port = reading.on != HostPart::Host;
                on_host && self.finds(&reading.regex, host)
                    || on_port && with_port.as_ref().is_some_and(|text| self.finds(&reading.regex, text))
            }),
        })
    }

    fn reading(&self, regex: Option<&String>, text: &str) -> bool {
        regex.is_some_and(|regex| self.finds(regex, text))
    }

    fn field(&self, value: Option<&Value>, test: &FieldTest) -> bool {
        match test {
            FieldTest::All(tests) => tests.iter().all(|test| self.field(value, test)),
            FieldTest::Not(test) => !self.field(value, test),
            FieldTest::Exists(wanted) => value.is_some() == *wanted,
            test => match value {
                None => false,
                Some(Value::Array(elements)) => elements.iter().any(|v| self.operator(v, test)),
                Some(value) => self.operator(value, test),
            },
        }
    }

    /// An operator on one value that is no list.
    fn operator(&self, value: &Value, test: &FieldTest) -> bool {
        let text = |holds: &dyn Fn(&str) -> bool| value.as_str().is_some_and(holds);
        let number = |holds: &dyn Fn(f64) -> bool| value.as_f64().is_some_and(holds);
        match test {
            FieldTest::In(any) => scalar(value).is_some_and(|value| any.contains(&value)),
            FieldTest::Regex(regex) => text(&|t| self.finds(regex, t)),
            FieldTest::Contains(part) => text(&|t| t.contains(part.as_str())),
            FieldTest::StartsWith(start) => text(&|t| t.starts_with(start.as_str())),
            FieldTest::EndsWith(end) => text(&|t| t.ends_with(end.as_str())),
            FieldTest::Gt(Number(than)) => number(&|n| n > *than),
            FieldTest::Gte(Number(than)) => number(&|n| n >= *than),
            FieldTest::Lt(Number(than)) => number(&|n| n < *than),
            FieldTest::Lte(Number(than)) => number(&|n| n <= *than),
            // These three look at the whole value, not at one element.
            FieldTest::All(_) | FieldTest::Not(_) | FieldTest::Exists(_) => self.field(Some(value), test),
        }
    }
}
