//! A look at a database that changes nothing: what it is, whose schema it has, what it lacks.

use tokio::time::timeout;
use tokio_postgres::{Client, Error};

use super::{CONNECT_TIMEOUT, Flavour, Postgres, describe, flavour, known, read_applied};
use crate::store::inspect::{Condition, Lack, Schema, Weight};
use crate::store::migrate;
use crate::wall_clock;

/// What the engine reads and writes.
const TABLES: [&str; 7] =
    ["agent_events", "agent_events_hourly", "alerts", "sessions", "actions", "audit", "archive_positions"];

impl Postgres {
    /// See [`crate::store::Store::inspect`].
    pub(in crate::store) async fn inspect(&self) -> Result<Condition, String> {
        let (client, driver) = self.open().await.map_err(|e| e.to_string())?;
        let looked = timeout(CONNECT_TIMEOUT, self.look(&client)).await;
        driver.abort();
        looked
            .map_err(|_| format!("{}: no answer within {CONNECT_TIMEOUT:?}", self.place()))?
            .map_err(|e| format!("{}: {}", self.place(), describe(&e)))
    }

    async fn look(&self, client: &Client) -> Result<Condition, Error> {
        let before = wall_clock::now();
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let clock: i64 = client.query_one(sql, &[]).await?.get(0);
        let after = wall_clock::now();
        let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
        let sql = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'";
        let timescale: Option<String> = client.query_opt(sql, &[]).await?.map(|row| row.get(0));
        let sql = "SELECT to_regclass('schema_migrations') IS NOT NULL";
        let exists: bool = client.query_one(sql, &[]).await?.get(0);
        let applied = if exists { read_applied(client).await? } else { Vec::new() };
        let sql = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')";
        let available: bool = client.query_one(sql, &[]).await?.get(0);
        let made_as = flavour(&applied);
        let known = known(made_as.unwrap_or(if available { Flavour::Timescaledb } else { Flavour::Plain }));
        let schema = migrate::compare(known, &applied);
        let mut lacks = basics(client).await?;
        lacks.extend(extension(made_as, timescale.is_some(), available));
        if matches!(schema, Schema::Current(_)) {
            lacks.extend(tables(client).await?);
            match made_as {
                Some(Flavour::Timescaledb) if timescale.is_some() => lacks.extend(jobs(client).await?),
                Some(Flavour::Plain) => lacks.extend(ownership(client).await?),
                _ => {}
            }
        }
        let with = timescale.map_or("without TimescaleDB".to_owned(), |v| format!("with TimescaleDB {v}"));
        Ok(Condition {
            place: self.place(),
            product: format!("PostgreSQL {version} {with}"),
            outstanding: migrate::names(known, &applied),
            schema,
            clock_ahead: Some(clock - before.midpoint(after)),
            lacks,
        })
    }
}

/// Without these nothing can be kept.
async fn basics(client: &Client) -> Result<Vec<Lack>, Error> {
    let encoding: String = client.query_one("SHOW server_encoding", &[]).await?.get(0);
    let sql = "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)";
    let may_create: bool = client.query_one(sql, &[]).await?.get(0);
    let mut lacks = Vec::new();
    if encoding != "UTF8" {
        lacks.push(Lack::new(
            Weight::Fatal,
            format!("the database's encoding is {encoding:?}"),
            "create it with ENCODING 'UTF8'",
        ));
    }
    if !may_create {
        lacks.push(Lack::new(
            Weight::Fatal,
            "this user may not create tables in its schema",
            "GRANT CREATE ON SCHEMA to it",
        ));
    }
    Ok(lacks)
}

fn extension(made_as: Option<Flavour>, installed: bool, available: bool) -> Option<Lack> {
    match (made_as, installed) {
        (Some(Flavour::Timescaledb), true) => None,
        (Some(Flavour::Timescaledb), false) => Some(Lack::new(
            Weight::Fatal,
            "the database was set up with TimescaleDB, which is no longer installed in it",
            "CREATE EXTENSION timescaledb, of the version that it had",
        )),
        (Some(Flavour::Plain), true) => Some(Lack::new(
            Weight::Matters,
            "the database was set up without TimescaleDB, which is installed now",
            "use a new database for continuous aggregates and compression",
        )),
        (None, _) if available => None,
        (_, false) | (None, true) => Some(Lack::new(
            Weight::Optional,
            "no TimescaleDB: nothing compresses old events, and agent_events_hourly adds up those that are kept at each read",
            "install the extension and use a new database, or leave it so",
        )),
    }
}

/// Tables that are gone, or that this user may not use.
async fn tables(client: &Client) -> Result<Vec<Lack>, Error> {
    let sql = "SELECT string_agg(name, ', ') FILTER (WHERE to_regclass(name) IS NULL), \
               string_agg(name, ', ') FILTER (WHERE NOT coalesce(CASE name WHEN 'agent_events_hourly' THEN \
                 has_table_privilege(to_regclass(name), 'SELECT') ELSE \
                 has_table_privilege(to_regclass(name), 'SELECT') AND has_table_privilege(to_regclass(name), 'INSERT') \
                 AND has_table_privilege(to_regclass(name), 'UPDATE') AND has_table_privilege(to_regclass(name), 'DELETE') \
                 END, true)) FROM unnest($1::text[]) AS name";
    let row = client.query_one(sql, &[&TABLES.as_slice()]).await?;
    let (gone, forbidden): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    let gone = gone.map(|names| {
        Lack::new(
            Weight::Fatal,
            format!("missing: {names}"),
            "make them again as in sql/postgres, or restore the database",
        )
    });
    let forbidden = forbidden.map(|names| {
        Lack::new(
            Weight::Fatal,
            format!("this user may not read and write {names}"),
            "GRANT SELECT, INSERT, UPDATE, DELETE on them to it",
        )
    });
    Ok(gone.into_iter().chain(forbidden).collect())
}

/// Days are attached and dropped, which is the owner's to do.
async fn ownership(client: &Client) -> Result<Option<Lack>, Error> {
    let sql = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('agent_events')";
    let owns: Option<bool> = client.query_opt(sql, &[]).await?.map(|row| row.get(0));
    let lack = || {
        Lack::new(
            Weight::Fatal,
            "agent_events isn't this user's: it can make no partition for a day, and retention can drop none",
            "ALTER TABLE agent_events OWNER TO it, or GRANT the owner's role to it",
        )
    };
    Ok((owns == Some(false)).then(lack))
}

/// TimescaleDB's policies that are gone, switched off or failing.
async fn jobs(client: &Client) -> Result<Vec<Lack>, Error> {
    let wanted = [
        ("agent_events_hourly", "policy_refresh_continuous_aggregate", "the next start of the engine adds it"),
        ("agent_events", "policy_retention", "the next start of the engine adds it"),
        ("agent_events", "policy_compression", "SELECT add_compression_policy('agent_events', INTERVAL '7 days')"),
    ];
    let sql = "SELECT bool_or(j.scheduled), string_agg(s.last_run_status, ' ') FROM timescaledb_information.jobs j \
               LEFT JOIN timescaledb_information.job_stats s USING (job_id) \
               LEFT JOIN timescaledb_information.continuous_aggregates a \
               ON j.hypertable_name IN (a.materialization_hypertable_name, a.view_name) \
               WHERE j.proc_name = $2 AND coalesce(a.view_name::text, j.hypertable_name::text) = $1";
    let mut lacks = Vec::new();
    for (table, policy, way_out) in wanted {
        let row = client.query_one(sql, &[&table, &policy]).await?;
        let (scheduled, status): (Option<bool>, Option<String>) = (row.get(0), row.get(1));
        match scheduled {
            None => lacks.push(Lack::new(Weight::Matters, format!("{table} has no {policy}"), way_out)),
            Some(false) => lacks.push(Lack::new(
                Weight::Matters,
                format!("{policy} of {table} is switched off"),
                "SELECT alter_job(job_id, scheduled => true) from timescaledb_information.jobs",
            )),
            Some(true) if status.is_some_and(|status| status.contains("Failed")) => lacks.push(Lack::new(
                Weight::Matters,
                format!("{policy} of {table} failed when it ran last"),
                "timescaledb_information.job_errors says why",
            )),
            Some(true) => {}
        }
    }
    Ok(lacks)
}
