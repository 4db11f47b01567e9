//! Golden files: inputs in a folder of `tests/`, each of which may stand for several files.

use std::fs;
use std::path::{Path, PathBuf};

use clawdstrike_rules::SourceFile;

/// The inputs of a folder, whose names have this end, in order.
pub fn inputs(folder: &str, end: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut inputs: Vec<_> = fs::read_dir(folder)
        .expect("the golden files")
        .map(|entry| entry.expect("a golden file").path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    inputs.sort();
    inputs
}

/// The files that an input stands for: a line `### file: NAME` starts another one.
pub fn files(first: &str, text: &str) -> Vec<SourceFile> {
    let mut parts = text.split("### file: ");
    let mut files = vec![SourceFile { name: first.into(), text: parts.next().unwrap_or_default().into() }];
    for part in parts {
        let (name, text) = part.split_once('\n').expect("a name and a text");
        files.push(SourceFile { name: name.trim().into(), text: text.into() });
    }
    files
}
