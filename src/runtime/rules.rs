//! The rules folder of a running cluster: read at the start, and loaded again when something in it changes. A set that
//! doesn't compile changes nothing; the log and `rules list` say why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clawdstrike_rules::{Compiled, SourceFile};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::handle::Handle;
use crate::audit::{Audit, Entry, Outcome, Who};
use crate::rule_files;

/// Editors write a file in several steps: wait for so long without a change.
const SETTLE: Duration = Duration::from_millis(200);
/// Changes that file notification missed (network folders) are found at this beat.
const LOOK: Duration = Duration::from_secs(5);

/// Reads and compiles a rules path.
///
/// # Errors
/// What can't be read or doesn't compile, by file, line and column.
pub fn load(path: &Path) -> Result<(Vec<SourceFile>, Compiled), String> {
    let files = read(path)?;
    let compiled = clawdstrike_rules::compile(&files).map_err(|e| format!("the rules don't compile:\n{e}"))?;
    Ok((files, compiled))
}

fn read(path: &Path) -> Result<Vec<SourceFile>, String> {
    let found = rule_files::read(&[path.to_owned()])?;
    found.check()?;
    Ok(found.files)
}

/// Loads the folder again whenever its contents aren't those in force, `began_with` at first, for as long as the engine runs.
/// Each load stands in the audit trail before and after; one that can't be written down isn't tried, and tried again later.
pub async fn watch(path: PathBuf, handle: Handle, began_with: Vec<SourceFile>, audit: Audit) {
    let (changed, mut changes) = mpsc::channel(1);
    let told = changed.clone();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|e| !e.kind.is_access()) {
            // One waits already: it will see this change too.
            let _one_waits = told.try_send(());
        }
    });
    let watcher = watcher.and_then(|mut w| w.watch(&path, RecursiveMode::Recursive).map(|()| w));
    if let Err(error) = &watcher {
        tracing::warn!(path = %path.display(), %error, "no notification of changed rules; looking every few seconds");
    }
    let mut loaded = Some(began_with);
    // What changed before there was notification has to be looked for.
    let _one_waits = changed.try_send(());
    loop {
        if let Ok(Some(())) = tokio::time::timeout(LOOK, changes.recv()).await {
            while let Ok(Some(())) = tokio::time::timeout(SETTLE, changes.recv()).await {}
        }
        let now = match read(&path) {
            Ok(files) => files,
            Err(error) => {
                if loaded.take().is_some() {
                    tracing::error!("{error}; the running rules stay as they are");
                    handle.note_rules_error(error);
                }
                continue;
            }
        };
        if loaded.as_ref() == Some(&now) {
            continue;
        }
        let entry = |outcome| Entry::new(Who::kind("rules folder"), "rules.load", outcome);
        let begun = entry(Outcome::Begun)
            .with("files", now.len())
            .with("before", handle.rules().digest.clone())
            .with("after", rule_files::digest(&now));
        let of = match audit.record(begun).await {
            Ok(seq) => seq,
            Err(error) => {
                tracing::error!("{error}; the running rules stay as they are");
                handle.note_rules_error(error);
                continue;
            }
        };
        loaded = Some(now.clone());
        let result = handle.load_rules(now).await;
        let ended = match &result {
            Ok(active) => entry(Outcome::Done).with("epoch", active.epoch).with("rules", active.set.rules.len()),
            Err(error) => entry(Outcome::Failed).with("why", error.to_string()),
        };
        if let Err(error) = audit.record(ended.with("of", of)).await {
            tracing::error!("{error}");
        }
        match result {
            Ok(active) => tracing::info!(
                rules = active.set.rules.len(),
                epoch = active.epoch,
                "rules loaded from the changed folder"
            ),
            Err(error) => {
                tracing::error!("{error}\n{}", handle.rules().last_error.as_deref().unwrap_or("no rule is named"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch as value;

    use super::*;
    use crate::runtime::handle::{ActiveRules, Request, Stats, feeds};

    #[tokio::test]
    async fn what_changed_before_it_was_watched_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |text: &str| SourceFile { name: "a.yaml".into(), text: text.into() };
        let state = tempfile::tempdir().expect("a folder");
        let audit = Audit::of(state.path());
        std::fs::write(folder.path().join("a.yaml"), "rules: [] # new").expect("a file");
        let set = Arc::new(clawdstrike_rules::compile(&[file("rules: []")]).expect("no rules").set);
        let active = ActiveRules {
            set,
            warnings: Vec::new(),
            files: Vec::new(),
            digest: String::new(),
            epoch: 0,
            last_error: None,
        };
        let (requests, mut asked) = mpsc::channel(1);
        let (active, stats) = (value::channel(Arc::new(active)).0, value::channel(Stats::default()).1);
        let handle = Handle::new(requests, feeds().1, Arc::new(active), stats);
        let watching = tokio::spawn(watch(folder.path().to_owned(), handle, vec![file("rules: []")], audit.clone()));
        let asked = tokio::time::timeout(Duration::from_secs(60), asked.recv()).await;
        assert!(matches!(asked, Ok(Some(Request::Rules(..)))));
        let page = audit.page(None, 10).expect("a trail");
        let row = page.rows.first().expect("the load is written down before it is tried");
        assert_eq!((&row["who"]["kind"], &row["outcome"]), (&"rules folder".into(), &"begun".into()));
        watching.abort();
    }
}
