//! Any text as a rule file: no panic, the same answer twice, findings with a code and a place inside the text.
//!
//! CONTRIBUTING.md has the command.

#![no_main]

use clawdstrike_rules::{Diagnostic, SourceFile, compile, explain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let files = [SourceFile { name: "fuzz.yaml".into(), text: text.into() }];
    let compiled = compile(&files);
    assert_eq!(compiled, compile(&files), "compiled twice, with two answers");
    let lines = lines(text);
    match compiled {
        Ok(compiled) => {
            let first = explain(&compiled.set).to_string();
            assert_eq!(first, explain(&compiled.set).to_string(), "explained twice, in different words");
            compiled.warnings.iter().for_each(|warning| check(warning, 'W', lines));
        }
        Err(found) => {
            assert!(!found.errors.is_empty(), "refused without an error");
            found.errors.iter().for_each(|error| check(error, 'E', lines));
            found.warnings.iter().for_each(|warning| check(warning, 'W', lines));
        }
    }
});

/// As YAML counts them: a line feed, a carriage return, or both together end one.
fn lines(text: &str) -> u32 {
    let pairs = text.matches("\r\n").count();
    (text.matches(['\n', '\r']).count() - pairs) as u32 + 1
}

fn check(found: &Diagnostic, level: char, lines: u32) {
    let number = found.code.strip_prefix(level).unwrap_or_default();
    assert!(number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit()), "a code: {found:?}");
    assert!((1..=lines).contains(&found.line), "a line of the text's {lines}: {found:?}");
    assert!(found.column >= 1, "a column: {found:?}");
    assert!(found.hint.is_some(), "a way out: {found:?}");
    assert!(found.to_string().chars().all(|c| c == '\n' || !c.is_control()), "fit for a terminal: {found:?}");
}
