//! `[[response.maintenance]]`: weekly windows in which nothing is done to agents without somebody's approval.

use clawdstrike_rules::plan::TimeWindow;
use clawdstrike_rules::time_of_day;
use serde::{Deserialize, Serialize};

use crate::time_window::Times;

/// A weekly window, by the clock of the machine that responds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// What the ledger calls it.
    pub name: String,
    /// The days it begins on; every day if left out.
    #[serde(default = "Day::all")]
    pub days: Vec<Day>,
    /// From this time of day on, `HH:MM`.
    pub from: String,
    /// Up to but not including this one; at most `from`: that of the next day. `24:00` is the day's end.
    pub to: String,
    /// IANA name of the zone whose clock it follows.
    #[serde(default = "utc")]
    pub tz: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the days' own names")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    fn all() -> Vec<Day> {
        vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun]
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

impl Maintenance {
    /// The window, its zone looked up.
    ///
    /// # Errors
    /// What is wrong with it, and the way out.
    pub fn times(&self) -> Result<Times, String> {
        let within = |why: String| format!("[[response.maintenance]] \"{}\": {why}", self.name);
        if self.name.trim().is_empty() {
            return Err(
                "[[response.maintenance]] has an empty \"name\": give one, it is the reason that the ledger tells"
                    .into(),
            );
        }
        if self.days.is_empty() {
            return Err(within(
                "\"days\" is empty, so it never begins: name days such as [\"sat\", \"sun\"], or leave it out".into(),
            ));
        }
        let time = |key: &str, text: &str| {
            time_of_day(text).ok_or_else(|| {
                within(format!("\"{key}\" is \"{text}\": write hours and minutes such as \"09:00\", at most \"24:00\""))
            })
        };
        let (from, to) = (time("from", &self.from)?, time("to", &self.to)?);
        let days = self.days.iter().fold(0, |days, day| days | 1 << *day as u8);
        Times::new(&TimeWindow { days, from: from % (24 * 60), to, zone: Some(self.tz.clone()) }, "UTC").map_err(within)
    }
}
