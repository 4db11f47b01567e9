//! Where a partition goes on when the broker doesn't have what was to be read next: retention has deleted it, or the topic
//! was made anew. Pure; the reader asks, tells and obeys.

/// Where to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) from: u64,
    /// Offsets that nobody will ever read.
    pub(super) lost: u64,
    /// What has happened; `None`: nothing, the broker has what was wanted.
    pub(super) why: Option<String>,
}

/// The way on from `wanted`, in a partition that has the offsets from `low` to before `high`. `cut`: the broker says that
/// its log was cut off somewhere before `wanted`.
pub(super) fn way(wanted: u64, low: u64, high: u64, cut: bool) -> Way {
    if wanted < low {
        let lost = low - wanted;
        let why = format!(
            "{lost} offsets from {wanted} on are gone before they were read: the oldest that the broker keeps is {low}; a longer \
             retention.ms or retention.bytes of the topic leaves more time"
        );
        return Way { from: low, lost, why: Some(why) };
    }
    if cut {
        let from = wanted.min(high);
        let why = format!(
            "the broker's log was cut off before offset {wanted}: what was written after the cut and lies before {from} is not read \
             (unclean.leader.election.enable = false keeps this from happening)"
        );
        return Way { from, lost: 0, why: Some(why) };
    }
    if wanted > high {
        let why = format!(
            "offset {wanted} is to be read next, and the topic ends at {high}: was it deleted and created again? all that it has, \
             from {low} on, is taken for new"
        );
        return Way { from: low, lost: 0, why: Some(why) };
    }
    Way { from: wanted, lost: 0, why: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_retention_deleted_is_counted() {
        let way = way(100, 250, 900, false);
        assert_eq!((way.from, way.lost), (250, 150));
        assert!(way.why.unwrap().contains("150 offsets from 100 on"));
    }

    #[test]
    fn a_topic_made_anew_is_read_from_its_beginning() {
        let way = way(100, 0, 7, false);
        assert_eq!((way.from, way.lost), (0, 0));
        assert!(way.why.unwrap().contains("created again"));
    }

    #[test]
    fn a_log_that_was_cut_off_is_read_on_from_its_end() {
        assert_eq!(way(100, 0, 90, true).from, 90);
        assert_eq!(way(100, 0, 110, true).from, 100);
        assert!(way(100, 0, 110, true).why.is_some());
    }

    #[test]
    fn what_the_broker_has_is_read() {
        assert_eq!(way(100, 100, 100, false), Way { from: 100, lost: 0, why: None });
    }
}
