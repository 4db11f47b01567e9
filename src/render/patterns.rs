//! All patterns of a rule set on one kind of text. Most hold a text that must occur (`.allowed-17.example`): one automaton
//! finds which of these do, and only their patterns are tried, each compiled when it first is. The others are tried
//! together.

use std::cell::OnceCell;
use std::cmp::Reverse;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, MatchKind};
use hashbrown::HashMap;
use regex::{Regex, RegexSet, RegexSetBuilder};
use regex_syntax::hir::{Hir, HirKind};

use super::field::regex;

/// Patterns without a text of their own that are searched for together.
const PATTERNS_A_SET: usize = 512;
/// Memory that such a set may take.
const SET_BYTES: usize = 64 << 20;
/// A shorter text occurs in too many targets to be worth looking for.
const LEAST_TEXT: usize = 3;
/// A pattern with more alternatives is tried with the others.
const MOST_TEXTS: usize = 16;
/// As are patterns of which more than so many look for one text: where it occurs, each would be tried alone.
const MOST_SHARING: usize = 32;

/// The patterns.
#[derive(Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
    /// Finds the texts.
    texts: Option<AhoCorasick>,
    /// For each text, the patterns that it belongs to.
    of_text: Vec<Vec<u32>>,
    /// Patterns without a text.
    sets: Vec<RegexSet>,
    in_sets: Vec<u32>,
}

struct Pattern {
    pattern: String,
    atom: u32,
    compiled: OnceCell<Option<Regex>>,
}

impl Patterns {
    /// Adds a pattern, which the rule compiler has accepted: if it is found, so is the atom.
    pub fn add(&mut self, pattern: &str, atom: u32) {
        self.patterns.push(Pattern { pattern: pattern.to_owned(), atom, compiled: OnceCell::new() });
    }

    /// Prepares the search.
    ///
    /// # Errors
    /// The patterns need too much memory.
    pub fn compile(&mut self) -> Result<(), String> {
        let parsed: Vec<Option<Hir>> = self.patterns.iter().map(|p| regex_syntax::parse(&p.pattern).ok()).collect();
        let mut shared: HashMap<Vec<u8>, usize> = HashMap::new();
        parsed.iter().flatten().for_each(|hir| count_texts(hir, &mut shared));
        let chosen = |hir: &Hir| {
            let texts = required(hir, &shared)?;
            texts
                .iter()
                .all(|t| t.len() >= LEAST_TEXT && shared.get(t).is_none_or(|n| *n <= MOST_SHARING))
                .then_some(texts)
        };
        let mut numbers: HashMap<Vec<u8>, u32> = HashMap::new();
        for (n, hir) in (0u32..).zip(&parsed) {
            match hir.as_ref().and_then(chosen) {
                Some(texts) => {
                    for text in texts {
                        let next = numbers.len() as u32;
                        let number = *numbers.entry(text).or_insert(next);
                        self.of_text.resize_with(numbers.len(), Vec::new);
                        self.of_text[number as usize].push(n);
                    }
                }
                None => self.in_sets.push(n),
            }
        }
        let too_large =
            |e: &dyn std::fmt::Display| format!("the rules' target patterns together: {e}; use fewer or simpler ones");
        if !numbers.is_empty() {
            let mut texts: Vec<(Vec<u8>, u32)> = numbers.into_iter().collect();
            texts.sort_unstable_by_key(|(_, number)| *number);
            let mut builder = AhoCorasickBuilder::new();
            builder.match_kind(MatchKind::Standard).kind(Some(AhoCorasickKind::ContiguousNFA));
            self.texts = Some(builder.build(texts.iter().map(|(text, _)| text)).map_err(|e| too_large(&e))?);
        }
        for chunk in self.in_sets.chunks(PATTERNS_A_SET) {
            let mut builder = RegexSetBuilder::new(chunk.iter().map(|&n| &self.patterns[n as usize].pattern));
            let set = builder.dot_matches_new_line(true).size_limit(SET_BYTES).build();
            self.sets.push(set.map_err(|e| too_large(&e))?);
        }
        Ok(())
    }

    /// The atoms of all patterns that are found in the text, some maybe more than once.
    pub fn find(&self, text: &str, hits: &mut Vec<u32>) {
        if let Some(texts) = &self.texts {
            let mut seen: Vec<usize> = texts.find_overlapping_iter(text).map(|m| m.pattern().as_usize()).collect();
            seen.sort_unstable();
            seen.dedup();
            for n in seen.iter().flat_map(|&text| &self.of_text[text]) {
                let pattern = &self.patterns[*n as usize];
                if pattern.compiled().is_some_and(|regex| regex.is_match(text)) {
                    hits.push(pattern.atom);
                }
            }
        }
        for (set, chunk) in self.sets.iter().zip(self.in_sets.chunks(PATTERNS_A_SET)) {
            hits.extend(set.matches(text).iter().map(|i| self.patterns[chunk[i] as usize].atom));
        }
    }
}

impl Pattern {
    /// Compiled when first needed: ten thousand at once would take a good part of a second and 100 MiB.
    fn compiled(&self) -> Option<&Regex> {
        let compile = || {
            let compiled = regex(&self.pattern);
            if let Err(error) = &compiled {
                tracing::error!("a target pattern that the rule compiler accepted can't be used: {error}");
            }
            compiled.ok()
        };
        self.compiled.get_or_init(compile).as_ref()
    }
}

/// Counts the texts of a pattern that may be looked for.
fn count_texts(hir: &Hir, shared: &mut HashMap<Vec<u8>, usize>) {
    match hir.kind() {
        HirKind::Literal(literal) => *shared.entry(literal.0.to_vec()).or_default() += 1,
        HirKind::Capture(capture) => count_texts(&capture.sub, shared),
        HirKind::Repetition(repetition) => count_texts(&repetition.sub, shared),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().for_each(|p| count_texts(p, shared)),
        _ => {}
    }
}

/// Texts of which at least one occurs wherever the pattern is found; `None` if there is no such list. `shared`: how often
/// each text stands in all patterns together.
fn required(hir: &Hir, shared: &HashMap<Vec<u8>, usize>) -> Option<Vec<Vec<u8>>> {
    match hir.kind() {
        HirKind::Literal(literal) => Some(vec![literal.0.to_vec()]),
        HirKind::Capture(capture) => required(&capture.sub, shared),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub, shared),
        // What the fewest patterns have says most; then what is long.
        HirKind::Concat(parts) => parts.iter().filter_map(|part| required(part, shared)).max_by_key(|texts| {
            let shortest = texts.iter().map(Vec::len).min().unwrap_or(0);
            let most = texts.iter().filter_map(|text| shared.get(text)).max();
            (shortest >= LEAST_TEXT, Reverse(most.copied()), shortest)
        }),
        HirKind::Alternation(parts) => {
            let texts = parts.iter().map(|part| required(part, shared)).collect::<Option<Vec<_>>>()?.concat();
            (texts.len() <= MOST_TEXTS).then_some(texts)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(patterns: &[&str], text: &str) -> Vec<u32> {
        let mut all = Patterns::default();
        patterns.iter().zip(0..).for_each(|(p, atom)| all.add(p, atom));
        all.compile().unwrap();
        let mut hits = Vec::new();
        all.find(text, &mut hits);
        hits.sort_unstable();
        hits.dedup();
        hits
    }

    #[test]
    fn finds_what_must_occur() {
        let texts = |pattern: &str| {
            let texts = required(&regex_syntax::parse(pattern).unwrap(), &HashMap::new());
            texts.map(|t| t.into_iter().map(|t| String::from_utf8(t).unwrap()).collect::<Vec<_>>())
        };
        let list = |texts: &[&str]| Some(texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(texts(r"^(?:.*\.allowed\.example)$"), list(&[".allowed.example"]));
        assert_eq!(texts(r"^/etc/(passwd|shadow)$"), list(&["passwd", "shadow"]));
        assert_eq!(texts(r"^(passwd|[sx]hadow)$"), list(&["passwd", "hadow"]));
        assert_eq!(texts(r"^(passwd|.*)$"), None);
        assert_eq!(texts(r"(abc)?"), None);
        assert_eq!(texts(r"(?i)key"), None);
    }

    #[test]
    fn looks_for_what_few_patterns_have() {
        let mut all = Patterns::default();
        for n in 0..100 {
            all.add(&format!("^/home/agent/projects/[^/]*/part-{n}/.*$"), n);
        }
        all.compile().unwrap();
        assert_eq!((all.of_text.len(), all.in_sets.len()), (100, 0));
        let mut hits = Vec::new();
        all.find("/home/agent/projects/crawler/part-7/main.rs", &mut hits);
        assert_eq!(hits, [7]);
        let tried = all.patterns.iter().filter(|p| p.compiled.get().is_some()).count();
        assert_eq!(tried, 1);
    }

    #[test]
    fn patterns_that_have_little_of_their_own_are_tried_together() {
        let mut all = Patterns::default();
        for n in 0..100 {
            all.add(&format!("^/home/agent/x{{{n}}}$"), n);
        }
        all.compile().unwrap();
        let mut hits = Vec::new();
        all.find("/home/agent/xxx", &mut hits);
        assert_eq!((hits, all.of_text.len()), (vec![3], 1));
    }

    proptest! {
        /// Against each pattern alone.
        #[test]
        fn agrees_with_each_regex_alone(
            patterns in prop::collection::vec("(\\^)?([abc]{1,4}|\\.\\*|\\(ab\\|cab\\)|\\[ab\\]|b\\+|\\(\\?i:abc\\)|a\\?){1,4}(\\$)?", 1..20),
            text in "[abcABC\n]{0,12}",
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let expected: Vec<u32> = (0u32..)
                .zip(&patterns)
                .filter(|(_, p)| regex(p).unwrap().is_match(&text))
                .map(|(n, _)| n)
                .collect();
            prop_assert_eq!(found(&patterns, &text), expected);
        }
    }
}
