//! `rules test`, through the binary.

use std::fs;
use std::path::Path;
use std::process::Command;

const RULES: &str = "rules:
  - id: EXFIL
    name: n
    severity: high
    conditions:
      - type: sequence
        window: 1m
        events:
          - {event_type: file_access, target_glob: /secret/**}
          - {event_type: network_egress}
  - {id: OTHER, name: n, severity: low, conditions: [{type: threshold, window: 1m, event_type: patch_apply, count: '>= 1'}]}
";

const TESTS: &str = "tests:
  - name: reads, then sends
    events:
      - {event_type: file_access, target: /secret/a}
      - {at: 1m, event_type: network_egress, target: 'h<>&.example'}
    expect: [{rule: EXFIL, at: 1m, matches: 1, evidence: 2}]
  - name: sends too late
    events:
      - {event_type: file_access, target: /secret/a}
      - {at: 60001ms, event_type: network_egress}
    expect: []
";

/// Exit code, standard output, standard error.
fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let binary = env!("CARGO_BIN_EXE_clawdstrike-edr");
    let out = Command::new(binary).args(["rules", "test"]).args(args).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

fn folder(tests: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), RULES).unwrap();
    fs::write(folder.path().join("p.test.yaml"), tests).unwrap();
    folder
}

#[test]
fn passes_and_names_rules_that_no_test_makes_fire() {
    let folder = folder(TESTS);
    for path in [".", "p.yaml", "p.test.yaml"] {
        let (code, out, _) = run(folder.path(), &[path]);
        assert_eq!(code, 0, "{out}");
        assert!(
            out.contains("no test makes these fire: OTHER") && out.contains("2 tests: 2 passed, 0 failed"),
            "{out}"
        );
    }
}

#[test]
fn tells_each_difference_with_its_line_and_exits_with_1() {
    let tests = TESTS
        .replace(
            "[{rule: EXFIL, at: 1m, matches: 1, evidence: 2}]",
            "[{rule: EXFIL, at: 59s, matches: 2}, {rule: OTHER}]",
        )
        .replace("60001ms", "59s");
    let folder = folder(&tests);
    let (code, out, _) = run(folder.path(), &[".", "--junit", "report.xml"]);
    assert_eq!(code, 1);
    for line in [
        "FAILED ./p.test.yaml:2 reads, then sends",
        "line 6: EXFIL: at: expected 59s, found 1m",
        "line 6: EXFIL: matches: expected 2, found 1",
        "line 6: OTHER raised no alert",
        "EXFIL raised 1 alert, which the test doesn't expect; the first at 59s, because of /secret/a, ",
        "2 tests: 0 passed, 2 failed",
    ] {
        assert!(out.contains(line), "{line}\n---\n{out}");
    }
    let report = fs::read_to_string(folder.path().join("report.xml")).unwrap();
    assert!(report.contains("tests=\"2\" failures=\"2\"") && report.contains("expected 59s, found 1m"), "{report}");
    let (code, out, _) = run(folder.path(), &[".", "--output", "json", "--filter", "too late"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["failed"], json["suites"][0]["tests"].as_array().unwrap().len()), (1, &1.into(), 1));
}

#[test]
fn wrong_files_are_explained() {
    let (code, _, err) =
        run(folder("tests: [{name: a, events: [{event_type: file_acess}], expect: []}]").path(), &["."]);
    assert!(code == 1 && err.contains("did you mean \"file_access\"?") && err.contains("p.test.yaml:1"), "{err}");
    let untested = tempfile::tempdir().unwrap();
    fs::write(untested.path().join("q.yaml"), RULES).unwrap();
    let (code, _, err) = run(untested.path(), &["q.yaml"]);
    assert!(code == 1 && err.contains("\"q.yaml\" has no tests: write them to \"q.test.yaml\""), "{err}");
    let (code, _, err) = run(untested.path(), &["."]);
    assert!(code == 1 && err.contains("no tests in \".\""), "{err}");
    let (code, _, err) = run(folder(TESTS).path(), &[".", "--filter", "nothing"]);
    assert!(code == 1 && err.contains("no test's name contains \"nothing\""), "{err}");
}
