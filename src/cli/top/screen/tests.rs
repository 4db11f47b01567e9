use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::data::{Health, Rates, Sort};
use super::*;

/// 2024-05-01T12:00:00Z.
const NOON: i64 = 1_714_564_800_000_000;

fn look() -> Look {
    let session = |name: &str, risk: f64| Session {
        name: name.into(),
        risk,
        events: 1234,
        violations: 7,
        open_alerts: 2,
        last_seen: Some(NOON - 90_000_000),
    };
    let rule = |id: &str, severity: &str, alerts| Rule { id: id.into(), severity: severity.into(), alerts };
    Look {
        taken: NOON,
        health: Health {
            epoch: 99,
            watermark: Some(NOON - 3_000_000),
            events: 10,
            alert_versions: 3,
            dead_letters: 5,
            degraded: vec![("store".into(), "nobody answers".into()), ("source kafka".into(), "no broker".into())],
        },
        rates: Some(Rates { events: 1500.4, alerts: 0.5, dead_letters: 0.0 }),
        rules: vec![rule("LOUD", "critical", 41), rule("QUIET", "low", 1)],
        sort: Sort::Risk,
        sessions: vec![session("agent-9 / s-1", 95.0), session("agent-2 / s-7", 60.0), session("agent-1 / s-3", 0.0)],
        sessions_in_all: 312,
        alerts: vec![Alert {
            last_seen: Some(NOON + 5_000_000),
            severity: "critical".into(),
            status: "updated".into(),
            rule: "LOUD".into(),
            session: "agent-9 / s-1".into(),
            target: "/home/x/.ssh/id_rsa".into(),
        }],
        alerts_in_all: 42,
    }
}

fn backend(width: u16, height: u16, picture: &Picture<'_>) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(picture, frame.area(), frame.buffer_mut())).expect("a picture");
    terminal.backend().clone()
}

fn lines(width: u16, height: u16, look: Option<&Look>, away: Option<&Away>, view: &View) -> Vec<String> {
    let picture = Picture { address: "http://127.0.0.1:7878", look, away, view, now: NOON + 65_000_000, keys: true };
    let buffer = backend(width, height, &picture).buffer().clone();
    let rows = buffer.content.chunks(usize::from(width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn a_screen_tells_rates_degraded_parts_and_all_panes() {
    for (width, height) in [(160, 45), (100, 30), (80, 24)] {
        let text = lines(width, height, Some(&look()), None, &View::new(Sort::Risk)).join("\n");
        for expected in [
            "http://127.0.0.1:7878",
            "events 1500/s",
            "alerts 0.5/s",
            "watermark 3s behind",
            "dead letters 0.0/s (5 in all)",
            "epoch 99",
            "degraded: store: nobody answers",
            "degraded: source kafka: no broker",
            "loudest rules (alerts in the live view: 42)",
            "     41 critical LOUD",
            "> riskiest sessions (of 312)",
            "   95      2      1234          7    1m agent-9 / s-1",
            "latest alerts",
            "/home/x/.ssh/id_rsa",
            "s sort: risk",
        ] {
            assert!(text.contains(expected), "{width}x{height}: no {expected:?} in\n{text}");
        }
        assert!(!text.contains("PAUSED"), "{text}");
    }
}

#[test]
fn a_small_screen_shows_the_chosen_pane_and_what_matters_most() {
    let mut view = View::new(Sort::Risk);
    let text = lines(40, 10, Some(&look()), None, &view).join("\n");
    for expected in
        ["http://127.0.0.1:7878", "events 1500/s", "degraded: (and 1 more) store", "   95      2    1m agent-9 / s-1"]
    {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert!(!text.contains("LOUD"), "{text}");
    view.pane = Pane::Rules;
    let text = lines(40, 10, Some(&look()), None, &view).join("\n");
    assert!(text.contains("41 critical LOUD") && !text.contains("agent-9"), "{text}");
}

#[test]
fn no_size_is_too_small_to_draw() {
    let mut view = View::new(Sort::Risk);
    view.scrolled = [usize::MAX; 3];
    for (width, height) in [(1, 1), (2, 3), (10, 2), (200, 4), (3, 60)] {
        for help in [false, true] {
            view.help = help;
            lines(width, height, Some(&look()), None, &view);
            lines(width, height, None, None, &view);
        }
    }
}

#[test]
fn an_engine_that_is_away_is_told_with_since_when_and_why_over_the_last_look() {
    let away = Away { since: NOON + 5_000_000, why: "connection refused".into() };
    let mut last = look();
    last.rates = None;
    let text = lines(80, 24, Some(&last), Some(&away), &View::new(Sort::Risk)).join("\n");
    assert!(text.contains("not answering since 12:00:05Z (1m): connection refused"), "{text}");
    assert!(text.contains("events -/s") && text.contains("agent-9"), "{text}");
    let text = lines(80, 24, None, Some(&away), &View::new(Sort::Risk)).join("\n");
    assert!(text.contains("not answering since"), "{text}");
}

#[test]
fn a_pane_scrolls_and_help_covers_the_panes() {
    let mut view = View::new(Sort::Risk);
    view.scrolled[Pane::Sessions as usize] = 1;
    view.paused = true;
    let text = lines(80, 24, Some(&look()), None, &view).join("\n");
    assert!(text.contains("agent-2") && text.contains("PAUSED") && !text.contains("    95 "), "{text}");
    view.help = true;
    let text = lines(80, 24, Some(&look()), None, &view).join("\n");
    assert!(text.contains("versions of alerts") && !text.contains("agent-2"), "{text}");
}

#[test]
fn what_is_bad_is_red() {
    let view = View::new(Sort::Risk);
    let look = look();
    let picture = Picture { address: "a", look: Some(&look), away: None, view: &view, now: NOON, keys: true };
    let buffer = backend(80, 24, &picture).buffer().clone();
    let colour_of = |text: &str| {
        let mut rows = buffer.content.chunks(80);
        let row = rows.find(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().contains(text));
        row.expect(text)[6].fg
    };
    assert_eq!(colour_of("degraded: store"), Color::Red);
    assert_eq!(colour_of("agent-9 / s-1"), Color::Red);
    assert_eq!(colour_of("agent-2 / s-7"), Color::Yellow);
    assert_eq!(colour_of("agent-1 / s-3"), Color::Reset);
}

#[test]
fn times_are_told_in_their_largest_unit() {
    let second = 1_000_000;
    let cases = [(-5, "0s"), (59, "59s"), (60, "1m"), (7199, "1h"), (172_799, "47h"), (172_800, "2d")];
    for (seconds, expected) in cases {
        assert_eq!(age(seconds * second), expected);
    }
}
