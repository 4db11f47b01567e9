//! Globs to regexes: as crate `globset` reads them, but by characters instead of bytes.
//!
//! `globset` gives a regex over bytes (`(?-u)`), in which `?` is one byte and `[é]` is two. Its structure is kept and
//! its escapes are put together to characters again; a `*` or `?` that may not cross a separator is narrowed there.

use globset::{Error, GlobBuilder};

/// For paths: `*` stays within a component.
pub(crate) fn path(glob: &str) -> Result<String, Error> {
    Ok(format!("(?s)^{}$", inner(glob, true, None)?))
}

/// For texts: `*` is anything.
pub(crate) fn text(glob: &str) -> Result<String, Error> {
    Ok(format!("(?s)^{}$", inner(glob, false, None)?))
}

/// For a part of a host: `*` and `?` stay within a label. No anchors.
pub(super) fn labels(glob: &str) -> Result<String, Error> {
    inner(glob, false, Some("[^.]"))
}

fn inner(glob: &str, literal_separator: bool, any: Option<&str>) -> Result<String, Error> {
    let glob = GlobBuilder::new(glob).literal_separator(literal_separator).backslash_escape(true).build()?;
    let bytes = glob.regex();
    let bytes = bytes.strip_prefix("(?-u)").unwrap_or(bytes);
    let bytes = bytes.strip_prefix('^').and_then(|b| b.strip_suffix('$')).unwrap_or(bytes);
    Ok(characters(bytes, any))
}

/// The byte regex `re` over characters; `any` stands for every `.` outside of classes.
fn characters(re: &str, any: Option<&str>) -> String {
    let mut out = String::with_capacity(re.len());
    let mut pending = Vec::new();
    let mut in_class = false;
    let mut chars = re.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.as_str().starts_with('x') {
            chars.next();
            let hex: String = chars.by_ref().take(2).collect();
            pending.extend(u8::from_str_radix(&hex, 16));
            if let Ok(text) = std::str::from_utf8(&pending) {
                out.push_str(text);
                pending.clear();
            }
            continue;
        }
        match (c, any) {
            ('\\', _) => {
                out.push(c);
                out.extend(chars.next());
                continue;
            }
            ('.', Some(any)) if !in_class => out.push_str(any),
            _ => out.push(c),
        }
        in_class = match c {
            '[' => true,
            ']' => false,
            _ => in_class,
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    fn hits(regex: Result<String, Error>, text: &str) -> bool {
        Regex::new(&regex.expect("a good glob")).expect("a good regex").is_match(text)
    }

    #[test]
    fn a_question_mark_and_a_class_take_one_character_not_one_byte() {
        assert!(hits(path("/?"), "/é"));
        assert!(!hits(path("/??"), "/é"));
        assert!(hits(path("/[à-ü]x"), "/éx"));
        assert!(!hits(path("/[é]"), "/\u{c3}"));
        assert!(hits(path("/[!é]"), "/ü"));
        assert!(hits(text("日*本"), "日 – 本"));
    }

    #[test]
    fn escaped_backslashes_and_x_stay_literal() {
        assert!(hits(path(r"/\\xc3"), r"/\xc3"));
        assert!(hits(path(r"/a\*"), "/a*"));
        assert!(!hits(path(r"/a\*"), "/ab"));
        assert!(hits(path("/[]]x[.]"), "/]x."));
    }

    #[test]
    fn stars_in_paths_stay_within_a_component() {
        assert!(hits(path("**/.ssh/**"), "/root/.ssh/id"));
        assert!(hits(path("**/.ssh/**"), ".ssh/id"));
        assert!(!hits(path("/x/**"), "/x"));
        assert!(!hits(path("/a/*"), "/a/b/c"));
        assert!(hits(path("/a/*"), "/a/b\nc"));
        assert!(hits(path("**"), "/a/b"));
    }

    #[test]
    fn stars_in_labels_stay_there_but_classes_are_as_written() {
        let anchored = |glob| labels(glob).map(|re| format!("(?s)^{re}$"));
        assert!(!hits(anchored("a*c"), "a.c"));
        assert!(!hits(anchored("a?c"), "a.c"));
        assert!(hits(anchored("a[.]c"), "a.c"));
        assert!(hits(anchored("a.c"), "a.c"));
        assert!(!hits(anchored("a.c"), "abc"));
    }
}
