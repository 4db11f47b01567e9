//! Event time. An agent's clock is the agent's word; a record's reference time bounds it, so that no agent can move
//! the watermark, expire another agent's state or hide its own events from a window. Never reads a clock.

/// How far a record's own timestamp may lie from its reference time, in microseconds (both not negative), and whether it
/// counts at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRule {
    /// How far behind the reference time.
    pub max_lateness: i64,
    /// How far ahead of it.
    pub max_skew: i64,
    /// The event time is the reference time, whatever the record says (a source with `time = "reference"`).
    pub by_reference: bool,
}

impl Default for ClockRule {
    /// 60 s and 5 s; the timestamp counts.
    fn default() -> ClockRule {
        ClockRule { max_lateness: 60_000_000, max_skew: 5_000_000, by_reference: false }
    }
}

/// Where the reference times of one partition come from; one value per partition, kept from record to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The broker stamps every record (Kafka with LogAppendTime, NATS, Redis ids).
    Append,
    /// No trusted clock (files, Kafka with CreateTime): the largest timestamp of a valid record so far that isn't
    /// beyond the wall clock plus `max_skew`, copies included.
    Largest {
        /// That timestamp; `None` before the first.
        largest: Option<i64>,
    },
}

/// The times of one record, in microseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The reference time R.
    pub reference: i64,
    /// The event time: the record's timestamp where it lies in [R - max_lateness, R + max_skew], else R.
    pub time: i64,
    /// Whether the event time had to be R (flag `clock_skew`).
    pub skewed: bool,
}

impl Reference {
    /// The state before a partition without a trusted clock is read.
    pub const fn largest() -> Reference {
        Reference::Largest { largest: None }
    }

    /// Takes the next valid record of the partition, in the order of its offsets.
    ///
    /// `timestamp` is the record's own, `append` the broker's (a partition with one has a trusted clock from then on; without
    /// it, `Append` takes the wall clock), `wall` the wall clock; all in microseconds since 1970 UTC.
    pub fn observe(&mut self, rule: &ClockRule, timestamp: i64, append: Option<i64>, wall: i64) -> Stamp {
        if append.is_some() {
            *self = Reference::Append;
        }
        let reference = match self {
            Reference::Append => append.unwrap_or(wall),
            Reference::Largest { largest } => {
                if timestamp <= wall.saturating_add(rule.max_skew) {
                    *largest = Some(largest.map_or(timestamp, |so_far| so_far.max(timestamp)));
                }
                largest.unwrap_or(wall)
            }
        };
        let earliest = reference.saturating_sub(rule.max_lateness);
        let latest = reference.saturating_add(rule.max_skew);
        let skewed = !rule.by_reference && (timestamp < earliest || timestamp > latest);
        Stamp { reference, time: if skewed || rule.by_reference { reference } else { timestamp }, skewed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const WALL: i64 = 1_800_000_000 * SECOND;

    #[test]
    fn append_time_bounds_are_closed() {
        let rule = ClockRule::default();
        let at = |offset: i64| Reference::Append.observe(&rule, WALL + offset, Some(WALL), 0);
        for offset in [-60 * SECOND, -1, 0, 1, 5 * SECOND] {
            assert_eq!(at(offset), Stamp { reference: WALL, time: WALL + offset, skewed: false });
        }
        for offset in [-60 * SECOND - 1, 5 * SECOND + 1, -WALL, i64::MAX - WALL] {
            assert_eq!(at(offset), Stamp { reference: WALL, time: WALL, skewed: true });
        }
    }

    #[test]
    fn a_broker_s_time_is_trusted_from_the_first_record_that_has_one() {
        let rule = ClockRule::default();
        let mut reference = Reference::largest();
        reference.observe(&rule, WALL, None, WALL);
        let stamp = reference.observe(&rule, WALL, Some(WALL - 9 * SECOND), WALL);
        assert_eq!(stamp, Stamp { reference: WALL - 9 * SECOND, time: WALL - 9 * SECOND, skewed: true });
        assert_eq!(reference, Reference::Append);
    }

    #[test]
    fn by_reference_no_timestamp_counts_and_none_is_skewed() {
        let rule = ClockRule { by_reference: true, ..ClockRule::default() };
        for timestamp in [i64::MIN, WALL - 1, WALL, i64::MAX] {
            let stamp = Reference::Append.observe(&rule, timestamp, Some(WALL), 0);
            assert_eq!(stamp, Stamp { reference: WALL, time: WALL, skewed: false });
        }
    }

    #[test]
    fn a_record_moves_the_reference_before_it_is_judged_by_it() {
        let rule = ClockRule::default();
        let mut reference = Reference::largest();
        let first = reference.observe(&rule, 100 * SECOND, None, WALL);
        assert_eq!(first, Stamp { reference: 100 * SECOND, time: 100 * SECOND, skewed: false });
        let later = reference.observe(&rule, 1_000 * SECOND, None, WALL);
        assert_eq!(later, Stamp { reference: 1_000 * SECOND, time: 1_000 * SECOND, skewed: false });
        let edge = reference.observe(&rule, 940 * SECOND, None, WALL);
        assert_eq!(edge, Stamp { reference: 1_000 * SECOND, time: 940 * SECOND, skewed: false });
        let late = reference.observe(&rule, 940 * SECOND - 1, None, WALL);
        assert_eq!(late, Stamp { reference: 1_000 * SECOND, time: 1_000 * SECOND, skewed: true });
    }

    #[test]
    fn a_timestamp_beyond_the_wall_clock_moves_nothing() {
        let rule = ClockRule::default();
        let mut reference = Reference::largest();
        let ahead = WALL + 5 * SECOND + 1;
        let poison = reference.observe(&rule, ahead, None, WALL);
        assert_eq!(poison, Stamp { reference: WALL, time: WALL, skewed: true });
        assert_eq!(reference, Reference::largest());
        let edge = reference.observe(&rule, ahead - 1, None, WALL);
        assert_eq!(edge, Stamp { reference: ahead - 1, time: ahead - 1, skewed: false });
    }

    #[test]
    fn before_the_first_usable_timestamp_the_wall_clock_is_the_reference() {
        let rule = ClockRule { max_lateness: 0, max_skew: 0, by_reference: false };
        let mut reference = Reference::largest();
        let stamp = reference.observe(&rule, WALL + 1, None, WALL);
        assert_eq!(stamp, Stamp { reference: WALL, time: WALL, skewed: true });
    }

    #[test]
    fn extremes_do_not_overflow() {
        let rule = ClockRule { max_lateness: i64::MAX, max_skew: i64::MAX, by_reference: false };
        for timestamp in [i64::MIN, 0, i64::MAX] {
            for wall in [i64::MIN, 0, i64::MAX] {
                let mut reference = Reference::largest();
                reference.observe(&rule, timestamp, None, wall);
                Reference::Append.observe(&rule, timestamp, Some(wall), wall);
            }
        }
    }
}
