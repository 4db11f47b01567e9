//! The store: does it answer, is its schema one that this program can use, and what time is it there.

use super::files::writable;
use super::finding::{Finding, clock};
use crate::config::{Config, Store as StoreConfig};
use crate::store::{Condition, Schema, Store, Weight};

const PART: &str = "store";

/// The store of the configuration.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let StoreConfig::Sqlite { path, .. } = &config.store
        && let Some(folder) = path.parent()
        && let Err(error) = writable(folder)
    {
        let way_out = "let the engine's user write there, or correct [store] path";
        findings.push(Finding::error(PART, error, way_out));
    }
    let store = match Store::prepare(&config.store) {
        Ok(Some(store)) => store,
        Ok(None) => return vec![Finding::ok(PART, "none: alerts, sessions and events are kept nowhere")],
        Err(error) => return vec![Finding::error(PART, error, "")],
    };
    match store.inspect().await {
        Ok(condition) => findings.extend(told(&condition)),
        Err(error) => findings.push(Finding::error(
            PART,
            error,
            "start the database, or correct [store]; the engine starts without it, and keeps alerts until it answers",
        )),
    }
    findings
}

fn told(condition: &Condition) -> Vec<Finding> {
    let Condition { place, product, schema, clock_ahead, lacks, .. } = condition;
    let seen = format!("{place}: {product}");
    let mut findings = vec![match schema {
        Schema::Absent => Finding::ok(PART, format!("{seen}, no schema yet: the start makes it")),
        Schema::Current(version) => Finding::ok(PART, format!("{seen}, schema version {version}")),
        Schema::Older { has, latest } => Finding::warning(
            PART,
            format!("{seen}, schema version {has}, and this program's is {latest}"),
            "the next start brings it up to date; back it up first, since there is no way back",
        ),
        Schema::Foreign(text) => Finding::error(PART, format!("{seen}: {text}"), ""),
    }];
    findings.extend(lacks.iter().map(|lack| {
        let seen = format!("{place}: {}", lack.what);
        match lack.weight {
            Weight::Optional => Finding::ok(PART, format!("{seen}; {}", lack.way_out)),
            Weight::Matters => Finding::warning(PART, seen, lack.way_out),
            Weight::Fatal => Finding::error(PART, seen, lack.way_out),
        }
    }));
    findings.extend(clock_ahead.and_then(|ahead| clock(PART, "the database's", ahead)));
    findings
}
