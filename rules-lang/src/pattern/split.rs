//! The brief's `target_pattern` mixes globs and regexes: where its alternatives end, and which each of them is.

use crate::plan::PatternForm;

/// Splits at `|`, except inside `(...)` or `[...]` or after `\`.
///
/// # Errors
/// The opening character, if a `(` or `[` is never closed and a `|` follows it.
pub(super) fn alternatives(text: &str) -> Result<Vec<&str>, char> {
    let mut parts = Vec::new();
    let mut from = 0;
    let mut parens = 0usize;
    let mut bars_inside = false;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '\\' => at += text[at + 1..].chars().next().map_or(0, char::len_utf8),
            '[' => match class_end(&text[at..]) {
                Some(end) => {
                    at += end;
                    continue;
                }
                None if text[at..].contains('|') => return Err('['),
                None => {}
            },
            '(' => parens += 1,
            ')' => {
                parens = parens.saturating_sub(1);
                bars_inside &= parens > 0;
            }
            '|' if parens > 0 => bars_inside = true,
            '|' => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        at += c.len_utf8();
    }
    if bars_inside {
        return Err('(');
    }
    parts.push(&text[from..]);
    Ok(parts)
}

/// Where the class that `text` begins with ends (after its `]`); a `]` in front belongs to it.
fn class_end(text: &str) -> Option<usize> {
    let mut at = 1;
    let negation = text[at..].starts_with(['!', '^']);
    at += usize::from(negation);
    at += usize::from(text[at..].starts_with(']'));
    while let Some(c) = text[at..].chars().next() {
        match c {
            ']' => return Some(at + 1),
            '\\' => at += text[at + 1..].chars().next().map_or(0, char::len_utf8),
            // `[:alpha:]` within a class.
            '[' if text[at..].starts_with("[:") => at += text[at..].find(":]").map_or(0, |end| end + 1),
            _ => {}
        }
        at += c.len_utf8();
    }
    None
}

/// How an alternative is read.
pub(super) fn form(alternative: &str) -> PatternForm {
    let regex = [".*", "^", "("].iter().any(|start| alternative.starts_with(start)) || alternative.ends_with('$');
    if regex { PatternForm::Regex } else { PatternForm::Glob }
}

/// What makes a glob look like a regex, if anything does.
pub(super) fn looks_like_regex(glob: &str) -> Option<&'static str> {
    const SIGNS: [&str; 9] = [r"\d", r"\w", r"\s", r"\b", r"\D", r"\W", r"\S", "[^", "(?:"];
    SIGNS
        .into_iter()
        .find(|sign| glob.contains(sign))
        .or_else(|| plus(glob).then_some("+"))
        .or_else(|| (glob.contains('(') && glob.contains('|')).then_some("(...|...)"))
}

/// Whether a `+` stands where a regex would repeat something.
fn plus(glob: &str) -> bool {
    glob.match_indices('+').any(|(at, _)| at > 0 && !glob[..at].ends_with('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_separate_except_in_parentheses_classes_and_after_a_backslash() {
        assert_eq!(alternatives("a|b"), Ok(vec!["a", "b"]));
        assert_eq!(alternatives("(a|b)/c|d"), Ok(vec!["(a|b)/c", "d"]));
        assert_eq!(alternatives("((a|b)|c)|d"), Ok(vec!["((a|b)|c)", "d"]));
        assert_eq!(alternatives("[a|b]|[]|]|[!]|]"), Ok(vec!["[a|b]", "[]|]", "[!]|]"]));
        assert_eq!(alternatives(r"a\|b|c\\|d"), Ok(vec![r"a\|b", r"c\\", "d"]));
        assert_eq!(alternatives("^[[:alpha:]|x]$|y"), Ok(vec!["^[[:alpha:]|x]$", "y"]));
        assert_eq!(alternatives("{a|b}"), Ok(vec!["{a", "b}"]));
        assert_eq!(alternatives("|a||"), Ok(vec!["", "a", "", ""]));
        assert_eq!(alternatives("a)|b"), Ok(vec!["a)", "b"]));
        assert_eq!(alternatives(r"é\"), Ok(vec![r"é\"]));
    }

    #[test]
    fn what_is_never_closed_may_not_swallow_alternatives() {
        assert_eq!(alternatives("a(b|c"), Err('('));
        assert_eq!(alternatives("a[b|c"), Err('['));
        assert_eq!(alternatives("a|*$(*"), Ok(vec!["a", "*$(*"]));
    }

    #[test]
    fn an_alternative_is_a_regex_by_its_first_or_last_characters_only() {
        for regex in [".*x", "^x", "(a|b)", "x$"] {
            assert_eq!(form(regex), PatternForm::Regex, "{regex}");
        }
        for glob in ["**/.*", "/home/*/.*rc", "a+", "[^a]", ".env", r"\d"] {
            assert_eq!(form(glob), PatternForm::Glob, "{glob}");
        }
    }
}
