use super::*;

fn trail(rows: u64, file_bytes: u64) -> (tempfile::TempDir, Audit) {
    let folder = tempfile::tempdir().expect("a folder");
    let audit = Audit { file_bytes, ..Audit::of(folder.path()) };
    (0..rows).for_each(|n| assert_eq!(audit.append(entry(n)), Ok(n + 1)));
    (folder, audit)
}

fn entry(n: u64) -> Entry {
    Entry::new(Who::kind("engine"), "test", Outcome::Done).with("n", n).with("text", "ü".repeat(5))
}

fn text(audit: &Audit) -> String {
    std::fs::read_to_string(audit.current()).expect("a file")
}

fn write(audit: &Audit, text: &str) {
    std::fs::write(audit.current(), text).expect("written");
}

#[test]
fn rows_are_chained_and_anybody_can_recompute_the_hashes() {
    let (_folder, audit) = trail(3, FILE_BYTES);
    let verified = audit.verify().expect("whole");
    assert_eq!((verified.first, verified.last), (1, 3));
    let text = text(&audit);
    let lines: Vec<&str> = text.lines().collect();
    let hash = |line: &str| line[line.len() - 66..line.len() - 2].to_owned();
    let body = format!("{}}}", &lines[1][..lines[1].len() - 75]);
    assert_eq!(sha256(body.as_bytes()), hash(lines[1]));
    let last: Value = serde_json::from_str(lines[2]).expect("JSON");
    assert_eq!(last["prev"], hash(lines[1]));
    assert_eq!((&last["seq"], &last["detail"]["n"]), (&json!(3), &json!(2)));
}

#[test]
fn whatever_is_done_to_a_row_shows_and_is_named() {
    let (_folder, audit) = trail(5, FILE_BYTES);
    let whole = text(&audit);
    let lines: Vec<&str> = whole.lines().collect();
    let cases: [(&str, Vec<&str>, &str); 6] = [
        ("changed", vec![lines[0], "x", lines[2], lines[3], lines[4]], "line 2"),
        ("removed", vec![lines[0], lines[2], lines[3], lines[4]], "line 2"),
        ("removed at the beginning", lines[1..].to_vec(), "line 1"),
        ("removed at the end", lines[..3].to_vec(), "rows 4 to 5 are missing"),
        ("reordered", vec![lines[0], lines[2], lines[1], lines[3], lines[4]], "line 2"),
        ("doubled", vec![lines[0], lines[1], lines[1], lines[2], lines[3], lines[4]], "line 3"),
    ];
    for (what, kept, expected) in cases {
        write(&audit, &format!("{}\n", kept.join("\n")));
        let error = audit.verify().expect_err(what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    let changed = whole.replacen("\"n\":1", "\"n\":7", 1);
    write(&audit, &changed);
    assert!(audit.verify().is_err_and(|e| e.contains("line 2") && e.contains("hash")));
    // A row made anew with a hash of its own: the next one doesn't name it.
    let (row, _) = open(lines[1]).expect("a row");
    let forged = seal(&Row { time: "2020-01-01T00:00:00.000000Z".into(), ..row }).expect("a row").0;
    write(&audit, &whole.replacen(&format!("{}\n", lines[1]), &forged, 1));
    assert!(audit.verify().is_err_and(|e| e.contains("line 3") && e.contains("row 2")));
    write(&audit, &whole);
    assert!(audit.verify().is_ok());
}

#[test]
fn a_torn_last_line_is_named_by_the_next_row_and_never_skipped() {
    let (_folder, audit) = trail(3, FILE_BYTES);
    let whole = text(&audit);
    let lines: Vec<&str> = whole.lines().collect();
    for cut in [1, lines[2].len() / 2, lines[2].len()] {
        // The third row's writer was killed; the head is still the second's.
        let (row, hash) = open(lines[1]).expect("a row");
        audit.set_head(&Link { seq: row.seq, hash }).expect("a head");
        write(&audit, &format!("{}\n{}\n{}", lines[0], lines[1], &lines[2][..cut]));
        let verified = audit.verify().expect("a torn end breaks no chain");
        assert_eq!(verified.torn_end.is_some(), cut < lines[2].len(), "{verified:?}");
        let seq = audit.append(entry(9)).expect("a row");
        let verified = audit.verify().unwrap_or_else(|e| panic!("cut {cut}: {e}"));
        assert_eq!((verified.last, verified.torn_end), (seq, None));
        // Where only the line's end was missing, the row is there.
        let torn = cut < lines[2].len();
        assert_eq!((verified.torn.len(), seq), (usize::from(torn), 4), "cut {cut}");
        assert!(verified.torn.iter().all(|place| place.contains("line 3")), "{:?}", verified.torn);
    }
}

#[test]
fn a_full_file_is_closed_and_the_chain_goes_on() {
    let (_folder, audit) = trail(40, MAX_ROW_BYTES as u64 + 4_000);
    assert!(audit.files().expect("files").len() > 2);
    assert_eq!(audit.verify().map(|v| (v.first, v.last)), Ok((1, 40)));
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = audit.page(before, 7).expect("a page");
        assert_eq!(page.unreadable, 0);
        seen.extend(page.rows.iter().map(|row| row["seq"].as_u64().expect("a number")));
        before = seen.last().copied();
        if page.rows.len() < 7 {
            break;
        }
    }
    assert_eq!(seen, (1..=40).rev().collect::<Vec<_>>());
    let (last, closed) = audit.files().expect("files")[0].clone();
    assert_eq!(Audit::verify_file(&closed).map(|v| (v.first, v.last)), Ok((1, last)));
    std::fs::remove_file(closed).expect("removed");
    assert!(audit.verify().is_err_and(|e| e.contains("missing")));
}

#[test]
fn several_writers_make_one_chain() {
    let (_folder, audit) = trail(0, FILE_BYTES);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|n| assert!(audit.append(entry(n)).is_ok())));
        }
    });
    assert_eq!(audit.verify().map(|v| (v.first, v.last)), Ok((1, 40)));
}

#[test]
fn a_row_is_bounded_and_an_emptied_trail_goes_on_from_its_head() {
    let (_folder, audit) = trail(1, FILE_BYTES);
    let mut large = entry(0);
    large.detail.insert("list".into(), vec!["x".repeat(100); MAX_ROW_BYTES / 50].into());
    audit.append(large).expect("a row");
    assert!(text(&audit).contains("left_out_bytes"));
    audit.verify().expect("whole");
    std::fs::remove_file(audit.current()).expect("removed");
    assert_eq!(audit.append(entry(1)), Ok(3));
    assert!(audit.verify().is_err_and(|e| e.contains("row 3 follows row 0")));
}

#[test]
fn a_copy_gets_each_row_once_over_all_files_and_everything_of_a_trail_that_is_behind_it() {
    let (folder, audit) = trail(0, 2 * MAX_ROW_BYTES as u64);
    assert_eq!(audit.uncopied(10), Ok(Vec::new()));
    // In several files.
    let long = |n: u64| entry(n).with("more", "x".repeat(1_000));
    (0..100).for_each(|n| assert_eq!(audit.append(long(n)), Ok(n + 1)));
    assert!(audit.files().expect("files").len() > 2);
    let mut seen = Vec::new();
    loop {
        let rows = audit.uncopied(7).expect("readable");
        let Some(last) = rows.last() else { break };
        audit.copied(last.seq).expect("written");
        seen.extend(rows);
    }
    assert_eq!(seen.iter().map(|row| row.seq).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
    assert!(seen.iter().all(|row| open(&row.line).is_some_and(|(_, hash)| hash == row.hash)));
    assert_eq!(seen[99].entry, long(99));
    // A folder that was restored from before.
    let (_older, backup) = trail(3, FILE_BYTES);
    for name in ["audit.jsonl", "audit.head"] {
        std::fs::copy(backup.folder.join(name), folder.path().join(name)).expect("restored");
    }
    audit.files().expect("files").into_iter().filter(|(last, _)| *last < u64::MAX).for_each(|(_, path)| {
        std::fs::remove_file(path).expect("removed");
    });
    let rows = audit.uncopied(7).expect("readable");
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [1, 2, 3]);
}
