//! What is shipped to be used or copied as it is: `workers.toml`, the rules, and the examples of the documents.

use std::path::Path;

use clawdstrike_edr::config::{Config, Source, Store};
use clawdstrike_edr::rule_files;
use clawdstrike_rules::SourceFile;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("document \"{name}\": {e}"))
}

/// The fenced blocks of a language in a document, with the lines where they begin.
fn blocks(name: &str, language: &str) -> Vec<(usize, String)> {
    let fence = format!("```{language}");
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (number, line) in document(name).lines().enumerate() {
        match (inside, line.trim_end()) {
            (false, line) if line == fence => {
                inside = true;
                found.push((number + 2, String::new()));
            }
            (true, "```") => inside = false,
            (true, _) => {
                let (_, text) = found.last_mut().expect("a block that was begun");
                text.push_str(line);
                text.push('\n');
            }
            (false, _) => {}
        }
    }
    found
}

#[test]
fn the_shipped_cluster_needs_no_server_and_lets_nobody_in_from_outside() {
    let config = Config::load(&root().join("workers.toml")).expect("the shipped configuration");
    assert_eq!((config.cluster.processes, config.cluster.threads), (2, 1));
    assert!(
        matches!(&config.sources[..], [Source::Jsonl { path, follow: true, .. }] if *path == root().join("data/events"))
    );
    assert!(matches!(&config.store, Store::Sqlite { path, .. } if *path == root().join("state/clawdstrike.db")));
    assert!(config.api.listen.ip().is_loopback() && config.api.allow_anonymous);
}

#[test]
fn the_shipped_values_are_the_defaults_that_their_comments_say() {
    let (config, default) = (Config::parse(&document("workers.toml")).expect("a configuration"), Config::default());
    assert_eq!((config.rules, config.limits, config.risk), (default.rules, default.limits, default.risk));
    assert_eq!(
        (config.store, config.response, config.api.listen),
        (default.store, default.response, default.api.listen)
    );
}

#[test]
fn the_shipped_rules_compile() {
    let config = Config::load(&root().join("workers.toml")).expect("the shipped configuration");
    let found = rule_files::read(&[config.rules.path]).expect("the rules folder");
    found.check().expect("nothing but rules in it");
    let compiled = clawdstrike_rules::compile(&found.files).unwrap_or_else(|e| panic!("{e}"));
    assert!(compiled.set.rules.len() >= 4);
}

#[test]
fn configurations_in_documents_are_accepted() {
    for name in ["README.md", "docs/operations.md"] {
        let examples = blocks(name, "toml");
        assert!(!examples.is_empty(), "\"{name}\" has no example");
        for (line, text) in examples {
            if let Err(error) = Config::parse(&text) {
                panic!("{name}:{line}: {error}");
            }
        }
    }
}

#[test]
fn rules_in_documents_compile_without_a_warning() {
    for name in ["README.md", "docs/rules/reference.md"] {
        let examples = blocks(name, "yaml");
        assert!(!examples.is_empty(), "\"{name}\" has no example");
        for (line, text) in examples {
            let compiled = clawdstrike_rules::compile(&[SourceFile { name: format!("{name}:{line}"), text }]);
            let compiled = compiled.unwrap_or_else(|e| panic!("{e}"));
            assert!(compiled.warnings.is_empty(), "{}", compiled.warnings[0]);
        }
    }
}
