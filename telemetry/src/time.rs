//! Times as text: RFC 3339 in and out, and durations of rules and flags. Microseconds since 1970 UTC throughout.
//! Own code because the hot path reads one timestamp an event and the general parsers cost several times as much;
//! a property test holds it against crate `time`.

const SECOND: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// Reads an RFC 3339 time: `T` or a space, any case, any offset, any number of digits after the point (truncated to
/// microseconds). A leap second counts as the second after it and stands only at the end of a UTC month.
///
/// ```
/// use clawdstrike_telemetry::time;
/// assert_eq!(time::parse("1970-01-01t02:00:01.0000019+02:00"), Some(1_000_001));
/// assert_eq!(time::parse("1970-01-01T00:00:00"), None);
/// ```
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (head, rest) = bytes.split_first_chunk::<19>()?;
    let separators = head[4] == b'-'
        && head[7] == b'-'
        && matches!(head[10], b'T' | b't' | b' ')
        && head[13] == b':'
        && head[16] == b':';
    if !separators {
        return None;
    }
    let year = i64::from(two(head[0], head[1])?) * 100 + i64::from(two(head[2], head[3])?);
    let month = two(head[5], head[6])?;
    let day = two(head[8], head[9])?;
    let hour = two(head[11], head[12])?;
    let minute = two(head[14], head[15])?;
    let second = two(head[17], head[18])?;
    if !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (micros, rest) = fraction(rest)?;
    let offset = offset_seconds(rest)?;
    let days = days_from_civil(year, month, day);
    let seconds = days * DAY_SECONDS + i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second) - offset;
    if second == 60 && !starts_a_month(seconds) {
        return None;
    }
    Some(seconds * SECOND + micros)
}

/// Two ASCII digits as a number.
fn two(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// `.` and digits, if they stand there: microseconds and what follows.
#[inline]
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', digits)) = rest.split_first() else {
        return Some((0, rest));
    };
    let (mut micros, mut unit, mut count) = (0, 100_000, 0);
    while let Some(digit) = digits.get(count).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        micros += i64::from(digit) * unit;
        unit /= 10;
        count += 1;
    }
    (count > 0).then(|| (micros, &digits[count..]))
}

/// `Z` or `+hh:mm`: seconds east of UTC.
fn offset_seconds(rest: &[u8]) -> Option<i64> {
    match *rest {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::from(hours) * 3_600 + i64::from(minutes) * 60;
            Some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Whether these seconds since 1970 are the first of a UTC month.
fn starts_a_month(seconds: i64) -> bool {
    seconds.rem_euclid(DAY_SECONDS) == 0 && civil_from_days(seconds.div_euclid(DAY_SECONDS)).2 == 1
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms": years begin in March, eras have 400 years).
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (i64::from(month) + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of days since 1970-01-01; the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Writes a time in UTC with six digits and `Z`. Years outside 0000-9999, which only an offset or arithmetic can give,
/// get a sign and as many digits as they need.
///
/// ```
/// assert_eq!(clawdstrike_telemetry::time::format(-1), "1969-12-31T23:59:59.999999Z");
/// ```
pub fn format(time: i64) -> String {
    let (seconds, micros) = (time.div_euclid(SECOND), time.rem_euclid(SECOND));
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY_SECONDS));
    let of_day = seconds.rem_euclid(DAY_SECONDS);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let clock = format_args!("{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z").to_string();
    if (0..=9_999).contains(&year) { format!("{year:04}-{clock}") } else { format!("{year:+05}-{clock}") }
}

/// Reads a duration, a whole number and `s`, `m`, `h` or `d`, as microseconds. `None` for anything else and for what
/// 64 bits can't hold.
///
/// ```
/// assert_eq!(clawdstrike_telemetry::time::parse_duration("5m"), Some(300_000_000));
/// ```
pub fn parse_duration(text: &str) -> Option<i64> {
    let unit = match text.as_bytes().last()? {
        b's' => SECOND,
        b'm' => 60 * SECOND,
        b'h' => 3_600 * SECOND,
        b'd' => DAY_SECONDS * SECOND,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    // `i64::from_str` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(unit)
}
