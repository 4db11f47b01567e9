//! One process of the cluster: its workers, its sources, and in process 0 the store, the responses, the archive, the rules
//! folder and the API.

use std::io::{Read, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clawdstrike_rules::{Compiled, SourceFile};
use crossbeam_channel::bounded;
use timely::CommunicationConfig;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::archive::{Archive, Archived};
use super::driver::{Crew, Cuts, Kept, Sequencer, Shared};
use super::handle::{self, ActiveRules, Handle, REQUESTS, Stats, WhatIf};
use super::journal::{Journal, Told};
use super::recovery::{self, Beginning, Coordinate};
use super::{dead_letters, giving_way, mirror, once, refill, rules, sinks, up};
use crate::audit::{Audit, Entry, Outcome, Who};
use crate::checkpoint::{self, Troubles};
use crate::config::Config;
use crate::inbox::{Inbox, Inboxes, PartitionId, Waker};
use crate::render::settings::Settings;
use crate::response::Orchestrator;
use crate::rule_files;
use crate::source::{self, Reader, StartAt};
use crate::store::{Store, StoreWriter};
use crate::wall_clock;

/// The least time between two epochs: what an event waits at most for others.
const TICK: Duration = Duration::from_millis(10);
/// Commits that may wait; a later one says more than an earlier one.
const COMMITS: usize = 64;
/// Cuts of this process that may wait for the coordinator.
const WRITTEN: usize = 16;
/// How long a stop waits for stores and receivers.
const FLUSH: Duration = Duration::from_secs(10);
/// How often what doesn't work is looked for.
const HEALTH: Duration = Duration::from_millis(500);
/// What the checkpoint's storage is called in health.
const CHECKPOINT: &str = "checkpoint";

/// Which process, and how it was started.
pub struct Process {
    /// The configuration.
    pub config: Config,
    /// From 0.
    pub index: usize,
    /// `host:port` of each process for the mesh, unless the configuration has them.
    pub mesh: Vec<String>,
    /// Stop when standard input ends: a supervisor that is gone leaves no orphans.
    pub supervised: bool,
    /// Serves the API in process 0; the layer above knows how.
    pub serve: Serve,
    /// Called in process 0 once it answers.
    pub ready: Box<dyn FnOnce(Handle, SocketAddr) + Send>,
}

/// Serves a handle until the second future resolves: gives the address, and the task that ends with the last connection.
pub type Serve = Box<dyn FnOnce(Handle, Pin<Box<dyn Future<Output = ()> + Send>>) -> Serving + Send>;
/// A server that starts.
pub type Serving = Pin<Box<dyn Future<Output = Result<(SocketAddr, tokio::task::JoinHandle<()>), String>> + Send>>;

/// What only process 0 has.
struct Head {
    handle: Handle,
    /// The rule files that it began with.
    rule_files: Vec<SourceFile>,
    writer: Option<StoreWriter>,
    response: Arc<Orchestrator>,
    archived: Arc<Archived>,
    /// The cluster's secret for hashes.
    secret: Vec<u8>,
    acked: Arc<AtomicU64>,
    /// Who waits for the checkpoint's storage, and where that shows.
    checkpoints: (Troubles, watch::Sender<Stats>),
    sinks: tokio::task::JoinHandle<()>,
    /// Runs what nothing waits for.
    giving_way: tokio::runtime::Handle,
    background: Vec<tokio::task::JoinHandle<()>>,
    stop_api: watch::Sender<bool>,
}

/// Runs the process until it is told to stop or can't go on.
///
/// # Errors
/// Why it can't start or go on, and what to do.
pub fn run(process: Process) -> Result<(), String> {
    abort_on_panic();
    let Process { config, index, mesh, supervised, serve: serve_api, ready } = process;
    if supervised {
        stay_awake();
    }
    let mesh = mesh_of(&config, mesh, index)?;
    std::fs::create_dir_all(&config.cluster.state).map_err(|e| {
        format!("[cluster] state = \"{}\": {e}; name a folder that can be written", config.cluster.state.display())
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| format!("no threads for the runtime: {e}; raise the limit of processes"))?;
    let giving_way = giving_way::runtime()?;
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signals(&runtime, stop.clone());
    let joined = Arc::new(AtomicBool::new(false));
    if supervised {
        die_with_supervisor();
        stop_with_supervisor(stop.clone(), joined.clone());
    }
    let first = if index == 0 { Some(first_rules(&config)?) } else { None };
    let cluster = &config.cluster;
    let letters = config.cluster.state.join(format!("dead-letters-{index}.jsonl"));
    let (dead, dead_thread) = dead_letters::start(Some(letters))?;
    let (local, receivers): (Vec<Inbox>, Vec<_>) = (0..cluster.threads).map(|_| Inbox::new()).unzip();
    let failure = Arc::new(OnceLock::new());
    let failed = failure.clone();
    let settings = Settings::from_config(&config);
    let beginning = Beginning::load(checkpoint::open(&config)?, index)?;
    let inboxes = Inboxes { first: index * cluster.threads, peers: config.workers(), local };
    let names = recovery::sources(&config);
    let readers = start_sources(&config, &inboxes, &beginning.start_at(&names))?;
    let (written, cuts_written) = bounded(WRITTEN);
    let writer = beginning.writer(index, cluster.threads, (index == 0).then_some(written))?;
    let fail = |failure: &Arc<OnceLock<String>>| {
        let failure = failure.clone();
        move |reason: String| {
            failure.get_or_init(|| reason);
        }
    };
    let places = (inboxes.first, cluster.threads, inboxes.peers);
    let kept = beginning.keep(&names, places, &writer, fail(&failure))?;
    let kept = Kept { again: refill::start(&config, &inboxes)?, ..kept };
    let (commits, to_commit) = bounded(COMMITS);
    let committer = commit_in_background(readers, to_commit)?;
    let (head, sequencer, coordinator) = match first {
        Some(first) => {
            let cuts = Cuts::new(Duration::from_micros(config.checkpoint.every.0.unsigned_abs()));
            let journal = beginning.journal(&names)?;
            let (head, mut sequencer) = runtime.block_on(start_head(
                &config,
                giving_way.handle().clone(),
                first,
                stop.clone(),
                &beginning,
                journal,
                cuts.clone(),
            ))?;
            if supervised {
                sequencer.alive = Box::new(beat());
            }
            let cluster = Coordinate { processes: cluster.processes, sources: &names, secret: &sequencer.secret, cuts };
            let commit = move |positions| {
                // Commits are only a report of progress: if the committer lags, a later one says more.
                let _lagging = commits.try_send(positions);
            };
            let acked = head.acked.clone();
            let coordinator = beginning.coordinate(&cluster, cuts_written, acked, commit, fail(&failure))?;
            (Some(head), Some(sequencer), Some(coordinator))
        }
        None => {
            drop(commits);
            (None, None, None)
        }
    };
    let shared = Shared { dead, sources: config.sources.len(), settings, failure };
    let crew = Crew::new(&inboxes, receivers, shared, kept, sequencer);
    let timely_config = timely::Config {
        communication: if config.cluster.processes == 1 {
            CommunicationConfig::Process(cluster.threads)
        } else {
            CommunicationConfig::Cluster {
                threads: cluster.threads,
                process: index,
                addresses: mesh,
                report: false,
                zerocopy: false,
            }
        },
        worker: timely::WorkerConfig::default(),
    };
    let guards = timely::execute(timely_config, move |worker| crew.run(worker))
        .map_err(|e| format!("the mesh between processes can't be joined: {e}; check [cluster] addresses"))?;
    joined.store(true, Ordering::Relaxed);
    let mut head = head;
    if let Some(head) = &mut head
        && let Err(reason) = runtime.block_on(serve(head, &config, serve_api, ready))
    {
        // Worker 0 ends the cluster with this reason.
        failed.get_or_init(|| reason);
    }
    let mut result = Ok(());
    for worker in guards.join() {
        result = result.and(worker.map_err(|e| format!("a worker ended: {e}")).and_then(|ended| ended));
    }
    // The workers' spools are gone: the writer ends with what they left, and then the coordinator.
    let checkpoint::Writer { to, thread } = writer;
    drop(to);
    thread.join().map_err(|_| "the checkpoint's writer panicked".to_owned())?;
    if let Some(coordinator) = coordinator {
        coordinator.stop();
    }
    if let Some(head) = head {
        runtime.block_on(stop_head(head));
    }
    for reader in committer.join().map_err(|_| "the committer panicked".to_owned())? {
        reader.stop();
    }
    dead_thread.join().map_err(|_| "the dead-letter writer panicked".to_owned())?;
    for runtime in [runtime, giving_way] {
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
    result
}

/// A worker that panics would leave its process hanging: the others wait for it for ever.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

fn mesh_of(config: &Config, given: Vec<String>, index: usize) -> Result<Vec<String>, String> {
    let cluster = &config.cluster;
    if index >= cluster.processes {
        return Err(format!(
            "process {index} of {}: they are counted from 0; see [cluster] processes",
            cluster.processes
        ));
    }
    let mesh = if given.is_empty() { cluster.addresses.clone() } else { given };
    if cluster.processes > 1 && mesh.len() != cluster.processes {
        return Err(format!(
            "[cluster] addresses has {} entries for {} processes: give `host:port` of each, or start the cluster with `clawdstrike-edr up`",
            mesh.len(),
            cluster.processes
        ));
    }
    Ok(mesh)
}

fn stop_on_signals(runtime: &Runtime, stop: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let stop = stop.clone();
        runtime.spawn(async move {
            match signal(kind) {
                Ok(mut signals) => {
                    signals.recv().await;
                    stop.store(true, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "a signal can't be waited for: stop with SIGKILL"),
            }
        });
    }
}

/// A process that waits for its peers to join the mesh can't be asked to stop: it ends at once.
fn stop_with_supervisor(stop: Arc<AtomicBool>, joined: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut byte = [0u8; 1];
        // The supervisor never writes: a read ends when it does.
        while std::io::stdin().read(&mut byte).is_ok_and(|n| n > 0) {}
        stop.store(true, Ordering::Relaxed);
        if !joined.load(Ordering::Relaxed) {
            std::process::exit(1);
        }
        // Without process 0 there is no orderly stop: its peers end when it does, or here.
        std::thread::sleep(FLUSH * 2);
        std::process::exit(1);
    });
}

fn first_rules(config: &Config) -> Result<(Vec<SourceFile>, Compiled), String> {
    let (files, compiled) = rules::load(&config.rules.path)?;
    for warning in &compiled.warnings {
        tracing::warn!("{warning}");
    }
    Ok((files, compiled))
}

fn start_sources(config: &Config, inboxes: &Inboxes, at: &StartAt) -> Result<Vec<Reader>, String> {
    let begin = |(n, source)| {
        let (at, watch) = put_aside(config, n, inboxes, at)?;
        source::start_watched(n, source, inboxes.clone(), at, watch)
    };
    (0u16..).zip(&config.sources).map(begin).collect()
}

/// What can be read once only is put aside for the archive where it is read; it counts on behind what an earlier run had.
fn put_aside(
    config: &Config,
    index: u16,
    inboxes: &Inboxes,
    at: &StartAt,
) -> Result<(StartAt, Option<source::Watch>), String> {
    let id = PartitionId { source: index, partition: 0 };
    let (Some(folder), Some(_), StartAt::Positions(known)) = (once::folder(config, index), inboxes.of(id), at) else {
        return Ok((at.clone(), None));
    };
    let mut known = known.clone();
    let next = known.entry(id).or_default();
    *next = (*next).max(once::end(&folder)?);
    if *next == 0 {
        // The store may have positions of a cluster whose state is gone: no stream has given a byte a nanosecond since.
        *next = wall_clock::now().unsigned_abs().saturating_mul(1_000);
    }
    let source = config.sources.get(usize::from(index)).map_or("", |source| source.name());
    let mut writer = once::Writer::new(source, folder, *next)?;
    Ok((StartAt::Positions(known), Some(Box::new(move |message| writer.take(message)))))
}

type Positions = Vec<(PartitionId, u64)>;

fn commit_in_background(
    readers: Vec<Reader>,
    positions: crossbeam_channel::Receiver<Positions>,
) -> Result<std::thread::JoinHandle<Vec<Reader>>, String> {
    let commit = move || {
        for positions in positions {
            for reader in &readers {
                if let Err(error) = reader.commit(&positions) {
                    tracing::warn!(%error, "offsets not committed; the next commit makes up for it");
                }
            }
        }
        readers
    };
    let thread = std::thread::Builder::new().name("committer".into()).spawn(commit);
    thread.map_err(|e| format!("no thread to commit offsets: {e}; raise the limit of processes"))
}

async fn start_head(
    config: &Config,
    giving_way: tokio::runtime::Handle,
    (files, compiled): (Vec<SourceFile>, Compiled),
    stop: Arc<AtomicBool>,
    beginning: &Beginning,
    (journal, told): (Journal, Told),
    cuts: Cuts,
) -> Result<(Head, Sequencer), String> {
    let writer = Store::prepare(&config.store)?.map(|store| {
        let _here = giving_way.enter();
        StoreWriter::start(store)
    });
    let response = Arc::new(Orchestrator::start(&config.response, &config.cluster.state)?);
    let (watchers, feeds) = handle::feeds();
    let (stats_in, stats) = watch::channel(Stats::default());
    let to = sinks::Sinks { store: writer.as_ref().map(StoreWriter::versions), response: response.clone(), watchers };
    let archived = Arc::new(Archived::default());
    let checkpoints = (beginning.troubles(), stats_in.clone());
    let (outlet, sinks) =
        sinks::start(to, stats_in, archived.clone(), degraded_parts(writer.as_ref(), &response, beginning.troubles()));
    let (requests_in, requests) = mpsc::channel(REQUESTS);
    let set = Arc::new(compiled.set);
    let active = ActiveRules {
        set: set.clone(),
        warnings: compiled.warnings,
        files: files.iter().map(|f| f.name.clone()).collect(),
        digest: rule_files::digest(&files),
        epoch: 0,
        last_error: None,
    };
    let secret = beginning.secret()?;
    let waker = Waker::default();
    let (active, _) = watch::channel(Arc::new(active));
    let handle = Handle::new(requests_in, feeds, Arc::new(active), stats)
        .with_waker(waker.clone())
        .with_actions(response.actions())
        .with_sources(config.sources.iter().map(|source| source.name().to_owned()))
        .with_what_if(WhatIf::new(Settings::from_config(config), secret.clone(), refill::for_what_if(config)));
    let acked = outlet.acked_by_all();
    let outlet = journal.before(Box::new(outlet), cuts.clone())?;
    let sequencer = Sequencer {
        rules: set,
        secret,
        restored: beginning.restored(),
        before: beginning.before(),
        keep_loads: Some(beginning.keep_loads(waker.clone())?),
        told,
        cuts: Some(cuts),
        now: None,
        first_epoch: first_epoch().max(beginning.latest_epoch() + 1),
        tick: TICK,
        requests,
        waker,
        alive: Box::new(|| {}),
        outlet: Box::new(outlet),
        stop,
    };
    let (stop_api, _) = watch::channel(false);
    Ok((
        Head {
            handle,
            rule_files: files,
            writer,
            response,
            archived,
            secret: sequencer.secret.clone(),
            acked,
            checkpoints,
            sinks,
            giving_way,
            background: Vec::new(),
            stop_api,
        },
        sequencer,
    ))
}

/// Tells the supervisor that epochs close, every so often.
fn beat() -> impl FnMut() + Send {
    let mut last: Option<Instant> = None;
    move || {
        if last.is_none_or(|last| last.elapsed() >= up::BEAT) {
            last = Some(Instant::now());
            eprintln!("{}", up::ALIVE);
        }
    }
}

/// Tells the supervisor until the end that this process wasn't stopped.
fn stay_awake() {
    std::thread::spawn(|| {
        // Without a supervisor there is nobody to tell.
        while writeln!(std::io::stderr(), "{}", up::AWAKE).is_ok() {
            std::thread::sleep(up::BEAT);
        }
    });
}

/// When the supervisor is killed, so is this process.
#[cfg(target_os = "linux")]
fn die_with_supervisor() {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        tracing::warn!(%error, "should the supervisor be killed, this process ends only when it next looks");
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_supervisor() {}

fn degraded_parts(
    writer: Option<&StoreWriter>,
    response: &Arc<Orchestrator>,
    checkpoints: Troubles,
) -> sinks::Degraded {
    let store = writer.map(|writer| (writer.status(), writer.retention_trouble()));
    let response = Arc::downgrade(response);
    Box::new(move || {
        let mut parts = response.upgrade().map(|r| r.degraded()).unwrap_or_default();
        if let Some((status, retention)) = &store {
            let parts_of_it =
                [("store", status.borrow().degraded.clone()), ("store retention", retention.borrow().clone())];
            parts.extend(parts_of_it.into_iter().filter_map(|(part, reason)| Some((part.to_owned(), reason?))));
        }
        if let Some(reason) = checkpoints.first() {
            parts.insert(CHECKPOINT.into(), reason);
        }
        parts
    })
}

/// While alerts wait to be written down, nothing is told of closed epochs: what they wait for shows all the same.
async fn show_trouble(checkpoints: Troubles, stats: watch::Sender<Stats>) {
    let mut looks = tokio::time::interval(HEALTH);
    loop {
        looks.tick().await;
        let trouble = checkpoints.first();
        stats.send_if_modified(|stats| {
            let news = stats.degraded.get(CHECKPOINT) != trouble.as_ref();
            match trouble {
                Some(reason) if news => drop(stats.degraded.insert(CHECKPOINT.into(), reason)),
                None if news => drop(stats.degraded.remove(CHECKPOINT)),
                _ => {}
            }
            news
        });
    }
}

/// Epochs go on from the wall clock in milliseconds: at least 1 ms apart, they stay behind it, so that a later run begins
/// with a larger one and revisions never go back.
fn first_epoch() -> u64 {
    u64::try_from(wall_clock::now() / 1_000).unwrap_or(1)
}

/// Begins what needs a running dataflow.
async fn serve(
    head: &mut Head,
    config: &Config,
    serve_api: Serve,
    ready: Box<dyn FnOnce(Handle, SocketAddr) + Send>,
) -> Result<(), String> {
    let (checkpoints, stats) = head.checkpoints.clone();
    let mut stopping = head.stop_api.subscribe();
    head.background.push(tokio::spawn(async move {
        tokio::select! {
            () = show_trouble(checkpoints, stats) => {}
            _ = stopping.wait_for(|s| *s) => {}
        }
    }));
    let mut stopping = head.stop_api.subscribe();
    let stopped = async move {
        drop(stopping.wait_for(|s| *s).await);
    };
    let (address, server) = serve_api(head.handle.clone(), Box::pin(stopped)).await?;
    head.background.push(server);
    let audit = Audit::of(&config.cluster.state);
    let started = Entry::new(Who::kind("engine"), "engine.start", Outcome::Done)
        .with("rules", head.handle.rules().digest.clone())
        .with("version", env!("CARGO_PKG_VERSION"));
    // What watches goes on without; the API refuses writes until the trail can be written.
    if let Err(error) = audit.record(started).await {
        tracing::error!("{error}");
    }
    if config.rules.watch {
        let began_with = std::mem::take(&mut head.rule_files);
        let watching = rules::watch(config.rules.path.clone(), head.handle.clone(), began_with, audit.clone());
        head.background.push(tokio::spawn(watching));
    }
    if let Some(writer) = &head.writer {
        let stopping = head.stop_api.subscribe();
        let copying = mirror::run(head.response.actions(), audit, writer.archive(), stopping);
        head.background.push(head.giving_way.spawn(copying));
    }
    if let Some(writer) = &head.writer
        && config.store.keeps().is_some()
    {
        let (archive, config, handle) = (writer.archive(), config.clone(), head.handle.clone());
        let (archived, secret) = (head.archived.clone(), head.secret.clone());
        let mut stopping = head.stop_api.subscribe();
        head.background.push(head.giving_way.spawn(async move {
            match Archive::start(&config, archive, handle, archived, secret).await {
                Ok(archive) => {
                    // An error means that process 0 is gone: stop as well.
                    drop(stopping.wait_for(|s| *s).await);
                    archive.stop().await;
                }
                Err(error) => tracing::error!("events are not archived: {error}"),
            }
        }));
    }
    let handle = head.handle.clone();
    head.background.push(tokio::spawn(async move {
        let mut stats = handle.stats.clone();
        if stats.wait_for(|s| s.epoch > 0).await.is_ok() {
            ready(handle, address);
        }
    }));
    Ok(())
}

async fn stop_head(head: Head) {
    let Head { handle, writer, response, sinks, background, stop_api, .. } = head;
    drop(handle);
    // The dataflow has ended and closed its outlet.
    let _ended = tokio::time::timeout(FLUSH, sinks).await;
    stop_api.send_replace(true);
    for task in background {
        if tokio::time::timeout(HEALTH, task).await.is_err() {
            tracing::debug!("a background task is left behind");
        }
    }
    if let Some(writer) = writer
        && let Err(error) = writer.stop(FLUSH).await
    {
        tracing::error!("{error}");
    }
    if let Ok(response) = Arc::try_unwrap(response) {
        let oldest = response.drain(FLUSH).await;
        if oldest < u64::MAX {
            tracing::error!(
                epoch = oldest,
                "responses are not in their ledger; the records of this epoch and later ones are read again"
            );
        }
    }
}

/// The configuration at a path, with the path made absolute.
///
/// # Errors
/// What is wrong with it.
pub fn load(path: &Path) -> Result<(Config, PathBuf), String> {
    let config = Config::load(path)?;
    let path = path.canonicalize().map_err(|e| format!("configuration \"{}\": {e}", path.display()))?;
    Ok((config, path))
}
