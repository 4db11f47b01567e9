//! The ledger of actions and the audit trail, copied to the store row by row as they grow, so that analysts can ask a database.
//! They alone count: they are read, a page at a time, and never wait for the store. How far a copy has come stands beside what is
//! copied.

use std::time::Duration;

use tokio::sync::watch;

use crate::audit::{Audit, Copied};
use crate::response::{Actions, Change};
use crate::store::{ActionRow, ArchiveSender, AuditRow};

/// Rows copied at a time.
const ROWS: usize = 500;
/// How often changes are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// The pause after a trail that can't be read.
const TROUBLE: Duration = Duration::from_secs(60);

/// Copies until `stopping` says so, or either end is gone.
pub async fn run(actions: Actions, audit: Audit, store: ArchiveSender, mut stopping: watch::Receiver<bool>) {
    let actions = async {
        while let Some(copied) = copy_actions(&actions, &store).await {
            if copied == 0 {
                tokio::time::sleep(LOOK).await;
            }
        }
    };
    let trail = async {
        while let Some(copied) = copy_audit(&audit, &store).await {
            match copied {
                Ok(0) => tokio::time::sleep(LOOK).await,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!("the audit trail isn't copied to the store: {error}");
                    tokio::time::sleep(TROUBLE).await;
                }
            }
        }
    };
    tokio::select! {
        _ = futures_util::future::join(actions, trail) => {}
        // An error means that process 0 is gone: stop as well.
        _ = stopping.wait_for(|s| *s) => {}
    }
}

/// How many rows were copied; `None`: there is nothing to copy from or to any more.
async fn copy_actions(actions: &Actions, store: &ArchiveSender) -> Option<usize> {
    let changes = actions.uncopied(ROWS).await.ok()?;
    let Some(last) = changes.last().map(|change| change.number) else { return Some(0) };
    let rows: Vec<ActionRow> = changes.into_iter().map(action_row).collect();
    let count = rows.len();
    // Waits for a store that is away; rows that it refuses are told there and left out.
    store.send_actions(rows).await.ok()?.await.ok()?;
    actions.copied(last).await.ok()?;
    Some(count)
}

/// How many rows were copied, or why they can't be read; `None`: there is nothing to copy to any more.
async fn copy_audit(audit: &Audit, store: &ArchiveSender) -> Option<Result<usize, String>> {
    let rows = match on_files(audit, |audit| audit.uncopied(ROWS)).await {
        Ok(rows) => rows,
        Err(error) => return Some(Err(error)),
    };
    let Some(last) = rows.last().map(|row| row.seq) else { return Some(Ok(0)) };
    let count = rows.len();
    store.send_audit(rows.into_iter().map(audit_row).collect()).await.ok()?.await.ok()?;
    Some(on_files(audit, move |audit| audit.copied(last)).await.map(|()| count))
}

/// Away from threads that answer others.
async fn on_files<T: Send + 'static>(
    audit: &Audit,
    work: impl FnOnce(&Audit) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let audit = audit.clone();
    tokio::task::spawn_blocking(move || work(&audit)).await.unwrap_or_else(|e| Err(e.to_string()))
}

fn audit_row(row: Copied) -> AuditRow {
    let Copied { seq, time, entry, hash, line } = row;
    AuditRow {
        hash,
        seq,
        time,
        actor_kind: entry.who.kind.clone(),
        actor: entry.who.label(),
        address: entry.from,
        action: entry.action,
        outcome: entry.outcome.name(),
        detail: serde_json::Value::Object(entry.detail).to_string(),
        line,
    }
}

fn action_row(change: Change) -> ActionRow {
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
        created_at: entry.created_at.0,
        updated_at: entry.updated_at.0,
    }
}
