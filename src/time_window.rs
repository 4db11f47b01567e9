//! Weekly time windows: of allowlist entries by event time (SPEC §4, "Allowlist"), of maintenance by the wall clock. Knows no clock.

use clawdstrike_rules::plan::TimeWindow;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A time window with its zone looked up.
#[derive(Clone, Debug)]
pub struct Times {
    window: TimeWindow,
    zone: TimeZone,
}

impl Times {
    /// Looks up the zone; `default` is for windows that name none.
    pub fn new(window: &TimeWindow, default: &str) -> Result<Times, String> {
        let name = window.zone.as_deref().unwrap_or(default);
        let zone = TimeZone::get(name).map_err(|_| {
            format!("\"{name}\" is no time zone: write an IANA name such as \"Europe/Berlin\", or \"UTC\"")
        })?;
        Ok(Times { window: window.clone(), zone })
    }

    /// Whether a time (microseconds since 1970) lies in the window: from `from` up to but not including `to`; a window
    /// past midnight belongs to the day it starts on.
    pub fn contain(&self, time: i64) -> bool {
        let Ok(at) = Timestamp::from_microsecond(time) else { return false };
        let local = self.zone.to_datetime(at);
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let today = local.weekday().to_monday_zero_offset();
        let on = |day: i8| self.window.days >> day & 1 == 1;
        if self.window.from < self.window.to {
            on(today) && (self.window.from..self.window.to).contains(&minute)
        } else {
            let yesterday = (today + 6) % 7;
            on(today) && minute >= self.window.from || on(yesterday) && minute < self.window.to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawdstrike_telemetry::time::parse;

    fn times(days: u8, from: u16, to: u16, zone: &str) -> Times {
        Times::new(&TimeWindow { days, from, to, zone: Some(zone.into()) }, "UTC").unwrap()
    }

    #[test]
    fn business_hours_begin_at_nine_and_end_before_five() {
        let hours = times(0b11111, 9 * 60, 17 * 60, "UTC");
        let at = |t: &str| hours.contain(parse(t).unwrap());
        assert!(at("2024-05-06T09:00:00Z") && at("2024-05-10T16:59:59.999999Z"));
        assert!(!at("2024-05-06T08:59:59Z") && !at("2024-05-06T17:00:00Z") && !at("2024-05-11T12:00:00Z"));
    }

    #[test]
    fn a_window_past_midnight_belongs_to_its_starting_day() {
        let monday_night = times(1, 22 * 60, 6 * 60, "UTC");
        let at = |t: &str| monday_night.contain(parse(t).unwrap());
        assert!(at("2024-05-06T23:00:00Z") && at("2024-05-07T05:59:00Z"));
        assert!(!at("2024-05-06T05:00:00Z") && !at("2024-05-07T06:00:00Z") && !at("2024-05-07T23:00:00Z"));
    }

    #[test]
    fn follows_the_zones_clock_through_daylight_saving() {
        let hours = times(0b1111111, 9 * 60, 17 * 60, "Europe/Berlin");
        assert!(hours.contain(parse("2024-07-01T07:00:00Z").unwrap()));
        assert!(!hours.contain(parse("2024-01-01T07:30:00Z").unwrap()));
    }
}
