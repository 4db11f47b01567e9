//! Whether whatever one target pattern matches is matched by another. Yes means certainly; no means that it isn't known.
//!
//! A glob without wildcards is tried on the other pattern's regex. Of two globs with wildcards only shapes are compared:
//! `X/**`, `**/X`, `**/X/**`, `*.X`.

use std::collections::HashMap;

use regex::{Regex, RegexBuilder};

use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::pattern::{Kind, REGEX_SIZE_LIMIT, host};
use crate::plan::{HostPart, PatternForm, TargetPattern};

/// Lists beyond this length are looked through for equal patterns only: comparing grows with the square.
const MAX_COMPARED: usize = 1_000;

/// Compares patterns; keeps the regexes that it has compiled.
#[derive(Default)]
pub(super) struct Covers {
    compiled: HashMap<String, Option<Regex>>,
}

/// Warns of each pattern of a list of alternatives that another one of the list covers.
pub(crate) fn shadowed(cx: &mut Context<'_>, patterns: &[(&TargetPattern, Span)], kinds: &[Kind]) {
    let mut covers = Covers::default();
    let mut firsts: HashMap<Vec<Reading<'_>>, usize> = HashMap::with_capacity(patterns.len());
    for (index, (pattern, at)) in patterns.iter().enumerate() {
        let readings = kinds.iter().map(|&kind| reading(pattern, kind)).collect();
        let first = *firsts.entry(readings).or_insert(index);
        let by = match first < index {
            true => Some(first),
            false if patterns.len() > MAX_COMPARED => None,
            false => covering(&mut covers, patterns, index, kinds),
        };
        let Some((by, place)) = by.map(|by| patterns[by]) else {
            continue;
        };
        let name = quoted(&pattern.text);
        let message = match by.text == pattern.text {
            true => format!("pattern {name} stands in this list a second time"),
            false => {
                format!("pattern {name} does nothing beside {}, which matches whatever it matches", quoted(&by.text))
            }
        };
        cx.warn(*at, "W014", message)
            .label(format!("the other stands in line {}, column {}", place.line, place.column))
            .hint("remove this one, or narrow the other if it is wider than meant");
    }
}

/// Which other pattern of the list covers this one. Of two that cover each other the first counts.
fn covering(covers: &mut Covers, patterns: &[(&TargetPattern, Span)], index: usize, kinds: &[Kind]) -> Option<usize> {
    let pattern = patterns[index].0;
    let mut all = |wide: &TargetPattern, narrow: &TargetPattern| kinds.iter().all(|&k| covers.covers(wide, narrow, k));
    (0..patterns.len()).find(|&other| {
        let wide = patterns[other].0;
        other != index && all(wide, pattern) && (other < index || !all(pattern, wide))
    })
}

/// A pattern as it is read for one kind of target.
type Reading<'p> = Option<(&'p str, HostPart)>;

pub(super) fn reading(pattern: &TargetPattern, kind: Kind) -> Reading<'_> {
    match kind {
        Kind::Path => pattern.path.as_deref().map(|regex| (regex, HostPart::Either)),
        Kind::Text => pattern.other.as_deref().map(|regex| (regex, HostPart::Either)),
        Kind::Host => pattern.host.as_ref().map(|host| (host.regex.as_str(), host.on)),
    }
}

impl Covers {
    /// Whether every target of this kind that `narrow` matches is certainly matched by `wide`.
    pub(super) fn covers(&mut self, wide: &TargetPattern, narrow: &TargetPattern, kind: Kind) -> bool {
        let Some(narrow_reading) = reading(narrow, kind) else {
            return true;
        };
        let Some((regex, on)) = reading(wide, kind) else {
            return false;
        };
        if narrow_reading == (regex, on) || is_everything(wide, kind) {
            return true;
        }
        match Literal::of(narrow, kind) {
            Some(literal) => literal
                .seen(on)
                .is_some_and(|text| may_match(wide, text, kind) && self.finds(regex, text) == Some(true)),
            None => is_glob(wide) && is_glob(narrow) && wider_shape(wide, narrow, kind),
        }
    }

    /// Whether no target of the literal is matched by this reading. No where a port is left open that it might need.
    pub(super) fn misses(&mut self, literal: &Literal, (regex, on): (&str, HostPart)) -> bool {
        let mut finds_none = |texts: &[Option<&str>]| {
            texts.iter().flatten().all(|text| self.finds(regex, text) == Some(false))
                && texts.iter().any(Option::is_some)
        };
        match (literal.on, on) {
            (HostPart::Host, HostPart::HostPort | HostPart::Either) => false,
            (HostPart::HostPort, HostPart::Either) => finds_none(&[literal.seen(HostPart::Host), Some(&literal.text)]),
            _ => finds_none(&[literal.seen(on)]),
        }
    }

    /// Whether the regex is found in the text; none if it is too large to tell.
    fn finds(&mut self, regex: &str, text: &str) -> Option<bool> {
        if !self.compiled.contains_key(regex) {
            let built = RegexBuilder::new(regex).size_limit(REGEX_SIZE_LIMIT).build().ok();
            self.compiled.insert(regex.to_owned(), built);
        }
        self.compiled[regex].as_ref().map(|regex| regex.is_match(text))
    }
}

fn is_glob(pattern: &TargetPattern) -> bool {
    pattern.form == PatternForm::Glob
}

/// Whether the pattern matches every target of a kind.
pub(super) fn is_everything(pattern: &TargetPattern, kind: Kind) -> bool {
    is_glob(pattern)
        && match kind {
            Kind::Path => pattern.text == "**",
            Kind::Host => pattern.text == "*",
            Kind::Text => ["*", "**"].contains(&pattern.text.as_str()),
        }
}

const WILD: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

/// The one target that a glob without wildcards matches; of a host pattern without port, the one host.
pub(super) struct Literal {
    text: String,
    /// Where the host ends, of a host pattern with a port.
    host_end: Option<usize>,
    on: HostPart,
}

impl Literal {
    pub(super) fn of(pattern: &TargetPattern, kind: Kind) -> Option<Literal> {
        if kind != Kind::Host {
            let literal = is_glob(pattern) && !pattern.text.contains(WILD);
            return literal.then(|| Literal { text: pattern.text.clone(), host_end: None, on: HostPart::Either });
        }
        let on = pattern.host.as_ref().filter(|_| is_glob(pattern))?.on;
        if let Some(text) = host::address(&pattern.text) {
            return Some(Literal { text, host_end: None, on });
        }
        let text = pattern.text.to_lowercase();
        let host_end = host::port_at(&text);
        (!text.contains(WILD)).then_some(Literal { text, host_end, on })
    }

    /// What of it is seen by a pattern that looks at this part: nothing, if there may be no such part.
    fn seen(&self, on: HostPart) -> Option<&str> {
        match (self.on, on) {
            (HostPart::Host, HostPart::HostPort) => None,
            (HostPart::HostPort, HostPart::Host) => Some(&self.text[..self.host_end?]),
            _ => Some(&self.text),
        }
    }
}

/// A cheap test before a regex is compiled: the text begins and ends as the glob does.
fn may_match(glob: &TargetPattern, text: &str, kind: Kind) -> bool {
    if !is_glob(glob) || kind == Kind::Host && host::address(&glob.text).is_some() {
        return true;
    }
    let lower;
    let glob = match kind {
        Kind::Host => {
            lower = glob.text.to_lowercase();
            lower.as_str()
        }
        _ => glob.text.as_str(),
    };
    let (Some(first), Some(last)) = (glob.find(WILD), glob.rfind(WILD)) else {
        return glob == text;
    };
    // `**/x` matches `x` too.
    text.starts_with(&glob[..first]) && text.ends_with(glob[last + 1..].trim_start_matches('/'))
}

/// What may hide a `/`, a `.` or a `:` of a glob, or make it optional.
const UNUSUAL: [char; 5] = ['[', ']', '{', '}', '\\'];

/// Whether one glob is a shape that takes in everything of the other.
fn wider_shape(wide: &TargetPattern, narrow: &TargetPattern, kind: Kind) -> bool {
    if kind == Kind::Host {
        let on_host = wide.host.as_ref().is_some_and(|host| host.on == HostPart::Host);
        return on_host && wider_labels(&wide.text.to_lowercase(), &narrow.text.to_lowercase());
    }
    if narrow.text.contains(UNUSUAL) {
        return false;
    }
    let (wide, narrow) = (wide.text.as_str(), narrow.text.as_str());
    let literal = |text: &&str| !text.is_empty() && !text.contains(WILD);
    let below = |text: &str, folder: &str| text.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    match (wide.strip_prefix("**/"), wide.strip_suffix("/**")) {
        (Some(rest), Some(_)) => rest
            .strip_suffix("/**")
            .filter(literal)
            .is_some_and(|folder| below(narrow, folder) || narrow.contains(&format!("/{folder}/"))),
        (Some(name), None) => literal(&name) && narrow.ends_with(&format!("/{name}")),
        (None, Some(folder)) => literal(&folder) && below(narrow, folder),
        (None, None) => false,
    }
}

/// Whether `*.name` takes in a glob whose host ends with `.name`, after labels that can't be empty.
fn wider_labels(wide: &str, narrow: &str) -> bool {
    let Some(name) = wide.strip_prefix("*.").filter(|name| !name.is_empty() && !name.contains(WILD)) else {
        return false;
    };
    let host = &narrow[..host::port_at(narrow).unwrap_or(narrow.len())];
    let Some(labels) = host.strip_suffix(name).and_then(|labels| labels.strip_suffix('.')) else {
        return false;
    };
    // A leading `*.` is at least one whole label.
    let labels = if labels == "*" { return true } else { labels.strip_prefix("*.").unwrap_or(labels) };
    labels
        .split('.')
        .all(|label| label.contains(|c| c != '*') && !label.contains(UNUSUAL) && !label.contains(['/', ':']))
}
