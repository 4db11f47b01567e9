//! The pieces of a JSON line that differ from event to event: times, ids, hex. Writes into a caller's buffer and allocates
//! nothing an event. Knows nothing of agents or attacks.

use clawdstrike_telemetry::time;

/// `00` to `ff`.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// `00` to `99`.
const TWO_DIGITS: [[u8; 2]; 100] = {
    let mut table = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        table[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    table
};

/// Writes 16 hex digits.
pub(super) fn hex(out: &mut Vec<u8>, value: u64) {
    let mut text = [0; 16];
    for (pair, byte) in text.chunks_exact_mut(2).zip(value.to_be_bytes()) {
        pair.copy_from_slice(&HEX[usize::from(byte)]);
    }
    out.extend_from_slice(&text);
}

/// Writes a number with at least six digits.
pub(super) fn decimal(out: &mut Vec<u8>, mut value: usize) {
    let mut text = [b'0'; 20];
    let mut from = text.len();
    while value > 0 || from > text.len() - 6 {
        from -= 2;
        text[from..from + 2].copy_from_slice(&TWO_DIGITS[value % 100]);
        value /= 100;
    }
    out.extend_from_slice(&text[from..]);
}

/// The text of a UUID.
pub(super) fn uuid(value: u128) -> [u8; 36] {
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in value.to_be_bytes().into_iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at..at + 2].copy_from_slice(&HEX[usize::from(byte)]);
        at += 2;
    }
    text
}

/// A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then 74 of `random`.
pub(super) fn uuid_v7(time: i64, random: u128) -> u128 {
    let millis = u128::try_from(time / 1_000).unwrap_or(0) & 0xffff_ffff_ffff;
    let upper = (random >> 62) & 0xfff;
    let lower = random & 0x3fff_ffff_ffff_ffff;
    millis << 80 | 7 << 76 | upper << 64 | 2 << 62 | lower
}

/// A UUID of version 4.
pub(super) fn uuid_v4(random: u128) -> u128 {
    random & !(0xf << 76) & !(3 << 62) | 4 << 76 | 2 << 62
}

/// Writes times; remembers the text of the last second, because most events share it with their neighbours.
pub(super) struct Clock {
    second: i64,
    text: Vec<u8>,
}

impl Clock {
    pub(super) fn new() -> Self {
        let mut clock = Clock { second: 0, text: Vec::new() };
        clock.turn(0);
        clock
    }

    /// Writes a time in microseconds since 1970 as RFC 3339, in UTC with six digits.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, time: i64) {
        let second = time.div_euclid(1_000_000);
        if second != self.second {
            self.turn(second);
        }
        let micros = time.rem_euclid(1_000_000) as usize;
        out.extend_from_slice(&self.text);
        let mut tail = *b"000000Z";
        for (i, pair) in [micros / 10_000, micros / 100 % 100, micros % 100].into_iter().enumerate() {
            tail[2 * i..2 * i + 2].copy_from_slice(&TWO_DIGITS[pair]);
        }
        out.extend_from_slice(&tail);
    }

    fn turn(&mut self, second: i64) {
        let text = time::format(second.saturating_mul(1_000_000));
        self.second = second;
        self.text.clear();
        self.text.extend_from_slice(text.strip_suffix("000000Z").unwrap_or(&text).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_shared_formatter() {
        let mut clock = Clock::new();
        for time in [0, 1, 999_999, 1_000_000, 1_714_989_600_123_456, -1, 1_714_989_600_000_000] {
            let mut out = Vec::new();
            clock.write(&mut out, time);
            assert_eq!(String::from_utf8_lossy(&out), time::format(time));
        }
    }

    #[test]
    fn numbers_have_six_digits_or_as_many_as_they_need() {
        for (value, text) in [
            (0, "000000"),
            (42, "000042"),
            (123_456, "123456"),
            (1_234_567, "01234567"),
            (usize::MAX, "18446744073709551615"),
        ] {
            let mut out = Vec::new();
            decimal(&mut out, value);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn uuids_have_their_version_variant_and_time() {
        let text = |value| String::from_utf8_lossy(&uuid(value)).into_owned();
        assert_eq!(text(uuid_v7(0x0123_4567_89ab_i64 * 1_000, u128::MAX)), "01234567-89ab-7fff-bfff-ffffffffffff");
        assert_eq!(text(uuid_v7(0, 0)), "00000000-0000-7000-8000-000000000000");
        assert_eq!(text(uuid_v4(u128::MAX)), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
