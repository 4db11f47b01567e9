//! Sigma's value modifiers: `CommandLine|contains|all`.

use super::value::Place;
use crate::context::Context;
use crate::diagnostic::{Span, quoted};
use crate::suggest;
use crate::yaml::Key;

/// What is done with a field's values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    Text(Place),
    /// With the flags that the rule asks for.
    Regex(String),
    Compare(&'static str),
    Exists,
}

/// A key of a selection, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Modifiers {
    pub(super) form: Form,
    /// All values must hold, not one.
    pub(super) all: bool,
    pub(super) cased: bool,
    pub(super) windash: bool,
    pub(super) negated: bool,
}

const KNOWN: [&str; 16] = [
    "contains",
    "startswith",
    "endswith",
    "all",
    "re",
    "i",
    "m",
    "s",
    "cased",
    "exists",
    "gt",
    "gte",
    "lt",
    "lte",
    "neq",
    "windash",
];
/// Modifiers of Sigma that have no counterpart, and the way out.
const REFUSED: [(&str, &str); 18] = [
    ("cidr", "list the networks' prefixes with startswith, or write a rule of ours with target_in"),
    ("base64", "write the encoded text with contains"),
    ("base64offset", "write the three encoded texts with contains"),
    ("wide", "write the encoded text with contains"),
    ("utf16", "write the encoded text with contains"),
    ("utf16le", "write the encoded text with contains"),
    ("utf16be", "write the encoded text with contains"),
    ("fieldref", "our tests compare fields with values only"),
    ("expand", "put the values in place of the placeholder"),
    ("minute", TIMES),
    ("hour", TIMES),
    ("day", TIMES),
    ("week", TIMES),
    ("month", TIMES),
    ("year", TIMES),
    ("count", "write a Sigma correlation (event_count) beside the rule"),
    ("near", "write a Sigma correlation (temporal) beside the rule"),
    ("utf8", "texts are UTF-8 already; leave it out"),
];
const TIMES: &str = "rules of ours don't look at clock times; an allowlist entry has a time_window";

/// Reads what follows a field's name.
pub(super) fn read(cx: &mut Context<'_>, key: &Key, words: &[&str]) -> Option<Modifiers> {
    let mut found =
        Modifiers { form: Form::Text(Place::Whole), all: false, cased: false, windash: false, negated: false };
    for word in words {
        let at = cx.within(key.span, word);
        if let Some((_, hint)) = REFUSED.iter().find(|(name, _)| name == word) {
            cx.error(at, "E093", format!("modifier \"{word}\" can't be expressed")).hint(*hint);
            return None;
        }
        let flag = matches!(*word, "i" | "m" | "s");
        let form = match *word {
            "all" => {
                found.all = true;
                continue;
            }
            "cased" => {
                found.cased = true;
                continue;
            }
            "windash" => {
                found.windash = true;
                continue;
            }
            "neq" => {
                found.negated = true;
                continue;
            }
            "contains" => Form::Text(Place::Anywhere),
            "startswith" => Form::Text(Place::Start),
            "endswith" => Form::Text(Place::End),
            "re" => Form::Regex(String::new()),
            "exists" => Form::Exists,
            "gt" => Form::Compare("gt"),
            "gte" => Form::Compare("gte"),
            "lt" => Form::Compare("lt"),
            "lte" => Form::Compare("lte"),
            _ if flag => match &mut found.form {
                Form::Regex(flags) => {
                    flags.push_str(word);
                    continue;
                }
                _ => return clash(cx, at, word, "it is a flag of \"re\""),
            },
            _ => {
                cx.error(at, "E093", format!("{} is no modifier of Sigma", quoted(word)))
                    .hint(suggest::hint(word, &KNOWN));
                return None;
            }
        };
        if found.form != Form::Text(Place::Whole) {
            return clash(cx, at, word, "a field is compared in one way; write two entries, or two selections");
        }
        found.form = form;
    }
    let texts = matches!(found.form, Form::Text(_));
    if !texts && (found.cased || found.windash) {
        return clash(cx, key.span, if found.cased { "cased" } else { "windash" }, "it belongs to texts");
    }
    Some(found)
}

fn clash(cx: &mut Context<'_>, at: Span, word: &str, hint: &str) -> Option<Modifiers> {
    cx.error(at, "E093", format!("modifier \"{word}\" doesn't fit the others")).hint(hint);
    None
}
