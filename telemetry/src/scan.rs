//! JSON, read in one pass without building anything: the whole record is checked against RFC 8259, values that nobody
//! asked for are skipped, texts are borrowed. Own code because the general parsers either build every value or skip
//! without checking; property tests hold it against serde_json. Knows nothing of events.

use std::borrow::Cow;

use wide::u8x16;

use crate::{MAX_DEPTH, MAX_RECORD_BYTES, Reason};

/// A place where a record is no JSON, or no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    /// In bytes from the record's begin.
    pub(crate) at: usize,
}

/// The scan met a fault; the scanner keeps it, so that results fit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

/// A string's place in the record, already checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    /// Of the opening quote.
    start: u32,
    /// Of the closing quote.
    end: u32,
    pub(crate) escaped: bool,
}

/// A place in a record, which moves forward only.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// One bit a level, the innermost lowest: whether it is an object.
    objects: u64,
    /// What stopped the scan, at `at`.
    reason: Reason,
}

// One bit a level must do, and 32 bits for a place.
const _: () = assert!(MAX_DEPTH <= u64::BITS as usize && MAX_RECORD_BYTES <= u32::MAX as usize);

impl<'a> Scanner<'a> {
    /// At the begin of a text of at most [`MAX_RECORD_BYTES`].
    pub(crate) fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0, depth: 0, objects: 0, reason: Reason::InvalidJson }
    }

    /// Checks that the text is one JSON value and nothing else.
    pub(crate) fn check(text: &str) -> Result<(), Fault> {
        let mut scanner = Scanner::new(text);
        scanner.skip().and_then(|()| scanner.end()).map_err(|Stopped| scanner.fault())
    }

    /// The fault that stopped the scan.
    pub(crate) fn fault(&self) -> Fault {
        Fault { reason: self.reason, at: self.at }
    }

    /// Stops the scan here.
    #[inline]
    pub(crate) fn stop<T>(&mut self, reason: Reason) -> Result<T, Stopped> {
        self.reason = reason;
        Err(Stopped)
    }

    /// What stands between the quotes, as bytes: what the string means only if it holds no escapes.
    #[inline]
    pub(crate) fn as_written(&self, text: Text) -> &'a [u8] {
        &self.text.as_bytes()[text.start as usize + 1..text.end as usize]
    }

    /// What the string means; borrowed unless it holds escapes.
    #[inline]
    pub(crate) fn decode(&self, text: Text) -> Cow<'a, str> {
        if text.escaped {
            Cow::Owned(self.unescape(text))
        } else {
            Cow::Borrowed(&self.text[text.start as usize + 1..text.end as usize])
        }
    }

    #[inline(never)]
    fn unescape(&self, text: Text) -> String {
        let quoted = &self.text[text.start as usize..=text.end as usize];
        // `string` has checked every escape; a property test holds that serde_json agrees.
        serde_json::from_str(quoted).unwrap_or_else(|_| quoted.to_owned())
    }

    /// The next byte; 0, which begins nothing, at the end.
    #[inline(always)]
    pub(crate) fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The next byte that isn't white space.
    #[inline(always)]
    pub(crate) fn peek_value(&mut self) -> u8 {
        loop {
            let byte = self.peek();
            if byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return byte;
            }
            self.at += 1;
        }
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Stopped> {
        self.peek_value();
        if self.at < self.text.len() { self.stop(Reason::InvalidJson) } else { Ok(()) }
    }

    /// Steps over a bracket (`open_*`) whose byte has been peeked.
    #[inline(always)]
    fn enter(&mut self, object: bool) -> Result<(), Stopped> {
        if self.depth == MAX_DEPTH {
            return self.stop(Reason::TooDeep);
        }
        self.at += 1;
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(object);
        Ok(())
    }

    #[inline(always)]
    fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
    }

    /// Steps into an object whose `{` has been peeked; then [`Scanner::next_key`].
    #[inline]
    pub(crate) fn open_object(&mut self) -> Result<(), Stopped> {
        self.enter(true)
    }

    /// The next key of the object that is open, its colon stepped over; `None` once the object is closed. `first` for
    /// the first call.
    #[inline(always)]
    pub(crate) fn next_key(&mut self, first: bool) -> Result<Option<Text>, Stopped> {
        match self.peek_value() {
            b'}' => {
                self.leave();
                Ok(None)
            }
            b',' if !first => {
                self.at += 1;
                self.key().map(Some)
            }
            _ if first => self.key().map(Some),
            _ => self.stop(Reason::InvalidJson),
        }
    }

    #[inline(always)]
    fn key(&mut self) -> Result<Text, Stopped> {
        if self.peek_value() != b'"' {
            return self.stop(Reason::InvalidJson);
        }
        let key = self.string()?;
        if self.peek_value() != b':' {
            return self.stop(Reason::InvalidJson);
        }
        self.at += 1;
        Ok(key)
    }

    /// Reads a string whose opening quote has been peeked.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Text, Stopped> {
        let start = self.at;
        self.at = special(self.text.as_bytes(), start + 1);
        let escaped = self.peek() != b'"';
        if escaped {
            self.rest_of_string()?;
        }
        let end = self.at;
        self.at += 1;
        Ok(Text { start: start as u32, end: end as u32, escaped })
    }

    /// Goes on to the closing quote from a backslash, or from what may not stand in a string.
    #[inline(never)]
    fn rest_of_string(&mut self) -> Result<(), Stopped> {
        loop {
            match self.peek() {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                _ => return self.stop(Reason::InvalidJson),
            }
            self.at = special(self.text.as_bytes(), self.at);
        }
    }

    fn escape(&mut self) -> Result<(), Stopped> {
        self.at += 1;
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                self.at += 1;
                Ok(())
            }
            b'u' => match self.code_unit()? {
                // Half a pair is no character, so no UTF-8 could hold it.
                0xd800..=0xdbff => {
                    let low = self.text.as_bytes()[self.at..].starts_with(b"\\u");
                    self.at += usize::from(low);
                    match low.then(|| self.code_unit()).transpose()? {
                        Some(0xdc00..=0xdfff) => Ok(()),
                        _ => self.stop(Reason::InvalidJson),
                    }
                }
                0xdc00..=0xdfff => self.stop(Reason::InvalidJson),
                _ => Ok(()),
            },
            _ => self.stop(Reason::InvalidJson),
        }
    }

    /// `u` and four hexadecimal digits.
    fn code_unit(&mut self) -> Result<u32, Stopped> {
        let mut unit = 0;
        for _ in 0..4 {
            self.at += 1;
            match char::from(self.peek()).to_digit(16) {
                Some(digit) => unit = unit << 4 | digit,
                None => return self.stop(Reason::InvalidJson),
            }
        }
        self.at += 1;
        Ok(unit)
    }

    /// Steps over `null`, `true` or `false` if it stands here.
    #[inline]
    pub(crate) fn literal<const N: usize>(&mut self, literal: &[u8; N]) -> Result<(), Stopped> {
        if self.text.as_bytes()[self.at..].first_chunk() != Some(literal) {
            return self.stop(Reason::InvalidJson);
        }
        self.at += N;
        Ok(())
    }

    /// Steps over one value of any kind, checking all of it.
    pub(crate) fn skip(&mut self) -> Result<(), Stopped> {
        let outer = self.depth;
        loop {
            match self.peek_value() {
                b'"' => drop(self.string()?),
                b'{' => {
                    self.enter(true)?;
                    if self.next_key(true)?.is_some() {
                        continue;
                    }
                }
                b'[' => {
                    self.enter(false)?;
                    if self.peek_value() != b']' {
                        continue;
                    }
                    self.leave();
                }
                b'n' => self.literal(b"null")?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                _ => self.number()?,
            }
            if self.after_value(outer)? {
                return Ok(());
            }
        }
    }

    /// As [`Scanner::skip`]; gives the value as it is written.
    pub(crate) fn skipped(&mut self) -> Result<&'a str, Stopped> {
        self.peek_value();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Closes what ends here. Whether the depth is `outer` again; else the next value follows.
    #[inline(always)]
    fn after_value(&mut self, outer: usize) -> Result<bool, Stopped> {
        while self.depth > outer {
            if self.objects & 1 == 1 {
                if self.next_key(false)?.is_some() {
                    return Ok(false);
                }
                continue;
            }
            match self.peek_value() {
                b']' => self.leave(),
                b',' => {
                    self.at += 1;
                    return Ok(false);
                }
                _ => return self.stop(Reason::InvalidJson),
            }
        }
        Ok(true)
    }

    fn number(&mut self) -> Result<(), Stopped> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        let whole = self.digits();
        if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
            self.at = start;
            return self.stop(Reason::InvalidJson);
        }
        let mut part = "";
        if self.peek() == b'.' {
            self.at += 1;
            part = self.digits();
            if part.is_empty() {
                return self.stop(Reason::InvalidJson);
            }
        }
        let mut exponent = 0;
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            exponent = self.exponent()?;
        }
        if (exponent > 0 || whole.len() > MAX_WHOLE_DIGITS) && is_beyond_double(whole, part, exponent) {
            self.at = start;
            return self.stop(Reason::NumberOutOfRange);
        }
        Ok(())
    }

    fn digits(&mut self) -> &'a str {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn exponent(&mut self) -> Result<i64, Stopped> {
        let negative = self.peek() == b'-';
        if matches!(self.peek(), b'+' | b'-') {
            self.at += 1;
        }
        let digits = self.digits();
        if digits.is_empty() {
            return self.stop(Reason::InvalidJson);
        }
        // Too many digits for 64 bits are too many for any record to make up for.
        let size = digits.parse().unwrap_or(i64::MAX / 2);
        Ok(if negative { -size } else { size.min(i64::MAX / 2) })
    }
}

/// A whole number of so many digits fits a double.
const MAX_WHOLE_DIGITS: usize = f64::MAX_10_EXP as usize;

/// Whether the number rounds to infinity.
#[cold]
fn is_beyond_double(whole: &str, part: &str, exponent: i64) -> bool {
    let digits = [whole, part].concat();
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return false;
    }
    let leading_zeros = digits.len() - significant.len();
    // The number is d.ddd times ten to the `magnitude`.
    let magnitude = exponent.saturating_add(whole.len() as i64 - leading_zeros as i64 - 1);
    match magnitude.cmp(&i64::from(f64::MAX_10_EXP)) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        // Written anew, because `f64::from_str` cuts exponents of many digits.
        std::cmp::Ordering::Equal => {
            format!("{}.{}e308", &significant[..1], &significant[1..]).parse::<f64>().is_ok_and(f64::is_infinite)
        }
    }
}

/// The place from `at` on of the first quote, backslash or control character; the length if there is none.
#[inline(always)]
fn special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<16>) {
        let block = u8x16::new(*block);
        let quotes = block.simd_eq(u8x16::splat(b'"'));
        let backslashes = block.simd_eq(u8x16::splat(b'\\'));
        let controls = block.min(u8x16::splat(b' ' - 1)).simd_eq(block);
        let hits = (quotes | backslashes | controls).to_bitmask();
        if hits != 0 {
            return at + hits.trailing_zeros() as usize;
        }
        at += 16;
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..b' ');
    let tail = bytes.get(at..).unwrap_or_default();
    at + tail.iter().position(is_special).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests;
