//! The statements of a write: arrays through UNNEST, upserts that keep the highest version.
//!
//! Knows nothing of connecting, deadlines or retries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement, Transaction};

use super::super::row::{ActionColumns, AlertColumns, RemovedColumns, Rows, SessionColumns, count};
use super::super::{AuditRow, EventRow};

/// Most rows of one statement.
const STATEMENT_ROWS: usize = 2_000;
/// Most bytes of text of one statement (unless one row has more): far below the protocol's 1 GiB, and little memory on
/// both sides.
const STATEMENT_BYTES: usize = 8 << 20;

const ALERTS: &str = "INSERT INTO alerts (alert_id, revision, rule_id, rule_name, rule_version, severity, status, superseded_by, \
    tenant_id, agent_id, session_id, first_seen, last_seen, match_count, risk_score, shadow, run_actions, actions, trigger_event, \
    document) \
    SELECT a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r::jsonb, s, t::jsonb FROM UNNEST($1::text[], $2::bigint[], \
    $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], \
    $12::timestamptz[], $13::timestamptz[], $14::bigint[], $15::double precision[], $16::boolean[], $17::boolean[], $18::text[], \
    $19::text[], $20::text[]) AS u (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t) \
    ON CONFLICT (alert_id) DO UPDATE SET revision = excluded.revision, rule_id = excluded.rule_id, \
    rule_name = excluded.rule_name, rule_version = excluded.rule_version, severity = excluded.severity, \
    status = excluded.status, superseded_by = excluded.superseded_by, tenant_id = excluded.tenant_id, \
    agent_id = excluded.agent_id, session_id = excluded.session_id, first_seen = excluded.first_seen, \
    last_seen = excluded.last_seen, match_count = excluded.match_count, risk_score = excluded.risk_score, \
    shadow = excluded.shadow, run_actions = excluded.run_actions, actions = excluded.actions, \
    trigger_event = excluded.trigger_event, document = excluded.document \
    WHERE excluded.revision > alerts.revision";

const SESSIONS: &str = "INSERT INTO sessions (tenant_id, agent_id, session_id, first_seen, epoch, last_seen, status, resumed, \
    events, violations, unique_targets, risk_score, open_alerts, document) \
    SELECT a, b, c, d, e, f, g, h, i, j, k, l, m, n::jsonb FROM UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[], \
    $5::bigint[], $6::timestamptz[], $7::text[], $8::boolean[], $9::bigint[], $10::bigint[], $11::bigint[], \
    $12::double precision[], $13::bigint[], $14::text[]) AS u (a, b, c, d, e, f, g, h, i, j, k, l, m, n) \
    ON CONFLICT (tenant_id, agent_id, session_id, first_seen) DO UPDATE SET epoch = excluded.epoch, \
    last_seen = excluded.last_seen, status = excluded.status, resumed = excluded.resumed, events = excluded.events, \
    violations = excluded.violations, unique_targets = excluded.unique_targets, risk_score = excluded.risk_score, \
    open_alerts = excluded.open_alerts, document = excluded.document \
    WHERE excluded.epoch > sessions.epoch";

const ACTIONS: &str = "INSERT INTO actions (key, change, alert_id, revision, rule_id, severity, tenant_id, agent_id, session_id, \
    action, params, receiver, state, reason, decided_by, attempts, alert_retracted, superseded_by, created_at, updated_at) \
    SELECT a, b, c, d, e, f, g, h, i, j, k::jsonb, l, m, n, o, p, q, r, s, t FROM UNNEST($1::text[], $2::bigint[], $3::text[], \
    $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], \
    $13::text[], $14::text[], $15::text[], $16::bigint[], $17::boolean[], $18::text[], $19::timestamptz[], \
    $20::timestamptz[]) AS u (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t) \
    ON CONFLICT (key) DO UPDATE SET change = excluded.change, revision = excluded.revision, receiver = excluded.receiver, \
    state = excluded.state, reason = excluded.reason, decided_by = excluded.decided_by, attempts = excluded.attempts, \
    alert_retracted = excluded.alert_retracted, superseded_by = excluded.superseded_by, created_at = excluded.created_at, \
    updated_at = excluded.updated_at \
    WHERE excluded.change > actions.change";

const AUDIT: &str = "INSERT INTO audit (hash, seq, time, actor, actor_kind, address, action, outcome, detail, line) \
    SELECT a, b, c, d, e, f, g, h, i::jsonb, j FROM UNNEST($1::text[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], \
    $6::text[], $7::text[], $8::text[], $9::text[], $10::text[]) AS u (a, b, c, d, e, f, g, h, i, j) \
    ON CONFLICT (hash) DO NOTHING";

const REMOVED: &str = "DELETE FROM sessions USING UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[]) \
    AS u (tenant_id, agent_id, session_id, first_seen, epoch) \
    WHERE sessions.tenant_id = u.tenant_id AND sessions.agent_id = u.agent_id AND sessions.session_id = u.session_id \
    AND sessions.first_seen = u.first_seen AND sessions.epoch <= u.epoch";

const EVENTS: &str = "INSERT INTO agent_events (event_key, time, tenant_id, agent_id, session_id, event_type, target, allowed, \
    guard, severity, risk_score, metadata, sample_share, source_position) \
    SELECT a, b, c, d, e, f, g, h, i, j, k, l::jsonb, m, n FROM UNNEST($1::text[], $2::timestamptz[], $3::text[], $4::text[], \
    $5::text[], $6::text[], $7::text[], $8::boolean[], $9::text[], $10::text[], $11::double precision[], $12::text[], \
    $13::double precision[], $14::text[]) AS u (a, b, c, d, e, f, g, h, i, j, k, l, m, n) \
    ON CONFLICT (event_key, time) DO NOTHING";

const POSITIONS: &str = "INSERT INTO archive_positions (source, partition, next_offset) \
    SELECT a, b, c FROM UNNEST($1::text[], $2::bigint[], $3::bigint[]) AS u (a, b, c) \
    ON CONFLICT (source, partition) DO UPDATE SET next_offset = excluded.next_offset \
    WHERE excluded.next_offset > archive_positions.next_offset";

/// One connection's prepared statements, each made at its first use: so a table that is missing stops only its own rows.
#[derive(Default)]
pub(super) struct Statements {
    alerts: Option<Statement>,
    sessions: Option<Statement>,
    removed: Option<Statement>,
    actions: Option<Statement>,
    audit: Option<Statement>,
    events: Option<Statement>,
    positions: Option<Statement>,
}

impl Statements {
    /// One transaction.
    pub(super) async fn write(&mut self, client: &mut Client, rows: &Rows) -> Result<(), Error> {
        let transaction = client.transaction().await?;
        for part in parts(&rows.alerts, |a| a.document.len() + a.trigger_event.len()) {
            self.alerts(&transaction, part).await?;
        }
        for part in parts(&rows.removed, |_| 0) {
            self.removed(&transaction, part).await?;
        }
        for part in parts(&rows.sessions, |s| s.document.len()) {
            self.sessions(&transaction, part).await?;
        }
        for part in parts(&rows.actions, |a| a.row.params.len()) {
            self.actions(&transaction, part).await?;
        }
        for part in parts(&rows.audit, |a| a.detail.len() + a.line.len()) {
            self.audit(&transaction, part).await?;
        }
        for part in parts(&rows.events, |e| e.metadata.len() + e.target.as_ref().map_or(0, String::len)) {
            self.events(&transaction, part).await?;
        }
        for part in parts(&rows.positions, |_| 0) {
            self.positions(&transaction, part).await?;
        }
        transaction.commit().await
    }

    async fn alerts(&mut self, transaction: &Transaction<'_>, rows: &[AlertColumns]) -> Result<(), Error> {
        let columns: [Column<'_>; 20] = [
            column(rows, |r| r.alert_id.as_str()),
            column(rows, |r| r.revision),
            column(rows, |r| r.rule_id.as_str()),
            column(rows, |r| r.rule_name.as_str()),
            column(rows, |r| r.rule_version.as_str()),
            column(rows, |r| r.severity.as_str()),
            column(rows, |r| r.status),
            column(rows, |r| r.superseded_by.as_deref()),
            column(rows, |r| r.tenant_id.as_str()),
            column(rows, |r| r.agent_id.as_str()),
            column(rows, |r| r.session_id.as_str()),
            column(rows, |r| instant(r.first_seen)),
            column(rows, |r| instant(r.last_seen)),
            column(rows, |r| r.match_count),
            column(rows, |r| r.risk_score),
            column(rows, |r| r.shadow),
            column(rows, |r| r.run_actions),
            column(rows, |r| r.actions.as_str()),
            column(rows, |r| r.trigger_event.as_str()),
            column(rows, |r| r.document.as_str()),
        ];
        run(transaction, &mut self.alerts, ALERTS, &columns).await
    }

    async fn sessions(&mut self, transaction: &Transaction<'_>, rows: &[SessionColumns]) -> Result<(), Error> {
        let columns: [Column<'_>; 14] = [
            column(rows, |r| r.key.tenant_id.as_str()),
            column(rows, |r| r.key.agent_id.as_str()),
            column(rows, |r| r.key.session_id.as_str()),
            column(rows, |r| instant(r.key.first_seen)),
            column(rows, |r| r.epoch),
            column(rows, |r| instant(r.last_seen)),
            column(rows, |r| r.status),
            column(rows, |r| r.resumed),
            column(rows, |r| r.events),
            column(rows, |r| r.violations),
            column(rows, |r| r.unique_targets),
            column(rows, |r| r.risk_score),
            column(rows, |r| r.open_alerts),
            column(rows, |r| r.document.as_str()),
        ];
        run(transaction, &mut self.sessions, SESSIONS, &columns).await
    }

    async fn removed(&mut self, transaction: &Transaction<'_>, rows: &[RemovedColumns]) -> Result<(), Error> {
        let columns: [Column<'_>; 5] = [
            column(rows, |r| r.key.tenant_id.as_str()),
            column(rows, |r| r.key.agent_id.as_str()),
            column(rows, |r| r.key.session_id.as_str()),
            column(rows, |r| instant(r.key.first_seen)),
            column(rows, |r| r.epoch),
        ];
        run(transaction, &mut self.removed, REMOVED, &columns).await
    }

    async fn actions(&mut self, transaction: &Transaction<'_>, rows: &[ActionColumns]) -> Result<(), Error> {
        let columns: [Column<'_>; 20] = [
            column(rows, |r| r.row.key.as_str()),
            column(rows, |r| r.change),
            column(rows, |r| r.row.alert_id.as_str()),
            column(rows, |r| r.revision),
            column(rows, |r| r.row.rule_id.as_str()),
            column(rows, |r| r.row.severity.as_str()),
            column(rows, |r| r.row.tenant_id.as_str()),
            column(rows, |r| r.row.agent_id.as_str()),
            column(rows, |r| r.row.session_id.as_str()),
            column(rows, |r| r.row.action.as_str()),
            column(rows, |r| r.row.params.as_str()),
            column(rows, |r| r.row.receiver.as_deref()),
            column(rows, |r| r.row.state),
            column(rows, |r| r.row.reason.as_deref()),
            column(rows, |r| r.row.decided_by.as_deref()),
            column(rows, |r| i64::from(r.row.attempts)),
            column(rows, |r| r.row.alert_retracted),
            column(rows, |r| r.row.superseded_by.as_deref()),
            column(rows, |r| instant(r.row.created_at)),
            column(rows, |r| instant(r.row.updated_at)),
        ];
        run(transaction, &mut self.actions, ACTIONS, &columns).await
    }

    async fn audit(&mut self, transaction: &Transaction<'_>, rows: &[AuditRow]) -> Result<(), Error> {
        let columns: [Column<'_>; 10] = [
            column(rows, |r| r.hash.as_str()),
            column(rows, |r| count(r.seq)),
            column(rows, |r| instant(r.time)),
            column(rows, |r| r.actor.as_str()),
            column(rows, |r| r.actor_kind.as_str()),
            column(rows, |r| r.address.as_deref()),
            column(rows, |r| r.action.as_str()),
            column(rows, |r| r.outcome),
            column(rows, |r| r.detail.as_str()),
            column(rows, |r| r.line.as_str()),
        ];
        run(transaction, &mut self.audit, AUDIT, &columns).await
    }

    async fn events(&mut self, transaction: &Transaction<'_>, rows: &[EventRow]) -> Result<(), Error> {
        let columns: [Column<'_>; 14] = [
            column(rows, |r| r.key.as_str()),
            column(rows, |r| instant(r.time)),
            column(rows, |r| r.tenant_id.as_str()),
            column(rows, |r| r.agent_id.as_str()),
            column(rows, |r| r.session_id.as_str()),
            column(rows, |r| r.event_type.name()),
            column(rows, |r| r.target.as_deref()),
            column(rows, |r| r.allowed),
            column(rows, |r| r.guard.as_str()),
            column(rows, |r| r.severity.as_str()),
            column(rows, |r| r.risk_score),
            column(rows, |r| r.metadata.as_str()),
            column(rows, |r| r.sample_share),
            column(rows, |r| r.source_position.as_deref()),
        ];
        run(transaction, &mut self.events, EVENTS, &columns).await
    }

    async fn positions(&mut self, transaction: &Transaction<'_>, rows: &[(String, i64, i64)]) -> Result<(), Error> {
        let columns: [Column<'_>; 3] = [column(rows, |r| r.0.as_str()), column(rows, |r| r.1), column(rows, |r| r.2)];
        run(transaction, &mut self.positions, POSITIONS, &columns).await
    }
}

/// The values of one column, an array parameter.
type Column<'a> = Box<dyn ToSql + Sync + Send + 'a>;

fn column<'a, R, T: ToSql + Sync + Send + 'a>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Column<'a> {
    Box::new(rows.iter().map(value).collect::<Vec<T>>())
}

async fn run(
    transaction: &Transaction<'_>,
    prepared: &mut Option<Statement>,
    sql: &str,
    columns: &[Column<'_>],
) -> Result<(), Error> {
    let statement = match prepared {
        Some(statement) => statement,
        None => prepared.insert(transaction.prepare(sql).await?),
    };
    let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| &**c as &(dyn ToSql + Sync)).collect();
    transaction.execute(&*statement, &parameters).await?;
    Ok(())
}

/// Microseconds since 1970 as the driver takes a time.
fn instant(time: i64) -> SystemTime {
    let span = Duration::from_micros(time.unsigned_abs());
    if time < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
}

/// Runs of rows within the bounds of a statement, at least one row each.
fn parts<R>(rows: &[R], bytes: impl Fn(&R) -> usize) -> Vec<&[R]> {
    let (mut out, mut start, mut size) = (Vec::new(), 0, 0);
    for (i, row) in rows.iter().enumerate() {
        let more = bytes(row);
        if i > start && (i - start >= STATEMENT_ROWS || size + more > STATEMENT_BYTES) {
            out.push(&rows[start..i]);
            (start, size) = (i, 0);
        }
        size += more;
    }
    if start < rows.len() {
        out.push(&rows[start..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_all_rows_in_order_within_bounds() {
        let sizes: Vec<usize> = vec![STATEMENT_BYTES + 1, 1, STATEMENT_BYTES, 5, 5];
        let lengths: Vec<usize> = parts(&sizes, |n| *n).iter().map(|p| p.len()).collect();
        assert_eq!(lengths, [1, 1, 1, 2]);
        let many = vec![0usize; STATEMENT_ROWS * 2 + 1];
        let lengths: Vec<usize> = parts(&many, |n| *n).iter().map(|p| p.len()).collect();
        assert_eq!(lengths, [STATEMENT_ROWS, STATEMENT_ROWS, 1]);
        assert!(parts(&Vec::<usize>::new(), |n| *n).is_empty());
    }
}
