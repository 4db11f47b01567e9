//! Holds the map of `ARCHITECTURE.md`: which module may import which, which crates know nothing of each other, and where
//! unsafe code may stand. Reads sources as Rust's own tokens, so comments and texts neither hide nor fake an import.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Modules of `src/` from the bottom up. A module imports only from layers below its own.
const LAYERS: [&[&str]; 6] = [
    &[
        "alert",
        "audit",
        "config",
        "session",
        "view",
        "metrics",
        "inbox",
        "dead_letter",
        "rule_files",
        "wall_clock",
        "frame",
        "hex",
        "loads",
        "log",
        "spool",
        "time_window",
        "timestamp",
    ],
    &["source", "store", "render", "response", "simulate", "checkpoint"],
    &["runtime"],
    &["api"],
    &["cli"],
    &["main"],
];

/// The layer whose members share words and no words else: they may import one another.
const BOTTOM: usize = 0;

/// Of these modules, only this part may be imported from there: the API sees a running engine through its handle alone.
const ONLY: [(&str, &str, &str); 1] = [("api", "runtime", "handle")];

/// Crates that know nothing of each other and of the engine.
const APART: [&str; 3] = ["operators", "rules-lang", "telemetry"];

/// The only files with unsafe code.
const UNSAFE: [&str; 1] = ["src/source/kafka/queue.rs"];

/// Where the workspace's sources are.
const SOURCES: [&str; 7] = ["src", "operators", "rules-lang", "telemetry", "bench", "tests", "fuzz"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder, with their paths from the workspace's root.
fn rust_files(folder: &str) -> Vec<(String, TokenStream)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("folder \"{}\": {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("a folder's entry").path();
            match path.is_dir() {
                true if path.ends_with("target") || path.ends_with("node_modules") => {}
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "rs") => found.push(read(&path)),
                false => {}
            }
        }
    }
    assert!(!found.is_empty(), "no sources in \"{folder}\": was it moved? then say so in this test");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn read(path: &PathBuf) -> (String, TokenStream) {
    let name = path.strip_prefix(root()).expect("a path below the root").to_string_lossy().replace('\\', "/");
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("source \"{name}\": {e}"));
    let tokens = text.parse().unwrap_or_else(|e| panic!("source \"{name}\": {e}"));
    (name, tokens)
}

/// The module of a file of `src/`: `src/api/watch.rs` is `["api", "watch"]`.
fn module_of(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inner.split('/').map(str::to_owned).collect()
}

/// The paths below the crate's root that the tokens name, however: `crate::a::b`, `crate::{a, b::c}`, or enough `super`.
fn imports(tokens: TokenStream, module: &mut Vec<String>, found: &mut BTreeSet<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        let rest = &tokens[at..];
        match rest {
            [TokenTree::Ident(m), TokenTree::Ident(name), TokenTree::Group(body), ..] if m == "mod" => {
                module.push(name.to_string());
                imports(body.stream(), module, found);
                module.pop();
                at += 3;
                continue;
            }
            [TokenTree::Group(group), ..] => imports(group.stream(), module, found),
            [TokenTree::Ident(word), ..] if word == "crate" => {
                found.extend(after_colons(&rest[1..]).map(leaves).unwrap_or_default())
            }
            [TokenTree::Ident(word), ..] if word == "super" => {
                let (mut up, mut tail) = (0, Some(rest));
                while let Some([TokenTree::Ident(word), more @ ..]) = tail
                    && word == "super"
                {
                    up += 1;
                    at += 3;
                    tail = after_colons(more);
                }
                if up >= module.len() {
                    found.extend(tail.map(leaves).unwrap_or_default());
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
}

/// What follows `::`, if that is what comes next.
fn after_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [TokenTree::Punct(a), TokenTree::Punct(b), rest @ ..] if a.as_char() == ':' && b.as_char() == ':' => Some(rest),
        _ => None,
    }
}

/// The paths of a use tree, or of the path that begins here.
fn leaves(tokens: &[TokenTree]) -> Vec<Vec<String>> {
    match tokens {
        [TokenTree::Group(group), ..] if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            let is_comma = |t: &TokenTree| matches!(t, TokenTree::Punct(p) if p.as_char() == ',');
            inner.split(is_comma).filter(|part| !part.is_empty()).flat_map(leaves).collect()
        }
        [TokenTree::Ident(name), rest @ ..] => {
            let below = after_colons(rest).map(leaves).filter(|below| !below.is_empty()).unwrap_or(vec![Vec::new()]);
            below.into_iter().map(|path| [vec![name.to_string()], path].concat()).collect()
        }
        [TokenTree::Punct(star), ..] if star.as_char() == '*' => vec![vec!["*".to_owned()]],
        _ => Vec::new(),
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Why a module may not import a path; `None`: it may.
fn objection(from: &str, path: &[String]) -> Option<String> {
    let to = path.first().map_or("", String::as_str);
    let (Some(above), Some(below)) = (layer(from), layer(to)) else {
        return Some("is in no layer: give it one, here and in ARCHITECTURE.md".to_owned());
    };
    if from == to || (above == below && below == BOTTOM) {
        return None;
    }
    if below >= above {
        return Some(format!("is not below \"{from}\""));
    }
    let only = ONLY.iter().find(|(a, b, _)| (*a, *b) == (from, to))?.2;
    (path.get(1).map(String::as_str) != Some(only)).then(|| format!("is more than \"{to}::{only}\""))
}

/// Every import of a file that has an objection.
fn wrong_imports(file: &str, tokens: TokenStream) -> Vec<String> {
    let mut module = module_of(file);
    let from = module[0].clone();
    let mut found = BTreeSet::new();
    imports(tokens, &mut module, &mut found);
    let said = |path: &Vec<String>| Some(format!("{file}: \"crate::{}\" {}", path.join("::"), objection(&from, path)?));
    found.iter().filter_map(said).collect()
}

#[test]
fn modules_import_only_from_the_layers_below() {
    let files = rust_files("src").into_iter().filter(|(name, _)| name != "src/lib.rs");
    let wrong: Vec<String> = files.flat_map(|(name, tokens)| wrong_imports(&name, tokens)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn an_import_against_the_layers_is_seen_in_every_spelling() {
    let wrong = |file: &str, text: &str| wrong_imports(file, text.parse().expect("tokens")).len();
    assert_eq!(wrong("src/render/a.rs", "use crate::runtime::driver;"), 1);
    assert_eq!(wrong("src/render/a.rs", "use crate::{alert::{Alert, Status}, store::{self, Store}, view};"), 2);
    assert_eq!(wrong("src/render/a.rs", "fn f() { let _ = crate::source::start(); }"), 1);
    assert_eq!(wrong("src/render/a.rs", "use super::super::store::Store;"), 1);
    assert_eq!(wrong("src/render/mod.rs", "mod tests { use super::super::store::Store; use super::store; }"), 1);
    assert_eq!(wrong("src/alert.rs", "use super::api;"), 1);
    assert_eq!(wrong("src/api/a.rs", "use crate::runtime::driver;"), 1);
    assert_eq!(wrong("src/unheard_of.rs", "use crate::alert;"), 1);
}

#[test]
fn what_is_no_import_against_the_layers_is_let_be() {
    let wrong = |file: &str, text: &str| wrong_imports(file, text.parse().expect("tokens")).len();
    assert_eq!(wrong("src/render/a.rs", "// use crate::store\nconst A: &str = \"crate::store\";"), 0);
    assert_eq!(wrong("src/render/a.rs", "pub(crate) fn f() {} pub(in crate::render) fn g() {}"), 0);
    assert_eq!(wrong("src/render/a.rs", "mod tests { use super::*; use super::super::store; }"), 0);
    assert_eq!(wrong("src/api/a.rs", "use crate::runtime::handle::Handle; use crate::view;"), 0);
}

#[test]
fn the_inner_crates_know_nothing_of_each_other_and_of_the_engine() {
    for name in APART {
        let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a crate's manifest");
        let manifest: toml::Table = text.parse().expect("a manifest in TOML");
        let ours = dependencies(&manifest).into_iter().filter(|d| d.starts_with("clawdstrike"));
        assert_eq!(ours.collect::<Vec<_>>(), Vec::<String>::new(), "dependencies of \"{name}\"");
    }
}

/// Names of a manifest's dependencies of every kind and target, by their packages' names.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        match key.ends_with("dependencies") {
            true => found.extend(
                table
                    .iter()
                    .map(|(name, what)| what.get("package").and_then(toml::Value::as_str).unwrap_or(name).to_owned()),
            ),
            false => found.extend(dependencies(table)),
        }
    }
    found
}

#[test]
fn unsafe_code_stands_only_where_it_is_named() {
    let all = SOURCES.into_iter().flat_map(rust_files);
    let found: Vec<String> = all.filter(|(_, tokens)| has_unsafe(tokens.clone())).map(|(name, _)| name).collect();
    assert_eq!(found, UNSAFE, "files with unsafe code");
}

fn has_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "unsafe",
        TokenTree::Group(group) => has_unsafe(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
