//! Files to alerts with checkpoints and without: the same dataflow, the same outlet.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::anyhow;
use clawdstrike_edr::checkpoint::Storage;
use clawdstrike_edr::config::Limits;
use clawdstrike_edr::inbox::{Inbox, Inboxes};
use clawdstrike_edr::render::detect::Totals;
use clawdstrike_edr::render::export::Exported;
use clawdstrike_edr::render::settings::{Settings, SourceInfo};
use clawdstrike_edr::runtime::dead_letters;
use clawdstrike_edr::runtime::driver::{Crew, Cuts, Kept, Outlet, Sequencer, Shared};
use clawdstrike_edr::runtime::recovery::{Beginning, Coordinate};
use clawdstrike_edr::source;
use clawdstrike_rules::plan::RuleSet;
use crossbeam_channel::bounded;

/// Takes everything at once.
struct Taken(Arc<AtomicU64>);

impl Outlet for Taken {
    fn offer(&mut self, batch: Exported, _totals: &Totals) -> Option<Exported> {
        std::hint::black_box(batch);
        None
    }

    fn closed(&mut self, epoch: u64, _totals: &Totals) {
        self.0.store(epoch.saturating_sub(1), Ordering::Relaxed);
    }

    fn acked(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads the files to their end on one worker; `every`: with checkpoints in a new folder below `folder`.
pub fn to_alerts(files: &[PathBuf], rules: &RuleSet, folder: &Path, every: Option<Duration>) -> anyhow::Result<()> {
    let fail = |reason: String| anyhow!(reason);
    let names = ["file".to_owned()];
    let (inbox, receiver) = Inbox::new();
    let inboxes = Inboxes { first: 0, peers: 1, local: vec![inbox] };
    let (dead, dead_thread) = dead_letters::start(None).map_err(fail)?;
    let failure: Arc<OnceLock<String>> = Arc::default();
    let failed = || {
        let failure = failure.clone();
        move |reason| {
            failure.get_or_init(|| reason);
        }
    };
    let acked: Arc<AtomicU64> = Arc::default();
    let place = tempfile::tempdir_in(folder)?;
    let beginning = Beginning::load(Storage::folder(place.path()).map_err(fail)?, 0).map_err(fail)?;
    let secret = beginning.secret().map_err(fail)?;
    let outlet = Box::new(Taken(acked.clone()));
    let mut sequencer = Sequencer::offline(rules.clone(), secret, crate::NOW, outlet);
    let mut kept = Kept::default();
    let mut threads = None;
    if let Some(every) = every {
        let cuts = Cuts::new(every);
        let (written, cuts_written) = bounded(16);
        let writer = beginning.writer(0, 1, Some(written)).map_err(fail)?;
        kept = beginning.keep(&names, (0, 1, 1), &writer, failed()).map_err(fail)?;
        let (journal, _) = beginning.journal(&names).map_err(fail)?;
        sequencer.outlet = Box::new(journal.before(sequencer.outlet, cuts.clone()).map_err(fail)?);
        sequencer.cuts = Some(cuts.clone());
        let cluster = Coordinate { processes: 1, sources: &names, secret: &sequencer.secret, cuts };
        let coordinator = beginning.coordinate(&cluster, cuts_written, acked, |_| {}, failed()).map_err(fail)?;
        threads = Some((writer, coordinator));
    }
    let sources = vec![SourceInfo { name: names[0].clone(), by_reference: false }];
    let settings = Settings::new(&Limits::default(), sources);
    let shared = Shared { dead, sources: 1, settings, failure: failure.clone() };
    let reader = source::start_files(0, &names[0], files, inboxes.clone()).map_err(fail)?;
    let crew = Crew::new(&inboxes, vec![receiver], shared, kept, Some(sequencer));
    let guards = timely::execute(timely::Config::process(1), move |worker| crew.run(worker)).map_err(fail)?;
    for ended in guards.join() {
        ended.and_then(|ended| ended).map_err(fail)?;
    }
    reader.stop();
    if let Some((writer, coordinator)) = threads {
        drop(writer.to);
        writer.thread.join().map_err(|_| anyhow!("the checkpoint's writer panicked"))?;
        coordinator.stop();
    }
    dead_thread.join().map_err(|_| anyhow!("the writer of dead letters panicked"))?;
    match failure.get() {
        Some(reason) => Err(anyhow!(reason.clone())),
        None => Ok(()),
    }
}
