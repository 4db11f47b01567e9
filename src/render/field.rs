//! Values of an event's fields, and tests on them (SPEC §4, "Matchers").

use clawdstrike_rules::plan::{Field, FieldTest, Scalar};
use clawdstrike_telemetry::{Event, target};
use serde_json::Value;

/// A field that an event holds decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direct {
    Tenant,
    Agent,
    Session,
    Type,
    RawTarget,
    Allowed,
    Guard,
    Severity,
    Message,
}

/// A part of the record that is parsed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Context,
    Args,
    Record,
}

/// Where a field's value is found; known once for a rule set, not once an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(At);

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Direct(Direct),
    /// The normalised target.
    Target,
    /// A path below a part.
    Below(Part, Vec<String>),
}

impl Place {
    /// Of a field that a matcher tests or compares.
    pub fn of(field: &Field) -> Place {
        let Field::Path(path) = field else { return Place(At::Target) };
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let direct = match parts.as_slice() {
            ["agent_id"] => Direct::Agent,
            ["session_id"] => Direct::Session,
            ["event_type"] => Direct::Type,
            ["action", "target"] => Direct::RawTarget,
            ["result", "allowed"] => Direct::Allowed,
            ["result", "guard"] => Direct::Guard,
            ["result", "severity"] => Direct::Severity,
            ["result", "message"] => Direct::Message,
            ["context", ..] => return Place(At::Below(Part::Context, path[1..].to_vec())),
            ["action", "args", ..] => return Place(At::Below(Part::Args, path[2..].to_vec())),
            _ => return Place(At::Below(Part::Record, path.clone())),
        };
        Place(At::Direct(direct))
    }

    /// Of a field of a `by` list: as [`Place::of`], but a tenant that is absent is the empty one.
    pub fn in_group(field: &Field) -> Place {
        match field {
            Field::Path(path) if path.len() == 1 && path[0] == "tenant_id" => Place(At::Direct(Direct::Tenant)),
            _ => Place::of(field),
        }
    }
}

fn direct(event: &Event<'_>, field: Direct) -> Value {
    let text = |s: &str| Value::String(s.to_owned());
    match field {
        Direct::Tenant => text(&event.tenant_id),
        Direct::Agent => text(&event.agent_id),
        Direct::Session => text(&event.session_id),
        Direct::Type => text(event.event_type.name()),
        Direct::RawTarget => text(&event.target),
        Direct::Allowed => Value::Bool(event.allowed),
        Direct::Guard => text(&event.guard),
        Direct::Severity => text(&event.severity),
        Direct::Message => text(&event.message),
    }
}

/// Fields of one event; what a field asks for is worked out then, and only once.
pub struct Fields<'a> {
    event: &'a Event<'a>,
    target: Option<Value>,
    context: Option<Value>,
    args: Option<Value>,
    record: Option<Value>,
}

impl<'a> Fields<'a> {
    /// The fields of an event.
    pub fn new(event: &'a Event<'a>) -> Self {
        Fields { event, target: None, context: None, args: None, record: None }
    }

    /// Calls `f` with the value of a field; null counts as absent.
    pub fn with<R>(&mut self, place: &Place, f: impl FnOnce(Option<&Value>) -> R) -> R {
        let event = self.event;
        match &place.0 {
            At::Direct(field) => f(Some(&direct(event, *field))),
            At::Target => f(Some(self.target.get_or_insert_with(|| {
                Value::String(target::normalise(event.event_type, &event.target).text().into_owned())
            }))),
            At::Below(part, path) => {
                let part = match part {
                    Part::Context => self.context.get_or_insert_with(|| event.context_value()),
                    Part::Args => self.args.get_or_insert_with(|| event.args_value()),
                    Part::Record => self.record.get_or_insert_with(|| event.document()),
                };
                f(lookup(part, path))
            }
        }
    }
}

/// A value by path; null counts as absent. Names step into objects only.
pub fn lookup<'a>(document: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(document, |value, name| value.get(name)).filter(|v| !v.is_null())
}

/// A test with its regexes compiled.
pub enum CompiledTest {
    /// All hold.
    All(Vec<CompiledTest>),
    /// The inner one doesn't hold.
    Not(Box<CompiledTest>),
    /// One of the scalars.
    In(Vec<Scalar>),
    /// Found in a text.
    Regex(regex::Regex),
    /// A test that needs no compiling.
    Plain(FieldTest),
}

/// Regexes of rules are small (checked when the rules are compiled); this bounds what one may take here.
const REGEX_BYTES: usize = 10 << 20;

/// A regex as rules mean it: `.` matches newlines.
pub fn regex(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).dot_matches_new_line(true).size_limit(REGEX_BYTES).build()
}

impl CompiledTest {
    /// Compiles the regexes of a test.
    pub fn new(test: &FieldTest) -> Result<CompiledTest, regex::Error> {
        Ok(match test {
            FieldTest::All(tests) => CompiledTest::All(tests.iter().map(CompiledTest::new).collect::<Result<_, _>>()?),
            FieldTest::Not(test) => CompiledTest::Not(Box::new(CompiledTest::new(test)?)),
            FieldTest::In(values) => CompiledTest::In(values.clone()),
            FieldTest::Regex(pattern) => CompiledTest::Regex(regex(pattern)?),
            plain => CompiledTest::Plain(plain.clone()),
        })
    }

    /// Whether it holds for a value (`None`: the field is absent).
    pub fn holds(&self, value: Option<&Value>) -> bool {
        match self {
            CompiledTest::All(tests) => tests.iter().all(|t| t.holds(value)),
            CompiledTest::Not(test) => !test.holds(value),
            CompiledTest::Plain(FieldTest::Exists(wanted)) => value.is_some() == *wanted,
            operator => match value {
                None | Some(Value::Null) => false,
                Some(Value::Array(items)) => items.iter().any(|item| operator.holds_for_one(item)),
                Some(one) => operator.holds_for_one(one),
            },
        }
    }

    fn holds_for_one(&self, value: &Value) -> bool {
        match self {
            CompiledTest::In(wanted) => wanted.iter().any(|w| equals(w, value)),
            CompiledTest::Regex(regex) => value.as_str().is_some_and(|s| regex.is_match(s)),
            CompiledTest::Plain(test) => plain(test, value),
            CompiledTest::All(_) | CompiledTest::Not(_) => self.holds(Some(value)),
        }
    }
}

fn plain(test: &FieldTest, value: &Value) -> bool {
    let text = |f: &dyn Fn(&str) -> bool| value.as_str().is_some_and(f);
    let number = |f: &dyn Fn(f64) -> bool| value.as_f64().is_some_and(f);
    match test {
        FieldTest::Contains(part) => text(&|s| s.contains(part.as_str())),
        FieldTest::StartsWith(part) => text(&|s| s.starts_with(part.as_str())),
        FieldTest::EndsWith(part) => text(&|s| s.ends_with(part.as_str())),
        FieldTest::Gt(n) => number(&|v| v > n.0),
        FieldTest::Gte(n) => number(&|v| v >= n.0),
        FieldTest::Lt(n) => number(&|v| v < n.0),
        FieldTest::Lte(n) => number(&|v| v <= n.0),
        _ => false,
    }
}

fn equals(wanted: &Scalar, value: &Value) -> bool {
    match (wanted, value) {
        (Scalar::Bool(a), Value::Bool(b)) => a == b,
        (Scalar::Number(a), Value::Number(b)) => b.as_f64() == Some(a.0),
        (Scalar::Text(a), Value::String(b)) => a == b,
        _ => false,
    }
}

/// A scalar's bytes such that values that are equal as JSON have equal bytes; `None` for a list, an object or nothing.
pub fn scalar_bytes(value: Option<&Value>, out: &mut Vec<u8>) -> Option<()> {
    match value? {
        Value::Bool(b) => out.extend_from_slice(&[1, u8::from(*b)]),
        Value::Number(n) => {
            out.push(2);
            // -0 equals 0.
            out.extend_from_slice(&(n.as_f64()? + 0.0).to_bits().to_le_bytes());
        }
        Value::String(s) => {
            out.push(3);
            out.extend_from_slice(&(s.len() as u32).to_le_bytes());
            out.extend_from_slice(s.as_bytes());
        }
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    }
    Some(())
}
