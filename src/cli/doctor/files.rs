//! What lies on this machine: the configuration itself, the state folder with its disk, the rules.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use super::finding::Finding;
use crate::config::{Bytes, Config};
use crate::runtime::rules::load;
use crate::wall_clock;

/// With less free disk dead letters and the embedded store will soon meet its end.
const LITTLE_DISK: u64 = 2 << 30;
/// The way out of a state folder, or one in it, that can't be written.
pub(super) const WRITE_THERE: &str = "let the engine's user write there, or set [cluster] state to another folder";
/// With less the engine isn't worth starting.
const NO_DISK: u64 = 64 << 20;

/// The configuration, which has been read without errors.
pub(super) fn configuration(config: &Config) -> Vec<Finding> {
    let (part, cluster) = ("configuration", &config.cluster);
    let shape = format!(
        "{} processes of {} threads, {} sources, up to {} for groups on each of {} workers",
        cluster.processes,
        cluster.threads,
        config.sources.len(),
        config.limits.state_memory,
        config.workers()
    );
    let mut findings = vec![Finding::ok(part, shape)];
    if config.sources.is_empty() {
        findings.push(Finding::warning(
            part,
            "there is no [[source]]: nothing will be read",
            "add one; `clawdstrike-edr init` shows how",
        ));
    }
    findings
}

/// The state folder: may the engine write there, and is there room.
pub(super) fn state(config: &Config) -> Vec<Finding> {
    let part = "state folder";
    let folder = &config.cluster.state;
    match writable(folder) {
        Ok(place) => {
            let mut findings = vec![Finding::ok(part, place)];
            let way_out =
                "make room: dead letters take up to 512 MiB a process, and the embedded store grows with the events";
            findings.extend(disk(part, folder, way_out));
            findings
        }
        Err(error) => {
            vec![Finding::error(part, error, WRITE_THERE)]
        }
    }
}

/// Says where a folder is, or will be made, if this user may write there.
pub(super) fn writable(folder: &Path) -> Result<String, String> {
    let shown = folder.display();
    let there = existing(folder);
    if !there.is_dir() {
        return Err(format!("\"{shown}\": \"{}\" is not a folder", there.display()));
    }
    access(&there, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|e| format!("\"{shown}\": no writing in \"{}\": {}", there.display(), io::Error::from(e)))?;
    Ok(match there == folder {
        true => format!("\"{shown}\" can be written"),
        false => format!("\"{shown}\" isn't there yet, and can be made"),
    })
}

/// The path, or the nearest above it that exists.
fn existing(path: &Path) -> PathBuf {
    let whole = path.ancestors().find(|p| p.exists()).filter(|p| !p.as_os_str().is_empty());
    whole.unwrap_or(Path::new(".")).to_path_buf()
}

/// Free disk where a folder is or will be.
pub(super) fn disk(part: &str, folder: &Path, way_out: &str) -> Option<Finding> {
    let told = statvfs(existing(folder)).ok()?;
    let free = told.f_bavail.saturating_mul(told.f_frsize);
    let unit = if free < 10 << 30 { 20 } else { 30 };
    let shown = Bytes((free >> unit << unit) as usize);
    Some(match free {
        n if n < NO_DISK => Finding::error(part, format!("{shown} of disk are free"), way_out),
        n if n < LITTLE_DISK => Finding::warning(part, format!("{shown} of disk are free"), way_out),
        _ => Finding::ok(part, format!("{shown} of disk are free")),
    })
}

/// The rules: can they be read, and do they compile.
pub(super) fn rules(config: &Config) -> Vec<Finding> {
    let part = "rules";
    let (files, compiled) = match load(&config.rules.path) {
        Ok(loaded) => loaded,
        Err(error) => {
            return vec![Finding::error(part, error, "`clawdstrike-edr rules check` shows all that is wrong")];
        }
    };
    let enabled = compiled.set.rules.len();
    let mut findings = vec![Finding::ok(part, format!("{enabled} rules in {} files compile", files.len()))];
    let warnings = compiled.warnings.len() + compiled.expired(wall_clock::now()).count();
    if warnings > 0 {
        let seen = format!("{warnings} warnings: rules that can never match, or entries that have expired");
        findings.push(Finding::warning(part, seen, "`clawdstrike-edr rules check` shows them"));
    }
    findings
}
