//! The detection language: YAML text in, typed plan out.
//!
//! Pure: no timely, no async, no I/O, no clock. Knows nothing of how events are decoded or plans are run.
//!
//! A rule's way: text -> spanned YAML ([`yaml`](crate::compile)) -> resolved, part by part -> [`plan`]. All errors of
//! all files are collected; each has a code that `docs/rules/errors.md` explains.
//!
//! ```
//! use clawdstrike_rules::{SourceFile, compile};
//! let text = "rules: [{id: R, name: n, severity: low, conditions: [{type: threshold, window: 1m, count: '> 5'}]}]";
//! let files = [SourceFile { name: "r.yaml".into(), text: text.into() }];
//! let compiled = compile(&files)?;
//! assert_eq!(compiled.set.rules[0].id, "R");
//! # Ok::<(), clawdstrike_rules::Errors>(())
//! ```

mod context;
mod diagnostic;
pub mod duration;
mod explain;
mod lint;
mod pattern;
pub mod plan;
mod resolve;
pub mod rule_tests;
pub mod schema;
mod shape;
pub mod sigma;
mod suggest;
mod yaml;

use std::collections::{BTreeMap, HashSet};

pub use context::MAX_FINDINGS;
pub use diagnostic::{Diagnostic, EXCERPT_CHARS, Errors, Level};
pub use explain::{
    ConditionReading, EntryReading, Explanation, GroupReading, PatternReading, PredicateReading, PredicateUse,
    RuleReading, explain,
};
pub use pattern::{MAX_PATTERN_CHARS, REGEX_SIZE_LIMIT};
pub use resolve::{MAX_CONDITIONS, MAX_COUNT, MAX_ITEMS, MAX_STEPS, time_of_day};
pub use yaml::{MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES};

use context::Context;
use diagnostic::{Span, quoted};
use plan::RuleSet;
use resolve::File;

/// One rule file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As it is shown in errors.
    pub name: String,
    /// Its YAML.
    pub text: String,
}

/// A set that compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The enabled rules, by id, and the allowlist.
    pub set: RuleSet,
    /// What its author should look at.
    pub warnings: Vec<Diagnostic>,
    /// When allowlist entries end (microseconds since 1970), and what is to be said from then on.
    ends: Vec<(i64, Diagnostic)>,
}

impl Compiled {
    /// Warnings of allowlist entries that are past their `expires` at this time (microseconds since 1970), in the order
    /// of files and places. Apart from `warnings`, because a set compiles to the same at any time.
    pub fn expired(&self, now: i64) -> impl Iterator<Item = &Diagnostic> {
        self.ends.iter().filter(move |(end, _)| *end <= now).map(|(_, warning)| warning)
    }
}

/// Compiles a set of rule files.
///
/// # Errors
/// Everything that is wrong with any of the files, in the order of files and places; then there is no set at all.
pub fn compile(files: &[SourceFile]) -> Result<Compiled, Errors> {
    let mut set = RuleSet::default();
    let mut diagnostics = Vec::new();
    let mut compiled = HashSet::new();
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    let mut named: Vec<Named> = Vec::new();
    let mut ends = Vec::new();
    for (index, source) in files.iter().enumerate() {
        let mut cx = Context::new(&source.name, &source.text, &mut compiled);
        let file = read(&mut cx, &source.text);
        for rule in file.rules {
            let place = format!("{}:{}", source.name, rule.at.line);
            if let Some(first) = ids.get(&rule.id) {
                cx.error(rule.at, "E020", format!("rule id {} is used a second time", quoted(&rule.id)))
                    .label(format!("first used at {first}"))
                    .hint("ids are unique in a set, disabled rules included");
                continue;
            }
            ids.insert(rule.id, place);
            set.rules.extend(rule.plan.filter(|_| rule.enabled));
        }
        for resolve::Entry { plan, rules, expires } in file.allowlist {
            let ids = plan.rules.iter().cloned().zip(rules);
            named.extend(ids.map(|(id, at)| Named { file: index, id, at }));
            ends.extend(plan.expires.zip(expires.map(|at| expired(&cx, at))));
            set.allowlist.push(plan);
        }
        diagnostics.push(cx.into_diagnostics());
    }
    warn_of_unknown_rules(files, &ids, &named, &mut diagnostics);
    finish(set, diagnostics, ends)
}

/// What is said of an entry once it has ended.
fn expired(cx: &Context<'_>, at: Span) -> Diagnostic {
    let mut warning = cx.warning(at, "W015", "this allowlist entry has expired".to_owned());
    warning
        .label("it holds for events before this time")
        .hint("remove the entry, or give it a later date if what it allows is still meant to be");
    warning
}

/// A rule id that an allowlist entry names.
struct Named {
    file: usize,
    id: String,
    at: Span,
}

fn read(cx: &mut Context<'_>, text: &str) -> File {
    let mut file = File::default();
    let documents = yaml::documents(cx, text);
    for document in &documents {
        resolve::document(cx, document, &mut file);
    }
    if file.rules.is_empty() && file.allowlist.is_empty() && cx.is_clean() {
        let start = Span { line: 1, column: 1, len: 0 };
        cx.warn(start, "W008", "there is no rule and no allowlist entry in this file")
            .hint("remove the file if it is of no use");
    }
    file
}

/// Not an error: the rule may be in a pack that isn't installed here.
fn warn_of_unknown_rules(
    files: &[SourceFile],
    ids: &BTreeMap<String, String>,
    named: &[Named],
    diagnostics: &mut [Vec<Diagnostic>],
) {
    if diagnostics.iter().flatten().any(|diagnostic| diagnostic.severity == Level::Error) {
        // The id may stand where nothing could be read.
        return;
    }
    for (index, (source, found)) in files.iter().zip(diagnostics).enumerate() {
        let unknown: Vec<_> =
            named.iter().filter(|named| named.file == index && !ids.contains_key(&named.id)).collect();
        if unknown.is_empty() {
            continue;
        }
        let mut none = HashSet::new();
        let mut cx = Context::new(&source.name, &source.text, &mut none);
        for named in unknown {
            let hint = match suggest::nearest(&named.id, ids.keys().map(String::as_str)) {
                Some(id) => format!("did you mean {}?", quoted(id)),
                None => "the entry does nothing for this id until such a rule is loaded".to_owned(),
            };
            cx.warn(named.at, "W002", format!("no rule has the id {}", quoted(&named.id))).hint(hint);
        }
        found.extend(cx.into_diagnostics());
    }
}

fn finish(
    mut set: RuleSet,
    mut diagnostics: Vec<Vec<Diagnostic>>,
    ends: Vec<(i64, Diagnostic)>,
) -> Result<Compiled, Errors> {
    for of_file in &mut diagnostics {
        of_file.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    }
    let (errors, warnings): (Vec<_>, Vec<_>) =
        diagnostics.into_iter().flatten().partition(|diagnostic| diagnostic.severity == Level::Error);
    if !errors.is_empty() {
        return Err(Errors { errors, warnings });
    }
    set.rules.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Compiled { set, warnings, ends })
}
