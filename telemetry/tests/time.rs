//! RFC 3339 and durations: tables of edges, and crate `time` as the judge of everything between.

use ::time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use clawdstrike_telemetry::time::{format, parse, parse_duration};
use proptest::{prelude::*, sample::select};

const SECOND: i64 = 1_000_000;

#[test]
fn one_instant_in_every_spelling() {
    let instant = Some(1_714_989_600 * SECOND + 123_456);
    for text in [
        "2024-05-06T10:00:00.123456Z",
        "2024-05-06t10:00:00.123456z",
        "2024-05-06 10:00:00.123456Z",
        "2024-05-06T10:00:00.123456999999999999999999Z",
        "2024-05-06T10:00:00.123456+00:00",
        "2024-05-06T10:00:00.123456-00:00",
        "2024-05-06T12:00:00.123456+02:00",
        "2024-05-06 04:30:00.123456-05:30",
        "2024-05-07T09:59:00.123456+23:59",
        "2024-05-05T10:01:00.123456-23:59",
    ] {
        assert_eq!(parse(text), instant, "{text}");
    }
}

#[test]
fn fractions_are_truncated_to_microseconds() {
    for (fraction, micros) in
        [("", 0), (".9", 900_000), (".000001", 1), (".0000019", 1), (".999999999", 999_999), (".12", 120_000)]
    {
        assert_eq!(parse(&format!("1970-01-01T00:00:00{fraction}Z")), Some(micros), "{fraction}");
        // Before 1970 too the fraction counts forward, so truncation goes to the earlier microsecond.
        assert_eq!(parse(&format!("1969-12-31T23:59:59{fraction}Z")), Some(micros - SECOND), "{fraction}");
    }
}

#[test]
fn calendar_edges() {
    for (text, seconds) in [
        ("0000-01-01T00:00:00Z", -62_167_219_200),
        ("0000-02-29T00:00:00Z", -62_162_121_600),
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        ("1900-03-01T00:00:00Z", -2_203_891_200),
        ("2000-02-29T23:59:59Z", 951_868_799),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
        // An offset may lead out of the four-digit years.
        ("0000-01-01T00:00:00+01:00", -62_167_222_800),
        ("9999-12-31T23:59:59-01:00", 253_402_304_399),
    ] {
        assert_eq!(parse(text), Some(seconds * SECOND), "{text}");
    }
}

#[test]
fn leap_seconds_stand_at_the_end_of_a_utc_month() {
    let new_year = 1_483_228_800 * SECOND;
    for text in ["2016-12-31T23:59:60Z", "2017-01-01T00:59:60+01:00", "2016-12-31 18:29:60-05:30"] {
        assert_eq!(parse(text), Some(new_year), "{text}");
    }
    assert_eq!(parse("2016-12-31T23:59:60.5Z"), Some(new_year + SECOND / 2));
    for text in ["2016-12-30T23:59:60Z", "2016-12-31T23:58:60Z", "2016-12-31T23:59:60+01:00", "2016-12-31T23:59:61Z"] {
        assert_eq!(parse(text), None, "{text}");
    }
}

#[test]
fn what_is_no_rfc_3339_is_refused() {
    for text in [
        "",
        "yesterday",
        "2024-05-06",
        "2024-05-06T10:00:00",
        "2024-05-06T10:00Z",
        "2024-05-06T10:00:00.Z",
        "2024-05-06T10:00:00,5Z",
        "2024-05-06T10:00:00Zz",
        " 2024-05-06T10:00:00Z",
        "2024-05-06T10:00:00Z ",
        "2024-05-06_10:00:00Z",
        "2024/05/06T10:00:00Z",
        "2024-5-06T10:00:00Z",
        "+2024-05-06T10:00:00Z",
        "-024-05-06T10:00:00Z",
        "20240506T100000Z",
        "2024-05-06T10:00:00+2:00",
        "2024-05-06T10:00:00+0200",
        "2024-05-06T10:00:00+24:00",
        "2024-05-06T10:00:00+02:60",
        "2024-05-06T10:00:00 +02:00",
        "2024-00-06T10:00:00Z",
        "2024-13-06T10:00:00Z",
        "2024-05-00T10:00:00Z",
        "2024-05-32T10:00:00Z",
        "2024-04-31T10:00:00Z",
        "2023-02-29T10:00:00Z",
        "1900-02-29T10:00:00Z",
        "2024-02-30T10:00:00Z",
        "2024-05-06T24:00:00Z",
        "2024-05-06T10:60:00Z",
        "2024-05-06T10:00:0:Z",
        "２024-05-06T10:00:00Z",
        "2024-05-06T10:00:00−02:00",
        "12024-05-06T10:00:00Z",
    ] {
        assert_eq!(parse(text), None, "{text}");
    }
}

#[test]
fn format_writes_utc_with_six_digits() {
    for (time, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (951_782_400 * SECOND + 5, "2000-02-29T00:00:00.000005Z"),
        (253_402_300_800 * SECOND - 1, "9999-12-31T23:59:59.999999Z"),
        (253_402_300_800 * SECOND, "+10000-01-01T00:00:00.000000Z"),
        (-62_167_219_200 * SECOND, "0000-01-01T00:00:00.000000Z"),
        (-62_167_219_200 * SECOND - 1, "-0001-12-31T23:59:59.999999Z"),
        (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
        (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
    ] {
        assert_eq!(format(time), text);
    }
}

#[test]
fn durations_are_a_whole_number_and_a_unit() {
    for (text, seconds) in [("0s", 0), ("5m", 300), ("24h", 86_400), ("7d", 604_800), ("007s", 7)] {
        assert_eq!(parse_duration(text), Some(seconds * SECOND), "{text}");
    }
    for text in [
        "",
        "s",
        "5",
        "5 m",
        "-5m",
        "+5m",
        "1.5h",
        "5M",
        "5ms",
        "5m ",
        "1h30m",
        "m5",
        "٥m",
        "5µ",
        "9999999999999999999s",
        "9223372036855s",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
    assert_eq!(parse_duration("9223372036854s"), Some(9_223_372_036_854 * SECOND));
}

proptest! {
    #[test]
    fn reads_what_crate_time_writes(
        nanos in -62_135_596_800_000_000_000i128 + 86_400_000_000_000..253_402_300_800_000_000_000 - 86_400_000_000_000,
        minutes in -23 * 60 - 59..=23 * 60 + 59,
    ) {
        let offset = UtcOffset::from_whole_seconds(minutes * 60).expect("less than a day");
        let instant = OffsetDateTime::from_unix_timestamp_nanos(nanos).expect("a four-digit year").to_offset(offset);
        let text = instant.format(&Rfc3339).expect("a four-digit year");
        prop_assert_eq!(parse(&text), Some(nanos.div_euclid(1_000) as i64), "{}", text);
    }

    #[test]
    fn reads_what_it_writes(time in -62_167_219_200_000_000..253_402_300_800_000_000i64) {
        prop_assert_eq!(parse(&format(time)), Some(time));
    }

    #[test]
    fn agrees_with_crate_time_on_damaged_times(
        mut text in "[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-6][0-9])",
        damage in prop::option::of((any::<prop::sample::Index>(), select(b"0123456789-:.TZ+x".to_vec()))),
    ) {
        if let Some((place, byte)) = damage {
            let place = place.index(text.len());
            text.replace_range(place..=place, &char::from(byte).to_string());
        }
        let theirs = OffsetDateTime::parse(&text, &Rfc3339).ok();
        let leap_second = text.as_bytes()[17..].starts_with(b"60");
        let years = text.get(..4).and_then(|year| year.parse::<u32>().ok());
        let separator = matches!(text.as_bytes()[10], b'T' | b't' | b' ');
        // Crate `time` puts a leap second back by a nanosecond, takes any separator and ends at the edges of the
        // four-digit years.
        if separator && !leap_second && years.is_some_and(|year| (1..9999).contains(&year)) {
            let theirs = theirs.map(|instant| instant.unix_timestamp_nanos().div_euclid(1_000) as i64);
            prop_assert_eq!(parse(&text), theirs, "{}", text);
        }
    }

    #[test]
    fn never_panics(text in any::<String>(), time in any::<i64>()) {
        parse(&text);
        parse_duration(&text);
        format(time);
    }
}
