//! Sigma's conditions: `selection and not 1 of filter_*`.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::expr::Expr;
use crate::suggest;

/// The deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 32;
/// The most words of a condition.
const MAX_WORDS: usize = 1_000;

/// Why a condition has no meaning: the word it is about, and the way out.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) word: String,
    pub(super) message: String,
    pub(super) hint: String,
}

fn wrong(word: &str, message: impl Into<String>, hint: impl Into<String>) -> Wrong {
    Wrong { word: word.to_owned(), message: message.into(), hint: hint.into() }
}

/// The expression that a condition makes of its selections, and the names it uses.
pub(super) struct Parser<'a> {
    words: Vec<&'a str>,
    at: usize,
    selections: &'a BTreeMap<String, Rc<Expr>>,
    /// Selections that the condition names.
    pub(super) used: Vec<String>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str, selections: &'a BTreeMap<String, Rc<Expr>>) -> Parser<'a> {
        Parser { words: words(text), at: 0, selections, used: Vec::new() }
    }

    pub(super) fn parse(&mut self) -> Result<Rc<Expr>, Wrong> {
        if let Some(pipe) = self.words.iter().find(|word| **word == "|") {
            return Err(wrong(pipe, "conditions with \"|\" count events in a way that Sigma gave up", CORRELATE));
        }
        if self.words.len() > MAX_WORDS {
            return Err(wrong("", format!("the condition has more than {MAX_WORDS} words"), "split the rule"));
        }
        let expr = self.either(0)?;
        match self.peek() {
            None => Ok(expr),
            Some(word) => Err(wrong(word, format!("\"{word}\" is not expected here"), "join parts by `and` or `or`")),
        }
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    /// Takes the next word if it is this keyword.
    fn takes(&mut self, keyword: &str) -> bool {
        let found = self.peek().is_some_and(|word| word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(found);
        found
    }

    fn either(&mut self, depth: usize) -> Result<Rc<Expr>, Wrong> {
        let mut parts = vec![self.both(depth)?];
        while self.takes("or") {
            parts.push(self.both(depth)?);
        }
        Ok(join(parts, Expr::Or))
    }

    fn both(&mut self, depth: usize) -> Result<Rc<Expr>, Wrong> {
        let mut parts = vec![self.part(depth)?];
        while self.takes("and") {
            parts.push(self.part(depth)?);
        }
        Ok(join(parts, Expr::And))
    }

    fn part(&mut self, depth: usize) -> Result<Rc<Expr>, Wrong> {
        let Some(word) = self.peek() else {
            return Err(wrong("", "the condition ends too early", "give it a selection's name here"));
        };
        if depth > MAX_DEPTH {
            return Err(wrong(word, format!("the condition is more than {MAX_DEPTH} levels deep"), "write it flat"));
        }
        self.at += 1;
        if word.eq_ignore_ascii_case("not") {
            return Ok(Rc::new(Expr::Not(self.part(depth + 1)?)));
        }
        if word == "(" {
            let inner = self.either(depth + 1)?;
            return match self.takes(")") {
                true => Ok(inner),
                false => Err(wrong("(", "this parenthesis is never closed", "add a \")\"")),
            };
        }
        if self.peek().is_some_and(|next| next.eq_ignore_ascii_case("of")) {
            return self.several(word);
        }
        match self.selections.get(word) {
            Some(expr) => {
                self.used.push(word.to_owned());
                Ok(expr.clone())
            }
            None => {
                let names: Vec<&str> = self.selections.keys().map(String::as_str).collect();
                Err(wrong(word, format!("there is no selection \"{word}\""), suggest::hint(word, &names)))
            }
        }
    }

    /// `1 of selection_*`, `all of them`.
    fn several(&mut self, quantity: &str) -> Result<Rc<Expr>, Wrong> {
        let all = quantity.eq_ignore_ascii_case("all");
        if !all && quantity != "1" && !quantity.eq_ignore_ascii_case("any") {
            let message = format!("\"{quantity} of\" is not expressed");
            return Err(wrong(quantity, message, "write `1 of` or `all of`, or name the combinations"));
        }
        self.at += 1;
        let Some(pattern) = self.peek() else {
            return Err(wrong("of", "nothing follows \"of\"", "write `them`, or a name such as `selection_*`"));
        };
        self.at += 1;
        let them = pattern.eq_ignore_ascii_case("them");
        let fits = |name: &str| if them { !name.starts_with('_') } else { matches(pattern, name) };
        let chosen: Vec<_> = self.selections.iter().filter(|(name, _)| fits(name)).collect();
        if chosen.is_empty() {
            return Err(wrong(pattern, format!("no selection is called \"{pattern}\""), "check the names above"));
        }
        self.used.extend(chosen.iter().map(|(name, _)| (*name).clone()));
        let parts = chosen.into_iter().map(|(_, expr)| expr.clone()).collect();
        Ok(join(parts, if all { Expr::And } else { Expr::Or }))
    }
}

/// The way out of Sigma 1's aggregations.
pub(super) const CORRELATE: &str = "write a Sigma correlation (event_count, value_count) beside the rule";

fn join(mut parts: Vec<Rc<Expr>>, how: fn(Vec<Rc<Expr>>) -> Expr) -> Rc<Expr> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Rc::new(how(parts)),
    }
}

fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for run in text.split_whitespace() {
        let mut rest = run;
        while let Some(at) = rest.find(['(', ')', '|']) {
            words.extend([&rest[..at], &rest[at..=at]].into_iter().filter(|word| !word.is_empty()));
            rest = &rest[at + 1..];
        }
        words.extend(Some(rest).filter(|rest| !rest.is_empty()));
    }
    words
}

/// Whether a name fits a pattern with `*`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_in_names_are_anything() {
        assert!(matches("selection_*", "selection_a"));
        assert!(matches("*", "x"));
        assert!(matches("a*b*c", "a1b2c"));
        assert!(!matches("a*b*c", "a1b2"));
        assert!(!matches("selection", "selection_a"));
        assert!(!matches("ab*ba", "aba"));
    }

    #[test]
    fn parentheses_and_pipes_are_words_of_their_own() {
        assert_eq!(words("a and(b or not c)|x"), ["a", "and", "(", "b", "or", "not", "c", ")", "|", "x"]);
    }
}
