//! `top`: a live screen over the API of a running engine.
//!
//! `data` looks, `view` takes keys, `screen` draws, `terminal` has the terminal. Here they meet. The engine keeps nothing
//! for it: a look asks what `sessions list` and `alerts list` ask.

mod data;
mod screen;
mod terminal;
mod view;

use std::time::{Duration, Instant};

use clap::Args;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::Event;
use ratatui::layout::Rect;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::Exit;
use super::client::{ApiArgs, Client};
use super::output::{Out, escape};
use crate::config::Duration as Span;
use crate::wall_clock;
use data::{Look, Looker, Sort};
use screen::{Away, Picture};
use terminal::Screen;
use view::{View, Wish};

/// Show rates, loudest rules, riskiest sessions and latest alerts of a running engine, live.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clawdstrike-edr top --every 2s --sort events\n\nKeys: ? shows them, q quits.")]
pub(super) struct TopArgs {
    /// How often to look, such as 1s; less often where the engine takes long to answer.
    #[arg(long, value_name = "D", default_value = "1s", value_parser = every)]
    every: Span,
    /// Riskiest, busiest or latest sessions first.
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Print one screen as text and end; for its rates it looks twice, `--every` apart.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// The longest `--every`.
const LONGEST: Span = Span::seconds(3600);
/// An engine that hasn't answered all of a look by then is shown as not answering.
const LOOK: Duration = Duration::from_secs(15);
/// The pause after a look, in times of what the look took: views of a million sessions are sorted by the workers that detect.
const PAUSE: u32 = 4;
/// Columns and rows of `--once`.
const ONCE: (u16, u16) = (120, 40);

fn every(text: &str) -> Result<Span, String> {
    let every: Span = text.parse()?;
    match Span::seconds(1) <= every && every <= LONGEST {
        true => Ok(every),
        false => Err(format!("expected 1s to {LONGEST}")),
    }
}

pub(super) async fn run(args: TopArgs) -> anyhow::Result<Exit> {
    let every = Duration::from_micros(args.every.0.unsigned_abs());
    let client = Client::new(args.api)?;
    let address = escape(client.base()).into_owned();
    let looker = Looker::new(client);
    match args.once {
        true => once(looker, &address, every, args.sort).await,
        false => live(looker, &address, every, args.sort).await,
    }
}

async fn once(mut looker: Looker, address: &str, every: Duration, sort: Sort) -> anyhow::Result<Exit> {
    looker.glance().await?;
    tokio::time::sleep(every).await;
    let look = looker.look(sort).await?;
    let (width, height) = ONCE;
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    let view = View::new(sort);
    let picture = Picture { address, look: Some(&look), away: None, view: &view, now: look.taken, keys: false };
    screen::draw(&picture, buffer.area, &mut buffer);
    let mut out = Out::new();
    out.line(lines(&buffer).trim_end())?;
    out.flush()?;
    Ok(Exit::Ok)
}

/// The buffer as text, its lines without the blanks at their ends.
fn lines(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let mut text = String::new();
    for row in buffer.content.chunks(width) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What a look is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wanted {
    sort: Sort,
    paused: bool,
}

async fn live(looker: Looker, address: &str, every: Duration, sort: Sort) -> anyhow::Result<Exit> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut screen = Screen::enter()?;
    let mut events = terminal::events()?;
    let (want, wanted) = watch::channel(Wanted { sort, paused: false });
    // One look waits at most: the next begins when this one is taken.
    let (found, mut looks) = mpsc::channel(1);
    let looking = tokio::spawn(look_again_and_again(looker, every, wanted, found));
    let mut view = View::new(sort);
    let (mut look, mut away): (Option<Look>, Option<Away>) = (None, None);
    loop {
        let picture = Picture {
            address,
            look: look.as_ref(),
            away: away.as_ref(),
            view: &view,
            now: wall_clock::now(),
            keys: true,
        };
        screen.draw(|frame| screen::draw(&picture, frame.area(), frame.buffer_mut()))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) => {
                    let rows = look.as_ref().map_or([0; 3], |l| [l.rules.len(), l.sessions.len(), l.alerts.len()]);
                    if view.key(key, rows) == Wish::Quit {
                        break;
                    }
                    let now = Wanted { sort: view.sort, paused: view.paused };
                    want.send_if_modified(|before| std::mem::replace(before, now) != now);
                }
                // Another size: drawn again above.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(anyhow::Error::new(error).context("the terminal's keys can't be read")),
                None => break,
            },
            result = looks.recv() => match result {
                Some(Ok(new)) => (look, away) = (Some(new), None),
                Some(Err(error)) => {
                    let since = away.map_or_else(wall_clock::now, |away: Away| away.since);
                    away = Some(Away { since, why: escape(&format!("{error:#}")).into_owned() });
                    // What changed up to a look in the past says nothing of now.
                    look.iter_mut().for_each(|look| look.rates = None);
                }
                // It ends only by a panic, whose message is out already.
                None => anyhow::bail!("nothing looks at the engine any more: see the message above"),
            },
            _ = terminate.recv() => break,
        }
    }
    looking.abort();
    Ok(Exit::Ok)
}

/// Looks every so often and at once when something else is wanted, until nobody takes the looks.
async fn look_again_and_again(
    mut looker: Looker,
    every: Duration,
    mut wanted: watch::Receiver<Wanted>,
    found: mpsc::Sender<anyhow::Result<Look>>,
) {
    loop {
        let Wanted { sort, paused } = *wanted.borrow_and_update();
        if paused {
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        }
        let began = Instant::now();
        let look = match tokio::time::timeout(LOOK, looker.look(sort)).await {
            Ok(look) => look,
            Err(_) => Err(anyhow::anyhow!("no answer within {} s; see the engine's log", LOOK.as_secs())),
        };
        let took = began.elapsed();
        // An engine that gives no answer has no work with it: it is asked as often as ever.
        let pause = if look.is_ok() { took * PAUSE } else { Duration::ZERO };
        if found.send(look).await.is_err() {
            return;
        }
        let pause = pause.max(every.saturating_sub(took));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}
