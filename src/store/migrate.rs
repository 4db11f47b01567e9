//! Migrations: ordered, forward-only, embedded, and recorded in `schema_migrations` with a checksum.
//!
//! Decides what to apply; knows no database. A migration that was shipped is never edited: a change is a new one.

use sha2::{Digest, Sha256};

use super::inspect::Schema;
use crate::hex;

/// One file of `sql/`.
pub(super) struct Migration {
    /// From 1, without gaps.
    pub(super) version: i32,
    /// The file's name without `.sql`.
    pub(super) name: &'static str,
    /// Its text.
    pub(super) sql: &'static str,
}

impl Migration {
    /// SHA-256 of the text, in hex.
    pub(super) fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.sql.as_bytes()))
    }
}

/// A migration that the database has.
pub(super) struct Applied {
    pub(super) version: i32,
    pub(super) name: String,
    pub(super) checksum: String,
}

macro_rules! migrations {
    ($folder:literal: $($version:literal $name:literal),+ $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../sql/", $folder, "/", $name, ".sql")),
        }),+]
    };
}

/// For the embedded store.
pub(super) const SQLITE: &[Migration] = migrations!("sqlite":
    1 "001_agent_events", 2 "002_alerts", 3 "003_sessions", 4 "004_archive_positions",
    5 "005_events_by_time", 6 "006_rollup", 7 "007_actions", 8 "008_sample_share", 9 "009_audit",
    10 "010_source_position");

/// For PostgreSQL with TimescaleDB.
pub(super) const TIMESCALEDB: &[Migration] = migrations!("postgres":
    1 "001_agent_events", 2 "002_event_identity", 3 "003_rollup.timescaledb", 4 "004_alerts", 5 "005_sessions",
    6 "006_archive_positions", 7 "007_events_by_time.timescaledb", 8 "008_days.timescaledb", 9 "009_actions",
    10 "010_sample_share", 11 "011_audit", 12 "012_source_position");

/// For PostgreSQL alone.
pub(super) const POSTGRES: &[Migration] = migrations!("postgres":
    1 "001_agent_events", 2 "002_event_identity", 3 "003_rollup.plain", 4 "004_alerts", 5 "005_sessions",
    6 "006_archive_positions", 7 "007_events_by_time.plain", 8 "008_days.plain", 9 "009_actions",
    10 "010_sample_share", 11 "011_audit", 12 "012_source_position");

/// What is still to be applied, in order. `applied` is in order of versions.
///
/// Errors: the database has a migration that this program doesn't know, or knows differently.
pub(super) fn outstanding<'a>(known: &'a [Migration], applied: &[Applied]) -> Result<&'a [Migration], String> {
    for (i, done) in applied.iter().enumerate() {
        let Some(ours) = known.get(i) else {
            return Err(format!(
                "the database has migration {:?}, which this program doesn't know: a newer version has been here; use that one, \
                 or another database",
                done.name
            ));
        };
        if (ours.version, ours.name) != (done.version, done.name.as_str()) || ours.checksum() != done.checksum {
            return Err(format!(
                "the database has migration {} as {:?} with checksum {:?}, expected {:?} with {:?}: it was set up by another \
                 version of this program; use that one, or another database",
                done.version,
                done.name,
                done.checksum,
                ours.name,
                ours.checksum()
            ));
        }
    }
    Ok(&known[applied.len()..])
}

/// How a database's schema compares with this program's.
pub(super) fn compare(known: &[Migration], applied: &[Applied]) -> Schema {
    let has = applied.last().map_or(0, |a| a.version);
    let latest = known.last().map_or(0, |m| m.version);
    match outstanding(known, applied) {
        Ok([]) => Schema::Current(has),
        Ok(_) if applied.is_empty() => Schema::Absent,
        Ok(_) => Schema::Older { has, latest },
        Err(text) => Schema::Foreign(text),
    }
}

/// Names of those that are still to be applied; of a database that can't be used, none.
pub(super) fn names(known: &[Migration], applied: &[Applied]) -> Vec<String> {
    let outstanding = outstanding(known, applied).unwrap_or_default();
    outstanding.iter().map(|migration| migration.name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(known: &[Migration]) -> Vec<Applied> {
        let row = |m: &Migration| Applied { version: m.version, name: m.name.into(), checksum: m.checksum() };
        known.iter().map(row).collect()
    }

    #[test]
    fn applies_what_is_missing() {
        assert_eq!(outstanding(POSTGRES, &[]).unwrap().len(), POSTGRES.len());
        assert_eq!(outstanding(POSTGRES, &applied(&POSTGRES[..4])).unwrap()[0].version, 5);
        assert!(outstanding(POSTGRES, &applied(POSTGRES)).unwrap().is_empty());
    }

    #[test]
    fn refuses_an_edited_migration() {
        let mut rows = applied(SQLITE);
        rows[1].checksum.replace_range(0..1, "x");
        let error = outstanding(SQLITE, &rows).err().unwrap();
        assert!(error.contains("002_alerts"), "{error}");
    }

    #[test]
    fn refuses_a_database_of_a_newer_program() {
        let mut rows = applied(SQLITE);
        rows.push(Applied { version: 10, name: "010_later".into(), checksum: String::new() });
        let error = outstanding(SQLITE, &rows).err().unwrap();
        assert!(error.contains("010_later") && error.contains("newer"), "{error}");
    }

    #[test]
    fn versions_count_from_one_without_gaps() {
        for known in [SQLITE, TIMESCALEDB, POSTGRES] {
            for (i, migration) in known.iter().enumerate() {
                assert_eq!(migration.version, i as i32 + 1);
                assert!(migration.name.starts_with(&format!("{:03}_", migration.version)));
            }
        }
    }
}
