//! Durations as rules write them: a whole number and `s`, `m`, `h` or `d`.

/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds in a day.
pub const DAY: i64 = 86_400 * SECOND;

/// The microseconds of `text` (`30s`, `5m`, `1h`, `7d`); `None` if it is written otherwise or beyond 64 bits.
///
/// ```
/// use clawdstrike_rules::duration::parse;
/// assert_eq!(parse("5m"), Some(300_000_000));
/// assert_eq!(parse("5 minutes"), None);
/// ```
pub fn parse(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3_600 * SECOND,
        "d" => DAY,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(unit)
}

/// The shortest way to write a whole number of seconds: `5m`, not `300s`.
///
/// ```
/// assert_eq!(clawdstrike_rules::duration::format(3_600_000_000), "1h");
/// ```
pub fn format(micros: i64) -> String {
    let units = [(DAY, "d"), (3_600 * SECOND, "h"), (60 * SECOND, "m"), (SECOND, "s")];
    match units.iter().find(|(size, _)| micros != 0 && micros % size == 0) {
        Some((size, unit)) => format!("{}{unit}", micros / size),
        None if micros == 0 => "0s".to_owned(),
        None => format!("{micros}us"),
    }
}
