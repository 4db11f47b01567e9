//! How `top` looks: a pure function from what is known and chosen to a buffer of cells.
//!
//! Knows no terminal, no API and no clock. Texts are escaped already (`data`).

use anstyle::{AnsiColor, Color as Ansi, Effects};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table, Widget};

use super::data::{Alert, Look, Rule, Session};
use super::view::{Pane, View};
use crate::cli::output::{risk_style, severity_style};

/// The API gives no look.
#[derive(Clone, Debug)]
pub(super) struct Away {
    /// Wall clock, microseconds since 1970.
    pub(super) since: i64,
    /// Why, escaped.
    pub(super) why: String,
}

/// All that a picture is made of.
pub(super) struct Picture<'a> {
    pub(super) address: &'a str,
    /// The last look, also while there is no newer one.
    pub(super) look: Option<&'a Look>,
    pub(super) away: Option<&'a Away>,
    pub(super) view: &'a View,
    /// Wall clock, microseconds since 1970.
    pub(super) now: i64,
    /// Whether there is somebody at keys, who wants to know them.
    pub(super) keys: bool,
}

/// Below this height only the chosen pane is shown, and little of the header; below this width only the columns that matter most.
const LOW: u16 = 20;
const NARROW: u16 = 64;
/// From this width on panes stand side by side.
const WIDE: u16 = 110;
/// Lines of the header, and of degraded parts; of each on a low screen.
const HEADER: usize = 3;
const DEGRADED: usize = 4;
const HEADER_LOW: usize = 2;
const DEGRADED_LOW: usize = 1;

const HELP: [&str; 10] = [
    "q, Ctrl-C      quit",
    "Tab, < >       the next pane, the one before",
    "up, down       scroll the pane; Home, End",
    "s              sort sessions: risk, events, last seen",
    "p              pause, and go on",
    "?              this, and back",
    "",
    "alerts/s       versions of alerts: new ones, changes, corrections",
    "loudest rules  by their alerts in the live view, retracted ones left out",
    "seen           how long before the look, by this machine's clock",
];

/// Draws the whole area.
pub(super) fn draw(picture: &Picture<'_>, area: Rect, buf: &mut Buffer) {
    let header = header(picture, area);
    let lines = u16::try_from(header.len()).unwrap_or(u16::MAX);
    let [top, body, bottom] =
        Layout::vertical([Constraint::Length(lines), Constraint::Min(0), Constraint::Length(u16::from(picture.keys))])
            .areas(area);
    Paragraph::new(header).render(top, buf);
    match picture.look {
        _ if picture.view.help => {
            Paragraph::new(HELP.map(Line::raw).to_vec()).block(block("help", true)).render(body, buf)
        }
        Some(look) => panes(picture.view, look, body, buf),
        None => {}
    }
    footer(picture.view).render(bottom, buf);
}

fn header(picture: &Picture<'_>, area: Rect) -> Vec<Line<'static>> {
    let low = area.height < LOW;
    let (most, parts) = if low { (HEADER_LOW, DEGRADED_LOW) } else { (HEADER, DEGRADED) };
    let mut facts = vec![Span::styled(picture.address.to_owned(), Style::new().bold())];
    if let Some(look) = picture.look {
        facts.extend(numbers(look).into_iter().map(Span::raw));
    }
    let mut lines = flow(facts, usize::from(area.width), most);
    if let Some(away) = picture.away {
        let since = clawdstrike_telemetry::time::format(away.since);
        let clock = since.get(11..19).unwrap_or(&since);
        let text = format!("not answering since {clock}Z ({}): {}", age(picture.now - away.since), away.why);
        lines.push(Line::styled(text, of(severity_style("critical"))));
    } else if picture.look.is_none() {
        lines.push(Line::raw("looking ..."));
    }
    let degraded = picture.look.map(|look| look.health.degraded.as_slice()).unwrap_or_default();
    let more = degraded.len().saturating_sub(parts);
    for (i, (part, why)) in degraded.iter().take(parts).enumerate() {
        let rest = if more > 0 && i + 1 == parts { format!("(and {more} more) ") } else { String::new() };
        lines.push(Line::styled(format!("degraded: {rest}{part}: {why}"), of(severity_style("high"))));
    }
    lines
}

/// The numbers of the header, what matters most first.
fn numbers(look: &Look) -> Vec<String> {
    let health = &look.health;
    let rate = |get: fn(&super::data::Rates) -> f64| match &look.rates {
        Some(rates) => per_second(get(rates)),
        None => "-/s".to_owned(),
    };
    let delay = match health.watermark {
        Some(watermark) => format!("watermark {} behind", age(look.taken - watermark)),
        None => "no watermark yet".to_owned(),
    };
    vec![
        format!("events {}", rate(|r| r.events)),
        format!("alerts {}", rate(|r| r.alerts)),
        delay,
        format!("dead letters {} ({} in all)", rate(|r| r.dead_letters), health.dead_letters),
        format!("epoch {}", health.epoch),
    ]
}

/// Facts one after the other on as many lines as it takes, at most `most`; what has no place is left out.
fn flow(facts: Vec<Span<'static>>, width: usize, most: usize) -> Vec<Line<'static>> {
    const GAP: &str = "   ";
    let mut lines: Vec<Line<'static>> = vec![Line::default()];
    for fact in facts {
        let line = lines.len() - 1;
        let taken = lines[line].width();
        if taken > 0 && taken + GAP.len() + fact.width() > width {
            if lines.len() == most {
                break;
            }
            lines.push(Line::from(fact));
            continue;
        }
        if taken > 0 {
            lines[line].push_span(Span::raw(GAP));
        }
        lines[line].push_span(fact);
    }
    lines
}

fn panes(view: &View, look: &Look, area: Rect, buf: &mut Buffer) {
    if area.height < LOW.saturating_sub(4) {
        return pane(view.pane, view, look, area, buf);
    }
    let [rules, sessions, alerts] = if area.width >= WIDE {
        let [upper, lower] = Layout::vertical([Constraint::Fill(3), Constraint::Fill(2)]).areas(area);
        let [left, right] = Layout::horizontal([Constraint::Fill(2), Constraint::Fill(3)]).spacing(1).areas(upper);
        [left, right, lower]
    } else {
        Layout::vertical([Constraint::Fill(1); 3]).areas(area)
    };
    for (which, area) in Pane::ALL.into_iter().zip([rules, sessions, alerts]) {
        pane(which, view, look, area, buf);
    }
}

/// A table's columns: names, which stand over numbers as these do, and widths.
type Columns = Vec<(&'static str, Constraint)>;

fn pane(which: Pane, view: &View, look: &Look, area: Rect, buf: &mut Buffer) {
    let narrow = area.width < NARROW;
    let (title, columns, rows): (String, Columns, Vec<Row<'_>>) = match which {
        Pane::Rules => (
            format!("loudest rules (alerts in the live view: {})", look.alerts_in_all),
            vec![
                (" ALERTS", Constraint::Length(7)),
                ("SEVERITY", Constraint::Length(8)),
                ("RULE", Constraint::Fill(1)),
            ],
            look.rules.iter().map(rule_row).collect(),
        ),
        Pane::Sessions => (
            format!("{} sessions (of {})", look.sort.names().1, look.sessions_in_all),
            session_columns(narrow),
            look.sessions.iter().map(|s| session_row(s, look.taken, narrow)).collect(),
        ),
        Pane::Alerts => (
            "latest alerts".to_owned(),
            alert_columns(narrow),
            look.alerts.iter().map(|a| alert_row(a, look.taken, narrow)).collect(),
        ),
    };
    let scrolled = view.scrolled[which as usize].min(rows.len().saturating_sub(1));
    let (names, widths): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    Table::new(rows.into_iter().skip(scrolled), widths)
        .header(Row::new(names).style(Style::new().add_modifier(Modifier::DIM)))
        .column_spacing(1)
        .block(block(&title, which == view.pane))
        .render(area, buf);
}

fn block(title: &str, chosen: bool) -> Block<'_> {
    let style = if chosen { Style::new().bold() } else { Style::new() };
    // Also without colour and bold one sees which pane the keys mean.
    let mark = if chosen { "> " } else { "" };
    Block::new().borders(Borders::TOP).title(Line::styled(format!(" {mark}{title} "), style)).border_style(style)
}

fn rule_row(rule: &Rule) -> Row<'_> {
    Row::new([format!("{:>7}", rule.alerts), rule.severity.clone(), rule.id.clone()])
        .style(of(severity_style(&rule.severity)))
}

fn session_columns(narrow: bool) -> Columns {
    let mut columns = vec![(" RISK", Constraint::Length(5)), ("ALERTS", Constraint::Length(6))];
    if !narrow {
        columns.push(("   EVENTS", Constraint::Length(9)));
        columns.push(("VIOLATIONS", Constraint::Length(10)));
    }
    columns.push((" SEEN", Constraint::Length(5)));
    columns.push(("AGENT / SESSION", Constraint::Fill(1)));
    columns
}

fn session_row(session: &Session, now: i64, narrow: bool) -> Row<'_> {
    let mut cells = vec![format!("{:>5}", session.risk), format!("{:>6}", session.open_alerts)];
    if !narrow {
        cells.push(format!("{:>9}", session.events));
        cells.push(format!("{:>10}", session.violations));
    }
    cells.push(seen(session.last_seen, now));
    cells.push(session.name.clone());
    Row::new(cells).style(of(risk_style(session.risk)))
}

fn alert_columns(narrow: bool) -> Columns {
    let mut columns = vec![(" SEEN", Constraint::Length(5)), ("SEVERITY", Constraint::Length(8))];
    if !narrow {
        columns.push(("STATUS", Constraint::Length(12)));
    }
    columns.push(("RULE", Constraint::Fill(2)));
    columns.push(("AGENT / SESSION", Constraint::Fill(2)));
    if !narrow {
        columns.push(("LAST TARGET", Constraint::Fill(3)));
    }
    columns
}

fn alert_row(alert: &Alert, now: i64, narrow: bool) -> Row<'_> {
    let mut cells = vec![seen(alert.last_seen, now), alert.severity.clone()];
    if !narrow {
        cells.push(alert.status.clone());
    }
    cells.push(alert.rule.clone());
    cells.push(alert.session.clone());
    if !narrow {
        cells.push(alert.target.clone());
    }
    Row::new(cells).style(of(severity_style(&alert.severity)))
}

fn footer(view: &View) -> Line<'static> {
    let mut line = Line::default();
    if view.paused {
        line.push_span(Span::styled("PAUSED", Style::new().bold().reversed()));
        line.push_span(Span::raw("  "));
    }
    line.push_span(Span::raw(format!(
        "q quit  ? help  p pause  s sort: {}  tab pane  up/down scroll",
        view.sort.names().0
    )));
    line
}

/// The styles of tables elsewhere, in this library's terms.
fn of(style: anstyle::Style) -> Style {
    let colour = match style.get_fg_color() {
        Some(Ansi::Ansi(AnsiColor::Red)) => Style::new().fg(Color::Red),
        Some(Ansi::Ansi(AnsiColor::Yellow)) => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    };
    match style.get_effects().contains(Effects::BOLD) {
        true => colour.bold(),
        false => colour,
    }
}

fn per_second(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}/s") } else { format!("{rate:.0}/s") }
}

/// How long before `now`, in five places.
fn seen(at: Option<i64>, now: i64) -> String {
    at.map_or_else(String::new, |at| format!("{:>5}", age(now - at)))
}

/// A time in microseconds in its largest unit; 0 for what lies ahead.
fn age(micros: i64) -> String {
    let seconds = (micros / 1_000_000).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
