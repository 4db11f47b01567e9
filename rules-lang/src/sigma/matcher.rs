//! A conjunction of tests as one matcher of ours.

use super::emit::Yaml;
use super::expr::{Check, Conjunction, Literal, Subject};
use super::logsource::{RAW_TARGET, Source, Target};
use super::value::Place;
use crate::context::Context;
use crate::diagnostic::Span;

/// The keys of a matcher, `event_type` first.
pub(super) type Matcher = Vec<(String, Yaml)>;

/// Writes a conjunction as a matcher; what can't be is reported.
pub(super) fn write(cx: &mut Context<'_>, source: &Source, conjunction: &Conjunction) -> Option<Matcher> {
    let mut keys: Matcher = vec![("event_type".to_owned(), Yaml::text(source.event_type))];
    let mut fields: Vec<(String, Vec<&Literal>)> = Vec::new();
    let mut push = |path: &str, literal| match fields.iter_mut().find(|(name, _)| name == path) {
        Some((_, literals)) => literals.push(literal),
        None => fields.push((path.to_owned(), vec![literal])),
    };
    let mut except: Vec<String> = Vec::new();
    for literal in conjunction {
        match &literal.subject {
            Subject::Field(path) => push(path, literal),
            Subject::Target if literal.negated && source.target != Target::Text => {
                except.extend(globs(cx, source, literal)?);
            }
            Subject::Target if literal.negated => push(RAW_TARGET, literal),
            Subject::Target => match target(&keys, source, literal) {
                Some(key) => keys.push(key),
                // In texts the raw target is the normalised one.
                None if source.target == Target::Text => push(RAW_TARGET, literal),
                None => {
                    cx.error(literal.at, "E096", "a matcher has no room for so many tests of one target")
                        .hint("put them together in one `re`, or leave those out that others imply");
                    return None;
                }
            },
        }
    }
    if !except.is_empty() {
        keys.push(("target_not_in".to_owned(), Yaml::List(except.into_iter().map(Yaml::Text).collect())));
    }
    for (path, literals) in fields {
        let test = field(cx, &literals)?;
        keys.push((path, test));
    }
    Some(keys)
}

/// A key for a test of the normalised target, of those that are free.
fn target(keys: &Matcher, source: &Source, literal: &Literal) -> Option<(String, Yaml)> {
    let free = |name: &str| keys.iter().all(|(key, _)| key != name);
    if let Check::Ports(ports) = &literal.check {
        let ports = ports.iter().map(|port| Yaml::Text(format!("*:{port}"))).collect();
        return free("target_in").then(|| ("target_in".to_owned(), Yaml::List(ports)));
    }
    if free("target_regex") {
        return Some(("target_regex".to_owned(), Yaml::Text(search(&literal.check)?)));
    }
    if free("target_pattern") {
        // In parentheses it is a regex, and one alternative whatever it holds.
        let whole = format!("(?s:.*(?:{}).*)", literal.check.regex()?);
        return Some(("target_pattern".to_owned(), Yaml::Text(whole)));
    }
    let Check::Texts { any, cased } = &literal.check else { return None };
    let globs: Option<Vec<_>> = any.iter().map(|text| text.path_globs(*cased)).collect();
    let globs = globs.filter(|_| source.target == Target::Path && free("target_glob"))?;
    Some(("target_glob".to_owned(), Yaml::List(globs.into_iter().flatten().map(Yaml::Text).collect())))
}

/// The regex of a check; a flag for all of it stands in front without parentheses.
fn search(check: &Check) -> Option<String> {
    match check {
        Check::Texts { any, cased } => {
            let flag = if *cased || any.iter().all(|text| text.is_caseless()) { "" } else { "(?i)" };
            let any: Vec<String> = any.iter().map(|text| text.regex()).collect();
            Some(format!("{flag}{}", any.join("|")))
        }
        _ => check.regex().map(|regex| match regex.strip_prefix("(?:").and_then(|r| r.strip_suffix(')')) {
            // Its own parentheses may not be one pair.
            Some(inner) if regex_syntax::parse(inner).is_ok() => inner.to_owned(),
            _ => regex,
        }),
    }
}

/// Globs for what the normalised target must not be.
fn globs(cx: &mut Context<'_>, source: &Source, literal: &Literal) -> Option<Vec<String>> {
    let globs = match (&literal.check, source.target) {
        (Check::Ports(ports), _) => Some(ports.iter().map(|port| vec![format!("*:{port}")]).collect()),
        (Check::Texts { any, cased }, Target::Path) => {
            any.iter().map(|text| text.path_globs(*cased)).collect::<Option<Vec<_>>>()
        }
        (Check::Texts { any, .. }, Target::Host) => any.iter().map(|text| text.host_globs()).collect(),
        _ => None,
    };
    if globs.is_none() {
        let hint = match source.target {
            Target::Host => "below \"not\" hosts are compared whole, or with endswith and a leading dot",
            _ => "below \"not\" paths are compared whole, or with contains, startswith and endswith, without wildcards",
        };
        cx.error(literal.at, "E096", "what a target must not be can't be expressed by this test").hint(hint);
    }
    globs.map(|globs| globs.concat())
}

/// All the tests of one field. Operators are keys, so a second regex goes into `not: {not: ...}`.
fn field(cx: &mut Context<'_>, literals: &[&Literal]) -> Option<Yaml> {
    let (negated, positive): (Vec<&Literal>, Vec<&Literal>) = literals.iter().partition(|literal| literal.negated);
    let mut absent = None;
    let mut except: Option<(Check, Span)> = None;
    for literal in negated {
        if literal.check == Check::Exists {
            absent = Some(("exists", Yaml::Bool(false)));
            continue;
        }
        let merged = match &except {
            None => Some(literal.check.clone()),
            Some((check, _)) => check.or(&literal.check),
        };
        let Some(merged) = merged else {
            cx.error(literal.at, "E096", "a field can't be kept from two values of different kinds, or from so many")
                .hint("leave one out, or allowlist the events");
            return None;
        };
        except = Some((merged, literal.at));
    }
    let mut tests: Vec<(&'static str, Yaml)> = positive.iter().map(|literal| operator(&literal.check)).collect();
    tests.extend(absent);
    tests.dedup();
    let except = except.map(|(check, _)| plain(vec![operator(&check)]));
    Some(plain(nested(tests, except)))
}

fn nested(tests: Vec<(&'static str, Yaml)>, except: Option<Yaml>) -> Vec<(&'static str, Yaml)> {
    let (mut now, mut later): (Vec<(&'static str, Yaml)>, Vec<_>) = (Vec::new(), Vec::new());
    for (operator, value) in tests {
        let taken = now.iter().any(|(name, _)| *name == operator);
        if taken { &mut later } else { &mut now }.push((operator, value));
    }
    match (later.is_empty(), except) {
        (true, None) => {}
        (true, Some(except)) => now.push(("not", except)),
        (false, except) => now.push(("not", map(vec![("not", map(nested(later, except)))]))),
    }
    now
}

/// Operators as short as the language writes them.
fn plain(mut tests: Vec<(&'static str, Yaml)>) -> Yaml {
    match tests.as_slice() {
        [("eq" | "in", _)] => tests.remove(0).1,
        _ => map(tests),
    }
}

fn map(tests: Vec<(&'static str, Yaml)>) -> Yaml {
    Yaml::Map(tests.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn operator(check: &Check) -> (&'static str, Yaml) {
    match check {
        Check::Texts { any, cased } if *cased || any.iter().all(|text| text.is_caseless()) => {
            let literals: Option<Vec<(Place, String)>> = any.iter().map(|text| text.literal()).collect();
            match literals.as_deref() {
                Some([(place, text)]) => (literal_operator(*place), Yaml::text(text)),
                Some(all) if all.iter().all(|(place, _)| *place == Place::Whole) => {
                    ("in", Yaml::List(all.iter().map(|(_, text)| Yaml::text(text)).collect()))
                }
                _ => regex(check),
            }
        }
        Check::Numbers(numbers) => match numbers.as_slice() {
            [number] => ("eq", Yaml::Number(*number)),
            _ => ("in", Yaml::List(numbers.iter().map(|number| Yaml::Number(*number)).collect())),
        },
        Check::Flag(flag) => ("eq", Yaml::Bool(*flag)),
        Check::Compare(operator, number) => (operator, Yaml::Number(*number)),
        Check::Exists => ("exists", Yaml::Bool(true)),
        Check::Texts { .. } | Check::Regex(_) | Check::Ports(_) => regex(check),
    }
}

fn literal_operator(place: Place) -> &'static str {
    match place {
        Place::Whole => "eq",
        Place::Start => "starts_with",
        Place::End => "ends_with",
        Place::Anywhere => "contains",
    }
}

fn regex(check: &Check) -> (&'static str, Yaml) {
    ("regex", Yaml::Text(search(check).unwrap_or_default()))
}
