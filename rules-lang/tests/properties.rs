//! Whatever is put in: no panic, no hang, findings that point into the file, and globs that mean what `globset` means.

use clawdstrike_rules::plan::{Condition, Test};
use clawdstrike_rules::{MAX_PATTERN_CHARS, REGEX_SIZE_LIMIT, SourceFile, compile, explain};
use globset::GlobBuilder;
use proptest::prelude::*;
use regex::{Regex, RegexBuilder};

const PIECES: [&str; 48] = [
    "rules:",
    "allowlist:",
    "\n",
    "\n  - ",
    "\n    ",
    "\n      ",
    "id: R",
    "name: n",
    "severity: high",
    "conditions:",
    "type: sequence",
    "type: threshold",
    "type: pattern",
    "window: 5m",
    "events:",
    "event_type: any",
    "count: \"> 3\"",
    "all_of: ",
    "any_of: ",
    "target_pattern: ",
    "target_in: ",
    "context.x: ",
    "not: ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    ": ",
    "- ",
    "? ",
    "&a ",
    "*a",
    "!!str ",
    "!x ",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "---\n",
    "...\n",
    "# c\n",
    "%YAML 1.2\n",
    "\t",
    "\r\n",
    "null",
    "é\u{202e}",
    "\u{0}",
];

fn soup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => proptest::sample::select(&PIECES[..]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// The shipped rules with some bytes cut out, doubled or replaced.
fn damaged() -> impl Strategy<Value = String> {
    let text = include_str!("../../rules/ai-threats.yaml");
    let cut = (0..text.len(), 0..40usize, proptest::sample::select(&PIECES[..]));
    proptest::collection::vec(cut, 1..4).prop_map(move |cuts| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, len, piece) in cuts {
            let from = at.min(chars.len());
            let to = (from + len).min(chars.len());
            chars.splice(from..to, piece.chars());
        }
        chars.into_iter().collect()
    })
}

fn check(text: String) -> Result<(), TestCaseError> {
    let lines = text.matches(['\n', '\r']).count() as u32 + 1;
    let files = [SourceFile { name: "soup.yaml".into(), text }];
    match compile(&files) {
        Ok(compiled) => prop_assert!(explain(&compiled.set).to_string().len() < 10_000_000),
        Err(errors) => {
            prop_assert!(!errors.errors.is_empty());
            for error in errors.errors.iter().chain(&errors.warnings) {
                prop_assert!(error.line >= 1 && error.line <= lines && error.column >= 1, "{error:?}");
                prop_assert!(error.hint.is_some(), "{error:?}");
                prop_assert!(error.to_string().chars().all(|c| c == '\n' || !c.is_control()), "{error:?}");
            }
        }
    }
    Ok(())
}

/// Compiles a reading within the limit that the compiler promises.
fn limited(regex: &str) -> Regex {
    let built = RegexBuilder::new(regex).size_limit(REGEX_SIZE_LIMIT).build();
    built.unwrap_or_else(|error| panic!("{regex}: {error}"))
}

/// The path regex of a glob, if it is one.
fn path_regex(glob: &str) -> Option<Regex> {
    let glob = serde_json::json!(glob);
    let text = format!(
        "rules: [{{id: R, name: n, severity: low, conditions: [{{type: threshold, window: 1m, count: 1, event_type: any, target_glob: {glob}}}]}}]"
    );
    let compiled = compile(&[SourceFile { name: "g.yaml".into(), text }]).ok()?;
    let Condition::Threshold(threshold) = &compiled.set.rules[0].conditions[0] else {
        return None;
    };
    let Test::Target(patterns) = &threshold.matcher.tests[0] else {
        return None;
    };
    for regex in [&patterns[0].other, &patterns[0].host.as_ref().map(|host| host.regex.clone())].into_iter().flatten() {
        limited(regex);
    }
    patterns[0].path.as_deref().map(limited)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_compiles_or_is_explained(text in soup()) {
        check(text)?;
    }

    #[test]
    fn damaged_rules_compile_or_are_explained(text in damaged()) {
        check(text)?;
    }

    #[test]
    fn ascii_globs_mean_what_globset_means(glob in r"[ab/.*?\[\]!{},\\-]{1,12}", path in "[ab/.]{0,8}") {
        let reference = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build();
        match (reference, path_regex(&glob)) {
            (Ok(reference), Some(regex)) => {
                prop_assert_eq!(reference.compile_matcher().is_match(&path), regex.is_match(&path), "{} on {}", glob, path);
            }
            (Err(_), None) => {}
            (reference, regex) => prop_assert!(false, "{}: {:?} but {:?}", glob, reference, regex),
        }
    }

    #[test]
    fn a_question_mark_is_any_one_character(c in any::<char>()) {
        let regex = path_regex("/?").expect("a glob");
        prop_assert_eq!(regex.is_match(&format!("/{c}")), c != '/');
    }
}

#[test]
fn the_longest_globs_compile_within_the_limit() {
    for unit in ["?", "*?", "[!a-é]", "{?,é*}", "**/"] {
        let glob = unit.repeat(MAX_PATTERN_CHARS / unit.chars().count());
        assert!(path_regex(&glob).is_some(), "{unit}");
    }
    let scattered: String = (0x4e00..).step_by(2).filter_map(char::from_u32).take(MAX_PATTERN_CHARS - 3).collect();
    assert!(path_regex(&format!("[!{scattered}]")).is_some());
    let nested = format!("{}a{}", "{".repeat(900), "}".repeat(900));
    assert!(path_regex(&nested).is_none(), "too deep is an error, not a stack overflow");
}
