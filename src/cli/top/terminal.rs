//! The terminal: taken over, and given back as it was, whatever happens.
//!
//! Knows nothing of what is drawn.

use std::io::{self, IsTerminal, Stdout, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::{Frame, Terminal};
use tokio::sync::mpsc;

/// Keys that may wait while a picture is drawn.
const KEYS: usize = 64;

/// The alternate screen in raw mode, until it is dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal over; an error if there is none.
    pub(super) fn enter() -> anyhow::Result<Screen> {
        for (name, is) in [("input", io::stdin().is_terminal()), ("output", stdout().is_terminal())] {
            if !is {
                bail!(
                    "`top` needs a terminal, and standard {name} isn't one: use `top --once`, or for programs \
                     `sessions list --output json` and `alerts list --output json`"
                );
            }
        }
        leave_on_panic();
        let screen = Screen { terminal: Terminal::new(CrosstermBackend::new(stdout())).context(CANNOT)? };
        TAKEN.store(true, Ordering::SeqCst);
        enable_raw_mode().context(CANNOT)?;
        execute!(stdout(), EnterAlternateScreen).context(CANNOT)?;
        Ok(screen)
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<()> {
        self.terminal.draw(draw).map(drop).context(CANNOT)
    }
}

const CANNOT: &str = "the terminal can't be drawn on";

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Whether there is something to give back.
static TAKEN: AtomicBool = AtomicBool::new(false);

fn leave() {
    // A second time would put the cursor where it was before a panic's message.
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // Where the terminal is gone, there is nothing to give back and nobody to tell.
    let _gone = disable_raw_mode();
    let _gone = execute!(stdout(), LeaveAlternateScreen, Show);
}

/// A panic's message belongs on the ordinary screen; and where panics abort, nothing is dropped.
fn leave_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            tell(info);
        }));
    });
}

/// Keys and new sizes, read by a thread of their own: reading a terminal waits.
pub(super) fn events() -> anyhow::Result<mpsc::Receiver<io::Result<Event>>> {
    let (to, events) = mpsc::channel(KEYS);
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
        loop {
            let event = event::read();
            let over = event.is_err();
            if to.blocking_send(event).is_err() || over {
                break;
            }
        }
    })?;
    Ok(events)
}

#[cfg(test)]
#[path = "../../../tests/api/pty.rs"]
#[allow(dead_code, reason = "the test of a panic types nothing")]
mod pty;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set for the process that is to panic.
    const PANIC: &str = "TOP_TEST_PANIC";

    #[tokio::test]
    async fn a_panic_leaves_the_terminal_as_it_was() {
        if std::env::var_os(PANIC).is_some() {
            let _screen = Screen::enter().expect("a terminal");
            panic!("on purpose");
        }
        let mut itself = Command::new(std::env::current_exe().expect("a path"));
        let name = "cli::top::terminal::tests::a_panic_leaves_the_terminal_as_it_was";
        itself.args(["--exact", name, "--nocapture"]).env(PANIC, "1").env("RUST_BACKTRACE", "0");
        let terminal = pty::Pty::start(&itself, 24, 80);
        let end = terminal.end().await;
        assert!(end.seen_alternate_screen, "it was taken over");
        assert!(!end.status.success() && end.text.contains("on purpose"), "{}", end.text);
        assert!(end.is_as_before(), "{end:?}");
    }
}
