//! Sigma's texts: wildcards, dashes, and how they are written as regexes and globs of ours.
//!
//! Knows texts, not fields.

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    Char(char),
    /// `*`
    Any,
    /// `?`
    One,
    /// A dash of `windash`.
    Dash,
}

/// Where a text must stand in the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Whole,
    Start,
    End,
    Anywhere,
}

/// A text that a value must match as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text(pub(super) Vec<Token>);

/// What stands for a `-` under `windash`.
const DASHES: &str = r"[\-/–—―]";

impl Text {
    /// Reads wildcards and escapes: `\*`, `\?` and `\\` are the characters, any other backslash is one.
    pub(super) fn parse(text: &str, place: Place, windash: bool) -> Text {
        let mut tokens = Vec::with_capacity(text.len() + 2);
        if matches!(place, Place::End | Place::Anywhere) {
            tokens.push(Token::Any);
        }
        let mut chars = text.chars().peekable();
        let mut before = ' ';
        while let Some(c) = chars.next() {
            let escaped = c == '\\' && matches!(chars.peek(), Some('*' | '?' | '\\'));
            let c = if escaped { chars.next().unwrap_or(c) } else { c };
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            tokens.push(match c {
                '*' if !escaped => Token::Any,
                '?' if !escaped => Token::One,
                '-' | '/' if windash && !is_word(before) && chars.peek().copied().is_some_and(is_word) => Token::Dash,
                c => Token::Char(c),
            });
            before = c;
        }
        if matches!(place, Place::Start | Place::Anywhere) {
            tokens.push(Token::Any);
        }
        tokens.dedup_by(|a, b| *a == Token::Any && *b == Token::Any);
        Text(tokens)
    }

    /// As paths are compared: `/` for `\`, none doubled.
    pub(super) fn path(mut self) -> Text {
        for token in &mut self.0 {
            if *token == Token::Char('\\') {
                *token = Token::Char('/');
            }
        }
        self.0.dedup_by(|a, b| *a == Token::Char('/') && *b == Token::Char('/'));
        self
    }

    /// Whether it ends with a `/` that no normalised path ends with.
    pub(super) fn ends_with_slash(&self) -> bool {
        self.0.len() > 1 && self.0.last() == Some(&Token::Char('/'))
    }

    /// Whether it is a part of every text.
    pub(super) fn is_any(&self) -> bool {
        self.0.iter().all(|token| *token == Token::Any)
    }

    /// Whether it is `*`.
    pub(super) fn is_star(&self) -> bool {
        self.0 == [Token::Any]
    }

    /// Whether no letter of it has another case.
    pub(super) fn is_caseless(&self) -> bool {
        self.0.iter().all(|token| !matches!(token, Token::Char(c) if cases(*c).len() > 1))
    }

    /// Where it must stand and the characters, if there are no other wildcards.
    pub(super) fn literal(&self) -> Option<(Place, String)> {
        let (open, tokens) = strip(&self.0);
        let text: Option<String> =
            tokens.iter().map(|token| if let Token::Char(c) = token { Some(*c) } else { None }).collect();
        let place = match open {
            (false, false) => Place::Whole,
            (false, true) => Place::Start,
            (true, false) => Place::End,
            (true, true) => Place::Anywhere,
        };
        text.map(|text| (place, text))
    }

    /// A regex to search with.
    pub(super) fn regex(&self) -> String {
        let ((start, end), tokens) = strip(&self.0);
        let inner = tokens_regex(tokens, ".");
        format!("{}{inner}{}", if start { "" } else { "^" }, if end { "" } else { "$" })
    }

    /// A regex that finds it as the program of a command line: the first word, or what stands in quotes there.
    pub(super) fn program(&self) -> String {
        let either = |any: &str| match self.0.as_slice() {
            // Programs are called by name or by path.
            [Token::Any, Token::Char('/' | '\\'), rest @ ..] => {
                format!("(?:{any}*[\\\\/])?{}", tokens_regex(rest, any))
            }
            tokens => tokens_regex(tokens, any),
        };
        format!("^\\s*(?:\"{}\"|{})(?:\\s|$)", either("[^\"]"), either("[^\\s\"]"))
    }

    /// Globs that together match the same paths, if globs can.
    pub(super) fn path_globs(&self, cased: bool) -> Option<Vec<String>> {
        let (place, text) = self.literal()?;
        let glob = glob(&text, cased);
        let component = glob.trim_start_matches('/');
        Some(match (place, text.starts_with('/'), text.ends_with('/')) {
            _ if component.is_empty() => return None,
            (Place::Whole, _, _) => vec![glob],
            (Place::Start, _, true) => vec![format!("{glob}**")],
            (Place::Start, _, false) => vec![format!("{glob}*"), format!("{glob}*/**")],
            (Place::End, true, _) => vec![format!("/**/{component}"), format!("*/**/{component}")],
            (Place::End, false, _) => vec![format!("**/*{glob}")],
            (Place::Anywhere, true, true) => vec![format!("/**/{component}**"), format!("*/**/{component}**")],
            (Place::Anywhere, true, false) => {
                let ends = [format!("{component}*"), format!("{component}*/**")];
                ends.iter().flat_map(|end| [format!("/**/{end}"), format!("*/**/{end}")]).collect()
            }
            (Place::Anywhere, false, true) => vec![format!("**/*{glob}**")],
            (Place::Anywhere, false, false) => vec![format!("**/*{glob}*"), format!("**/*{glob}*/**")],
        })
    }

    /// Globs that together match the same hosts, if globs can.
    pub(super) fn host_globs(&self) -> Option<Vec<String>> {
        let (place, text) = self.literal()?;
        // Hosts are lower case already.
        let host = glob(&text.to_lowercase(), true);
        match place {
            Place::Whole if !host.contains(':') => Some(vec![host]),
            Place::End if host.starts_with('.') && !host.contains(':') => Some(vec![format!("*{host}")]),
            _ => None,
        }
    }
}

/// Whether anything may stand before and after, and what is between.
fn strip(tokens: &[Token]) -> ((bool, bool), &[Token]) {
    let (start, tokens) = match tokens {
        [Token::Any, rest @ ..] => (true, rest),
        _ => (false, tokens),
    };
    match tokens {
        [rest @ .., Token::Any] => ((start, true), rest),
        // A lone `*` was both.
        [] if start => ((true, true), tokens),
        _ => ((start, false), tokens),
    }
}

fn tokens_regex(tokens: &[Token], any: &str) -> String {
    let mut out = String::new();
    for token in tokens {
        match token {
            Token::Char(c) => {
                if r"\.+*?()|[]{}^$".contains(*c) {
                    out.push('\\');
                }
                out.push(*c);
            }
            Token::Any => {
                out.push_str(any);
                out.push('*');
            }
            Token::One => out.push_str(any),
            Token::Dash => out.push_str(DASHES),
        }
    }
    out
}

/// A character in every case it has, itself first.
fn cases(c: char) -> Vec<char> {
    let one = |mut of: Box<dyn Iterator<Item = char>>| of.next().filter(|_| of.next().is_none());
    let mut cases = vec![c];
    cases.extend(one(Box::new(c.to_lowercase())));
    cases.extend(one(Box::new(c.to_uppercase())));
    cases.sort_unstable();
    cases.dedup();
    cases
}

/// The text as a glob for itself, in any case unless `cased`.
fn glob(text: &str, cased: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let cases = cases(c);
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!' | ',') {
            out.extend(['\\', c]);
        } else if cased || cases.len() < 2 {
            out.push(c);
        } else {
            out.push('[');
            out.extend(cases);
            out.push(']');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::glob::path;
    use regex::Regex;

    fn found(text: &str, place: Place, value: &str) -> bool {
        Regex::new(&Text::parse(text, place, false).regex()).expect("a regex").is_match(value)
    }

    #[test]
    fn wildcards_and_escapes_are_sigmas() {
        assert!(found("a*c", Place::Whole, "abbc"));
        assert!(!found("a*c", Place::Whole, "abbcd"));
        assert!(found(r"a\*c", Place::Whole, "a*c"));
        assert!(!found(r"a\*c", Place::Whole, "abc"));
        assert!(found(r"C:\Windows\\*", Place::Whole, r"C:\Windows\x"));
        assert!(found("a?c", Place::Anywhere, "xxabcxx"));
        assert!(!found("a.c", Place::Anywhere, "abc"));
        assert!(found("*", Place::Whole, "anything"));
    }

    #[test]
    fn a_program_is_the_first_word_by_name_or_path() {
        let text = Text::parse(r"\curl", Place::End, false);
        let regex = Regex::new(&text.program()).expect("a regex");
        for command in ["curl", "curl -s x", "/usr/bin/curl x", "\"C:\\my tools\\curl\" x", "  ./curl\tx"] {
            assert!(regex.is_match(command), "{command}");
        }
        for command in ["mycurl x", "cat /usr/bin/curl", "curly x", "\"a b\" curl"] {
            assert!(!regex.is_match(command), "{command}");
        }
    }

    #[test]
    fn path_globs_match_what_the_regex_matches() {
        let paths = [
            "/tmp", "/tmp/x", "/tmp/a/b", "/tmpx/y", "/a/tmp", "/a/tmp/b", "/a/xtmp", "tmp/x", "tmp", "/TMP/x",
            "/a/b.tmp", "a/tmp/b", "x/tmp", "/",
        ];
        for place in [Place::Whole, Place::Start, Place::End, Place::Anywhere] {
            for text in ["/tmp", "/tmp/", "tmp/", "tmp", ".tmp", "/a/tmp"] {
                let text = Text::parse(text, place, false);
                if text.ends_with_slash() {
                    continue;
                }
                let regex = Regex::new(&format!("(?is){}", text.regex())).expect("a regex");
                let globs = text.path_globs(false).expect("globs");
                for value in paths {
                    let by_glob = globs
                        .iter()
                        .any(|glob| Regex::new(&path(glob).expect("a glob")).expect("a regex").is_match(value));
                    // `/x/**` is everything below `/x`: a normalised path has no `/` at its end.
                    assert_eq!(by_glob, regex.is_match(value), "{text:?} as {globs:?} on {value}");
                }
            }
        }
    }
}
