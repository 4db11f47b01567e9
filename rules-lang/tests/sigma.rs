//! Golden files: what becomes of each Sigma file of `tests/sigma`.
//!
//! `NN.in.yml` is imported; the rules must be `NN.out.yaml`, and what is said of it `NN.err`. A line `### file: NAME`
//! starts another file. `UPDATE_GOLDEN=1 cargo test -p clawdstrike-rules --test sigma` writes them anew: read the diff.

mod golden;

use std::fs;
use std::path::PathBuf;

use clawdstrike_rules::sigma::{Imported, import};
use clawdstrike_rules::{SourceFile, compile};

fn inputs() -> Vec<PathBuf> {
    golden::inputs("sigma", ".in.yml")
}

fn files(text: &str) -> Vec<SourceFile> {
    golden::files("sigma.yml", text)
}

fn said(imported: &Imported) -> String {
    let mut out = String::new();
    for diagnostic in imported.errors.iter().chain(&imported.warnings) {
        out.push_str(&format!("{diagnostic}\n"));
    }
    for refused in &imported.refused {
        out.push_str(&format!("refused: \"{}\" at {}:{}\n", refused.title, refused.file, refused.line));
    }
    out
}

#[test]
fn every_sigma_file_becomes_what_its_golden_files_say() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let inputs = inputs();
    assert!(inputs.len() >= 20, "{} inputs", inputs.len());
    for input in inputs {
        let imported = import(&files(&fs::read_to_string(&input).expect("an input")));
        for (end, found) in [(".out.yaml", imported.yaml.clone()), (".err", said(&imported))] {
            let golden = PathBuf::from(input.to_string_lossy().replace(".in.yml", end));
            if update {
                fs::write(&golden, found).expect("a writable golden file");
            } else if fs::read_to_string(&golden).ok().as_ref() != Some(&found) {
                wrong.push(format!("{}:\n{found}", golden.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these differ:\n{}", wrong.join("\n"));
}

#[test]
fn what_is_imported_compiles_as_one_set_and_nothing_disappears() {
    for input in inputs() {
        let text = fs::read_to_string(&input).expect("an input");
        let imported = import(&files(&text));
        let refused = !imported.refused.is_empty();
        assert_eq!(refused, !imported.errors.is_empty(), "{}: a refusal has a reason", input.display());
        if imported.rules.is_empty() {
            assert_eq!(imported.yaml, "", "{}", input.display());
            continue;
        }
        let set = [SourceFile { name: "imported.yaml".into(), text: imported.yaml.clone() }];
        let compiled = compile(&set).unwrap_or_else(|errors| panic!("{}:\n{errors}", input.display()));
        let mut ids: Vec<_> = compiled.set.rules.iter().map(|rule| rule.id.clone()).collect();
        let mut told = imported.rules.clone();
        ids.sort();
        told.sort();
        assert_eq!(ids, told, "{}", input.display());
    }
}
