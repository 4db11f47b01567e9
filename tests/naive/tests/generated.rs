//! The generator and the evaluator on each other: generated sets compile, they both fire and stay silent, and the
//! order of arrival changes nothing.

use std::collections::{BTreeMap, HashSet};

use clawdstrike_naive::generate::{Case, Level, Sizes, case, rules};
use clawdstrike_naive::{Options, Outcome, SECOND, evaluate};
use clawdstrike_rules::plan::{Condition, RuleSet};
use clawdstrike_rules::{SourceFile, compile};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

fn compiled(text: &str) -> RuleSet {
    let file = SourceFile { name: "generated.yaml".to_owned(), text: text.to_owned() };
    compile(&[file]).unwrap_or_else(|errors| panic!("{errors}\n{text}")).set
}

fn outcome(case: &Case) -> Outcome {
    evaluate(&compiled(&case.rules), &case.files, &case.options)
}

fn kind(condition: &Condition) -> &'static str {
    match condition {
        Condition::Sequence(_) => "sequence",
        Condition::Threshold(_) => "threshold",
        Condition::Pattern(_) => "pattern",
        Condition::Absence(_) => "absence",
        Condition::NewValue(_) => "new_value",
    }
}

/// How a level's cases came out.
#[derive(Debug, Default)]
struct Mix {
    /// Rules that fired, and rules, by kind of the only condition (`several` for more).
    kinds: BTreeMap<&'static str, (u32, u32)>,
    /// Cases in which some rule fired and some didn't.
    mixed: u64,
}

fn mix(level: Level, seeds: u64) -> Mix {
    let mut mix = Mix::default();
    for seed in 0..seeds {
        let case = case(seed, level, &Sizes::default());
        let set = compiled(&case.rules);
        let outcome = evaluate(&set, &case.files, &case.options);
        let fired: HashSet<_> = outcome.alerts.iter().map(|a| a.rule_id.as_str()).collect();
        mix.mixed += u64::from(!fired.is_empty() && fired.len() < set.rules.len());
        for rule in &set.rules {
            let kind = match rule.conditions.as_slice() {
                [one] => kind(one),
                _ => "several",
            };
            let (some, all) = mix.kinds.entry(kind).or_default();
            *some += u32::from(fired.contains(rule.id.as_str()));
            *all += 1;
        }
    }
    mix
}

#[test]
fn every_kind_of_condition_both_fires_and_stays_silent() {
    const SEEDS: u64 = 200;
    for (level, kinds) in [(Level::Subset, 3), (Level::Full, 6)] {
        let mix = mix(level, SEEDS);
        assert_eq!(mix.kinds.len(), kinds, "{level:?}: {mix:?}");
        assert!(mix.mixed > SEEDS * 8 / 10, "{level:?}: {mix:?}");
        for (fired, all) in mix.kinds.values() {
            let percent = 100 * fired / all;
            assert!((15..=90).contains(&percent), "{level:?}: {mix:?}");
        }
    }
}

#[test]
fn streams_hold_copies_dead_letters_and_events_without_id() {
    let (mut copies, mut nameless, mut resumed) = (0, 0, 0);
    let mut reasons = HashSet::new();
    for seed in 0..100 {
        let outcome = outcome(&case(seed, Level::Subset, &Sizes::default()));
        copies += outcome.copies;
        reasons.extend(outcome.dead.into_keys());
        resumed += outcome.sessions.iter().filter(|life| life.resumed).count();
        let evidence = outcome.alerts.iter().flat_map(|alert| &alert.evidence);
        nameless += evidence.filter(|(id, _)| id.contains(':')).count();
    }
    assert!(copies > 100 && nameless > 100 && resumed > 10, "{copies} {nameless} {resumed}");
    assert!(reasons.len() >= 10, "{reasons:?}");
}

#[test]
fn records_are_untimely_only_if_asked() {
    let timely = Sizes::default();
    let untimely = Sizes { untimely: 100, ..timely };
    let retimed = |sizes| -> u64 { (0..100).map(|seed| outcome(&case(seed, Level::Subset, sizes)).retimed).sum() };
    assert_eq!(retimed(&timely), 0);
    assert!(retimed(&untimely) > 300);
}

#[test]
fn streams_are_out_of_order_only_if_asked() {
    let ordered = Sizes { disorder: false, files: 1, ..Sizes::default() };
    // Without lateness every record must be at least as new as all before it.
    let retimed = |sizes| -> u64 {
        (0..50)
            .map(|seed| {
                let mut case = case(seed, Level::Subset, sizes);
                case.options.max_lateness = 0;
                outcome(&case).retimed
            })
            .sum()
    };
    assert_eq!(retimed(&ordered), 0);
    assert!(retimed(&Sizes::default()) > 50);
}

#[test]
fn smaller_sizes_give_a_prefix() {
    let few = rules(7, Level::Full, 2);
    let many = rules(7, Level::Full, 5);
    let rule = |text: &str, index| text.lines().nth(index).map(str::to_owned);
    assert_eq!((rule(&few, 1), rule(&few, 2)), (rule(&many, 1), rule(&many, 2)));
    let ordered = |records| Sizes { records, files: 1, disorder: false, ..Sizes::default() };
    let short = case(7, Level::Full, &ordered(40)).files.remove(0);
    let long = case(7, Level::Full, &ordered(60)).files.remove(0);
    // Records of one time may stand in another order, so compare all but the last second.
    let lines = |file: &[u8]| file.split(|b| *b == b'\n').count();
    assert!(long.starts_with(&short[..short.len() / 2]) && lines(&short) < lines(&long));
}

proptest! {
    // The case's seed is among its arguments, so a failure tells all there is to keep.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_and_the_split_into_files_change_nothing(seed: u64, records in 1_usize..120) {
        let sizes = Sizes { records, anonymous: false, ..Sizes::default() };
        let mut case = case(seed, Level::Full, &sizes);
        // Wide enough for any order of a stream that lasts some days.
        case.options = Options { max_lateness: 90 * 24 * 3600 * SECOND, ..case.options };
        let straight = outcome(&case);
        let mut lines: Vec<Vec<u8>> = case
            .files
            .iter()
            .flat_map(|file| file.split(|byte| *byte == b'\n'))
            .map(<[u8]>::to_vec)
            .collect();
        lines.shuffle(&mut StdRng::seed_from_u64(seed));
        case.files = lines.chunks(30).map(|some| some.join(&b'\n')).collect();
        prop_assert_eq!(outcome(&case), straight);
    }
}
