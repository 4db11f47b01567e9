//! Checkpoints by themselves, in a folder and in a bucket of a real S3 server: what is damaged, foreign or contested there,
//! and what merging keeps.

#[path = "checkpoint/simulation.rs"]
mod simulation;
#[path = "checkpoint/store.rs"]
mod store;
#[path = "checkpoint/turns.rs"]
mod turns;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use clawdstrike_edr::checkpoint::{self, Coordinator, Given, Manifest, Sealed, Storage, Writer};
use clawdstrike_edr::config::Config;
use clawdstrike_edr::frame::{self, Frame, Kind};
use clawdstrike_edr::inbox::PartitionId;
use clawdstrike_edr::spool::{Cut, Piece, Progress, Spooled};
use clawdstrike_test_services::{S3, s3};
use crossbeam_channel::bounded;

use store::{Fate, Faulty, What};

/// The version of frames in these tests.
const FRAMES: u32 = 7;
const DEADLINE: Duration = Duration::from_secs(60);

/// A run of one process with one worker.
struct Run {
    writer: Writer,
    coordinator: Coordinator,
    done: mpsc::Receiver<Manifest>,
    failed: mpsc::Receiver<String>,
}

impl Run {
    fn start(storage: &Storage) -> Run {
        let begun = checkpoint::begin(storage, FRAMES).unwrap();
        let (written, cuts) = bounded(16);
        let (tell_done, done) = mpsc::channel();
        let (tell_failed, failed) = mpsc::channel();
        let given = Given {
            storage: storage.clone(),
            begun,
            processes: 1,
            frames: FRAMES,
            secret: "00".into(),
            sources: vec!["events".into()],
            acked: Box::new(|| 1),
            most_segments: checkpoint::MOST_SEGMENTS,
            done: Box::new(move |manifest| {
                // The test may have looked enough.
                if let Some(manifest) = manifest {
                    let _ended = tell_done.send(manifest.clone()).is_err();
                }
            }),
            failed: Box::new(move |reason| {
                let _ended = tell_failed.send(reason);
            }),
        };
        let coordinator = Coordinator::start(given, cuts).unwrap();
        let writer = checkpoint::start_writer(storage.clone(), 0, 1, Some(written)).unwrap();
        Run { writer, coordinator, done, failed }
    }

    fn piece(&self, frames: &[Frame<'_>]) {
        self.piece_of(0, None, frames);
    }

    fn piece_of(&self, class: u8, until: Option<i64>, frames: &[Frame<'_>]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        self.writer.to.pieces.send(Spooled::Piece(0, Piece { class, until, frames: bytes })).unwrap();
    }

    fn cut(&self, epoch: u64) {
        let progress =
            Progress { next: epoch * 10, largest: None, latest: None, append: true, largest_timestamp: None };
        let partitions = vec![(PartitionId { source: 0, partition: 3 }, progress)];
        self.writer
            .to
            .pieces
            .send(Spooled::Cut(0, Cut { epoch, watermark: Some(100), over: Some(100), partitions, in_force: None }))
            .unwrap();
    }

    /// What it made and why it ended, as far as nobody has looked yet.
    fn end(self) -> (Vec<Manifest>, Vec<String>) {
        drop(self.writer.to);
        self.writer.thread.join().unwrap();
        self.coordinator.stop();
        (self.done.try_iter().collect(), self.failed.try_iter().collect())
    }
}

/// A storage, and the folder in which its objects are files.
struct Place {
    storage: Storage,
    path: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

fn server() -> &'static S3 {
    static SERVER: OnceLock<S3> = OnceLock::new();
    SERVER.get_or_init(|| s3().unwrap())
}

/// The storage that a bucket's URL and these variables name.
fn bucket(url: &str, environment: Vec<(String, String)>) -> Result<Storage, String> {
    checkpoint::open_with(&Config::parse(&format!("[checkpoint]\nurl = \"{url}\"\n"))?, environment)
}

fn new_bucket() -> (String, PathBuf) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("bucket-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let path = server().create_bucket(&name).unwrap();
    (name, path)
}

/// Of each kind one, empty.
fn places() -> [Place; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let config = format!("[cluster]\nstate = \"{}\"\n", path.display());
    let storage = checkpoint::open_with(&Config::parse(&config).unwrap(), []).unwrap();
    let in_folder = Place { storage, path: path.join("checkpoint"), _folder: Some(folder) };
    let (name, path) = new_bucket();
    let storage = bucket(&format!("s3://{name}/edr/eu"), server().environment()).unwrap();
    [in_folder, Place { storage, path: path.join("edr/eu"), _folder: None }]
}

fn group(key: u128, epoch: u64, body: &[u8]) -> Frame<'_> {
    Frame { kind: Kind::Group, key, epoch, until: i64::MAX, body }
}

/// Two checkpoints, of epochs 1 and 2; the path of the second's own segment.
fn two(Place { storage, path, .. }: &Place) -> PathBuf {
    let run = Run::start(storage);
    run.piece(&[group(1, 1, b"first")]);
    run.cut(1);
    let first = run.done.recv_timeout(DEADLINE).unwrap();
    run.piece(&[group(2, 2, b"second")]);
    run.cut(2);
    let second = run.done.recv_timeout(DEADLINE).unwrap();
    run.end();
    let own = second.names().find(|name| !first.names().any(|known| known == *name)).unwrap().to_owned();
    path.join(own)
}

/// The frames of a checkpoint, as one worker of one would get them.
fn frames(storage: &Storage, manifest: &Manifest) -> Result<Vec<(u128, Vec<u8>)>, String> {
    let (to, from) = bounded(1_024);
    checkpoint::feed(storage, manifest, 0, 1, &[to])?;
    let pieces: Vec<Vec<u8>> = from.into_iter().collect();
    let all = pieces.iter().flat_map(|piece| frame::read(piece)).map(|frame| frame.unwrap());
    Ok(all.map(|frame| (frame.key, frame.body.to_vec())).collect())
}

fn latest(storage: &Storage) -> Manifest {
    checkpoint::find(storage, FRAMES).unwrap().latest.unwrap()
}

#[test]
fn a_cut_holds_what_came_before_it_and_where_reading_goes_on() {
    for place @ Place { storage, .. } in &places() {
        two(place);
        let manifest = latest(storage);
        assert_eq!((manifest.epoch, manifest.watermark), (2, Some(100)));
        let positions: Vec<_> = manifest.positions.iter().map(|p| (&*p.source, p.partition, p.progress.next)).collect();
        assert_eq!(positions, [("events", 3, 20)]);
        assert_eq!(frames(storage, &manifest).unwrap(), [(1, b"first".to_vec()), (2, b"second".to_vec())]);
    }
}

#[test]
fn a_bucket_s_objects_make_the_same_checkpoint_in_a_folder() {
    let [folder, bucket] = places();
    two(&bucket);
    for name in ["manifests", "segments"] {
        std::fs::create_dir(folder.path.join(name)).unwrap();
        for file in std::fs::read_dir(bucket.path.join(name)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path.join(name).join(file.file_name())).unwrap();
        }
    }
    assert_eq!(latest(&folder.storage), latest(&bucket.storage));
    assert_eq!(frames(&folder.storage, &latest(&folder.storage)).unwrap().len(), 2);
    let next = |place: &Place| checkpoint::begin(&place.storage, FRAMES).unwrap().generation;
    assert_eq!(next(&folder), next(&bucket));
}

#[test]
fn of_a_torn_segment_the_cut_before_it_is_used() {
    for place @ Place { storage, .. } in &places() {
        let segment = two(place);
        let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
        file.set_len(20).unwrap();
        assert_eq!(latest(storage).epoch, 1);
        std::fs::remove_file(&segment).unwrap();
        let manifest = latest(storage);
        assert_eq!(manifest.epoch, 1);
        assert_eq!(frames(storage, &manifest).unwrap(), [(1, b"first".to_vec())]);
    }
}

#[test]
fn a_corrupt_segment_is_named_and_the_next_start_uses_the_cut_before_it() {
    for place @ Place { storage, .. } in &places() {
        let segment = two(place);
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[5] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        // A run that begins clears nothing away that the next may need: the damage shows only when it reads.
        Run::start(storage).end();
        let reason = frames(storage, &latest(storage)).unwrap_err();
        let name = segment.file_name().unwrap().to_str().unwrap();
        assert!(reason.contains(name) && reason.contains("damaged"), "{reason}");
        assert_eq!(latest(storage).epoch, 1);
        // The next run's checkpoints come after the damaged one, which is gone then.
        let run = Run::start(storage);
        run.cut(3);
        assert_eq!(run.done.recv_timeout(DEADLINE).unwrap().epoch, 3);
        run.end();
        assert_eq!(latest(storage).epoch, 3);
        assert!(!segment.exists());
    }
}

#[test]
fn a_corrupt_manifest_is_passed_over_and_none_that_is_sound_is_an_error() {
    for place @ Place { storage, path, .. } in &places() {
        two(place);
        let corrupt = |n: u64| std::fs::write(path.join(format!("manifests/{n:010}")), b"{}").unwrap();
        corrupt(3);
        assert_eq!(latest(storage).epoch, 1);
        corrupt(2);
        let reason = checkpoint::find(storage, FRAMES).unwrap_err();
        assert!(reason.contains("delete the checkpoint's folder"), "{reason}");
    }
}

#[test]
fn a_later_version_is_refused() {
    for Place { storage, .. } in &places() {
        let later = Sealed::new(br#"{"format": 99, "frames": 1, "anything": "else"}"#.to_vec());
        storage.put("manifests/0000000001", &later).unwrap();
        let reason = checkpoint::find(storage, FRAMES).unwrap_err();
        assert!(reason.contains("later version"), "{reason}");
    }
}

#[test]
fn of_two_runs_the_one_that_started_first_ends() {
    for Place { storage, .. } in &places() {
        let first = Run::start(storage);
        let second = Run::start(storage);
        first.cut(1);
        let reason = first.failed.recv_timeout(DEADLINE).unwrap();
        assert!(reason.contains("another run"), "{reason}");
        second.cut(2);
        assert_eq!(second.done.recv_timeout(DEADLINE).unwrap().epoch, 2);
        first.end();
        second.end();
    }
}

#[test]
fn merging_keeps_the_latest_what_still_matters_and_nothing_else() {
    for Place { storage, .. } in &places() {
        let run = Run::start(storage);
        let hit = |key, until| Frame { kind: Kind::Hit, key, epoch: 1, until, body: b"hit" };
        let leaving = |key, epoch| Frame { kind: Kind::Leaving, key, epoch, until: i64::MAX, body: b"left" };
        // So many pieces that they are merged. The event-time bound is 100, and epoch 1 is acknowledged.
        for n in 0..600u64 {
            run.piece(&[group(1, n, b"old")]);
        }
        run.piece(&[
            group(1, 600, b"older"),
            group(1, 600, b"latest"),
            group(2, 600, b"gone"),
            group(2, 601, b""),
            hit(3, 99),
            hit(4, 100),
            leaving(5, 1),
            leaving(6, 2),
        ]);
        run.cut(602);
        let written = run.done.recv_timeout(DEADLINE).unwrap();
        let merged = run.done.recv_timeout(DEADLINE).unwrap();
        run.end();
        assert_eq!((written.segments.len(), merged.segments.len()), (601, 1));
        assert_eq!((merged.epoch, &merged.positions), (written.epoch, &written.positions));
        let kept: Vec<u128> = frames(storage, &merged).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(kept, [1, 4, 6]);
        assert_eq!(frames(storage, &merged).unwrap()[0].1, b"latest");
    }
}

#[test]
fn what_lasts_is_left_alone_by_merging_and_goes_as_a_whole_once_it_is_over() {
    for Place { storage, .. } in &places() {
        let run = Run::start(storage);
        let hit = |key, until| Frame { kind: Kind::Hit, key, epoch: 1, until, body: b"hit" };
        let large = vec![0; 9 << 20];
        // The event-time bound is 100.
        run.piece_of(2, Some(99), &[hit(1, 99)]);
        run.piece_of(2, Some(101), &[hit(2, 99), hit(3, 101)]);
        run.piece_of(3, Some(100), &[Frame { body: &large, ..hit(4, 100) }]);
        run.cut(1);
        let keys = |m: &Manifest| frames(storage, m).unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let first = run.done.recv_timeout(DEADLINE).unwrap();
        assert_eq!((first.segments.len(), keys(&first)), (2, vec![2, 3, 4]));
        for n in 0..600 {
            run.piece_of(2, Some(100), &[hit(10 + n, 100)]);
            run.piece(&[group(1, n as u64, b"group")]);
        }
        run.cut(2);
        run.done.recv_timeout(DEADLINE).unwrap();
        let merged = run.done.recv_timeout(DEADLINE).unwrap();
        run.end();
        // Groups, small ones of one class, and the large one as it was.
        assert_eq!(merged.segments.len(), 3);
        assert!(merged.segments.contains(&first.segments[1]));
        assert_eq!(merged.segments.iter().map(|s| s.until).max(), Some(Some(101)));
        assert_eq!(keys(&merged).len(), 602 + 1);
        assert!(!keys(&merged).contains(&2));
    }
}

#[test]
fn a_bucket_and_what_is_wrong_with_it() {
    let (name, _) = new_bucket();
    let url = format!("s3://{name}");
    let with = |changes: &[(&str, &str)]| {
        let mut environment = server().environment();
        environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        bucket(&url, environment)
    };
    // Whatever the environment says, only one may create, and in this bucket.
    let storage = with(&[("AWS_CONDITIONAL_PUT", "disabled"), ("AWS_BUCKET", "another")]).unwrap();
    let body = |text: &str| Sealed::new(text.as_bytes().to_vec());
    assert!(storage.create("a/b", &body("first")).unwrap());
    assert!(!storage.create("a/b", &body("second")).unwrap());
    assert_eq!(storage.list("a").unwrap(), ["a/b"]);
    assert_eq!((storage.get("a/b").unwrap(), storage.size("a/b").unwrap()), (b"first".to_vec(), Some(5)));
    storage.delete(["a/b".to_owned()]);
    assert_eq!(storage.size("a/b").unwrap(), None);

    let error = with(&[("AWS_ALLOW_HTTP", "false")]).map(drop).unwrap_err();
    assert!(error.contains("[checkpoint] url") && error.contains("AWS_ALLOW_HTTP=true"), "{error}");
    let put = |changes| with(changes).unwrap().put("a", &body("x")).unwrap_err().to_string();
    let error = put(&[("AWS_SECRET_ACCESS_KEY", "wr0ng-one")]);
    assert!(error.contains(&url) && error.contains("403") && error.contains("SignatureDoesNotMatch"), "{error}");
    assert!(!error.contains("wr0ng-one") && !error.contains("tester"), "{error}");
    let error = put(&[("AWS_ENDPOINT", "http://user:s3cret@127.0.0.1:1")]);
    assert!(error.contains("refused") && !error.contains("s3cret"), "{error}");
    let nowhere = bucket("s3://nowhere/x", server().environment()).unwrap();
    let error = checkpoint::find(&nowhere, FRAMES).unwrap_err();
    assert!(error.contains("NoSuchBucket") && error.contains("s3://nowhere/x"), "{error}");
}

#[test]
fn a_manifest_whose_answer_was_lost_is_the_run_s_own() {
    let known: Mutex<BTreeSet<String>> = Mutex::default();
    let loses = Arc::new(AtomicBool::new(false));
    // The answer to the first put of each object.
    let is_lost = {
        let loses = loses.clone();
        move |what, name: &str| {
            let is_put = matches!(what, What::Put | What::Create) && loses.load(Ordering::Relaxed);
            if is_put && known.lock().unwrap().insert(name.to_owned()) { Fate::Unheard } else { Fate::Done }
        }
    };
    let storage = Storage::object_store(Faulty::new(&Arc::default(), is_lost), "unheard").unwrap();
    let run = Run::start(&storage);
    loses.store(true, Ordering::Relaxed);
    for epoch in 1..4 {
        run.piece(&[group(1, epoch, b"body")]);
        run.cut(epoch);
        let made = run.done.recv_timeout(DEADLINE).unwrap();
        assert_eq!((made.epoch, run.failed.try_recv()), (epoch, Err(mpsc::TryRecvError::Empty)));
    }
    run.end();
    assert_eq!(latest(&storage).epoch, 3);
}

#[test]
fn a_run_that_stood_still_makes_no_manifest_once_another_has_begun() {
    let memory = Arc::default();
    let stands = Arc::new(AtomicBool::new(false));
    let (reached, there) = bounded(1);
    let (go, gone) = bounded(1);
    let wait = {
        let stands = stands.clone();
        move |what, name: &str| {
            if what == What::Create && name.starts_with("manifests") && stands.swap(false, Ordering::Relaxed) {
                reached.send(()).unwrap();
                gone.recv_timeout(DEADLINE).unwrap();
            }
            Fate::Done
        }
    };
    let first = Run::start(&Storage::object_store(Faulty::new(&memory, wait), "slow").unwrap());
    stands.store(true, Ordering::Relaxed);
    first.cut(1);
    there.recv_timeout(DEADLINE).unwrap();
    let storage = Storage::object_store(memory, "memory").unwrap();
    let second = Run::start(&storage);
    go.send(()).unwrap();
    let (made, failed) = first.end();
    assert!(made.is_empty(), "{made:?}");
    assert!(failed[0].contains("another run"), "{failed:?}");
    second.cut(2);
    assert_eq!(second.done.recv_timeout(DEADLINE).unwrap().epoch, 2);
    second.end();
    assert_eq!(latest(&storage).epoch, 2);
}

#[test]
fn a_manifest_that_comes_late_where_a_number_is_free_again_is_no_cut() {
    for Place { storage, .. } in &places() {
        let first = Run::start(storage);
        let cut = |run: &Run, epoch| {
            run.piece(&[group(1, epoch, b"body")]);
            run.cut(epoch);
            run.done.recv_timeout(DEADLINE).unwrap()
        };
        cut(&first, 1);
        let begun_with = cut(&first, 2);
        // What the first would have made next: at the number at which a second begins, until the third clears that away.
        let late = Manifest { sequence: 4, follows: Some(3), epoch: 3, ..begun_with.clone() };
        let (made, failed) = first.end();
        assert!(made.is_empty() && failed.is_empty(), "{failed:?}");
        Run::start(storage).end();
        let third = Run::start(storage);
        // Not before it has cleared away.
        let next = cut(&third, 4);
        third.end();
        assert!(storage.create("manifests/0000000004", &late.seal()).unwrap());
        let found = checkpoint::find(storage, FRAMES).unwrap();
        assert_eq!((found.latest, found.before), (Some(next.clone()), Some(begun_with.clone())));
        // Nor is it when the third has made none, or its own can't be used.
        storage.delete([format!("manifests/{:010}", next.sequence)]);
        assert_eq!(checkpoint::find(storage, FRAMES).unwrap().latest, Some(begun_with.clone()));
        Run::start(storage).end();
        assert_eq!(checkpoint::find(storage, FRAMES).unwrap().latest, Some(begun_with));
    }
}

#[test]
fn whoever_waits_for_the_storage_says_why_until_it_works() {
    let is_full = Arc::new(AtomicBool::new(false));
    let (refused, refusals) = mpsc::sync_channel(1);
    let refuse = {
        let is_full = is_full.clone();
        move |what, _: &str| {
            if matches!(what, What::Put | What::Create) && is_full.load(Ordering::Relaxed) {
                // The test may have seen enough of them.
                let _enough = refused.try_send(());
                return Fate::Refused;
            }
            Fate::Done
        }
    };
    let storage = Storage::object_store(Faulty::new(&Arc::default(), refuse), "full").unwrap();
    let run = Run::start(&storage);
    assert_eq!(storage.troubles().first(), None);
    is_full.store(true, Ordering::Relaxed);
    run.piece(&[group(1, 1, b"body")]);
    run.cut(1);
    // Of the second attempt the first has been told.
    (0..2).for_each(|_| refusals.recv_timeout(DEADLINE).unwrap());
    let reason = storage.troubles().first().unwrap();
    assert!(reason.contains("a checkpoint waits") && reason.contains("\"full\": writing \"segments/"), "{reason}");
    is_full.store(false, Ordering::Relaxed);
    assert_eq!(run.done.recv_timeout(DEADLINE).unwrap().epoch, 1);
    assert_eq!(storage.troubles().first(), None);
    run.end();
}

#[test]
fn what_another_has_created_is_not_ours_whatever_it_is() {
    for Place { storage, .. } in &places() {
        let body = |text: &str| Sealed::new(text.as_bytes().to_vec());
        assert!(storage.create("a/1", &body("mine")).unwrap());
        assert!(storage.create("a/1", &body("mine")).unwrap());
        assert!(!storage.create("a/1", &body("yours")).unwrap());
        assert!(!storage.create("a/1", &body("")).unwrap());
        assert_eq!(storage.get("a/1").unwrap(), b"mine");
    }
}
