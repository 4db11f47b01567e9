//! Tests of a field that no event passes.
//!
//! Where an event may hold a list, each operator may hold for another element: `{eq: a, in: [b]}` is passed by `[a, b]`.
//! So more can be said of the fields that hold one scalar.

use regex::Regex;

use crate::diagnostic::quoted;
use crate::plan::{Field, FieldTest, Scalar};

/// Of a longer list of values it isn't asked which of them pass the other operators.
const MAX_VALUES: usize = 1_000;

/// What a field of an event holds (SPEC §3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Bool,
    /// A text of 1 to 256 bytes without control characters.
    Id,
    Text,
    /// Any JSON.
    Any,
}

impl Holds {
    fn name(self) -> &'static str {
        match self {
            Holds::Bool => "true or false",
            Holds::Id => "a text of 1 to 256 bytes without control characters",
            Holds::Text => "a text",
            Holds::Any => "any value",
        }
    }

    fn can_be(self, scalar: &Scalar) -> bool {
        match (self, scalar) {
            (Holds::Any, _) | (Holds::Bool, Scalar::Bool(_)) | (Holds::Text, Scalar::Text(_)) => true,
            (Holds::Id, Scalar::Text(text)) => (1..=256).contains(&text.len()) && !text.contains(char::is_control),
            _ => false,
        }
    }
}

/// What the field holds, and whether every event has it.
fn holds(field: &Field) -> (Holds, bool) {
    let Field::Path(parts) = field else {
        return (Holds::Text, true);
    };
    match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["agent_id" | "session_id"] => (Holds::Id, true),
        ["tenant_id"] => (Holds::Id, false),
        ["event_id"] => (Holds::Text, false),
        ["timestamp" | "event_type"] | ["action", "target"] | ["result", "guard" | "severity" | "message"] => {
            (Holds::Text, true)
        }
        ["result", "allowed"] => (Holds::Bool, true),
        _ => (Holds::Any, false),
    }
}

/// What is wrong with a test that no event passes, or none but one with a list, and the way out; none if nothing is.
pub(crate) fn never(name: &str, field: &Field, test: &FieldTest) -> Option<(String, &'static str)> {
    let tests = match test {
        FieldTest::All(tests) => tests.as_slice(),
        one => std::slice::from_ref(one),
    };
    let said = |what: &str, (why, hint)| (format!("{what} passes this test of \"{name}\": {why}"), hint);
    let never = reason(field, tests).map(|reason| said("no event", reason));
    never.or_else(|| range(tests).map(|reason| said("only a list", reason)))
}

/// Why no event passes all of the tests.
fn reason(field: &Field, tests: &[FieldTest]) -> Option<(String, &'static str)> {
    let (holds, always) = holds(field);
    let wants_absent = tests.iter().any(|test| presence(test) == Some(false));
    if wants_absent && always {
        return Some(("every event has this field".to_owned(), "remove the test, or test another field"));
    }
    if wants_absent {
        let other = tests.iter().any(|test| presence(test) == Some(true));
        return other.then(|| {
            ("an absent field passes no other test".to_owned(), "remove `exists: false`, or the operators beside it")
        });
    }
    if holds != Holds::Any && tests.iter().any(is_numeric) {
        return Some((format!("this field holds {}, never a number", holds.name()), "compare it with `eq` or `in`"));
    }
    if tests.iter().any(|test| matches!(test, FieldTest::In(values) if values.len() > MAX_VALUES)) {
        return None;
    }
    if let Some(denied) = tests.iter().find(|test| tests.iter().any(|other| denies(other, test))) {
        let what = format!("\"{}\" and a \"not\" that includes it contradict each other", name(denied));
        return Some((what, "remove one of the two"));
    }
    one_value(tests, holds)
}

/// Whether the test asks for a value (true) or for none (false); none where it is passed with and without.
fn presence(test: &FieldTest) -> Option<bool> {
    match test {
        FieldTest::Exists(wanted) => Some(*wanted),
        FieldTest::Not(inner) => match &**inner {
            FieldTest::Exists(wanted) => Some(!wanted),
            _ => None,
        },
        _ => Some(true),
    }
}

fn is_numeric(test: &FieldTest) -> bool {
    matches!(test, FieldTest::Gt(_) | FieldTest::Gte(_) | FieldTest::Lt(_) | FieldTest::Lte(_))
}

/// Whether `not` is a negation of something that holds wherever `test` does, element by element.
fn denies(not: &FieldTest, test: &FieldTest) -> bool {
    let FieldTest::Not(inner) = not else {
        return false;
    };
    let operators = match &**inner {
        FieldTest::All(tests) => tests.as_slice(),
        one => std::slice::from_ref(one),
    };
    !matches!(test, FieldTest::Not(_)) && operators.iter().all(|wider| implies(test, wider))
}

fn implies(test: &FieldTest, wider: &FieldTest) -> bool {
    use FieldTest::{Contains, EndsWith, Exists, Gt, Gte, In, Lt, Lte, Not, StartsWith};
    match (test, wider) {
        (Not(_), _) | (_, Not(_)) => false,
        (test, Exists(true)) => presence(test) == Some(true),
        (In(values), operator) => values.iter().all(|value| passes(operator, value)),
        (StartsWith(text), StartsWith(part)) => text.starts_with(part.as_str()),
        (EndsWith(text), EndsWith(part)) => text.ends_with(part.as_str()),
        (StartsWith(text) | EndsWith(text) | Contains(text), Contains(part)) => text.contains(part.as_str()),
        (Gt(a), Gt(b) | Gte(b)) | (Gte(a), Gte(b)) => a >= b,
        (Gte(a), Gt(b)) => a > b,
        (Lt(a), Lt(b) | Lte(b)) | (Lte(a), Lte(b)) => a <= b,
        (Lte(a), Lt(b)) => a < b,
        (a, b) => a == b,
    }
}

/// Whether the tests exclude every value that they name, of a field that holds one scalar.
fn one_value(tests: &[FieldTest], holds: Holds) -> Option<(String, &'static str)> {
    let named = tests.iter().find_map(|test| match test {
        FieldTest::In(values) => Some(values.as_slice()),
        _ => None,
    });
    let flags = [Scalar::Bool(false), Scalar::Bool(true)];
    let candidates = match (named, holds) {
        (_, Holds::Any) => return None,
        (Some(values), _) => values,
        (None, Holds::Bool) => flags.as_slice(),
        (None, _) => return None,
    };
    if candidates.iter().any(|value| holds.can_be(value) && tests.iter().all(|test| passes(test, value))) {
        return None;
    }
    let held = format!("this field holds {}", holds.name());
    if named.is_none() {
        return Some((held, "test a boolean with `true` or `false`"));
    }
    if !candidates.iter().any(|value| holds.can_be(value)) {
        let hint = match holds {
            Holds::Bool => "write `true` or `false`, without quotes",
            _ => "compare it with a text that it can hold; a number or boolean that is a text stands in quotes",
        };
        return Some((held, hint));
    }
    let why = match candidates {
        [one] => format!("{} doesn't pass the other operators", shown(one)),
        _ => "none of the values passes the other operators".to_owned(),
    };
    Some((why, "all operators of a field must hold together"))
}

/// Whether a value that is no list passes the test.
fn passes(test: &FieldTest, value: &Scalar) -> bool {
    let text = |holds: &dyn Fn(&str) -> bool| matches!(value, Scalar::Text(text) if holds(text));
    let number = |holds: &dyn Fn(f64) -> bool| matches!(value, Scalar::Number(number) if holds(number.0));
    match test {
        FieldTest::All(tests) => tests.iter().all(|test| passes(test, value)),
        FieldTest::Not(test) => !passes(test, value),
        FieldTest::Exists(wanted) => *wanted,
        FieldTest::In(values) => values.contains(value),
        FieldTest::Regex(regex) => Regex::new(regex).is_ok_and(|regex| text(&|t| regex.is_match(t))),
        FieldTest::Contains(part) => text(&|t| t.contains(part.as_str())),
        FieldTest::StartsWith(part) => text(&|t| t.starts_with(part.as_str())),
        FieldTest::EndsWith(part) => text(&|t| t.ends_with(part.as_str())),
        FieldTest::Gt(than) => number(&|n| n > than.0),
        FieldTest::Gte(than) => number(&|n| n >= than.0),
        FieldTest::Lt(than) => number(&|n| n < than.0),
        FieldTest::Lte(than) => number(&|n| n <= than.0),
    }
}

/// Bounds that no number keeps. A list can, with a number on either side, which is seldom meant.
fn range(tests: &[FieldTest]) -> Option<(String, &'static str)> {
    let lower = tests.iter().filter_map(|test| match test {
        FieldTest::Gt(number) => Some((number.0, true)),
        FieldTest::Gte(number) => Some((number.0, false)),
        _ => None,
    });
    let upper = tests.iter().filter_map(|test| match test {
        FieldTest::Lt(number) => Some((number.0, true)),
        FieldTest::Lte(number) => Some((number.0, false)),
        _ => None,
    });
    let upper: Vec<_> = upper.collect();
    let empty = |(low, a): (f64, bool), (high, b): (f64, bool)| low > high || low == high && (a || b);
    let (low, high) = lower.flat_map(|low| upper.iter().map(move |&high| (low, high))).find(|&(l, h)| empty(l, h))?;
    let sign = |strict: bool, sign: &str| if strict { sign.to_owned() } else { format!("{sign}=") };
    let what = format!("no one number is {} {} and {} {}", sign(low.1, ">"), low.0, sign(high.1, "<"), high.0);
    Some((what, "exchange the bounds, or write two rules for below and above"))
}

fn shown(value: &Scalar) -> String {
    match value {
        Scalar::Bool(flag) => flag.to_string(),
        Scalar::Number(number) => number.0.to_string(),
        Scalar::Text(text) => quoted(text),
    }
}

fn name(test: &FieldTest) -> &'static str {
    match test {
        FieldTest::All(_) | FieldTest::Not(_) => "not",
        FieldTest::In(values) => {
            if values.len() == 1 {
                "eq"
            } else {
                "in"
            }
        }
        FieldTest::Regex(_) => "regex",
        FieldTest::Contains(_) => "contains",
        FieldTest::StartsWith(_) => "starts_with",
        FieldTest::EndsWith(_) => "ends_with",
        FieldTest::Gt(_) => "gt",
        FieldTest::Gte(_) => "gte",
        FieldTest::Lt(_) => "lt",
        FieldTest::Lte(_) => "lte",
        FieldTest::Exists(_) => "exists",
    }
}
