//! PostgreSQL, with or without TimescaleDB: one connection, made again when it breaks.
//!
//! A server that is dead but silent can't hold a write for ever: connecting, statements and whole transactions have
//! deadlines. Connections are encrypted unless the server is on loopback, or the configuration says otherwise.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{Client, Connection, GenericClient, NoTls};

use super::StoreError;
use super::migrate::{self, Applied, Migration};
use super::row::Rows;
use crate::config::{self, Retention};
use crate::store::retention::Due;
use crate::wall_clock;

mod days;
mod inspect;
mod read;
mod retention;
mod statements;
mod tls;

use days::Days;
use statements::Statements;
use tls::{FromUrl, Tls};

/// How long connecting may take, if the URL doesn't say `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may work on one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one transaction may take, before the server counts as gone. Longer than a statement, so that a slow server
/// gets to say why.
const TRANSACTION_DEADLINE: Duration = Duration::from_secs(90);
/// How long bringing the schema up to date may take; waiting for another process that does it included.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(600);
/// How long sent data may stay unacknowledged before TCP gives the connection up.
const TCP_TIMEOUT: Duration = Duration::from_secs(30);
/// The advisory lock of migrations: of all processes that start together, one applies them.
const MIGRATION_LOCK: i64 = 0x6564_725f_7371_6c31;
/// Of a server's message this much is passed on: it may quote what an agent wrote.
const MESSAGE_CHARS: usize = 500;

/// A server and the connection to it.
pub struct Postgres {
    config: Box<tokio_postgres::Config>,
    tls: Option<Tls>,
    retention: Retention,
    live: Option<Live>,
    /// Known once this process has brought the schema up to date.
    flavour: Option<Flavour>,
    deadline: Duration,
}

/// A connection.
struct Live {
    client: Client,
    driver: JoinHandle<()>,
    statements: Statements,
    days: Days,
}

/// Whether the schema uses TimescaleDB. Decided when a database is set up, and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    Timescaledb,
    Plain,
}

impl Postgres {
    /// Reads a connection URL (`postgres://user:password@host:port/database?...`); the first use connects. Errors name
    /// the cause, never the password.
    pub fn new(url: &str) -> Result<Postgres, String> {
        Postgres::with_tls(url, None, None)
    }

    /// The same, with what the configuration says of TLS, which goes before what the URL says.
    pub fn with_tls(url: &str, mode: Option<config::SslMode>, authorities: Option<&Path>) -> Result<Postgres, String> {
        let said = FromUrl::take(url)?;
        let mut config = tokio_postgres::Config::from_str(&said.url).map_err(|e| {
            format!("not a connection URL: {}; expected postgres://user:password@host:5432/database", describe(&e))
        })?;
        let default = if on_loopback(&config) { config::SslMode::Disable } else { config::SslMode::VerifyFull };
        let tls = match mode.or(said.mode).unwrap_or(default) {
            config::SslMode::Disable => {
                config.ssl_mode(SslMode::Disable);
                None
            }
            config::SslMode::VerifyFull => {
                config.ssl_mode(SslMode::Require);
                Some(Tls::new(authorities.or(said.authorities.as_deref()))?)
            }
        };
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("clawdstrike-edr");
        }
        Ok(Postgres {
            config: Box::new(config),
            tls,
            retention: Retention::default(),
            live: None,
            flavour: None,
            deadline: TRANSACTION_DEADLINE,
        })
    }

    /// What [`super::Store::sweep`] removes; before the first connection.
    pub fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
    }

    pub(super) fn apart(&self) -> Postgres {
        Postgres {
            config: self.config.clone(),
            tls: self.tls.clone(),
            retention: self.retention,
            live: None,
            flavour: self.flavour,
            deadline: self.deadline,
        }
    }

    /// How long one transaction may take before the server counts as gone (90 s unless told).
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Connects if need be, and brings the schema up to date if this process hasn't yet.
    pub(super) async fn connect(&mut self) -> Result<(), StoreError> {
        if self.live.as_ref().is_some_and(|live| !live.client.is_closed()) {
            return Ok(());
        }
        // First drop, then connect: some servers take one connection at a time.
        self.discard();
        let (client, driver) = self.open().await?;
        let limit = if self.flavour.is_some() { self.deadline } else { MIGRATION_DEADLINE };
        let made = match timeout(limit, Box::pin(self.set_up(client))).await {
            Ok(made) => made,
            Err(_) => Err(self.unavailable(format!("the schema wasn't found up to date within {limit:?}"))),
        };
        match made {
            Ok((client, flavour)) => {
                self.flavour = Some(flavour);
                self.live = Some(Live { client, driver, statements: Statements::default(), days: Days::default() });
                Ok(())
            }
            Err(error) => {
                driver.abort();
                Err(error)
            }
        }
    }

    pub(super) async fn write(&mut self, rows: &Rows) -> Result<(), StoreError> {
        self.connect().await?;
        let deadline = self.deadline;
        let (plain, now) = (self.flavour == Some(Flavour::Plain), wall_clock::now());
        let due = Due::at(now, &self.retention).events;
        let Some(Live { client, statements, days, .. }) = &mut self.live else {
            return Err(self.unavailable("not connected".into()));
        };
        let write = async {
            if plain {
                days.make_for(client, &rows.events, now, due).await?;
            }
            statements.write(client, rows).await
        };
        let written = timeout(deadline, Box::pin(write)).await;
        self.settle(written.map(|r| r.map_err(Some)).unwrap_or(Err(None)))
    }

    pub(super) async fn archive_positions(&mut self) -> Result<Vec<(String, i64, i64)>, StoreError> {
        self.connect().await?;
        let deadline = self.deadline;
        let Some(Live { client, .. }) = &mut self.live else {
            return Err(self.unavailable("not connected".into()));
        };
        let query = client.query("SELECT source, partition, next_offset FROM archive_positions ORDER BY 1, 2", &[]);
        let rows = timeout(deadline, query).await;
        let rows = self.settle(rows.map(|r| r.map_err(Some)).unwrap_or(Err(None)))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// Turns an outcome (`Err(None)`: the deadline passed) into the store's terms. Unless the server has refused
    /// something in an orderly way, the connection's state is unknown, so it goes.
    fn settle<T>(&mut self, outcome: Result<T, Option<tokio_postgres::Error>>) -> Result<T, StoreError> {
        let error = match outcome {
            Ok(value) => return Ok(value),
            Err(Some(error)) => self.classify(&error),
            Err(None) => self.unavailable(format!("no answer within {:?}", self.deadline)),
        };
        if matches!(error, StoreError::Unavailable(_)) {
            self.discard();
        }
        Err(error)
    }

    fn discard(&mut self) {
        if let Some(live) = self.live.take() {
            live.driver.abort();
        }
    }

    async fn open(&self) -> Result<(Client, JoinHandle<()>), StoreError> {
        // The library's own timeout covers TCP, not a server that accepts and stays silent.
        let limit = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        let connected = timeout(limit, async {
            Ok(match &self.tls {
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    (client, drive(connection))
                }
                None => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    (client, drive(connection))
                }
            })
        });
        match connected.await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(self.unavailable(self.refused(&error))),
            Err(_) => Err(self.unavailable(format!("no answer within {limit:?}"))),
        }
    }

    /// Why a connection wasn't made.
    fn refused(&self, error: &tokio_postgres::Error) -> String {
        let text = describe(error);
        match self.tls.is_some() && error.code().is_none() && text.contains("TLS") {
            true => format!(
                "{text}; [store] sslrootcert (or the URL's) names whom to trust, the certificate must be for this host, and \
                 sslmode = \"disable\" is for servers without TLS on loopback or a private network"
            ),
            false => text,
        }
    }

    async fn set_up(&self, mut client: Client) -> Result<(Client, Flavour), StoreError> {
        let failed = |e: tokio_postgres::Error| self.unavailable(describe(&e));
        // Migrations may take longer than a statement of a write.
        client.batch_execute("SET TIME ZONE 'UTC'; SET statement_timeout = 0").await.map_err(failed)?;
        let flavour = match self.flavour {
            Some(flavour) => flavour,
            None => {
                if self.tls.is_none() && !on_loopback(&self.config) {
                    tracing::warn!(store = self.place(), "the connection isn't encrypted: expected a private network");
                }
                self.migrate(&mut client).await?
            }
        };
        let limits = format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis());
        client.batch_execute(&limits).await.map_err(failed)?;
        Ok((client, flavour))
    }

    async fn migrate(&self, client: &mut Client) -> Result<Flavour, StoreError> {
        let failed = |e: tokio_postgres::Error| self.unavailable(describe(&e));
        let encoding: String = client.query_one("SHOW server_encoding", &[]).await.map_err(failed)?.get(0);
        if encoding != "UTF8" {
            return Err(self.unavailable(format!(
                "the database's encoding is {encoding:?}, expected \"UTF8\": create it with ENCODING 'UTF8'"
            )));
        }
        let available = extension_ready(client).await.map_err(failed)?;
        let transaction = client.transaction().await.map_err(failed)?;
        transaction.query("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await.map_err(failed)?;
        let applied = applied(&transaction).await.map_err(failed)?;
        let flavour = flavour(&applied).unwrap_or(available);
        let outstanding = migrate::outstanding(known(flavour), &applied).map_err(|e| self.unavailable(e))?;
        for migration in outstanding {
            apply(&transaction, migration)
                .await
                .map_err(|e| self.unavailable(format!("migration {:?}: {}", migration.name, describe(&e))))?;
        }
        if (flavour, available) == (Flavour::Timescaledb, Flavour::Timescaledb) {
            let unkept = |e| self.unavailable(format!("TimescaleDB's policies: {}", describe(&e)));
            retention::keep_policies(&transaction, &self.retention).await.map_err(unkept)?;
        }
        transaction.commit().await.map_err(failed)?;
        self.tell(flavour, available, outstanding.len());
        Ok(flavour)
    }

    fn tell(&self, flavour: Flavour, available: Flavour, migrations: usize) {
        let store = self.place();
        match (flavour, available) {
            (Flavour::Timescaledb, Flavour::Timescaledb) => {
                tracing::info!(store, migrations, "store ready, with TimescaleDB");
            }
            (Flavour::Timescaledb, Flavour::Plain) => {
                tracing::warn!(
                    store,
                    migrations,
                    "the database was set up with TimescaleDB, which is no longer installed in it"
                );
            }
            (Flavour::Plain, Flavour::Plain) => tracing::warn!(
                store,
                migrations,
                "store ready, without TimescaleDB: nothing compresses old events, and agent_events_hourly adds up those that \
                 are kept at each read; install the extension and use a new database for these"
            ),
            (Flavour::Plain, Flavour::Timescaledb) => tracing::warn!(
                store,
                migrations,
                "store ready; the database was set up without TimescaleDB, which is installed now: use a new database for \
                 continuous aggregates and compression"
            ),
        }
    }

    /// Refused is only what a row's values can cause (and what TimescaleDB can't do to an old chunk): an error that every
    /// row would meet must not use the rows up.
    fn classify(&self, error: &tokio_postgres::Error) -> StoreError {
        let Some(state) = error.code() else {
            // A value that couldn't be sent has a cause in this program; anything else is the connection.
            return self.unavailable(describe(error));
        };
        let class = state.code().get(..2).unwrap_or_default();
        let by_trigger = *state == SqlState::RAISE_EXCEPTION;
        if matches!(class, "21" | "22" | "23" | "54") || by_trigger || *state == SqlState::FEATURE_NOT_SUPPORTED {
            return StoreError::Refused(format!("{}: {}", self.place(), describe(error)));
        }
        self.unavailable(describe(error))
    }

    fn unavailable(&self, cause: String) -> StoreError {
        StoreError::Unavailable(format!("{}: {cause}", self.place()))
    }

    /// Where the server is, for people; without user and password.
    fn place(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".into(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("postgres {:?}", format!("{host}:{port}/{}", self.config.get_dbname().unwrap_or("")))
    }
}

/// The task that moves a connection's bytes.
fn drive<S, T>(connection: Connection<S, T>) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsStream + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = describe(&error), "the store's connection ended");
        }
    })
}

fn on_loopback(config: &tokio_postgres::Config) -> bool {
    let loopback = |host: &Host| match host {
        Host::Tcp(host) => host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    config.get_hosts().iter().all(loopback)
}

/// Whether TimescaleDB is there, after trying to make it so. Not being allowed to is no error: plain tables work.
async fn extension_ready(client: &Client) -> Result<Flavour, tokio_postgres::Error> {
    let sql = "SELECT installed_version FROM pg_available_extensions WHERE name = 'timescaledb'";
    let Some(row) = client.query_opt(sql, &[]).await? else {
        return Ok(Flavour::Plain);
    };
    if row.get::<_, Option<String>>(0).is_some() {
        return Ok(Flavour::Timescaledb);
    }
    match client.batch_execute("CREATE EXTENSION IF NOT EXISTS timescaledb").await {
        Ok(()) => Ok(Flavour::Timescaledb),
        Err(error) if error.code().is_some() => {
            tracing::warn!(
                error = describe(&error),
                "TimescaleDB is available, but CREATE EXTENSION timescaledb was refused"
            );
            Ok(Flavour::Plain)
        }
        Err(error) => Err(error),
    }
}

async fn applied(transaction: &tokio_postgres::Transaction<'_>) -> Result<Vec<Applied>, tokio_postgres::Error> {
    let sql = "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
               checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())";
    transaction.batch_execute(sql).await?;
    read_applied(transaction).await
}

async fn read_applied(client: &impl GenericClient) -> Result<Vec<Applied>, tokio_postgres::Error> {
    let rows = client.query("SELECT version, name, checksum FROM schema_migrations ORDER BY version", &[]).await?;
    Ok(rows.iter().map(|r| Applied { version: r.get(0), name: r.get(1), checksum: r.get(2) }).collect())
}

async fn apply(
    transaction: &tokio_postgres::Transaction<'_>,
    migration: &Migration,
) -> Result<(), tokio_postgres::Error> {
    transaction.batch_execute(migration.sql).await?;
    let sql = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)";
    transaction.execute(sql, &[&migration.version, &migration.name, &migration.checksum()]).await?;
    Ok(())
}

fn known(flavour: Flavour) -> &'static [Migration] {
    match flavour {
        Flavour::Timescaledb => migrate::TIMESCALEDB,
        Flavour::Plain => migrate::POSTGRES,
    }
}

/// How a database was set up; `None` if it wasn't yet.
fn flavour(applied: &[Applied]) -> Option<Flavour> {
    let has = |flavour| known(flavour).iter().any(|m| m.version == 3 && applied.iter().any(|a| a.name == m.name));
    [Flavour::Timescaledb, Flavour::Plain].into_iter().find(|f| has(*f))
}

/// A server's or the connection's complaint, on one line, shortened, without control characters.
fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    let text = match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    };
    text.chars().take(MESSAGE_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_elsewhere_are_spoken_to_over_tls_unless_told() {
        let encrypted = |url: &str| Postgres::new(url).map(|store| store.tls.is_some());
        for url in ["postgres://u@db.example/edr", "postgres://u@127.0.0.1,db.example/edr?sslmode=require"] {
            assert_eq!(encrypted(url), Ok(true), "{url}");
        }
        for url in
            ["postgres://u@db.example/edr?sslmode=disable", "postgres://u@[::1]/edr", "postgres://u@localhost/edr"]
        {
            assert_eq!(encrypted(url), Ok(false), "{url}");
        }
        let told =
            Postgres::with_tls("postgres://u@localhost/edr?sslmode=disable", Some(config::SslMode::VerifyFull), None);
        assert!(told.is_ok_and(|store| store.tls.is_some()), "the configuration goes before the URL");
    }

    #[test]
    fn refuses_what_is_no_url_without_repeating_it() {
        let error = Postgres::new("postgres://u:secret@h:notaport/x").err().unwrap();
        assert!(error.contains("postgres://user") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn names_the_server_without_its_password() {
        let store = Postgres::new("postgres://u:secret@db.example:5433/edr").unwrap();
        assert_eq!(store.place(), "postgres \"db.example:5433/edr\"");
    }
}
