//! `rules test`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use clawdstrike_rules::compile;
use clawdstrike_rules::plan::RuleSet;
use clawdstrike_rules::rule_tests::{TestFile, parse_tests};
use serde_json::json;

use super::count;
use crate::cli::output::{Format, Out, tell};
use crate::cli::{Exit, OutputArgs};
use crate::rule_files;
use crate::runtime::rule_tests;

/// Run the tests beside rule files: events, and the alerts they must raise; no engine needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  clawdstrike-edr rules test rules
  clawdstrike-edr rules test packs/asi01-goal-hijack.test.yaml --filter 'near miss'
  clawdstrike-edr rules test packs --junit report.xml

The tests of X.yaml stand in X.test.yaml beside it; docs/rules/tests.md tells how they are written. Exits with 1 if a test
fails, or if there is none.")]
pub(in crate::cli) struct TestArgs {
    /// Test files, rule files with tests beside them, and folders of them.
    #[arg(value_name = "PATH", default_value = "rules")]
    paths: Vec<PathBuf>,
    /// Only tests whose name contains this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Also write a report in JUnit's XML here.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// A pack with its tests, and how they went.
struct Suite {
    name: String,
    results: Vec<Tested>,
    /// Enabled rules of the pack that no test has made fire.
    silent: Vec<String>,
}

struct Tested {
    name: String,
    line: u32,
    problems: Vec<String>,
    took: Duration,
}

pub(super) fn run(args: TestArgs) -> anyhow::Result<Exit> {
    let mut files = BTreeSet::new();
    for path in &args.paths {
        find(path, &mut files)?;
    }
    anyhow::ensure!(
        !files.is_empty(),
        "no tests in {}: the tests of X.yaml stand in X.test.yaml beside it",
        args.paths.iter().map(|p| format!("\"{}\"", p.display())).collect::<Vec<_>>().join(", ")
    );
    let suites: Vec<Suite> = files.iter().map(|file| run_file(file, &args.filter)).collect::<anyhow::Result<_>>()?;
    if let Some(path) = &args.junit {
        std::fs::write(path, junit(&suites)).with_context(|| format!("the report \"{}\"", path.display()))?;
    }
    let mut out = Out::new();
    let tested: Vec<&Tested> = suites.iter().flat_map(|s| &s.results).collect();
    let failed = tested.iter().filter(|t| !t.problems.is_empty()).count();
    match args.output.output {
        Format::Json => out.document(&as_json(&suites))?,
        Format::Table => {
            for suite in &suites {
                print(&mut out, suite)?;
            }
            let passed = tested.len() - failed;
            out.line(&format!("{}: {passed} passed, {failed} failed", count(tested.len(), "test", "tests")))?;
        }
    }
    out.flush()?;
    if tested.is_empty() {
        tell(&format!("error: no test's name contains \"{}\"", args.filter));
    }
    Ok(if failed == 0 && !tested.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// Adds the test files that a path stands for.
fn find(path: &Path, files: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("rules \"{shown}\""))?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| format!("rules folder \"{shown}\""))? {
            let entry = entry?.path();
            let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && (entry.is_dir() || rule_files::is_test(&entry)) {
                find(&entry, files)?;
            }
        }
    } else if rule_files::is_test(path) {
        files.insert(path.to_path_buf());
    } else {
        let tests = path.with_extension("test.yaml");
        anyhow::ensure!(tests.is_file(), "\"{shown}\" has no tests: write them to \"{}\"", tests.display());
        files.insert(tests);
    }
    Ok(())
}

/// The rule file that a test file belongs to.
fn pack_of(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.rsplit_once('.').and_then(|(stem, _)| stem.len().checked_sub(".test".len()).map(|n| &stem[..n]));
    let pack = |extension: &str| file.with_file_name(format!("{}.{extension}", stem.unwrap_or_default()));
    let yml = pack("yml");
    if yml.is_file() { yml } else { pack("yaml") }
}

fn run_file(file: &Path, filter: &str) -> anyhow::Result<Suite> {
    let source = rule_files::read_file(file).map_err(anyhow::Error::msg)?;
    let tests = parse_tests(&source).map_err(anyhow::Error::msg)?;
    let (set, own) = rules_of(file, &tests)?;
    let mut fired = BTreeSet::new();
    let mut results = Vec::new();
    for test in tests.tests.iter().filter(|t| t.name.contains(filter)) {
        let began = Instant::now();
        let (problems, rules) = rule_tests::run(&set, test).map_err(anyhow::Error::msg)?;
        fired.extend(rules);
        results.push(Tested { name: test.name.clone(), line: test.line, problems, took: began.elapsed() });
    }
    let silent = own.into_iter().filter(|rule| filter.is_empty() && !fired.contains(rule)).collect();
    Ok(Suite { name: source.name, results, silent })
}

/// The rules under test, with the ids of the pack's own.
fn rules_of(file: &Path, tests: &TestFile) -> anyhow::Result<(RuleSet, Vec<String>)> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut paths = vec![pack_of(file)];
    paths.extend(tests.with.iter().map(|name| folder.join(name)));
    let files = rule_files::read(&paths).map_err(anyhow::Error::msg)?.files;
    let set = compile(&files).map_err(anyhow::Error::msg)?.set;
    let own = set.rules.iter().filter(|rule| rule.origin.file == files[0].name).map(|rule| rule.id.clone()).collect();
    Ok((set, own))
}

fn print(out: &mut Out, suite: &Suite) -> anyhow::Result<()> {
    for tested in &suite.results {
        if tested.problems.is_empty() {
            continue;
        }
        out.text(&format!("FAILED {}:{} {}", suite.name, tested.line, tested.name))?;
        for problem in &tested.problems {
            out.text(&format!("  {problem}"))?;
        }
    }
    let passed = suite.results.iter().filter(|t| t.problems.is_empty()).count();
    out.text(&format!("{}: {passed} of {} passed", suite.name, suite.results.len()))?;
    if !suite.silent.is_empty() {
        out.text(&format!("  no test makes these fire: {}", suite.silent.join(", ")))?;
    }
    Ok(())
}

fn as_json(suites: &[Suite]) -> serde_json::Value {
    let suite = |s: &Suite| {
        let test = |t: &Tested| json!({"name": t.name, "line": t.line, "passed": t.problems.is_empty(), "problems": t.problems});
        json!({"file": s.name, "tests": s.results.iter().map(test).collect::<Vec<_>>(), "never_fired": s.silent})
    };
    let failed = suites.iter().flat_map(|s| &s.results).filter(|t| !t.problems.is_empty()).count();
    json!({"ok": failed == 0, "failed": failed, "suites": suites.iter().map(suite).collect::<Vec<_>>()})
}

/// JUnit's XML, as CI servers read it.
fn junit(suites: &[Suite]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for suite in suites {
        let failed = suite.results.iter().filter(|t| !t.problems.is_empty()).count();
        let (name, tests) = (escaped(&suite.name), suite.results.len());
        xml += &format!("  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failed}\">\n");
        for tested in &suite.results {
            let (test, took) = (escaped(&tested.name), tested.took.as_secs_f64());
            xml += &format!("    <testcase classname=\"{name}\" name=\"{test}\" time=\"{took:.3}\"");
            if tested.problems.is_empty() {
                xml += "/>\n";
                continue;
            }
            let problems = escaped(&tested.problems.join("\n"));
            xml +=
                &format!(">\n      <failure message=\"line {}\">{problems}</failure>\n    </testcase>\n", tested.line);
        }
        xml += "  </testsuite>\n";
    }
    xml + "</testsuites>\n"
}

/// Text as XML 1.0 may hold it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '"' => out += "&quot;",
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
