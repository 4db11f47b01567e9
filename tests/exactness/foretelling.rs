//! What-if (SPEC §8): whatever rules are in force and whatever is proposed, what a what-if tells of alerts is what a load of the
//! proposed set then makes of them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration as Time;

use clawdstrike_edr::inbox::again::{Asks, ask_again};
use clawdstrike_edr::inbox::{Inbox, Inboxes, PartitionId, Waker};
use clawdstrike_edr::render::detect::Totals;
use clawdstrike_edr::render::draw_secret;
use clawdstrike_edr::render::export::Exported;
use clawdstrike_edr::render::settings::{Settings, SourceInfo};
use clawdstrike_edr::runtime::dead_letters;
use clawdstrike_edr::runtime::driver::{Crew, Kept, Outlet, Sequencer, Shared};
use clawdstrike_edr::runtime::handle::{
    ActiveRules, EngineError, Foretold, Handle, Moment, REQUESTS, Stats, WhatIf, feeds,
};
use clawdstrike_edr::view::{AlertFilter, AlertSort, Query, Rows};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::*;

/// How long a case may take to get anywhere.
const DEADLINE: Time = Time::from_secs(60);

/// Nobody is told.
struct Nobody;

impl Outlet for Nobody {
    fn offer(&mut self, _batch: Exported, _totals: &Totals) -> Option<Exported> {
        None
    }
    fn closed(&mut self, _epoch: u64, _totals: &Totals) {}
    fn acked(&self) -> u64 {
        0
    }
}

/// What a case found.
struct Found {
    before: Vec<Alert>,
    foretold: Foretold,
    after: Vec<Alert>,
}

fn source(text: &str) -> Vec<SourceFile> {
    vec![SourceFile { name: "generated.yaml".into(), text: text.into() }]
}

/// Sends files as [`feed`] does, but for their end, which follows once `end` is dropped; says when all of them are sent.
fn feed_without_end(files: &[Vec<u8>], way: Way, inboxes: &Inboxes, say: &Sender<()>, end: &Receiver<()>) {
    let mut rng = StdRng::seed_from_u64(way.seed);
    let mut left = Vec::new();
    let send = |partition: PartitionId, message| {
        let _ended = inboxes.of(partition).expect("all workers are here").send(message);
    };
    for (place, file) in files.iter().enumerate() {
        let partition = PartitionId { source: 0, partition: place as u32 };
        let mut batches = batches(place, file, way.batch, 0, &mut rng);
        batches.reverse();
        send(partition, Message::Assigned(partition));
        left.push((partition, batches));
    }
    for inbox in &inboxes.local {
        let _ended = inbox.send(Message::Listed(0));
    }
    while !left.is_empty() {
        let at = rng.random_range(0..left.len());
        match left[at].1.pop() {
            Some(batch) => send(left[at].0, Message::Batch(batch)),
            None => {
                send(left[at].0, Message::CaughtUp(left[at].0));
                left.swap_remove(at);
            }
        }
    }
    say.send(()).expect("somebody waits for it");
    assert!(end.recv().is_err(), "it is dropped");
    for inbox in &inboxes.local {
        let _ended = inbox.send(Message::Ended(0));
    }
}

/// Asks until the answer will do.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::task::yield_now().await;
    }
}

async fn moment(handle: &Handle) -> Moment {
    handle.moment().await.expect("a moment")
}

async fn all_alerts(handle: &Handle) -> Vec<Alert> {
    let mut all = Vec::new();
    for status in [None, Some(clawdstrike_edr::alert::Status::Retracted)] {
        let filter = AlertFilter { status, ..AlertFilter::default() };
        let query = Query::Alerts { filter, sort: AlertSort::FirstSeen, limit: 100_000, after: None };
        let Rows::Alerts(rows) = handle.peek(query).await.expect("an answer").rows else { panic!("other rows") };
        all.extend(rows);
    }
    all
}

/// A cluster that has read all of the files under these rules, and reads on; `use_it` asks it. While `silent`, a what-if reads
/// nothing again, and so doesn't end.
fn with_cluster<T>(
    files: &[Vec<u8>],
    options: &Options,
    current: &str,
    way: Way,
    silent: &Arc<AtomicBool>,
    use_it: impl AsyncFnOnce(&Handle) -> T,
) -> T {
    let (local, receivers): (Vec<Inbox>, Vec<_>) = (0..way.workers).map(|_| Inbox::new()).unzip();
    let inboxes = Inboxes { first: 0, peers: way.workers, local };
    let sources = vec![SourceInfo { name: "file".into(), by_reference: false }];
    let settings = Settings { epoch_records: way.epoch_records, ..Settings::new(&limits(options), sources) };
    let (dead, dead_thread) = dead_letters::start(None).expect("a thread");
    let (again, asks) = ask_again(&inboxes.local);
    let secret = draw_secret().expect("a secret");
    let set = compiled(current);
    let (to, requests) = mpsc::channel(REQUESTS);
    let waker = Waker::default();
    let sequencer = Sequencer {
        requests,
        waker: waker.clone(),
        ..Sequencer::offline(set.clone(), secret.clone(), options.now, Box::new(Nobody))
    };
    let active = ActiveRules {
        set: Arc::new(set),
        warnings: Vec::new(),
        files: Vec::new(),
        digest: String::new(),
        epoch: 0,
        last_error: None,
    };
    let again_files = Arc::new(files.to_vec());
    let (of_what_if, silent) = (again_files.clone(), silent.clone());
    let read = move |asks: Asks| {
        match silent.load(Ordering::Relaxed) {
            true => asks.for_each(drop),
            false => restarts::feed_again(asks, of_what_if.to_vec(), Way { workers: 1, ..way }),
        }
        Vec::new()
    };
    let handle =
        Handle::new(to, feeds().1, Arc::new(watch::channel(Arc::new(active)).0), watch::channel(Stats::default()).1)
            .with_waker(waker)
            .with_what_if(WhatIf::new(settings.clone(), secret, Arc::new(read)));
    let shared = Shared { dead, sources: 1, settings, failure: Arc::default() };
    let kept = Kept { again, ..Kept::default() };
    let crew = Crew::new(&inboxes, receivers, shared, kept, Some(sequencer));
    let end_of = |(place, file): (usize, &Vec<u8>)| {
        let last = batches(place, file, 1_000, 0, &mut StdRng::seed_from_u64(0)).pop()?;
        Some((last.partition, last.next_offset))
    };
    let ends: HashMap<PartitionId, u64> = files.iter().enumerate().filter_map(end_of).collect();
    let (end, ended) = channel();
    let (say, said) = channel();
    let found = std::thread::scope(|scope| {
        let to = inboxes.clone();
        scope.spawn(move || feed_without_end(files, way, &to, &say, &ended));
        scope.spawn(move || restarts::feed_again(asks, again_files.to_vec(), way));
        let guards =
            timely::execute(timely::Config::process(way.workers), move |worker| crew.run(worker)).expect("workers");
        drop(inboxes);
        said.recv().expect("all is sent");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let found = runtime.block_on(async {
            until("all records", || async {
                let now: HashMap<_, _> = moment(&handle).await.positions.into_iter().collect();
                ends.iter().all(|(id, end)| now.get(id).is_some_and(|next| next >= end)).then_some(())
            })
            .await;
            use_it(&handle).await
        });
        drop(end);
        drop(handle);
        guards.join().into_iter().for_each(|worker| worker.expect("no panic").expect("a run to its end"));
        found
    });
    dead_thread.join().expect("no panic");
    found
}

/// Asks what the proposed rules would do, and loads them. `None`: the watermark moved on meanwhile, and so the load was another
/// one than the what-if.
async fn ask_and_load(handle: &Handle, proposed: &str) -> Option<Found> {
    // What was sent last may still be on its way through the dataflow.
    until("a watermark that stands", || async {
        let (one, _, other) = (moment(handle).await, all_alerts(handle).await, moment(handle).await);
        (one.watermark == other.watermark).then_some(())
    })
    .await;
    let before = all_alerts(handle).await;
    let (foretold, _) = handle.what_if(&source(proposed)).await.expect("an answer");
    handle.load_rules(source(proposed)).await.expect("a load");
    until("the rules to have begun", || async { (!moment(handle).await.in_force.is_filling()).then_some(()) }).await;
    let after = all_alerts(handle).await;
    let stood = moment(handle).await.watermark == foretold.watermark;
    stood.then_some(Found { before, foretold, after })
}

/// What an alert says, but for what is given by the moment at which a version is made.
fn says(alert: &Alert) -> Value {
    let mut json = alert.to_json();
    json["run_actions"] = alert.run_actions.into();
    json["trigger"] = alert.trigger_event.clone().into();
    if let Some(notes) = json["handling"].as_array_mut() {
        notes.iter_mut().for_each(|note| note["time"] = Value::Null);
    }
    json
}

/// How what was foretold differs from what came; empty if it doesn't.
fn differs(found: &Found) -> String {
    let Found { before, foretold, after } = found;
    let mut expected: BTreeMap<&str, &Alert> = before.iter().map(|a| (a.alert_id.as_str(), a)).collect();
    let mut wrong = String::new();
    let mut from_is = |what: &str, from: &Alert| {
        if before.iter().all(|a| says(a) != says(from)) {
            wrong += &format!("{what} isn't there: {from:?}\n");
        }
    };
    foretold.removed.iter().for_each(|(from, _)| from_is("what is to be removed", from));
    foretold.changed.iter().for_each(|(from, _)| from_is("what is to be changed", from));
    for to in foretold.added.iter().chain(foretold.removed.iter().chain(&foretold.changed).map(|(_, to)| to)) {
        expected.insert(&to.alert_id, to);
    }
    let open =
        |alerts: &mut dyn Iterator<Item = &Alert>| -> Vec<Value> { alerts.filter(|a| a.is_open()).map(says).collect() };
    wrong += &differences("alert", &open(&mut after.iter()), &open(&mut expected.values().copied()));
    // What it tells of being removed is retracted or closed, with the reason.
    for (_, to) in &foretold.removed {
        if after.iter().all(|a| says(a) != says(to)) {
            wrong += &format!("was not removed so: {to:?}\n");
        }
    }
    // And it tells of nothing that stays as it is.
    let touched: HashSet<&str> = foretold.changed.iter().map(|(from, _)| from.alert_id.as_str()).collect();
    let same = before.iter().filter(|a| a.is_open() && after.iter().any(|b| says(a) == says(b)));
    let same: Vec<&Alert> = same.collect();
    if same.len() as u64 != foretold.same || same.iter().any(|a| touched.contains(a.alert_id.as_str())) {
        wrong += &format!("{} as before, and {} were foretold\n", same.len(), foretold.same);
    }
    wrong
}

/// A set that differs from another one: rules are left out, changed and added, and the allowlist may be another one.
fn another(text: &str, other: &str, rng: &mut StdRng) -> String {
    let split = |text: &str| -> (Vec<Value>, String) {
        let (rules, allowlist) = text.split_once("allowlist:\n").unwrap_or((text, ""));
        let rules = rules.lines().skip(1).map(|line| {
            let rule = line.trim_start().strip_prefix("- ").expect("a rule a line");
            serde_json::from_str(rule).expect("in JSON")
        });
        (rules.collect(), allowlist.to_owned())
    };
    let ((rules, allowlist), (others, other_allowlist)) = (split(text), split(other));
    let mut out = String::from("rules:\n");
    let mut left = 0;
    for (mut rule, other) in rules.into_iter().zip(others) {
        match rng.random_range(0..6) {
            0 => continue,
            1 => rule["severity"] = "critical".into(),
            2 => rule["suppress_for"] = "7s".into(),
            3 => {
                let id = rule["id"].clone();
                rule = other;
                rule["id"] = id;
            }
            _ => {}
        }
        left += 1;
        out += &format!("  - {rule}\n");
    }
    if left == 0 {
        out = "rules: []\n".into();
    }
    let allowlist = if rng.random_bool(0.3) { other_allowlist } else { allowlist };
    if !allowlist.is_empty() {
        out += &format!("allowlist:\n{allowlist}");
    }
    out
}

/// Some rules want that their alerts go with them.
fn with_removal(text: &str, rng: &mut StdRng) -> String {
    let line = |line: &str| match line.contains("\"conditions\"") && rng.random_bool(0.5) {
        true => {
            let want = if rng.random_bool(0.5) { "close" } else { "retract" };
            line.replacen('{', &format!("{{\"on_removal\":\"{want}\","), 1)
        }
        false => line.to_owned(),
    };
    text.lines().map(line).map(|line| line + "\n").collect()
}

/// How many cases there were, and how much was told of: a property that never had anything to hold would hold.
type Seen = std::cell::Cell<(usize, usize, usize, usize, u64)>;

fn check_foretold(seed: u64, sizes: Sizes, way: Way, seen: &Seen) -> Result<(), TestCaseError> {
    // Enough happens, and epochs aren't so small that all the time is spent on them.
    let sizes = Sizes { rules: sizes.rules.max(3), records: sizes.records.max(60), ..sizes };
    let way = Way { workers: way.workers.min(2), epoch_records: way.epoch_records.max(20), ..way };
    let case = case(seed, Level::Full, &sizes);
    let mut rng = StdRng::seed_from_u64(way.seed);
    let all = with_removal(&case.rules, &mut rng);
    let other = naive::generate::rules(seed ^ 1, Level::Full, sizes.rules);
    let (current, proposed) = (another(&all, &other, &mut rng), another(&all, &other, &mut rng));
    let ask = async |handle: &Handle| ask_and_load(handle, &proposed).await;
    let found = with_cluster(&case.files, &case.options, &current, way, &Arc::default(), ask);
    let Some(found) = found else { return Err(TestCaseError::reject("the watermark moved")) };
    let told = &found.foretold;
    let (cases, added, removed, changed, same) = seen.get();
    let (more, fewer, others) = (told.added.len(), told.removed.len(), told.changed.len());
    seen.set((cases + 1, added + more, removed + fewer, changed + others, same + told.same));
    let wrong = differs(&found);
    prop_assert!(wrong.is_empty(), "seed {seed}, {sizes:?}, {way:?}\n{wrong}\n{current}\n{proposed}");
    prop_assert!(told.incomplete.is_empty(), "{:?}", told.incomplete);
    Ok(())
}

#[test]
fn a_what_if_tells_what_a_load_then_does() {
    let seen = Seen::default();
    // A case is two dataflows, and a load that waits for epochs.
    hold_as_asked(100, |seed, sizes, way| check_foretold(seed, sizes, way, &seen));
    let (cases, added, removed, changed, same) = seen.get();
    println!("{cases} cases: {added} added, {removed} removed, {changed} changed, {same} as before");
    assert!(cases < 20 || added.min(removed).min(changed) > 0 && same > 0, "{:?}", seen.get());
}

/// Two steps of a rule that isn't in force.
fn two_steps() -> (Vec<Vec<u8>>, String) {
    (vec![file(&[(0, "s", "shell_command"), (10, "s", "mcp_tool"), (20, "t", "file_access")])], rule(STEPS))
}

const STEPS: &str = "{type: sequence, window: 60s, events: [{event_type: shell_command}, {event_type: mcp_tool}]}";
const PLAIN: Way = Way { workers: 2, epoch_records: 7, batch: 2, seed: 1 };

#[test]
fn a_new_rule_is_seen_to_find_what_has_happened() {
    let (files, proposed) = two_steps();
    let ask = async |handle: &Handle| ask_and_load(handle, &proposed).await;
    let found = with_cluster(&files, &Options::default(), "rules: []\n", PLAIN, &Arc::default(), ask);
    let found = found.expect("a watermark that stands");
    assert_eq!(differs(&found), "");
    assert_eq!(found.foretold.totals, (1, 0, 0));
    let evidence: Vec<&str> = found.foretold.added[0].evidence.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(evidence, ["e0", "e1"]);
    assert!(found.foretold.added[0].backfilled && !found.foretold.added[0].run_actions);
}

#[test]
fn one_at_a_time_is_answered_and_one_that_nobody_waits_for_ends() {
    let (files, proposed) = two_steps();
    let silent = Arc::new(AtomicBool::new(true));
    let told = silent.clone();
    with_cluster(&files, &Options::default(), "rules: []\n", PLAIN, &silent, async |handle: &Handle| {
        let (first, second) = (source(&proposed), source("rules: []\n"));
        let first = tokio::spawn({
            let handle = handle.clone();
            async move { handle.what_if(&first).await.map(|(foretold, _)| foretold.totals) }
        });
        until("the second is refused", || async {
            matches!(handle.what_if(&second).await, Err(EngineError::WhatIfBusy)).then_some(())
        })
        .await;
        // Meanwhile the cluster answers, and loads.
        handle.load_rules(second.clone()).await.expect("a load");
        first.abort();
        told.store(false, Ordering::Relaxed);
        let third = until("the first has ended", || async {
            match handle.what_if(&source(&proposed)).await {
                Err(EngineError::WhatIfBusy) => None,
                other => Some(other.expect("an answer").0),
            }
        })
        .await;
        assert_eq!(third.totals, (1, 0, 0));
    });
}
