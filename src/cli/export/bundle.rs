//! A folder of exported tables with a manifest (which span, how many rows, each file's SHA-256), and a signature over the manifest's
//! bytes. `openssl` checks it as well: `openssl pkeyutl -verify -pubin -inkey KEY -rawin -in manifest.json -sigfile manifest.json.sig`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use clawdstrike_telemetry::time;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::sign::{Signer, Verifier};
use super::{SpanArgs, Table, create};
use crate::cli::output::{Format, Out};
use crate::cli::{Exit, OutputArgs};
use crate::hex;
use crate::store::Kept;
use crate::wall_clock;

const MANIFEST: &str = "manifest.json";
const SIGNATURE: &str = "manifest.json.sig";
/// What a manifest of this shape says it is.
const SHAPE: &str = "clawdstrike-edr export 1";
/// Far above any manifest.
const MAX_MANIFEST: u64 = 1 << 20;

/// Write tables of a span of time with a signed manifest of their hashes and row counts, for auditors.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out key.pub.pem
  clawdstrike-edr export bundle audit-2026-01 --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --key key.pem

Give the public key to whoever checks, by another way than the bundle. What the engine still changes (alerts, sessions) is as of
the time in the manifest.")]
pub(super) struct BundleArgs {
    /// The folder to make; it must not be there, or be empty.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// What to export; may be given several times, by default all.
    #[arg(long, value_enum)]
    table: Vec<Table>,
    #[command(flatten)]
    span: SpanArgs,
    /// The private key to sign with: Ed25519, PKCS#8 PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Check that a bundle is what was signed: every file there, unchanged, and nothing else. Exits with 1 and says what isn't.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  clawdstrike-edr export verify audit-2026-01 --key key.pub.pem")]
pub(super) struct VerifyArgs {
    /// The bundle.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The public key of whoever signed, in PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: String,
    program: String,
    made_at: String,
    from: String,
    to: String,
    key_id: String,
    files: Vec<Listed>,
}

#[derive(Serialize, Deserialize)]
struct Listed {
    name: String,
    table: String,
    rows: u64,
    bytes: u64,
    sha256: String,
}

pub(super) async fn make(args: BundleArgs) -> anyhow::Result<Exit> {
    let signer = Signer::read(&args.key)?;
    let mut span = args.span.open()?;
    let folder = &args.folder;
    let told = |e: std::io::Error| anyhow!("folder \"{}\": {e}; name one that can be made", folder.display());
    std::fs::create_dir_all(folder).map_err(told)?;
    if std::fs::read_dir(folder).map_err(told)?.next().is_some() {
        return Err(anyhow!("folder \"{}\" isn't empty: name another, or move it away", folder.display()));
    }
    let tables: BTreeSet<Kept> = match args.table.is_empty() {
        true => Kept::ALL.into(),
        false => args.table.iter().map(|t| (*t).into()).collect(),
    };
    let mut manifest = Manifest {
        format: SHAPE.into(),
        program: env!("CARGO_PKG_VERSION").into(),
        made_at: time::format(wall_clock::now()),
        from: time::format(span.from),
        to: time::format(span.to),
        key_id: signer.key_id(),
        files: Vec::new(),
    };
    for table in tables {
        let name = format!("{}.{}", table.name(), span.format.name());
        let written = span.write_file(table, &folder.join(&name)).await?;
        let (rows, bytes, sha256) = (written.rows, written.bytes, written.sha256);
        manifest.files.push(Listed { name, table: table.name().into(), rows, bytes, sha256 });
    }
    let mut text = serde_json::to_vec_pretty(&manifest)?;
    text.push(b'\n');
    write(&folder.join(MANIFEST), &text)?;
    write(&folder.join(SIGNATURE), &signer.sign(&text))?;
    let mut out = Out::new();
    match args.output.output {
        Format::Json => out.document(&serde_json::to_value(&manifest)?)?,
        Format::Table => {
            for file in &manifest.files {
                out.text(&format!("{}: {} rows, SHA-256 {}", file.name, file.rows, file.sha256))?;
            }
            out.text(&format!("signed by key {}", manifest.key_id))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let mut file = create(path)?;
    file.write_all(text).and_then(|()| file.sync_all()).map_err(|e| anyhow!("file \"{}\": {e}", path.display()))
}

pub(super) fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let verifier = Verifier::read(&args.key)?;
    let checked = check(&args.folder, &verifier);
    let mut out = Out::new();
    let exit = if matches!(&checked, Ok((_, wrong)) if wrong.is_empty()) { Exit::Ok } else { Exit::Findings };
    match (&checked, args.output.output) {
        (Ok((manifest, wrong)), Format::Json) => {
            out.document(&json!({"ok": wrong.is_empty(), "findings": wrong, "manifest": manifest}))?;
        }
        (Err(error), Format::Json) => out.document(&json!({"ok": false, "findings": [format!("{error:#}")]}))?,
        (Ok((manifest, wrong)), Format::Table) => {
            for finding in wrong {
                out.text(&format!("broken: {finding}"))?;
            }
            if wrong.is_empty() {
                for file in &manifest.files {
                    out.text(&format!("{}: {} rows, as signed", file.name, file.rows))?;
                }
                let Manifest { from, to, made_at, key_id, .. } = manifest;
                out.text(&format!("whole: {from} to {to}, made at {made_at}, signed by key {key_id}"))?;
            }
        }
        (Err(error), Format::Table) => out.text(&format!("broken: {error:#}"))?,
    }
    out.flush()?;
    Ok(exit)
}

/// The manifest, once its signature fits, and what in the folder isn't as it says.
fn check(folder: &Path, verifier: &Verifier) -> anyhow::Result<(Manifest, Vec<String>)> {
    let text = read(&folder.join(MANIFEST))?;
    let signature = read(&folder.join(SIGNATURE))?;
    if !verifier.fits(&text, &signature) {
        let key = verifier.key_id();
        return Err(anyhow!(
            "\"{MANIFEST}\" isn't what key {key} has signed: it was changed, or another key has signed it"
        ));
    }
    let manifest: Manifest = serde_json::from_slice(&text).context("the signed manifest can't be read")?;
    if manifest.format != SHAPE {
        return Err(anyhow!(
            "the manifest says it is \"{}\", expected \"{SHAPE}\": use the version that made it",
            manifest.format
        ));
    }
    let mut wrong = Vec::new();
    let mut expected = BTreeSet::from([MANIFEST.to_owned(), SIGNATURE.to_owned()]);
    for file in &manifest.files {
        expected.insert(file.name.clone());
        // Signed, but still a name that leaves the folder would be no file of the bundle.
        if Path::new(&file.name).file_name().is_none_or(|name| name != file.name.as_str()) {
            wrong.push(format!("\"{}\" is no file's name", file.name));
            continue;
        }
        match hash(&folder.join(&file.name)) {
            Ok((bytes, sha256)) if bytes == file.bytes && sha256 == file.sha256 => {}
            Ok((bytes, sha256)) => wrong.push(format!(
                "\"{}\" has {bytes} bytes with SHA-256 {sha256}, expected {} with {}: it was changed",
                file.name, file.bytes, file.sha256
            )),
            Err(error) => wrong.push(format!("\"{}\": {error}", file.name)),
        }
    }
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !expected.contains(&name) {
            wrong.push(format!("\"{name}\" isn't in the manifest: it was added"));
        }
    }
    Ok((manifest, wrong))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(path).with_context(|| format!("file \"{}\"", path.display()))?;
    file.take(MAX_MANIFEST).read_to_end(&mut text).with_context(|| format!("file \"{}\"", path.display()))?;
    Ok(text)
}

fn hash(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes, mut part) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let n = file.read(&mut part)?;
        if n == 0 {
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        hash.update(&part[..n]);
        bytes += n as u64;
    }
}
