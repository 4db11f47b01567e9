//! Reads rule files from disk: files by name, folders whole. Every entry of a folder is accounted for, as a rule file or by
//! name and reason; none is silently skipped (SPEC §8).
//!
//! Knows nothing of what a rule file says.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clawdstrike_rules::{MAX_FILE_BYTES, SourceFile};
use sha2::{Digest, Sha256};

use crate::hex;

/// Rule files of one set.
pub const MAX_FILES: usize = 10_000;
/// Folders within the rules folder.
const MAX_FOLDERS: usize = 16;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleFiles {
    /// Rule files, in order of their names within each given path.
    pub files: Vec<SourceFile>,
    /// What isn't a rule file.
    pub others: Vec<Other>,
}

/// Something in a rules folder that isn't a rule file.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    /// Which.
    pub path: PathBuf,
    /// Why it is no rule file.
    pub why: &'static str,
    /// Its kind belongs beside rules (tests, hidden files); anything else is an error.
    pub expected: bool,
}

impl Other {
    /// The line that reports it.
    pub fn report(&self) -> String {
        format!("\"{}\" is not loaded: {}", self.path.display(), self.why)
    }
}

impl RuleFiles {
    /// Refuses what has no place in a rules folder, by name.
    pub fn check(&self) -> Result<(), String> {
        let wrong: Vec<String> = self.others.iter().filter(|o| !o.expected).map(Other::report).collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("{}; move it out, or name it .yaml if it holds rules", wrong.join("\n"))),
        }
    }
}

/// Reads these files and folders (folders with their subfolders; `*.yaml` and `*.yml` are rule files there, a file given by
/// name always is).
///
/// Errors: something can't be read, isn't UTF-8, is too large, or there is no rule file at all.
pub fn read(paths: &[PathBuf]) -> Result<RuleFiles, String> {
    let mut found = RuleFiles::default();
    for path in paths {
        let meta = std::fs::metadata(path)
            .map_err(|e| format!("rules \"{}\": {e}; give a rule file or a folder of them", path.display()))?;
        match meta.is_dir() {
            true => folder(path, MAX_FOLDERS, &mut found)?,
            false => found.add(path)?,
        }
    }
    if found.files.is_empty() {
        let names: Vec<String> = paths.iter().map(|p| format!("\"{}\"", p.display())).collect();
        return Err(format!(
            "no rule file in {}: expected *.yaml or *.yml; `clawdstrike-edr init` writes a pack",
            names.join(", ")
        ));
    }
    Ok(found)
}

/// Tells sets of files apart by what they say, whatever the files are named, as `sha256sum FILES | cut -d' ' -f1 | sort |
/// sha256sum` does.
pub fn digest(files: &[SourceFile]) -> String {
    let mut hashes: Vec<String> = files.iter().map(|f| hex::encode(Sha256::digest(f.text.as_bytes())) + "\n").collect();
    hashes.sort();
    hex::encode(Sha256::digest(hashes.concat().as_bytes()))
}

fn folder(path: &Path, deeper: usize, found: &mut RuleFiles) -> Result<(), String> {
    let unreadable = |e: std::io::Error| format!("rules folder \"{}\": {e}", path.display());
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        entries.push(entry.map_err(unreadable)?.path());
        if entries.len() > MAX_FILES {
            return Err(format!(
                "rules folder \"{}\" has more than {MAX_FILES} entries: is it the right one?",
                path.display()
            ));
        }
    }
    entries.sort();
    for entry in entries {
        match kind(&entry) {
            Kind::Rules => found.add(&entry)?,
            Kind::Folder if deeper > 0 => folder(&entry, deeper - 1, found)?,
            Kind::Folder => {
                return Err(format!("rules folder \"{}\" lies more than {MAX_FOLDERS} folders deep", entry.display()));
            }
            Kind::Other(why, expected) => found.others.push(Other { path: entry, why, expected }),
        }
    }
    Ok(())
}

enum Kind {
    Rules,
    Folder,
    Other(&'static str, bool),
}

fn kind(path: &Path) -> Kind {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Mounted Kubernetes ConfigMaps keep their data in hidden folders, and link to it.
    if name.starts_with('.') {
        return Kind::Other("it is hidden", true);
    }
    // Follows links: a link to a file is that file.
    let meta = std::fs::metadata(path);
    if meta.as_ref().is_ok_and(|m| m.is_dir()) {
        return Kind::Folder;
    }
    let name = name.to_ascii_lowercase();
    if !name.ends_with(".yaml") && !name.ends_with(".yml") {
        return Kind::Other("its name ends neither in .yaml nor in .yml", false);
    }
    if is_test(path) {
        return Kind::Other("it holds tests of rules", true);
    }
    match meta {
        Ok(meta) if !meta.is_file() => Kind::Other("it is no regular file", false),
        // Whether it can be read, reading it tells.
        _ => Kind::Rules,
    }
}

impl RuleFiles {
    fn add(&mut self, path: &Path) -> Result<(), String> {
        let name = path.display().to_string();
        if self.files.len() == MAX_FILES {
            return Err(format!("more than {MAX_FILES} rule files, \"{name}\" is one too many"));
        }
        self.files.push(read_file(path)?);
        Ok(())
    }
}

/// Whether the file holds tests of rules, by its name.
pub fn is_test(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    name.ends_with(".test.yaml") || name.ends_with(".test.yml")
}

/// Reads one file, as far as the compiler takes it.
///
/// Errors: it can't be read, or isn't UTF-8.
pub fn read_file(path: &Path) -> Result<SourceFile, String> {
    let name = path.display().to_string();
    // One byte more than the compiler takes, so that it is the compiler that refuses a file for its size.
    let mut bytes = Vec::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|e| format!("rule file \"{name}\": {e}"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        format!("rule file \"{name}\" is not UTF-8 from byte {at} on: save it as UTF-8")
    })?;
    Ok(SourceFile { name, text })
}
