//! `sequence`: steps in order within a window.

use clawdstrike_rules::plan::Sequence;

use crate::span::{Match, Span};

/// A step with count k is k places, so that a choice is one event for each place, each after the one before.
struct Place {
    /// From 1.
    step: u32,
    /// Which events may stand here.
    fits: Vec<bool>,
    /// No such event strictly between the place before and this one.
    without: Option<Vec<bool>>,
}

/// All matches of the condition.
pub(crate) fn matches(sequence: &Sequence, span: &Span<'_>) -> Vec<Match> {
    let wanted: u64 = sequence.steps.iter().map(|s| u64::from(s.count)).sum();
    if wanted > span.events.len() as u64 {
        return Vec::new();
    }
    let places = places(sequence, span);
    let until = sequence.until.as_ref().map(|m| span.present(m));
    (0..span.events.len())
        .filter_map(|e| {
            let choice = latest_choice(&places, until.as_deref(), sequence.window, e, span)?;
            let evidence = choice.into_iter().zip(places.iter().map(|p| p.step));
            Some(span.ends_at(e, evidence.collect()))
        })
        .collect()
}

fn places(sequence: &Sequence, span: &Span<'_>) -> Vec<Place> {
    let mut places = Vec::new();
    for (step, number) in sequence.steps.iter().zip(1..) {
        for nth in 0..step.count {
            places.push(Place {
                step: number,
                fits: span.filling(&step.matcher),
                without: step.without.as_ref().filter(|_| nth == 0).map(|matcher| span.present(matcher)),
            });
        }
    }
    places
}

/// The choice that ends at `e` whose first event is latest, then whose second is latest, and so on.
fn latest_choice(
    places: &[Place],
    until: Option<&[bool]>,
    window: i64,
    e: usize,
    span: &Span<'_>,
) -> Option<Vec<usize>> {
    if !places.last()?.fits[e] {
        return None;
    }
    let open = open_places(places, window, e, span);
    let strictly_inside = |flags: &[bool], first: usize| (first + 1..e).any(|i| flags[i]);
    let first =
        (0..=e).rev().find(|first| open[0][*first] && !until.is_some_and(|until| strictly_inside(until, *first)))?;
    let mut choice = vec![first];
    for place in 1..places.len() {
        let before = choice[place - 1];
        let next = followers(&places[place], &open[place], before, e).last()?;
        choice.push(next);
    }
    Some(choice)
}

/// `open[p][x]`: event x may stand at place p, and the places after it can be filled so that the last one is `e`.
fn open_places(places: &[Place], window: i64, e: usize, span: &Span<'_>) -> Vec<Vec<bool>> {
    let mut open = vec![vec![false; span.events.len()]; places.len()];
    let last = places.len() - 1;
    open[last][e] = true;
    for place in (0..last).rev() {
        for x in span.window(e, window) {
            open[place][x] =
                places[place].fits[x] && followers(&places[place + 1], &open[place + 1], x, e).next().is_some();
        }
    }
    open
}

/// The events after `before` (up to `e`) that are open at `place` with nothing forbidden strictly between.
fn followers(place: &Place, open: &[bool], before: usize, e: usize) -> impl Iterator<Item = usize> {
    let forbidden = |i: &usize| place.without.as_ref().is_some_and(|without| without[*i]);
    let end = (before + 1..e).find(forbidden).unwrap_or(e);
    (before + 1..=end).filter(|x| open[*x])
}

#[cfg(test)]
mod tests {
    use clawdstrike_rules::plan::{Condition, Matcher, RuleSet};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::ingest;
    use crate::matcher::Patterns;
    use crate::testing::{compile, lines};

    /// The definition word for word: all choices of so many events, those that hold, the greatest from the left.
    fn by_enumeration(sequence: &Sequence, span: &Span<'_>, e: usize) -> Option<Vec<usize>> {
        let steps: Vec<usize> = sequence
            .steps
            .iter()
            .enumerate()
            .flat_map(|(i, step)| std::iter::repeat_n(i, step.count as usize))
            .collect();
        let satisfied = |matcher: &Matcher, x: usize| span.present(matcher)[x];
        let between = |matcher: &Option<Matcher>, a: usize, b: usize| {
            matcher.as_ref().is_some_and(|m| (a + 1..b).any(|x| satisfied(m, x)))
        };
        let holds = |choice: &Vec<usize>| {
            let fits = |(x, i): (&usize, &usize)| satisfied(&sequence.steps[*i].matcher, *x) && !span.allowlisted[*x];
            let gap_is_free = |p: usize| {
                steps[p] == steps[p - 1] || !between(&sequence.steps[steps[p]].without, choice[p - 1], choice[p])
            };
            choice.iter().zip(&steps).all(fits)
                && (1..steps.len()).all(gap_is_free)
                && choice.last() == Some(&e)
                && span.apart(choice[0], e) <= sequence.window
                && !between(&sequence.until, choice[0], e)
        };
        choices(steps.len(), 0, e + 1).into_iter().filter(holds).max()
    }

    /// All ascending choices of `count` numbers from `from..to`.
    fn choices(count: usize, from: usize, to: usize) -> Vec<Vec<usize>> {
        if count == 0 {
            return vec![Vec::new()];
        }
        (from..to)
            .flat_map(|first| {
                choices(count - 1, first + 1, to).into_iter().map(move |rest| [vec![first], rest].concat())
            })
            .collect()
    }

    fn sequences(set: &RuleSet) -> impl Iterator<Item = &Sequence> {
        let conditions = set.rules.iter().flat_map(|rule| &rule.conditions);
        conditions.filter_map(|condition| match condition {
            Condition::Sequence(sequence) => Some(sequence),
            _ => None,
        })
    }

    #[test]
    fn the_latest_choice_is_the_greatest_of_all_enumerated_choices() {
        let matcher = ["file_access", "shell_command", "any"];
        let mut found = 0;
        for seed in 0..400_u64 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut pick = |from: &[&'static str]| from[rng.random_range(0..from.len())];
            let without = pick(&["", ", without: {event_type: mcp_tool}"]);
            let rules = format!(
                "rules: [{{id: R, name: n, severity: low, conditions: [{{type: sequence, window: {}, {}events: [{{event_type: {}, count: {}}}, {{event_type: {}, count: {}{without}}}]}}]}}]",
                pick(&["1s", "2s", "4s"]),
                pick(&["", "until: {event_type: patch_apply}, "]),
                pick(&matcher),
                pick(&["1", "2"]),
                pick(&matcher),
                pick(&["1", "2"]),
            );
            let types = ["file_access", "file_access", "shell_command", "shell_command", "mcp_tool", "patch_apply"];
            let records: Vec<_> = (0..9_i64).map(|i| (i * 500_000, format!("{i}"), pick(&types))).collect();
            let set = compile(&rules);
            let read = ingest::read(&[lines(&records)], &crate::Options::default());
            let patterns = Patterns::default();
            let span = Span {
                allowlisted: read.events.iter().map(|event| event.name() == "3").collect(),
                events: read.events.iter().collect(),
                patterns: &patterns,
                watermark: read.watermark,
            };
            for sequence in sequences(&set) {
                let mut fast = matches(sequence, &span).into_iter();
                for e in 0..span.events.len() {
                    let Some(slow) = by_enumeration(sequence, &span, e) else {
                        continue;
                    };
                    let quick = fast.next().expect("a match for each event that ends one");
                    assert_eq!((quick.end, quick.evidence.into_keys().collect()), (e, slow), "seed {seed}: {rules}");
                    found += 1;
                }
                assert_eq!(fast.next(), None, "seed {seed}: {rules}");
            }
        }
        assert!(found > 300, "only {found} matches were compared");
    }
}
