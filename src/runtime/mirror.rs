//! The ledger of actions, copied to the store row by row as it changes, so that analysts can ask a database. The ledger alone
//! decides: it is read, a page at a time, and never waits for the store. How far the copy has come stands in the ledger.

use std::time::Duration;

use tokio::sync::watch;

use crate::response::{Actions, Change};
use crate::store::{ActionRow, ArchiveSender};

/// Rows copied at a time.
const ROWS: usize = 500;
/// How often changes are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Copies until `stopping` says so, or either end is gone.
pub async fn run(actions: Actions, store: ArchiveSender, mut stopping: watch::Receiver<bool>) {
    let copy = async {
        loop {
            match copy_some(&actions, &store).await {
                None => return,
                Some(0) => tokio::time::sleep(LOOK).await,
                Some(_) => {}
            }
        }
    };
    tokio::select! {
        () = copy => {}
        // An error means that process 0 is gone: stop as well.
        _ = stopping.wait_for(|s| *s) => {}
    }
}

/// How many rows were copied; `None`: there is nothing to copy from or to any more.
async fn copy_some(actions: &Actions, store: &ArchiveSender) -> Option<usize> {
    let changes = actions.uncopied(ROWS).await.ok()?;
    let Some(last) = changes.last().map(|change| change.number) else { return Some(0) };
    let rows: Vec<ActionRow> = changes.into_iter().map(row).collect();
    let count = rows.len();
    // Waits for a store that is away; rows that it refuses are told there and left out.
    store.send_actions(rows).await.ok()?.await.ok()?;
    actions.copied(last).await.ok()?;
    Some(count)
}

fn row(change: Change) -> ActionRow {
    let Change { number, revision, entry } = change;
    ActionRow {
        key: entry.key,
        change: number,
        alert_id: entry.alert_id,
        revision,
        rule_id: entry.rule_id,
        severity: entry.severity,
        tenant_id: entry.tenant_id,
        agent_id: entry.agent_id,
        session_id: entry.session_id,
        action: entry.action,
        params: entry.params.to_string(),
        receiver: entry.receiver,
        state: entry.state.name(),
        reason: entry.reason,
        // The two of four eyes in one column, in the order in which they decided.
        decided_by: match (entry.approved_by, entry.decided_by) {
            (Some(first), Some(last)) => Some(format!("{first}, {last}")),
            (first, last) => first.or(last),
        },
        attempts: entry.attempts,
        alert_retracted: entry.alert_retracted,
        superseded_by: entry.superseded_by,
        created_at: entry.created_at,
        updated_at: entry.updated_at,
    }
}
