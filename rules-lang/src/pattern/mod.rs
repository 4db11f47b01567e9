//! Target patterns: what the text of a rule means for paths, for hosts and for everything else (SPEC §4).
//!
//! Knows texts and regexes, not events. Every regex it gives compiles within [`REGEX_SIZE_LIMIT`].

pub(crate) mod glob;
pub(crate) mod host;
mod split;

use regex::RegexBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::plan::{EventTypes, HostPart, HostPattern, PatternForm, TargetPattern};

/// The largest compiled regex, in bytes; whoever compiles a plan's regexes may use this limit or crate `regex`'s own
/// (10 MiB), which is higher.
pub const REGEX_SIZE_LIMIT: usize = 4 << 20;
/// The longest pattern, in characters.
pub const MAX_PATTERN_CHARS: usize = 2_000;

// file_access, file_write, patch_apply; network_egress.
const PATHS: u8 = 0b010_0011;
const HOSTS: u8 = 0b000_0100;

/// How the target of an event is normalised, by the event's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Path,
    Host,
    Text,
}

impl Kind {
    /// The kinds of the targets of these event types.
    pub(crate) fn of(types: EventTypes) -> Vec<Kind> {
        let any = EventTypes::ANY.0;
        [(PATHS, Kind::Path), (HOSTS, Kind::Host), (any & !PATHS & !HOSTS, Kind::Text)]
            .into_iter()
            .filter(|(mask, _)| types.0 & mask != 0)
            .map(|(_, kind)| kind)
            .collect()
    }
}

/// What kind of targets the events of a matcher have, for lints: what can never match depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Targets {
    Paths,
    Hosts,
    Mixed,
}

impl Targets {
    /// The kind of the targets of all these event types, if they have one kind.
    pub(crate) fn of(types: EventTypes) -> Self {
        match Kind::of(types).as_slice() {
            [Kind::Path] => Targets::Paths,
            [Kind::Host] => Targets::Hosts,
            _ => Targets::Mixed,
        }
    }
}

/// The schema of a pattern's text.
pub(crate) fn schema() -> Json {
    json!({"type": "string", "minLength": 1, "maxLength": MAX_PATTERN_CHARS})
}

/// Reads a `target_pattern`: alternatives, each a glob or a regex.
pub(crate) fn alternatives(cx: &mut Context<'_>, text: &str, at: Span, targets: Targets) -> Option<Vec<TargetPattern>> {
    if !fits(cx, text, at) {
        return None;
    }
    let parts = match split::alternatives(text) {
        Ok(parts) => parts,
        Err(open) => {
            cx.error(at, "E071", format!("\"{open}\" is never closed, and a \"|\" follows it"))
                .label("which alternatives are these?")
                .hint(format!("close it, or write `\\{open}` for the character itself"));
            return None;
        }
    };
    let many = parts.len() > 1;
    let patterns: Vec<_> = parts
        .iter()
        .filter_map(|part| {
            let place = cx.within(at, part);
            if part.is_empty() {
                cx.error(at, "E070", format!("pattern {} has an empty alternative", quoted(text)))
                    .hint("remove the extra \"|\", or write `\\|` for the character itself");
                return None;
            }
            if many && part.trim() != *part {
                cx.warn(place, "W006", format!("alternative {} begins or ends with a blank", quoted(part)))
                    .hint("blanks count; write the alternatives without blanks around \"|\" if they aren't meant");
            }
            match split::form(part) {
                PatternForm::Regex => {
                    let pattern = anchored(cx, part, place)?;
                    doubt_regex(cx, part, pattern.path.as_deref().unwrap_or(part), place, targets);
                    Some(pattern)
                }
                PatternForm::Glob => {
                    if let Some(sign) = split::looks_like_regex(part) {
                        cx.warn(
                            place,
                            "W001",
                            format!("{} is read as a glob, though {} belongs to regexes", quoted(part), quoted(sign)),
                        )
                        .hint("use target_regex for a regex, or target_glob to say that a glob is meant");
                    }
                    glob(cx, part, place, targets)
                }
            }
        })
        .collect();
    (patterns.len() == parts.len()).then_some(patterns)
}

/// Reads a glob.
pub(crate) fn glob(cx: &mut Context<'_>, text: &str, at: Span, targets: Targets) -> Option<TargetPattern> {
    if text.is_empty() {
        cx.error(at, "E070", "this pattern is empty").hint("give it a text; `*` or `**` is anything");
        return None;
    }
    if !fits(cx, text, at) {
        return None;
    }
    let (path, other) = match glob::path(text).and_then(|path| Ok((path, glob::text(text)?))) {
        Ok(readings) => readings,
        Err(error) => {
            bad_glob(cx, text, at, &error);
            return None;
        }
    };
    // Lower-casing can turn a class around (`[Z-a]`): then no host fits.
    let host = host::pattern(text).ok();
    // The readings differ in what a `*` is, not in shape, so one stands for all three.
    check_glob(cx, text, &path, at)?;
    doubt(cx, text, at, targets);
    if targets == Targets::Paths {
        doubt_regex(cx, text, &path, at, targets);
    }
    Some(TargetPattern { text: text.to_owned(), form: PatternForm::Glob, path: Some(path), host, other: Some(other) })
}

/// Warns of a glob that can't match any target of its kind, because targets are normalised and patterns aren't.
fn doubt(cx: &mut Context<'_>, text: &str, at: Span, targets: Targets) {
    if targets != Targets::Paths
        && let Some((reason, hint)) = host::doubt(text)
    {
        cx.warn(at, "W005", format!("pattern {}: {reason}", quoted(text))).hint(hint);
    }
    let (reason, hint) = match targets {
        Targets::Hosts if text.contains('/') => {
            ("hosts have no \"/\": scheme and path of a URL go", "write the host, or host:port")
        }
        Targets::Hosts if host::ends_with_dot(text) => ("trailing dots of a host go", "drop the dot at the end"),
        Targets::Hosts if !text.is_ascii() => ("hosts are compared in ASCII (xn--...)", "write the host's ASCII form"),
        Targets::Paths if text.starts_with('~') => ("a leading \"~\" of a path becomes \"/~\"", "write `/~/...`"),
        Targets::Paths if ["//", "/./", "/../"].iter().any(|part| text.contains(part)) => {
            ("paths are compared with \"//\", \".\" and \"..\" resolved", "write the path without them")
        }
        Targets::Paths if text.len() > 1 && text.ends_with('/') => {
            ("paths are compared without a trailing \"/\"", "drop it, or write `/**`")
        }
        _ => return,
    };
    cx.warn(at, "W010", format!("pattern {} can't match: {reason}", quoted(text))).hint(hint);
}

/// Characters that the targets of a kind don't hold.
type Never = fn(char) -> bool;

/// Warns of a regex that asks for a character which no target of its kind has.
pub(crate) fn doubt_regex(cx: &mut Context<'_>, text: &str, regex: &str, at: Span, targets: Targets) {
    let asked: &[(Never, &str, &str)] = match targets {
        Targets::Hosts => &[
            (|c| c.is_ascii_uppercase(), "hosts are in lower case", "write it in lower case"),
            (|c| c == '/', "hosts have no \"/\": scheme and path of a URL go", "match the host, or host:port"),
        ],
        Targets::Paths => &[(|c| c == '\\', "paths are compared with \"/\" for every \"\\\"", "write `/`")],
        Targets::Mixed => return,
    };
    // Few regexes hold such a character at all.
    if !asked.iter().any(|(never, ..)| text.contains(*never)) {
        return;
    }
    let Ok(hir) = regex_syntax::parse(regex) else {
        return;
    };
    if let Some((_, reason, hint)) = asked.iter().find(|(never, ..)| requires(&hir, *never)) {
        cx.warn(at, "W010", format!("pattern {} can't match: {reason}", quoted(text))).hint(*hint);
    }
}

/// Whether every text that matches holds one of these characters. A class may stand for several of them.
fn requires(hir: &Hir, never: Never) -> bool {
    match hir.kind() {
        HirKind::Literal(literal) => std::str::from_utf8(&literal.0).is_ok_and(|text| text.contains(never)),
        HirKind::Class(Class::Unicode(class)) => {
            class.iter().all(|range| range.end().is_ascii() && (range.start()..=range.end()).all(never))
        }
        HirKind::Repetition(repeated) => repeated.min > 0 && requires(&repeated.sub, never),
        HirKind::Capture(group) => requires(&group.sub, never),
        HirKind::Concat(parts) => parts.iter().any(|part| requires(part, never)),
        HirKind::Alternation(parts) => parts.iter().all(|part| requires(part, never)),
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => false,
    }
}

/// Reads a glob over plain text (`agent_pattern`) to an anchored regex.
pub(crate) fn text_glob(cx: &mut Context<'_>, text: &str, at: Span) -> Option<String> {
    if !fits(cx, text, at) {
        return None;
    }
    match glob::text(text) {
        Ok(regex) => check_glob(cx, text, &regex, at).map(|()| regex),
        Err(error) => {
            bad_glob(cx, text, at, &error);
            None
        }
    }
}

/// Reads an explicit regex, which searches. `fold` compares without regard to case.
pub(crate) fn search(cx: &mut Context<'_>, text: &str, at: Span, fold: bool) -> Option<String> {
    if text.is_empty() {
        cx.error(at, "E063", "an empty regex is found in every text").hint("use `exists: true` if any value will do");
        return None;
    }
    if !fits(cx, text, at) {
        return None;
    }
    let regex = format!("(?{}s){text}", if fold { "i" } else { "" });
    check_regex(cx, text, &regex, at).map(|()| regex)
}

fn anchored(cx: &mut Context<'_>, text: &str, at: Span) -> Option<TargetPattern> {
    let regex = format!("(?s)^(?:{text})$");
    check_regex(cx, text, &regex, at)?;
    let host = HostPattern { regex: regex.clone(), on: HostPart::Either };
    Some(TargetPattern {
        text: text.to_owned(),
        form: PatternForm::Regex,
        path: Some(regex.clone()),
        host: Some(host),
        other: Some(regex),
    })
}

fn fits(cx: &mut Context<'_>, text: &str, at: Span) -> bool {
    let chars = text.chars().count();
    if chars > MAX_PATTERN_CHARS {
        cx.error(at, "E074", format!("a pattern may have {MAX_PATTERN_CHARS} characters, this one has {chars}"))
            .hint("use a list of patterns");
    }
    chars <= MAX_PATTERN_CHARS
}

fn bad_glob(cx: &mut Context<'_>, text: &str, at: Span, error: &globset::Error) {
    cx.error(at, "E071", format!("{} is no glob: {}", quoted(text), error.kind().to_string().to_lowercase()))
        .hint("write `\\[`, `\\{` or `\\\\` for the characters themselves");
}

/// A glob's regex: it can be nested too deep, but not too large, because a glob repeats nothing but single characters
/// and is bounded by [`MAX_PATTERN_CHARS`]. So it is parsed only; compiling takes ten times as long.
fn check_glob(cx: &mut Context<'_>, text: &str, regex: &str, at: Span) -> Option<()> {
    if let Err(error) = regex_syntax::parse(regex) {
        let reason = match error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            _ => "it has no regex".to_owned(),
        };
        cx.error(at, "E071", format!("{} is no glob: {}", quoted(text), reason.to_lowercase()))
            .hint("write it with fewer braces");
        return None;
    }
    Some(())
}

/// An explicit regex, alone and as it will be used: `a)|(b` would fit into a group.
fn check_regex(cx: &mut Context<'_>, text: &str, used: &str, at: Span) -> Option<()> {
    if cx.compiled.contains(used) {
        return Some(());
    }
    let parsed = regex_syntax::parse(text).map_err(|error| error.to_string());
    let built = parsed.and_then(|_| match RegexBuilder::new(used).size_limit(REGEX_SIZE_LIMIT).build() {
        Err(regex::Error::CompiledTooBig(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
        Ok(_) => Ok(true),
    });
    match built {
        Ok(true) => {
            cx.compiled.insert(used.to_owned());
            return Some(());
        }
        Ok(false) => {
            cx.error(at, "E073", format!("regex {} needs more than {REGEX_SIZE_LIMIT} bytes", quoted(text)))
                .hint("use smaller repetitions: `{1,1000}` repeats what stands before it a thousand times");
        }
        Err(reason) => {
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_lowercase();
            cx.error(at, "E072", format!("{} is no regex: {reason}", quoted(text)))
                .hint("the syntax is that of Rust's crate `regex`: linear time, no look-around, no back-references");
        }
    }
    None
}
