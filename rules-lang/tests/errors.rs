//! Golden files: what the compiler says about each file of `tests/errors`.
//!
//! `NN.in.yaml` is compiled, its findings must be `NN.out`. A line `### file: NAME` starts another file of the same
//! set. `UPDATE_GOLDEN=1 cargo test -p clawdstrike-rules --test errors` writes the `.out` files anew: read the diff.

mod golden;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clawdstrike_rules::compile;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn inputs() -> Vec<PathBuf> {
    golden::inputs("errors", ".in.yaml")
}

/// 2026-01-01T00:00:00Z, in microseconds since 1970: the time at which allowlist entries are looked at.
const NOW: i64 = 1_767_225_600_000_000;

/// What is said, with the number of enabled rules if the set compiles.
fn findings(text: &str) -> String {
    match compile(&golden::files("rules.yaml", text)) {
        Ok(compiled) => {
            let warnings: String =
                compiled.warnings.iter().chain(compiled.expired(NOW)).map(|warning| format!("{warning}\n")).collect();
            format!(
                "{warnings}compiles: {} rules, {} entries\n",
                compiled.set.rules.len(),
                compiled.set.allowlist.len()
            )
        }
        Err(errors) => format!("{errors}\n"),
    }
}

#[test]
fn every_bad_file_is_explained_as_its_golden_file_says() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for input in inputs() {
        let found = findings(&fs::read_to_string(&input).expect("an input"));
        let golden = PathBuf::from(input.to_string_lossy().replace(".in.yaml", ".out"));
        if update {
            fs::write(&golden, found).expect("a writable golden file");
        } else if fs::read_to_string(&golden).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "these differ:\n{}", wrong.join("\n"));
}

fn sources(folder: &Path, out: &mut String) {
    for entry in fs::read_dir(folder).expect("sources") {
        let path = entry.expect("a source").path();
        if path.is_dir() {
            sources(&path, out);
        } else {
            out.push_str(&fs::read_to_string(path).expect("a source"));
        }
    }
}

fn codes(text: &str, before: char) -> BTreeSet<String> {
    let is_code = |code: &str| code.starts_with(['E', 'W']) && code[1..].bytes().all(|b| b.is_ascii_digit());
    text.match_indices(before)
        .filter_map(|(at, _)| text.get(at + 1..at + 5))
        .filter(|code| is_code(code))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_code_has_a_golden_file_and_a_section_in_the_reference() {
    let mut text = String::new();
    sources(&root().join("src"), &mut text);
    let known = codes(&text, '"');
    let mut golden: String = inputs()
        .iter()
        .map(|input| fs::read_to_string(input.to_string_lossy().replace(".in.yaml", ".out")).expect("an output"))
        .collect();
    // What is said of Sigma files is for `sigma.rs`.
    sources(&root().join("tests/sigma"), &mut golden);
    let shown = codes(&golden, '[');
    let reference = fs::read_to_string(root().join("../docs/rules/errors.md")).expect("the reference");
    let explained = codes(&reference, '`');
    // More than a thousand findings are for `language.rs`.
    let shown: BTreeSet<_> = shown.into_iter().chain(["E006", "W011"].map(str::to_owned)).collect();
    assert_eq!(known.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new(), "without a golden file");
    assert_eq!(known, explained, "what the compiler says and what docs/rules/errors.md explains");
}
