//! What a detection says, as a Boolean expression over tests, and its normal form: an `or` of `and`s.

use std::rc::Rc;

use super::value::Text;
use crate::diagnostic::Span;
use crate::pattern::MAX_PATTERN_CHARS;

/// The most alternatives on the way to the normal form; a pattern of ours takes 64 in the end.
const MAX_ALTERNATIVES: usize = 512;
/// Room for anchors and flags around the alternatives of a regex.
const REGEX_CHARS: usize = MAX_PATTERN_CHARS - 40;

/// A Boolean expression.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    And(Vec<Rc<Expr>>),
    Or(Vec<Rc<Expr>>),
    Not(Rc<Expr>),
    Test(Literal),
}

/// A test, or its opposite.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub(super) negated: bool,
    pub(super) subject: Subject,
    pub(super) check: Check,
    /// Where it stands; no part of what it says.
    pub(super) at: Span,
}

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        (self.negated, &self.subject, &self.check) == (other.negated, &other.subject, &other.check)
    }
}

/// What is tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The normalised target.
    Target,
    /// A field by path.
    Field(String),
}

/// How it is tested.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Check {
    /// One of these texts.
    Texts {
        any: Vec<Text>,
        cased: bool,
    },
    /// A regex that is found.
    Regex(String),
    /// One of these numbers.
    Numbers(Vec<f64>),
    Flag(bool),
    /// `gt`, `gte`, `lt` or `lte`.
    Compare(&'static str, f64),
    Exists,
    /// A port of the normalised target.
    Ports(Vec<u16>),
}

/// All must hold.
pub(super) type Conjunction = Vec<Literal>;

/// There are more alternatives than can be expressed.
pub(super) struct TooMany;

impl Check {
    /// As a regex that keeps its flags to itself.
    pub(super) fn regex(&self) -> Option<String> {
        match self {
            Check::Texts { any, cased } => {
                let any: Vec<String> = any.iter().map(Text::regex).collect();
                Some(format!("(?{}:{})", if *cased { "" } else { "i" }, any.join("|")))
            }
            Check::Regex(regex) => Some(regex.clone()),
            _ => None,
        }
    }

    /// The check that holds where either does, if there is one.
    pub(super) fn or(&self, other: &Check) -> Option<Check> {
        let merged = match (self, other) {
            (Check::Texts { any: a, cased }, Check::Texts { any: b, cased: same }) if cased == same => {
                let mut any = a.clone();
                any.extend(b.iter().filter(|text| !a.contains(text)).cloned());
                Check::Texts { any, cased: *cased }
            }
            (Check::Numbers(a), Check::Numbers(b)) => Check::Numbers(a.iter().chain(b).copied().collect()),
            (Check::Ports(a), Check::Ports(b)) => Check::Ports(a.iter().chain(b).copied().collect()),
            (a, b) if a == b => a.clone(),
            (a, b) => Check::Regex(format!("{}|{}", a.regex()?, b.regex()?)),
        };
        merged.fits().then_some(merged)
    }

    fn fits(&self) -> bool {
        self.regex().is_none_or(|regex| regex.chars().count() <= REGEX_CHARS)
    }
}

/// Any of the texts, in as many tests as regexes have room for.
pub(super) fn any_text(subject: &Subject, texts: Vec<Text>, cased: bool, at: Span) -> Expr {
    let mut tests: Vec<Rc<Expr>> = Vec::new();
    let (mut any, mut chars) = (Vec::new(), 0);
    let test = |any| Rc::new(literal(subject.clone(), Check::Texts { any, cased }, at));
    for text in texts {
        let more = text.regex().chars().count() + 1;
        if chars + more > REGEX_CHARS && !any.is_empty() {
            tests.push(test(std::mem::take(&mut any)));
            chars = 0;
        }
        chars += more;
        any.push(text);
    }
    tests.push(test(any));
    Expr::Or(tests)
}

pub(super) fn literal(subject: Subject, check: Check, at: Span) -> Expr {
    Expr::Test(Literal { negated: false, subject, check, at })
}

/// The alternatives, each a list of tests that must all hold. None at all never holds.
pub(super) fn normal_form(expr: &Expr) -> Result<Vec<Conjunction>, TooMany> {
    alternatives(expr, false)
}

fn alternatives(expr: &Expr, negated: bool) -> Result<Vec<Conjunction>, TooMany> {
    match (expr, negated) {
        (Expr::Test(literal), _) => Ok(vec![vec![Literal { negated: literal.negated != negated, ..literal.clone() }]]),
        (Expr::Not(inner), _) => alternatives(inner, !negated),
        (Expr::Or(parts), false) | (Expr::And(parts), true) => {
            let mut all: Vec<Conjunction> = Vec::new();
            for part in parts {
                for conjunction in alternatives(part, negated)? {
                    add(&mut all, conjunction);
                    if all.len() > MAX_ALTERNATIVES {
                        return Err(TooMany);
                    }
                }
            }
            Ok(all)
        }
        (Expr::And(parts), false) | (Expr::Or(parts), true) => {
            let mut all = vec![Vec::new()];
            for part in parts {
                let more = alternatives(part, negated)?;
                if all.len().saturating_mul(more.len()) > MAX_ALTERNATIVES {
                    return Err(TooMany);
                }
                let mut product = Vec::new();
                for (left, right) in all.iter().flat_map(|left| more.iter().map(move |right| (left, right))) {
                    add(&mut product, both(left, right));
                }
                all = product;
            }
            Ok(all)
        }
    }
}

fn both(left: &Conjunction, right: &Conjunction) -> Conjunction {
    let mut all = left.clone();
    for literal in right {
        if all.contains(literal) {
            continue;
        }
        // Not a and not b is not (a or b), which keeps a long list of exceptions one test.
        let joined = all.iter_mut().find(|l| l.negated && literal.negated && l.subject == literal.subject);
        match joined.and_then(|l| Some((l.check.or(&literal.check)?, l))) {
            Some((check, l)) => l.check = check,
            None => all.push(literal.clone()),
        }
    }
    all
}

/// Adds an alternative; one that differs in a single test from another is put together with it.
pub(super) fn add(all: &mut Vec<Conjunction>, more: Conjunction) {
    for conjunction in all.iter_mut() {
        if conjunction.len() != more.len() {
            continue;
        }
        let mut differing = conjunction.iter_mut().zip(&more).filter(|(a, b)| a != b);
        match (differing.next(), differing.next()) {
            (None, _) => return,
            (Some((a, b)), None) if !a.negated && !b.negated && a.subject == b.subject => {
                if let Some(check) = a.check.or(&b.check) {
                    a.check = check;
                    return;
                }
            }
            _ => {}
        }
    }
    all.push(more);
}
