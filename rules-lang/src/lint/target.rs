//! Matchers whose tests of the target contradict each other.

use super::cover::{Covers, Literal, is_everything, reading};
use crate::context::Context;
use crate::diagnostic::Span;
use crate::pattern::Kind;
use crate::plan::{EventTypes, HostPart, TargetPattern, Test};

/// Beyond so many pairs of patterns nothing is said of a matcher.
const MAX_PAIRS: usize = 1_000_000;

/// Warns if no target of these event types passes all of the matcher's tests, each given with its key and place.
pub(crate) fn contradiction(cx: &mut Context<'_>, what: &str, types: EventTypes, tests: &[(&str, Span, &Test)]) {
    let mut positive: Vec<_> = tests.iter().filter(|(.., test)| matches!(test, Test::Target(_))).collect();
    let negative: Vec<_> = tests.iter().filter(|(.., test)| matches!(test, Test::NotTarget(_))).collect();
    let regexes: Vec<_> = tests.iter().filter(|(.., test)| matches!(test, Test::TargetRegex(_))).collect();
    let sizes = |tests: &[&(&str, Span, &Test)]| tests.iter().map(|(.., test)| patterns(test).len()).sum::<usize>();
    let others = sizes(&negative) + sizes(&positive) + regexes.len();
    if others == 0 || sizes(&positive).saturating_mul(others) > MAX_PAIRS {
        return;
    }
    // The most specific first: it is the one that is told.
    positive.sort_by_key(|(.., test)| patterns(test).len());
    let mut covers = Covers::default();
    let kinds = Kind::of(types);
    for (key, at, test) in &negative {
        if kinds.iter().all(|&kind| patterns(test).iter().any(|pattern| is_everything(pattern, kind))) {
            cx.warn(*at, "W012", format!("no event satisfies {what}: \"{key}\" leaves out every target"))
                .hint("remove the pattern that matches every target");
            return;
        }
    }
    for (key, at, test) in &positive {
        let mut against = Vec::new();
        let dead = kinds.iter().all(|&kind| {
            patterns(test).iter().all(|pattern| match fate(&mut covers, (pattern, test), kind, tests) {
                Fate::Open => false,
                Fate::None => true,
                Fate::Excluded(by) => {
                    against.push(by);
                    true
                }
            })
        });
        if dead && !against.is_empty() {
            against.sort_unstable();
            against.dedup();
            let against: Vec<_> = against.iter().map(|key| format!("\"{key}\"")).collect();
            let message =
                format!("no event satisfies {what}: {} lets no target of \"{key}\" through", against.join(", "));
            cx.warn(*at, "W012", message)
                .hint("all keys of a matcher must hold for one event; change one of these, or write two matchers");
            return;
        }
    }
}

/// The patterns of a test.
fn patterns(test: &Test) -> &[TargetPattern] {
    match test {
        Test::Target(patterns) | Test::NotTarget(patterns) => patterns,
        _ => &[],
    }
}

/// What a pattern's targets come to under the other tests of its matcher.
enum Fate<'t> {
    /// Some may pass, for all that is known.
    Open,
    /// It has no targets of this kind.
    None,
    /// The test of this key lets none through.
    Excluded(&'t str),
}

fn fate<'t>(
    covers: &mut Covers,
    (pattern, own): (&TargetPattern, &Test),
    kind: Kind,
    tests: &[(&'t str, Span, &Test)],
) -> Fate<'t> {
    if reading(pattern, kind).is_none() {
        return Fate::None;
    }
    let literal = Literal::of(pattern, kind);
    let excluding = tests.iter().find(|(.., test)| match (test, &literal) {
        (Test::NotTarget(others), _) => others.iter().any(|other| covers.covers(other, pattern, kind)),
        (Test::Target(others), Some(literal)) if !std::ptr::eq(*test, own) => {
            others.iter().all(|other| reading(other, kind).is_none_or(|reading| covers.misses(literal, reading)))
        }
        (Test::TargetRegex(regex), Some(literal)) => covers.misses(literal, (regex, HostPart::Either)),
        _ => false,
    });
    excluding.map_or(Fate::Open, |(key, ..)| Fate::Excluded(key))
}
