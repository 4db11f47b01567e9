//! Real services for tests: Apache Kafka, PostgreSQL, TimescaleDB and an S3 server, started from registry packages alone.
//!
//! Each call of [`kafka`], [`postgres`], [`timescale`] or [`s3`] starts a server of its own on free loopback ports, with its
//! data in a folder of its own, and returns once it answers. The value owns the server: dropping it stops the server
//! and removes the data; if the test process dies, a watchdog does both. A value in a `static` is never dropped, so
//! there the watchdog does it: that is the way to share one server among the tests of a binary.
//!
//! The first call downloads the packages (pinned in `versions.rs`) to `target/services/packages/` of the workspace;
//! parallel test processes wait for one another there. Needs `java` (17 or newer) and `mvn` for Kafka, `mvn`, `tar` and
//! `xz` for PostgreSQL, `node` (18 or newer) and `npm` for TimescaleDB and DuckDB, `go` (1.25 or newer) for S3. A missing one is an
//! error, never a skipped test.
//!
//! [`duckdb`] is no server: it reads files that were written for others.
//!
//! Everything blocks; in an async test call it from `spawn_blocking` or before the runtime starts. Errors are texts
//! for whoever reads the test's output: they name the service, tell the end of its log and what it needs.
//!
//! This crate knows nothing of the engine: no events, no rules, no tables.

mod duckdb;
mod files;
mod install;
mod kafka;
mod pgwire;
mod port;
mod postgres;
mod process;
mod s3;
mod server;
mod timescale;
mod versions;

pub use duckdb::duckdb;
pub use kafka::{Kafka, SecureKafka, kafka, kafka_brokers, kafka_secure};
pub use postgres::{Postgres, postgres};
pub use process::{children, runs};
pub use s3::{S3, s3, s3_without_conditions};
pub use server::Service;
pub use timescale::{Timescale, timescale};
