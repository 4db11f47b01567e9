//! `export`: rows of the store as files, and as a signed bundle that an auditor can check.

mod bundle;
mod format;
mod parquet;
mod sign;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use sha2::{Digest, Sha256};

use super::output::{Closed, escape, escape_json, tell};
use super::replay::Progress;
use super::{Exit, Usage, block_on, instant};
use crate::config::Config;
use crate::hex;
use crate::store::{Kept, Store};
use crate::wall_clock;
use format::{FileFormat, Writer};

/// Write what the store keeps to files: events, alerts or sessions of a span of time.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  clawdstrike-edr export --table events --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z > january.jsonl
  clawdstrike-edr export --table alerts --from 2026-01-01T00:00:00Z --format csv --out alerts.csv
  clawdstrike-edr export --table events --format parquet --out events.parquet
  clawdstrike-edr export bundle audit-2026-01 --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --key key.pem
  clawdstrike-edr export verify audit-2026-01 --key key.pub.pem

Events are those with a time in [from, to), alerts and sessions those that began in it. Nothing is changed, and the engine may
run. In CSV a text that a spreadsheet could take for a formula begins with an apostrophe; the other formats have it as it is."
)]
pub(super) struct ExportArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to export.
    #[arg(long, value_enum, required = true)]
    table: Option<Table>,
    #[command(flatten)]
    span: SpanArgs,
    /// The file to write, which must not be there yet; `-` is standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bundle(bundle::BundleArgs),
    Verify(bundle::VerifyArgs),
}

/// Which rows, and how they are written.
#[derive(Debug, Args)]
struct SpanArgs {
    /// The cluster's configuration: its store is read.
    #[arg(long, value_name = "FILE", default_value = "workers.toml")]
    config: PathBuf,
    /// Rows of this time or later, in RFC 3339; by default, from the first.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<i64>,
    /// Rows before this time; by default, now.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    to: Option<i64>,
    /// How rows are written.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: FileFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Table {
    Events,
    Alerts,
    Sessions,
}

impl From<Table> for Kept {
    fn from(table: Table) -> Kept {
        match table {
            Table::Events => Kept::Events,
            Table::Alerts => Kept::Alerts,
            Table::Sessions => Kept::Sessions,
        }
    }
}

/// 0001-01-01 in microseconds since 1970: no row is older.
const FIRST: i64 = -62_135_596_800_000_000;

/// A store and a span of it, `[from, to)` in microseconds since 1970.
struct Span {
    store: Store,
    from: i64,
    to: i64,
    format: FileFormat,
}

impl SpanArgs {
    fn open(&self) -> anyhow::Result<Span> {
        let (from, to) = (self.from.unwrap_or(FIRST), self.to.unwrap_or_else(wall_clock::now));
        if from >= to {
            return Err(Usage("--from must be before --to: expected an earlier time".to_owned()).into());
        }
        let config = Config::load(&self.config).map_err(anyhow::Error::msg)?;
        let store = Store::prepare(&config.store).map_err(anyhow::Error::msg)?;
        let store = store.context("the configuration has no store: expected [store]")?;
        Ok(Span { store, from, to, format: self.format })
    }
}

/// What was written.
struct Written {
    rows: u64,
    bytes: u64,
    sha256: String,
}

pub(super) fn run(args: ExportArgs) -> anyhow::Result<Exit> {
    match args.command {
        Some(Command::Bundle(args)) => block_on(bundle::make(args)),
        Some(Command::Verify(args)) => bundle::verify(&args),
        None => block_on(export(args)),
    }
}

async fn export(args: ExportArgs) -> anyhow::Result<Exit> {
    let table: Kept = args.table.context("--table is missing")?.into();
    let mut span = args.span.open()?;
    if args.out.as_os_str() == "-" {
        let terminal = io::stdout().is_terminal();
        if terminal && span.format == FileFormat::Parquet {
            return Err(Usage("a terminal can't show Parquet: name a file with --out, or redirect".to_owned()).into());
        }
        let written = span.write(table, BufWriter::new(io::stdout()), terminal).await?;
        tell(&format!("{} rows of {}", written.rows, table.name()));
    } else {
        let written = span.write_file(table, &args.out).await?;
        tell(&format!(
            "{} rows of {} in \"{}\", SHA-256 {}",
            written.rows,
            table.name(),
            args.out.display(),
            written.sha256
        ));
    }
    Ok(Exit::Ok)
}

impl Span {
    /// Writes rows; to a terminal only what can do nothing to it.
    async fn write<W: Write + Send>(&mut self, table: Kept, to: W, terminal: bool) -> anyhow::Result<Written> {
        let count = Arc::new(AtomicU64::new(0));
        let progress = Progress::of("rows", count.clone());
        let shown = terminal.then_some(self.format);
        let told = |error: io::Error| match error.kind() {
            io::ErrorKind::BrokenPipe => Closed.into(),
            _ => anyhow!("rows can't be written: {error}"),
        };
        let out = Output { to, shown, bytes: 0, hash: Sha256::new() };
        let mut rows = Writer::begin(self.format, table, out).map_err(told)?;
        let mut outcome = Ok(());
        let each = |row| {
            outcome = rows.row(row);
            count.fetch_add(1, Ordering::Relaxed);
            outcome.is_ok()
        };
        let read = self.store.export(table, self.from, self.to, each).await;
        progress.finish();
        read.map_err(anyhow::Error::msg)?;
        let Output { bytes, hash, .. } = outcome.and_then(|()| rows.finish()).map_err(told)?;
        Ok(Written { rows: count.load(Ordering::Relaxed), bytes, sha256: hex::encode(hash.finalize()) })
    }

    /// A file that has its name only once it is whole, and that its owner alone can read.
    async fn write_file(&mut self, table: Kept, path: &Path) -> anyhow::Result<Written> {
        let name = path.display();
        if path.exists() {
            return Err(anyhow!("file \"{name}\" is there already: name another, or move it away"));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = create(&part)?;
        let written = match self.write(table, BufWriter::with_capacity(1 << 20, &file), false).await {
            Ok(written) => written,
            Err(error) => {
                // It is half a file at best; the error says why.
                let _left_behind = std::fs::remove_file(&part);
                return Err(error.context(format!("file \"{name}\"")));
            }
        };
        let moved = file.sync_all().and_then(|()| std::fs::rename(&part, path));
        moved.map_err(|e| anyhow!("file \"{name}\": {e}"))?;
        Ok(written)
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map_err(|e| anyhow!("file \"{}\": {e}; it must be new, in a folder that can be written", path.display()))
}

/// Where rows go, and what has gone there.
struct Output<W> {
    to: W,
    /// The format of lines that a terminal shows.
    shown: Option<FileFormat>,
    bytes: u64,
    hash: Sha256,
}

impl<W: Write> Output<W> {
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(format) = self.shown else { return self.write_all(line) };
        let text = String::from_utf8_lossy(line);
        let shown = match format {
            FileFormat::Jsonl => escape_json(text.trim_end_matches('\n')),
            _ => escape(text.trim_end_matches("\r\n")),
        };
        writeln!(self.to, "{shown}")
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let written = self.to.write(part)?;
        self.bytes += written as u64;
        self.hash.update(&part[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
