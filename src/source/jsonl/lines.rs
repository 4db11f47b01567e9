//! Cuts bytes into records at line ends. Knows nothing of files, and of what a line says only whether it is blank.

use clawdstrike_telemetry::is_blank;
use memchr::memchr_iter;

use crate::source::{MAX_RECORD, RecordRef};

/// With so many bytes and no line end among them a line is too long, whatever follows: the longest that is accepted has
/// one byte less than [`MAX_RECORD`], and `\r\n` behind it.
pub(super) const WINDOW: usize = MAX_RECORD + 1;

/// Adds the records of the complete lines in `bytes`, whose first byte has the position `offset`; with `last` the rest is
/// a line too. Returns how many bytes that covers. Blank lines make no record; `\r` before the line end is left out.
pub(super) fn cut(bytes: &[u8], offset: u64, last: bool, records: &mut Vec<RecordRef>) -> usize {
    let mut start = 0;
    for end in memchr_iter(b'\n', bytes) {
        push(&bytes[start..end], start, offset, records);
        start = end + 1;
    }
    if last && start < bytes.len() {
        push(&bytes[start..], start, offset, records);
        start = bytes.len();
    }
    start
}

fn push(line: &[u8], start: usize, offset: u64, records: &mut Vec<RecordRef>) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if is_blank(line) {
        return;
    }
    records.push(RecordRef {
        start: start as u32,
        len: line.len().min(MAX_RECORD) as u32,
        offset: offset + start as u64,
        append: None,
    });
}

/// A line that is too long, while its end is looked for.
#[derive(Debug)]
pub(super) struct Giant {
    /// Position up to which it has been looked at.
    pub(super) scanned: u64,
    /// Nothing but white space so far: then it is no record.
    pub(super) blank: bool,
}

impl Giant {
    /// A line whose first bytes are these.
    pub(super) fn new(bytes: &[u8], offset: u64) -> Giant {
        Giant { scanned: offset + bytes.len() as u64, blank: is_blank(bytes) }
    }

    /// Looks at more of it; the position after its line end, if that is there.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Option<u64> {
        let end = memchr::memchr(b'\n', bytes);
        let line = &bytes[..end.unwrap_or(bytes.len())];
        self.blank = self.blank && is_blank(line);
        self.scanned += line.len() as u64;
        end.map(|_| self.scanned + 1)
    }

    /// The record that stands for it: its first bytes, unless it is blank.
    pub(super) fn record(&self, head: &[u8], offset: u64) -> Vec<RecordRef> {
        let record = RecordRef { start: 0, len: head.len() as u32, offset, append: None };
        if self.blank { Vec::new() } else { vec![record] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], last: bool) -> (Vec<(u64, &[u8])>, usize) {
        let mut records = Vec::new();
        let used = cut(bytes, 100, last, &mut records);
        let text = |r: &RecordRef| &bytes[r.start as usize..(r.start + r.len) as usize];
        (records.iter().map(|r| (r.offset, text(r))).collect(), used)
    }

    #[test]
    fn leaves_an_unfinished_line_unless_it_is_the_last() {
        assert_eq!(lines(b"{1}\n{2", false), (vec![(100, &b"{1}"[..])], 4));
        assert_eq!(lines(b"{1}\n{2", true), (vec![(100, &b"{1}"[..]), (104, b"{2")], 6));
    }

    #[test]
    fn skips_blank_lines_and_takes_carriage_returns_off() {
        assert_eq!(lines(b"\n \t\r\n{1}\r\n\r\n", true), (vec![(105, &b"{1}"[..])], 12));
    }

    #[test]
    fn a_giant_line_is_followed_to_its_end_over_any_pieces() {
        let mut giant = Giant::new(b"  ", 10);
        assert_eq!(giant.scan(b"   "), None);
        assert!(giant.blank);
        assert_eq!(giant.scan(b" x"), None);
        assert_eq!(giant.scan(b"y\nz"), Some(19));
        assert!(!giant.blank);
    }
}
