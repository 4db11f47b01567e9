//! The shipped rules: their tests pass, every rule is made to fire, and no part of a rule is idle: taking any of them
//! away makes some test of its pack fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clawdstrike_edr::runtime::rule_tests;
use clawdstrike_rules::plan::{Absence, Condition, Matcher, NewValue, Rule, RuleSet, Step, Threshold};
use clawdstrike_rules::rule_tests::{TestFile, parse_tests};
use clawdstrike_rules::{SourceFile, compile};

/// A rule file with its tests.
struct Pack {
    name: String,
    set: RuleSet,
    tests: TestFile,
}

fn packs() -> Vec<Pack> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["rules", "packs"] {
        let entries = fs::read_dir(root.join(folder)).expect("a folder of rules");
        files.extend(entries.map(|e| e.expect("an entry").path()));
    }
    files.retain(|f| f.to_string_lossy().ends_with(".test.yaml"));
    files.sort();
    files.iter().map(|file| pack(file)).collect()
}

fn pack(tests: &Path) -> Pack {
    let read = |path: &Path| SourceFile {
        name: path.file_name().expect("a name").to_string_lossy().into_owned(),
        text: fs::read_to_string(path).expect("a file"),
    };
    let rules = PathBuf::from(tests.to_string_lossy().replace(".test.yaml", ".yaml"));
    let compiled = compile(&[read(&rules)]).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(compiled.warnings.is_empty(), "{}: {:?}", rules.display(), compiled.warnings);
    let tests = parse_tests(&read(tests)).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(tests.with.is_empty(), "packs stand alone");
    Pack { name: read(&rules).name, set: compiled.set, tests }
}

/// Runs all tests of a pack under a rule set; whether some fails.
fn some_test_fails(set: &RuleSet, tests: &TestFile) -> bool {
    tests.tests.iter().any(|test| !rule_tests::run(set, test).expect("a run").0.is_empty())
}

#[test]
fn all_tests_pass_and_every_rule_fires() {
    let mut rules = 0;
    for pack in packs() {
        let mut fired = Vec::new();
        for test in &pack.tests.tests {
            let (problems, rules) = rule_tests::run(&pack.set, test).expect("a run");
            assert!(problems.is_empty(), "{}: \"{}\": {problems:#?}", pack.name, test.name);
            fired.extend(rules);
        }
        for rule in &pack.set.rules {
            assert!(fired.contains(&rule.id), "{}: no test makes {} fire", pack.name, rule.id);
            assert!(!rule.description.is_empty(), "{} has no description", rule.id);
        }
        rules += pack.set.rules.len();
    }
    assert!(rules > 40, "{rules} rules");
}

#[test]
fn no_part_of_a_rule_is_idle() {
    let packs = packs();
    let rules: Vec<(&Pack, usize)> = packs.iter().flat_map(|p| (0..p.set.rules.len()).map(move |n| (p, n))).collect();
    let next = AtomicUsize::new(0);
    let idle = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((pack, n)) = rules.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = idle_parts(pack, *n);
                    idle.lock().expect("no thread has panicked").extend(found);
                }
            });
        }
    });
    let idle = idle.into_inner().expect("no thread has panicked");
    assert!(idle.is_empty(), "no test notices:\n{}", idle.join("\n"));
}

fn idle_parts(pack: &Pack, n: usize) -> Vec<String> {
    let rule = &pack.set.rules[n];
    let mut idle = Vec::new();
    for (part, mutant) in mutants(rule) {
        let mut set = pack.set.clone();
        set.rules[n] = mutant;
        if !some_test_fails(&set, &pack.tests) {
            idle.push(format!("{}: {} without {part}", pack.name, rule.id));
        }
    }
    idle
}

/// The rule with one part taken away, each in turn.
fn mutants(rule: &Rule) -> Vec<(String, Rule)> {
    let mut out = Vec::new();
    for (c, condition) in rule.conditions.iter().enumerate() {
        if rule.conditions.len() > 1 {
            let mut mutant = rule.clone();
            mutant.conditions.remove(c);
            out.push((format!("condition {}", c + 1), mutant));
        }
        for (part, changed) in without_parts(condition) {
            let mut mutant = rule.clone();
            mutant.conditions[c] = changed;
            out.push((format!("{part} of condition {}", c + 1), mutant));
        }
    }
    out
}

fn without_parts(condition: &Condition) -> Vec<(String, Condition)> {
    let mut out = Vec::new();
    match condition {
        Condition::Sequence(s) => {
            for n in 0..s.steps.len() {
                let mut changed = s.clone();
                changed.steps.remove(n);
                if let Some(first) = changed.steps.first_mut() {
                    first.without = None;
                    out.push((format!("step {}", n + 1), Condition::Sequence(changed)));
                }
                let step = |f: &dyn Fn(&mut Step)| {
                    let mut changed = s.clone();
                    f(&mut changed.steps[n]);
                    Condition::Sequence(changed)
                };
                if s.steps[n].count > 1 {
                    out.push((format!("the count of step {}", n + 1), step(&|s| s.count = 1)));
                }
                if s.steps[n].without.is_some() {
                    out.push((format!("the without of step {}", n + 1), step(&|s| s.without = None)));
                }
                for (test, matcher) in without_tests(&s.steps[n].matcher) {
                    out.push((format!("{test} of step {}", n + 1), step(&|s| s.matcher = matcher.clone())));
                }
            }
            if s.until.is_some() {
                let mut changed = s.clone();
                changed.until = None;
                out.push(("until".into(), Condition::Sequence(changed)));
            }
        }
        Condition::Threshold(t) => {
            if t.count.is_some_and(|k| k > 1) {
                out.push(("count".into(), Condition::Threshold(Threshold { count: Some(1), ..t.clone() })));
            }
            if t.unique_targets.is_some() {
                let changed = Threshold { count: t.count.or(Some(1)), unique_targets: None, ..t.clone() };
                out.push(("unique_targets".into(), Condition::Threshold(changed)));
            }
            if t.distinct.is_some() {
                let changed = Threshold { count: t.count.or(Some(1)), distinct: None, ..t.clone() };
                out.push(("distinct".into(), Condition::Threshold(changed)));
            }
            for (test, matcher) in without_tests(&t.matcher) {
                out.push((test, Condition::Threshold(Threshold { matcher, ..t.clone() })));
            }
        }
        Condition::Pattern(p) => {
            for n in 0..p.matchers.len() {
                if p.matchers.len() > 1 && p.at_least as usize == p.matchers.len() {
                    let mut changed = p.clone();
                    changed.matchers.remove(n);
                    changed.at_least -= 1;
                    out.push((format!("matcher {}", n + 1), Condition::Pattern(changed)));
                }
                for (test, matcher) in without_tests(&p.matchers[n]) {
                    let mut changed = p.clone();
                    changed.matchers[n] = matcher;
                    out.push((format!("{test} of matcher {}", n + 1), Condition::Pattern(changed)));
                }
            }
            if (p.at_least as usize) < p.matchers.len() && p.at_least > 1 {
                let mut changed = p.clone();
                changed.at_least -= 1;
                out.push(("one of at_least".into(), Condition::Pattern(changed)));
            }
        }
        Condition::Absence(a) => {
            for (test, trigger) in without_tests(&a.trigger) {
                let changed = Absence { trigger, ..a.clone() };
                out.push((format!("{test} of the trigger"), Condition::Absence(changed)));
            }
        }
        Condition::NewValue(v) => {
            if v.learn > 0 {
                let changed = NewValue { learn: 0, ..v.clone() };
                out.push(("learn".into(), Condition::NewValue(changed)));
            }
            for (test, matcher) in without_tests(&v.matcher) {
                out.push((test, Condition::NewValue(NewValue { matcher, ..v.clone() })));
            }
        }
    }
    out
}

/// The matcher without one of its tests, each in turn.
fn without_tests(matcher: &Matcher) -> Vec<(String, Matcher)> {
    let without = |n: usize| {
        let mut changed = matcher.clone();
        let test = changed.tests.remove(n);
        (format!("the test {}", shorten(&format!("{test:?}"))), changed)
    };
    (0..matcher.tests.len()).map(without).collect()
}

fn shorten(text: &str) -> String {
    text.chars().take(90).collect()
}
