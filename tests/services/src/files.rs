//! Where packages and running services keep their files, and who may read them. Knows no service.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of a log's end an error tells.
const TAIL_BYTES: u64 = 4 * 1024;
const TAIL_LINES: usize = 25;
/// Read by all, so that a service which refuses to run as root reaches its files.
const OPEN: u32 = 0o755;

/// The log of a service or a tool in its folder.
pub(crate) const LOG: &str = "log";

/// The folder that holds everything: `target/services` of the workspace. If `for_others` and another user couldn't
/// reach that (a clone under root's home), a folder of ours under the system's temporary folder.
pub(crate) fn base(for_others: bool) -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .ok_or("this crate was moved out of the workspace's tests/services")?;
    let inside = workspace.join("target").join("services");
    create_open(&inside)?;
    if !for_others || reachable_by_others(&inside)? {
        return Ok(inside);
    }
    let uid = rustix::process::geteuid().as_raw();
    let outside = std::env::temp_dir().join(format!("clawdstrike-services-{uid}"));
    create_open(&outside)?;
    let found = fs::symlink_metadata(&outside).map_err(|e| told("read", &outside, &e))?;
    if !found.is_dir() || found.uid() != uid {
        return Err(format!("\"{}\" should be a folder of user {uid}; remove it", outside.display()));
    }
    if reachable_by_others(&outside)? {
        return Ok(outside);
    }
    Err(format!(
        "neither \"{}\" nor \"{}\" can be reached by other users, as a server that refuses to run as root needs; set TMPDIR to a folder that they can",
        inside.display(),
        outside.display()
    ))
}

/// Creates a folder with its parents; every one that is new can be read by all.
pub(crate) fn create_open(folder: &Path) -> Result<(), String> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_open(parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(OPEN))
            .map_err(|e| told("open to others", folder, &e)),
        // Another process was first.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(told("create", folder, &e)),
    }
}

fn reachable_by_others(folder: &Path) -> Result<bool, String> {
    for part in folder.ancestors() {
        let found = fs::metadata(part).map_err(|e| told("read", part, &e))?;
        if found.mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies a folder with its subfolders, regular files only, with their permissions.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir(to).map_err(|e| told("create", to, &e))?;
    let entries = fs::read_dir(from).map_err(|e| told("list", from, &e))?;
    for entry in entries {
        let source = entry.map_err(|e| told("list", from, &e))?.path();
        let name = source.file_name().unwrap_or_default();
        let target = to.join(name);
        if source.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(|e| told("copy", &source, &e))?;
        }
    }
    Ok(())
}

/// The last lines of a log, for an error's text.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut end = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    match read() {
        Ok(end) => {
            let text = String::from_utf8_lossy(&end);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(e) => told("read", log, &e),
    }
}

/// An error of the file system, with the path and what was tried.
pub(crate) fn told(tried: &str, path: &Path, error: &std::io::Error) -> String {
    format!("can't {tried} \"{}\": {error}", path.display())
}

/// A running service's own folder; removed when dropped.
pub(crate) struct RunFolder(PathBuf);

impl RunFolder {
    /// A new folder `run/<name>-<process id>-<number>` in `base`.
    pub(crate) fn create(base: &Path, name: &str) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join("run").join(format!("{name}-{}-{number}", std::process::id()));
        // A process of the same id may have left one behind.
        remove(&path)?;
        create_open(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log in \"{}\" ended:\n{}", self.0.display(), tail(&self.0.join(LOG)));
        }
        if let Err(e) = remove(&self.0) {
            eprintln!("{e}");
        }
    }
}

/// Removes a folder with all in it, if it exists.
pub(crate) fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(told("remove", folder, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_tells_the_last_lines_only() {
        let folder = RunFolder::create(&base(false).expect("a base"), "tail").expect("a folder");
        let log = folder.path().join(LOG);
        let text: String = (0..10_000).map(|i| format!("line {i}\n")).collect();
        fs::write(&log, text).expect("a log");
        let told = tail(&log);
        assert_eq!(told.lines().count(), TAIL_LINES);
        assert!(told.ends_with("line 9999"), "{told}");
    }

    #[test]
    fn tail_of_a_missing_log_tells_the_path() {
        let told = tail(Path::new("no/such/log"));
        assert!(told.contains("\"no/such/log\""), "{told}");
    }

    #[test]
    fn a_folder_closed_to_others_is_not_reachable() {
        let folder = RunFolder::create(&base(false).expect("a base"), "closed").expect("a folder");
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("closed");
        assert_eq!(reachable_by_others(&inner), Ok(false));
    }

    #[test]
    fn a_dropped_run_folder_is_gone() {
        let folder = RunFolder::create(&base(false).expect("a base"), "gone").expect("a folder");
        let path = folder.path().to_owned();
        fs::write(path.join("data"), "x").expect("a file");
        drop(folder);
        assert!(!path.exists());
    }
}
