//! JSON lines from files, folders and pipes: every line once, at the worker that owns its file, whatever is done to the
//! file meanwhile.

mod source;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clawdstrike_edr::config::Source;
use clawdstrike_edr::source::{
    BATCH_BYTES, INBOX_BATCHES, MAX_RECORD, PartitionId, Reader, STOP_WITHIN, StartAt, start, start_files,
};
use source::{Workers, eventually};
use tempfile::TempDir;

const LIMIT: usize = MAX_RECORD - 1;

fn jsonl(path: &Path, follow: bool) -> Source {
    Source::Jsonl { name: "files".into(), path: path.into(), follow, time: Default::default() }
}

fn follow(path: &Path, workers: &Workers, at: StartAt) -> Reader {
    start(0, &jsonl(path, true), workers.inboxes.clone(), at).unwrap()
}

fn files(paths: &[PathBuf], workers: &Workers) -> Reader {
    start_files(0, "files", paths, workers.inboxes.clone()).unwrap()
}

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn append(path: &Path, content: &str) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
}

/// Lines `name-0`, `name-1`, ... of some 100 bytes.
fn lines(name: &str, count: usize) -> String {
    let line = |n| format!("{{\"line\": \"{name}-{n}\", \"fill\": \"{:070}\"}}\n", 0);
    (0..count).map(line).collect()
}

fn expected(contents: &[&str]) -> Vec<String> {
    let all = contents.iter().flat_map(|c| c.lines());
    let mut all: Vec<String> = all.map(str::to_owned).collect();
    all.sort();
    all
}

fn partition(partition: u32) -> PartitionId {
    PartitionId { source: 0, partition }
}

/// The file's whole content as one partition's offsets and texts.
fn read_bytes(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "one.jsonl", content);
    let mut workers = Workers::new(0, 1, 1);
    let reader = files(&[path], &workers);
    let seen = workers.until("the end", |seen| seen.ended.len() == 1);
    assert_eq!(seen.next.get(&partition(0)).copied().unwrap_or(0), content.len() as u64);
    reader.stop();
    let records = workers.seen.records.remove(&partition(0));
    let pair = |got: source::Got| (got.offset, got.bytes);
    records.unwrap_or_default().into_iter().map(pair).collect()
}

#[test]
fn files_are_spread_over_the_workers_of_all_processes_and_each_is_read_once() {
    let folder = TempDir::new().unwrap();
    let contents: Vec<String> = (0..7).map(|n| lines(&format!("f{n}"), 5000)).collect();
    for (n, content) in contents.iter().enumerate() {
        write(&folder, &format!("{n}.jsonl"), content);
    }
    write(&folder, "not-mine.txt", "nothing\n");
    let mut all = Vec::new();
    for first in [0, 2] {
        let mut workers = Workers::new(first, 2, 4);
        let config = jsonl(folder.path(), false);
        let reader = start(3, &config, workers.inboxes.clone(), StartAt::Committed).unwrap();
        let seen = workers.until("both workers' ends", |seen| seen.ended.len() == 2);
        for (worker, id) in &seen.assigned {
            assert_eq!(*worker, (id.partition as usize + 3) % 4);
            assert!(seen.finished.contains(id));
        }
        for (id, records) in &seen.records {
            assert_eq!(records.len(), 5000, "file {} is partition {id:?}", id.partition);
            let text = String::from_utf8_lossy(&records[0].bytes).into_owned();
            assert!(text.contains(&format!("f{}-0", id.partition)), "{text}");
        }
        all.extend(seen.texts());
        reader.stop();
    }
    all.sort();
    let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
    assert_eq!(all, expected(&contents));
}

#[test]
fn files_are_read_in_turn_in_batches_of_bounded_size() {
    let folder = TempDir::new().unwrap();
    let content = lines("x", 10_000);
    let paths = [write(&folder, "a", &content), write(&folder, "b", &content), write(&folder, "c", &content)];
    let mut workers = Workers::new(0, 1, 1);
    let reader = files(&paths, &workers);
    let seen = workers.until("the end", |seen| seen.ended.len() == 1);
    assert!(seen.batches.iter().all(|(_, size)| *size <= BATCH_BYTES));
    let order: Vec<u32> = seen.batches.iter().map(|(id, _)| id.partition).collect();
    let rounds = content.len().div_ceil(BATCH_BYTES);
    assert!(rounds > 2);
    assert_eq!(order, [0, 1, 2].repeat(rounds));
    reader.stop();
}

#[test]
fn blank_lines_carriage_returns_and_a_missing_last_line_end_are_taken_as_meant() {
    let read = read_bytes(b"\n{1}\r\n \t\r\n{2}\n\n{3}");
    let expected: Vec<(u64, Vec<u8>)> = vec![(1, b"{1}".into()), (10, b"{2}".into()), (15, b"{3}".into())];
    assert_eq!(read, expected);
    assert_eq!(read_bytes(b""), vec![]);
    assert_eq!(read_bytes(b"\n\n \n"), vec![]);
}

#[test]
fn a_line_of_the_largest_size_is_whole_and_a_larger_one_is_cut_just_beyond() {
    for (len, end) in [(LIMIT, "\n"), (LIMIT, "\r\n"), (LIMIT, ""), (LIMIT + 1, "\n")] {
        let mut content = b"{1}\n".to_vec();
        content.extend(vec![b'x'; len]);
        content.extend(end.as_bytes());
        let read = read_bytes(&content);
        assert_eq!(read.len(), 2, "{len} {end:?}");
        assert_eq!((read[1].0, read[1].1.len()), (4, len), "{end:?}");
    }
    for len in [LIMIT + 2, LIMIT + 3, 5 * LIMIT, 3 * BATCH_BYTES + LIMIT] {
        let mut content = b"{1}\n".to_vec();
        content.extend(vec![b'x'; len]);
        let unfinished = read_bytes(&content);
        assert_eq!((unfinished.len(), unfinished[1].1.len()), (2, MAX_RECORD));
        content.extend(b"\r\n{2}\n");
        let read = read_bytes(&content);
        assert_eq!(read.len(), 3, "{len}");
        assert_eq!((read[1].0, read[1].1.len()), (4, MAX_RECORD));
        assert_eq!(read[2], (len as u64 + 6, b"{2}".to_vec()));
    }
}

#[test]
fn a_giant_blank_line_is_skipped_like_any_other() {
    let mut content = vec![b' '; 3 * LIMIT];
    content.extend(b"\n{1}\n");
    assert_eq!(read_bytes(&content), vec![(3 * LIMIT as u64 + 1, b"{1}".to_vec())]);
}

#[test]
fn more_files_than_stay_open_are_all_read() {
    let folder = TempDir::new().unwrap();
    let content = lines("x", 6000);
    let name = |n| format!("{n:04}.jsonl");
    for n in 0..300 {
        let content = if n > 290 { &content } else { "{}\n" };
        write(&folder, &name(n), content);
    }
    let mut workers = Workers::new(0, 1, 1);
    let config = jsonl(folder.path(), false);
    let reader = start(0, &config, workers.inboxes.clone(), StartAt::Committed).unwrap();
    let seen = workers.until("the end", |seen| seen.ended.len() == 1);
    assert_eq!(seen.finished.len(), 300);
    assert_eq!(seen.count(), 291 + 9 * 6000);
    reader.stop();
}

#[test]
fn a_full_inbox_pauses_the_reader_which_still_can_be_stopped() {
    let folder = TempDir::new().unwrap();
    let content = lines("x", 300_000);
    let path = write(&folder, "large", &content);
    let workers = Workers::new(0, 1, 1);
    let reader = files(std::slice::from_ref(&path), &workers);
    eventually("a full inbox", || workers.receivers[0].len() == INBOX_BATCHES);
    let begun = Instant::now();
    reader.stop();
    assert!(begun.elapsed() < STOP_WITHIN, "{:?}", begun.elapsed());
    assert_eq!(workers.receivers[0].len(), INBOX_BATCHES);

    let mut workers = Workers::new(0, 1, 1);
    let reader = files(&[path], &workers);
    eventually("a full inbox", || workers.receivers[0].len() == INBOX_BATCHES);
    let seen = workers.until("the end", |seen| seen.ended.len() == 1);
    assert_eq!(seen.count(), 300_000);
    reader.stop();
}

#[test]
fn a_sleeping_worker_is_woken_by_what_comes() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a", "{1}\n");
    let mut workers = Workers::new(0, 1, 1);
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    workers.inboxes.local[0].waker().set(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let reader = files(&[path], &workers);
    workers.until("the end", |seen| seen.ended.len() == 1);
    // Assigned, listed, a batch, finished, ended.
    eventually("five words", || woken.load(Ordering::SeqCst) == 5);
    reader.stop();
}

#[test]
fn what_cannot_be_read_is_a_failure_that_names_it_before_anything_is_read() {
    let folder = TempDir::new().unwrap();
    let there = write(&folder, "a", "{1}\n");
    let missing = folder.path().join("missing.jsonl");
    for (path, why) in [(missing.as_path(), "No such file"), (folder.path(), "directory")] {
        let mut workers = Workers::new(0, 2, 2);
        let reader = files(&[there.clone(), path.into()], &workers);
        let seen = workers.until_or_failed("failures", |seen| seen.failed.len() == 2);
        let text = &seen.failed[0];
        assert!(text.contains(&format!("\"{}\"", path.display())), "{text}");
        assert!(text.to_lowercase().contains(&why.to_lowercase()) && text.contains("source \"files\""), "{text}");
        assert_eq!(seen.count(), 0);
        reader.stop();
    }
    let twice = ["-".into(), "-".into()];
    let workers = Workers::new(0, 1, 1);
    let error = start_files(0, "files", &twice, workers.inboxes.clone()).err().unwrap();
    assert!(error.contains("\"-\" is named twice"), "{error}");
}

#[test]
fn following_hands_over_complete_lines_as_they_come() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "events.jsonl", "{1}\n{2");
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(&path, &workers, StartAt::Committed);
    let seen = workers.until("the first line", |seen| seen.all_caught_up());
    assert_eq!(seen.texts(), ["{1}"]);
    append(&path, "}\n{3}\n{4");
    let seen = workers.until("three lines", |seen| seen.count() == 3 && seen.all_caught_up());
    assert_eq!(seen.texts(), ["{1}", "{2}", "{3}"]);
    let id = seen.partitions()[0];
    assert_eq!(seen.next[&id], 12);
    assert!(seen.finished.is_empty() && seen.ended.is_empty());
    reader.stop();
}

#[test]
fn following_waits_for_a_file_and_makes_a_folder() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("later.jsonl");
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(&file, &workers, StartAt::Committed);
    fs::write(&file, "{1}\n").unwrap();
    workers.until("the late file", |seen| seen.texts() == ["{1}"]);
    reader.stop();

    let made = folder.path().join("in").join("box");
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(&made, &workers, StartAt::Committed);
    eventually("the folder", || made.is_dir());
    fs::write(made.join("b.jsonl"), "{b}\n").unwrap();
    fs::write(made.join("b.txt"), "{no}\n").unwrap();
    workers.until("the first file", |seen| seen.sorted() == ["{b}"]);
    fs::write(made.join("a.jsonl"), "{a}\n").unwrap();
    let seen = workers.until("the second file", |seen| seen.sorted() == ["{a}", "{b}"]);
    assert_eq!(seen.assigned.len(), 2);
    reader.stop();
}

#[test]
fn processes_that_follow_one_folder_agree_who_reads_which_file() {
    let folder = TempDir::new().unwrap();
    let text = |n| format!("{{\"file\": {n}}}\n");
    for n in 0..20 {
        write(&folder, &format!("{n}.jsonl"), text(n));
    }
    let mut processes = [Workers::new(0, 2, 4), Workers::new(2, 2, 4)];
    let readers: Vec<Reader> =
        processes.iter().map(|workers| follow(folder.path(), workers, StartAt::Committed)).collect();
    for n in 20..40 {
        write(&folder, &format!("{n}.jsonl"), text(n));
    }
    write(&folder, "zz.jsonl", "{\"last\"}\n");
    let deadline = Instant::now() + source::DEADLINE;
    let total = |p: &[Workers; 2]| p[0].seen.count() + p[1].seen.count();
    while total(&processes) < 41 {
        assert!(Instant::now() < deadline, "{} of 41 files", total(&processes));
        for workers in &mut processes {
            let polls = std::cell::Cell::new(0);
            workers.until("a few messages", |_| polls.replace(polls.get() + 1) == 2);
        }
    }
    let mut all = processes[0].seen.sorted();
    all.extend(processes[1].seen.sorted());
    all.sort();
    let mut expected: Vec<String> = (0..40).map(|n| text(n).trim().to_owned()).collect();
    expected.push("{\"last\"}".into());
    expected.sort();
    assert_eq!(all, expected);
    readers.into_iter().for_each(Reader::stop);
}

#[test]
fn a_restart_goes_on_behind_the_positions_that_were_kept() {
    let folder = TempDir::new().unwrap();
    let one = write(&folder, "1.jsonl", "{1a}\n{1b}\n");
    write(&folder, "2.jsonl", "{2a}\n");
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(folder.path(), &workers, StartAt::Committed);
    let seen = workers.until("three lines", |seen| seen.count() == 3);
    let positions = seen.next.iter().map(|(id, next)| (*id, *next)).collect();
    reader.stop();
    append(&one, "{1c}\n");
    write(&folder, "0.jsonl", "{0a}\n");
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(folder.path(), &workers, StartAt::Positions(positions));
    let seen = workers.until("the new lines", |seen| seen.count() >= 2 && seen.all_caught_up());
    assert_eq!(seen.sorted(), ["{0a}", "{1c}"]);
    assert_eq!(seen.assigned.len(), 3);
    reader.stop();
}

#[test]
fn a_truncated_file_is_read_again_as_a_new_partition() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "events.jsonl", "{1}\n{2}\n{3}\n");
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(&path, &workers, StartAt::Committed);
    workers.until("three lines", |seen| seen.count() == 3 && seen.all_caught_up());
    // The same first line: only the length tells.
    fs::write(&path, "{1}\n").unwrap();
    workers.until("the new content", |seen| seen.count() == 4 && seen.finished.len() == 1);
    File::create(&path).unwrap();
    append(&path, "{5}\n{6}\n");
    let seen = workers.until("the newest content", |seen| seen.count() == 6 && seen.finished.len() == 2);
    assert_eq!(seen.assigned.len(), 3);
    assert_eq!(seen.sorted(), ["{1}", "{1}", "{2}", "{3}", "{5}", "{6}"]);
    reader.stop();
}

#[test]
fn a_rotated_file_is_read_to_its_very_end_beside_the_new_one() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "events.jsonl", "{1}\n");
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(&path, &workers, StartAt::Committed);
    let seen = workers.until("the first line", |seen| seen.all_caught_up());
    let old = seen.partitions()[0];
    let rotated = folder.path().join("events.jsonl.1");
    fs::rename(&path, &rotated).unwrap();
    fs::write(&path, "{new}\n").unwrap();
    // The writer hasn't noticed yet.
    append(&rotated, "{2}\n{3");
    append(&rotated, "}");
    let seen = workers.until("both files", |seen| seen.finished.contains(&old));
    assert_eq!(seen.sorted(), ["{1}", "{2}", "{3}", "{new}"]);
    assert_eq!(seen.records[&old].len(), 3);
    reader.stop();
}

#[test]
fn a_pipe_is_read_like_a_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let mut content = lines("x", 20_000).into_bytes();
    content.extend(vec![b'y'; 3 * LIMIT]);
    content.extend(b"\n{1}\n\n{2}");
    let mut workers = Workers::new(0, 1, 1);
    let reader = files(std::slice::from_ref(&path), &workers);
    let to_write = content.clone();
    let writer = std::thread::spawn(move || fs::write(path, to_write));
    let seen = workers.until("the end", |seen| seen.ended.len() == 1);
    writer.join().unwrap().unwrap();
    assert_eq!(seen.count(), 20_003);
    let records = &seen.records[&partition(0)];
    assert_eq!(records[20_000].bytes.len(), MAX_RECORD);
    assert_eq!(records[20_001].bytes, b"{1}");
    assert_eq!((records[20_002].bytes.as_slice(), records[20_002].offset), (&b"{2}"[..], content.len() as u64 - 3));
    assert_eq!(seen.next[&partition(0)], content.len() as u64);
    reader.stop();
}

#[test]
fn a_silent_pipe_is_caught_up_when_it_is_followed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(&path, &workers, StartAt::Committed);
    let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(b"{1}\n{2").unwrap();
    let seen = workers.until("the pause", |seen| seen.count() == 1 && seen.all_caught_up());
    assert_eq!(seen.texts(), ["{1}"]);
    drop(writer);
    let seen = workers.until("the end", |seen| seen.ended.len() == 1);
    assert_eq!(seen.texts(), ["{1}", "{2"]);
    reader.stop();
}

#[test]
fn with_each_batch_comes_where_the_file_ends() {
    let folder = TempDir::new().unwrap();
    let text = lines("a", 6_000);
    let path = write(&folder, "a.jsonl", &text);
    let mut workers = Workers::new(0, 1, 1);
    let reader = follow(&path, &workers, StartAt::Committed);
    let seen = workers.until("all lines", |seen| seen.count() == 6_000 && seen.all_caught_up());
    let (read, end) = seen.first.values().next().copied().unwrap();
    assert!(read <= BATCH_BYTES as u64 && end == Some(text.len() as u64), "{read}, {end:?}");
    append(&path, &lines("b", 1));
    let seen = workers.until("one more", |seen| seen.count() == 6_001);
    assert_eq!(seen.ends.values().copied().collect::<Vec<_>>(), [path.metadata().unwrap().len()]);
    reader.stop();
}
