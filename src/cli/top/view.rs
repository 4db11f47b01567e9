//! What the person at the keyboard has chosen: pane, order, rows scrolled past, pause, help. Keys change it.
//!
//! Knows neither the API nor how anything is drawn.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::data::Sort;

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Rules,
    Sessions,
    Alerts,
}

impl Pane {
    pub(super) const ALL: [Pane; 3] = [Pane::Rules, Pane::Sessions, Pane::Alerts];

    fn step(self, by: usize) -> Pane {
        Pane::ALL[(self as usize + by) % Pane::ALL.len()]
    }
}

/// What a key asks for beyond another picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Quit,
}

#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) pane: Pane,
    pub(super) sort: Sort,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// Rows above the first that is shown, by pane.
    pub(super) scrolled: [usize; Pane::ALL.len()],
}

impl View {
    pub(super) fn new(sort: Sort) -> View {
        View { pane: Pane::Sessions, sort, paused: false, help: false, scrolled: [0; Pane::ALL.len()] }
    }

    /// Takes a key; `rows` says how many each pane has.
    pub(super) fn key(&mut self, key: KeyEvent, rows: [usize; Pane::ALL.len()]) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Nothing;
        }
        let scrolled = &mut self.scrolled[self.pane as usize];
        let last = rows[self.pane as usize].saturating_sub(1);
        match key.code {
            // A raw terminal makes no signal of it.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc => self.help = false,
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.scrolled[Pane::Sessions as usize] = 0;
            }
            KeyCode::Tab | KeyCode::Right => self.pane = self.pane.step(1),
            KeyCode::BackTab | KeyCode::Left => self.pane = self.pane.step(Pane::ALL.len() - 1),
            KeyCode::Down => *scrolled = (*scrolled + 1).min(last),
            KeyCode::Up => *scrolled = scrolled.saturating_sub(1),
            KeyCode::Home => *scrolled = 0,
            KeyCode::End => *scrolled = last,
            _ => {}
        }
        Wish::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, code: KeyCode) -> Wish {
        view.key(KeyEvent::new(code, KeyModifiers::NONE), [0, 3, 1])
    }

    #[test]
    fn keys_choose_pane_order_and_pause() {
        let mut view = View::new(Sort::Risk);
        for (key, pane) in [
            (KeyCode::Tab, Pane::Alerts),
            (KeyCode::Right, Pane::Rules),
            (KeyCode::Left, Pane::Alerts),
            (KeyCode::BackTab, Pane::Sessions),
        ] {
            assert_eq!((press(&mut view, key), view.pane), (Wish::Nothing, pane));
        }
        for sort in [Sort::Events, Sort::LastSeen, Sort::Risk] {
            press(&mut view, KeyCode::Char('s'));
            assert_eq!(view.sort, sort);
        }
        press(&mut view, KeyCode::Char('p'));
        press(&mut view, KeyCode::Char('?'));
        assert!(view.paused && view.help);
        press(&mut view, KeyCode::Esc);
        assert!(view.paused && !view.help);
    }

    #[test]
    fn scrolling_stays_within_the_rows() {
        let mut view = View::new(Sort::Risk);
        for _ in 0..9 {
            press(&mut view, KeyCode::Down);
        }
        assert_eq!(view.scrolled, [0, 2, 0]);
        for _ in 0..9 {
            press(&mut view, KeyCode::Up);
        }
        assert_eq!(view.scrolled, [0, 0, 0]);
        press(&mut view, KeyCode::Left);
        press(&mut view, KeyCode::Down);
        assert_eq!(view.scrolled, [0, 0, 0], "a pane without rows");
    }

    #[test]
    fn q_and_ctrl_c_quit() {
        let mut view = View::new(Sort::Risk);
        assert_eq!(press(&mut view, KeyCode::Char('c')), Wish::Nothing);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Wish::Quit);
        assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), [0; 3]), Wish::Quit);
    }
}
