//! A program in a pseudo-terminal, and what a person at it sees: the screen of an emulated terminal.
//!
//! Knows no program. Everything waited for has a deadline.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{InputModes, LocalModes, OutputModes, Winsize, tcgetattr, tcsetwinsize};

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
const DEADLINE: Duration = Duration::from_secs(60);

type Modes = (InputModes, OutputModes, LocalModes);

/// A running program, its terminal, and the emulator that reads it.
pub(crate) struct Pty {
    controller: OwnedFd,
    before: Modes,
    child: Child,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
}

struct Seen {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

/// What is left when the program has ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    /// The screen's text.
    pub(crate) text: String,
    pub(crate) seen_alternate_screen: bool,
    alternate_screen: bool,
    cursor_hidden: bool,
    modes: [Modes; 2],
}

impl End {
    /// Whether whoever types next finds the terminal as it was: ordinary screen, cursor, echo, line by line.
    pub(crate) fn is_as_before(&self) -> bool {
        !self.alternate_screen && !self.cursor_hidden && self.modes[0] == self.modes[1]
    }
}

impl Pty {
    /// Starts the command with a terminal of this size as its controlling one, so that Ctrl-C and new sizes are signals to it.
    pub(crate) fn start(command: &Command, rows: u16, columns: u16) -> Pty {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = openpt(flags).expect("a pseudo-terminal");
        grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("a pseudo-terminal");
        let name = ptsname(&controller, Vec::new()).expect("a name").into_string().expect("UTF-8");
        tcsetwinsize(&controller, size(rows, columns)).expect("a size");
        let before = modes(&controller);
        let open = || OpenOptions::new().read(true).write(true).open(PathBuf::from(&name)).expect("a terminal");
        // Making it the controlling terminal within this process would take unsafe code.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("COLORTERM");
        let child = session.stdin(open()).stdout(open()).stderr(open()).spawn().expect("setsid, of util-linux");
        // Its copies of the terminal would keep the reader waiting for ever.
        drop(session);
        let parser = vt100::Parser::new(lines(rows), lines(columns), 0);
        let seen = Arc::new(Mutex::new(Seen { parser, bytes: Vec::new() }));
        let from = File::from(controller.try_clone().expect("a copy"));
        let to = seen.clone();
        let reader = Some(std::thread::spawn(move || read(from, &to)));
        Pty { controller, before, child, seen, reader }
    }

    /// Types.
    pub(crate) fn press(&self, keys: &str) {
        let mut to = File::from(self.controller.try_clone().expect("a copy"));
        to.write_all(keys.as_bytes()).expect("a terminal");
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.seen.lock().expect("no panic").parser.set_size(lines(rows), lines(columns));
        tcsetwinsize(&self.controller, size(rows, columns)).expect("a size");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines of the screen.
    pub(crate) fn screen(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("no panic");
        let (_, columns) = seen.parser.screen().size();
        seen.parser.screen().rows(0, columns.get()).map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits until the screen is as wanted, and gives it.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "not within {DEADLINE:?}: {what}; the screen is\n{}", screen.join("\n"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a line of the screen has the text.
    pub(crate) async fn shows(&self, text: &str) -> Vec<String> {
        self.until(text, |screen| screen.iter().any(|line| line.contains(text))).await
    }

    /// Waits until the program has ended, and everything it wrote was read.
    pub(crate) async fn end(mut self) -> End {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "it goes on; the screen is\n{}", self.screen().join("\n"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let after = modes(&self.controller);
        self.reader.take().expect("one end").join().expect("no panic");
        let seen = self.seen.lock().expect("no panic");
        let screen = seen.parser.screen();
        End {
            status,
            text: screen.contents(),
            seen_alternate_screen: seen.bytes.windows(8).any(|bytes| bytes == b"\x1b[?1049h"),
            alternate_screen: screen.alternate_screen(),
            cursor_hidden: screen.hide_cursor(),
            modes: [self.before, after],
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _gone = self.child.kill();
            let _gone = self.child.wait();
        }
    }
}

/// Until the program and all that it started have closed the terminal.
fn read(mut from: File, to: &Mutex<Seen>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut seen = to.lock().expect("no panic");
        seen.parser.process(&buffer[..n]);
        seen.bytes.extend_from_slice(&buffer[..n]);
    }
}

fn modes(of: &OwnedFd) -> Modes {
    let all = tcgetattr(of).expect("a terminal");
    (all.input_modes, all.output_modes, all.local_modes)
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn lines(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).expect("a size above 0")
}
