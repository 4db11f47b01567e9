//! Downloads packages through Maven, npm and Go, once for all test processes. Knows how packages get here, not what is in
//! them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::files::{create_open, remove, told};
use crate::process::{POLL, run};
use crate::versions::{LAYOUT, MAVEN_DEPENDENCY_PLUGIN};

/// One download. Seconds as a rule; minutes on a slow line.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(600);
/// A registry that was busy or unreachable for a moment gets another chance.
const DOWNLOAD_TRIES: u32 = 3;
/// Unpacking and preparing, on this machine alone.
pub(crate) const LOCAL_DEADLINE: Duration = Duration::from_secs(120);
/// How long to wait while another test process installs the same package: a little more than its tries can take.
const LOCK_DEADLINE: Duration = Duration::from_secs(2_000);

/// The folder of a package, built by `build` in an empty folder unless that was done before.
///
/// Complete or absent: it appears under its name only once `build` has succeeded.
pub(crate) fn package(
    base: &Path,
    name: &str,
    version: &str,
    build: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let packages = base.join("packages");
    create_open(&packages)?;
    let stem = format!("{name}-{version}-{LAYOUT}");
    let ready = packages.join(&stem);
    if ready.is_dir() {
        return Ok(ready);
    }
    // Held until the end of this function.
    let _lock = lock(&packages.join(format!("{stem}.lock")))?;
    if ready.is_dir() {
        return Ok(ready);
    }
    let partial = packages.join(format!("{stem}.partial"));
    remove(&partial)?;
    create_open(&partial)?;
    build(&partial)?;
    fs::rename(&partial, &ready).map_err(|e| told("rename", &partial, &e))?;
    Ok(ready)
}

fn lock(path: &Path) -> Result<File, String> {
    let file = File::create(path).map_err(|e| told("create", path, &e))?;
    let until = Instant::now() + LOCK_DEADLINE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(POLL),
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "\"{}\" was locked for {} s by another test process; end that process",
                    path.display(),
                    LOCK_DEADLINE.as_secs()
                ));
            }
            Err(TryLockError::Error(e)) => return Err(told("lock", path, &e)),
        }
    }
}

/// A package of Maven's: group, artifact, version.
pub(crate) type Artifact<'a> = (&'a str, &'a str, &'a str);

/// What Maven does with the artifacts and all that they depend on.
pub(crate) enum Maven {
    /// Copies the jars to `<folder>/lib`.
    CopyJars,
    /// Unpacks the jars to `<folder>/unpacked`.
    Unpack,
}

/// Downloads Maven artifacts with their dependencies to `folder`.
pub(crate) fn maven(folder: &Path, artifacts: &[Artifact<'_>], what: Maven) -> Result<(), String> {
    let pom = folder.join("pom.xml");
    fs::write(&pom, pom_text(artifacts)).map_err(|e| told("write", &pom, &e))?;
    let (goal, output) = match what {
        Maven::CopyJars => ("copy-dependencies", "lib"),
        Maven::Unpack => ("unpack-dependencies", "unpacked"),
    };
    let plugin = "org.apache.maven.plugins:maven-dependency-plugin";
    download(folder, || {
        let mut command = Command::new("mvn");
        command
            .args(["-q", "-B", "-f"])
            .arg(&pom)
            .arg(format!("{plugin}:{MAVEN_DEPENDENCY_PLUGIN}:{goal}"))
            .arg(format!("-DoutputDirectory={}", folder.join(output).display()));
        command
    })
}

fn pom_text(artifacts: &[Artifact<'_>]) -> String {
    let dependencies: String = artifacts
        .iter()
        .map(|(group, artifact, version)| {
            format!(
                "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>\n"
            )
        })
        .collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n<modelVersion>4.0.0</modelVersion>\n\
         <groupId>test</groupId><artifactId>services</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )
}

/// Downloads npm packages (name, exact version) to `<folder>/node_modules`, without running their scripts.
pub(crate) fn npm(folder: &Path, packages: &[(&str, &str)]) -> Result<(), String> {
    let manifest = folder.join("package.json");
    let dependencies: Vec<String> =
        packages.iter().map(|(name, version)| format!("\"{name}\": \"{version}\"")).collect();
    let text = format!("{{\"private\": true, \"dependencies\": {{{}}}}}\n", dependencies.join(", "));
    fs::write(&manifest, text).map_err(|e| told("write", &manifest, &e))?;
    download(folder, || {
        let mut command = Command::new("npm");
        // The socket's package names a peer that the TimescaleDB build stands in for.
        command
            .args(["install", "--legacy-peer-deps", "--ignore-scripts"])
            .args(["--no-audit", "--no-fund", "--no-package-lock"])
            .current_dir(folder);
        command
    })
}

/// Builds a program from a Go module, with all that it depends on, to `<folder>/<its name>`.
pub(crate) fn go(folder: &Path, package: &str, version: &str) -> Result<(), String> {
    download(folder, || {
        let mut command = Command::new("go");
        // Stripped, since nobody debugs it; not for another machine, wherever GOBIN and GOOS would have it.
        command.args(["install", "-trimpath", "-ldflags=-s -w", &format!("{package}@{version}")]);
        command.env("GOBIN", folder).env_remove("GOOS").env_remove("GOARCH").current_dir(folder);
        command
    })
}

fn download(folder: &Path, command: impl Fn() -> Command) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..DOWNLOAD_TRIES {
        match run(&mut command(), "", folder, DOWNLOAD_DEADLINE) {
            Ok(_) => return Ok(()),
            Err(e) => last = e,
        }
    }
    Err(format!("no download in {DOWNLOAD_TRIES} tries: {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{RunFolder, base};

    #[test]
    fn a_package_is_built_once_and_only_if_that_succeeds() {
        let folder = RunFolder::create(&base(false).expect("a base"), "package").expect("a folder");
        let failed = package(folder.path(), "thing", "1", |_| Err("no luck".into()));
        assert_eq!(failed, Err("no luck".into()));
        let write = |at: &Path| fs::write(at.join("file"), "x").map_err(|e| e.to_string());
        let built = package(folder.path(), "thing", "1", write).expect("built");
        assert!(built.join("file").is_file());
        let again = package(folder.path(), "thing", "1", |_| Err("built twice".into()));
        assert_eq!(again, Ok(built));
    }

    #[test]
    fn parallel_installs_build_a_package_once() {
        let folder = RunFolder::create(&base(false).expect("a base"), "parallel").expect("a folder");
        let built = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    package(folder.path(), "thing", "1", |_| {
                        built.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        Ok(())
                    })
                    .expect("installed")
                });
            }
        });
        assert_eq!(built.into_inner(), 1);
    }
}
