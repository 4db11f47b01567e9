//! Pages of a list: the first rows of an order after a place in it, without sorting all of them.
//!
//! A place is a row's own (its rank and its ids), not its number: rows that come, go or move meanwhile shift no other row
//! across the boundary between two pages.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

/// What orders rows of equal rank: up to three ids, and a time.
pub type Ids<'a> = ([&'a str; 3], i64);

/// A row of a list.
pub trait Ranked {
    /// The orders that there are.
    type Sort: Copy;
    /// Where it stands in an order: rows of smaller rank come first.
    fn rank(&self, sort: Self::Sort) -> i64;
    /// What no other row has.
    fn ids(&self) -> Ids<'_>;

    /// Its place.
    fn place(&self, sort: Self::Sort) -> Place {
        let (ids, time) = self.ids();
        Place { rank: self.rank(sort), ids: ids.map(str::to_owned), time }
    }

    /// Compares two rows by an order.
    fn compare(&self, other: &Self, sort: Self::Sort) -> Ordering {
        (self.rank(sort), self.ids()).cmp(&(other.rank(sort), other.ids()))
    }
}

impl<R: Ranked> Ranked for &R {
    type Sort = R::Sort;
    fn rank(&self, sort: R::Sort) -> i64 {
        (**self).rank(sort)
    }
    fn ids(&self) -> Ids<'_> {
        (**self).ids()
    }
}

/// The rank of a number of which the largest comes first, in the order of [`f64::total_cmp`].
pub fn largest_first(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    !(bits ^ (((bits >> 63) as u64) >> 1) as i64)
}

/// Where a row stands in an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    rank: i64,
    ids: [String; 3],
    time: i64,
}

impl Place {
    fn key(&self) -> (i64, Ids<'_>) {
        let [a, b, c] = &self.ids;
        (self.rank, ([a, b, c], self.time))
    }
}

/// Collects the first rows after a place. Holds no more than `limit` of them at a time.
pub struct Top<R: Ranked> {
    sort: R::Sort,
    after: Option<Place>,
    limit: usize,
    total: u64,
    held: BinaryHeap<Held<R>>,
}

struct Held<R> {
    rank: i64,
    row: R,
}

impl<R: Ranked> Ord for Held<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.rank, self.row.ids()).cmp(&(other.rank, other.row.ids()))
    }
}

impl<R: Ranked> PartialOrd for Held<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: Ranked> PartialEq for Held<R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<R: Ranked> Eq for Held<R> {}

impl<R: Ranked> Top<R> {
    /// At most `limit` rows after this place; `None`: from the first on.
    pub fn new(sort: R::Sort, after: Option<Place>, limit: usize) -> Top<R> {
        Top { sort, after, limit, total: 0, held: BinaryHeap::new() }
    }

    /// A row that belongs to the list.
    pub fn offer(&mut self, row: R) {
        self.total += 1;
        if self.limit == 0 {
            return;
        }
        let held = Held { rank: row.rank(self.sort), row };
        if self.after.as_ref().is_some_and(|place| (held.rank, held.row.ids()) <= place.key()) {
            return;
        }
        if self.held.len() < self.limit {
            self.held.push(held);
        } else if let Some(mut last) = self.held.peek_mut()
            && held < *last
        {
            *last = held;
        }
    }

    /// Rows that were offered, also those before the place and beyond the limit.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The rows, in order.
    pub fn into_rows(self) -> Vec<R> {
        self.held.into_sorted_vec().into_iter().map(|held| held.row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Row(f64, String);

    impl Ranked for Row {
        type Sort = ();
        fn rank(&self, (): ()) -> i64 {
            largest_first(self.0)
        }
        fn ids(&self) -> Ids<'_> {
            ([&self.1, "", ""], 0)
        }
    }

    fn page(rows: &[Row], after: Option<Place>, limit: usize) -> Vec<Row> {
        let mut top = Top::new((), after, limit);
        rows.iter().for_each(|row| top.offer(row.clone()));
        assert_eq!(top.total(), rows.len() as u64);
        top.into_rows()
    }

    proptest! {
        #[test]
        fn pages_put_together_are_the_sorted_list(
            scores in prop::collection::vec(-3i8..3, 0..40), limit in 1usize..7,
        ) {
            let rows: Vec<Row> = scores.iter().enumerate().map(|(n, s)| Row(f64::from(*s) / 2.0, n.to_string())).collect();
            let mut sorted = rows.clone();
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            let mut found: Vec<Row> = Vec::new();
            loop {
                let next = page(&rows, found.last().map(|row| row.place(())), limit);
                if next.is_empty() {
                    break;
                }
                prop_assert!(next.len() <= limit);
                found.extend(next);
            }
            prop_assert_eq!(found, sorted);
        }

        #[test]
        fn rows_that_stay_are_shown_once_whatever_else_comes_and_goes(
            keep in prop::collection::btree_set(0u8..60, 1..20),
            others in prop::collection::vec((0u8..60, 0usize..10), 0..60),
        ) {
            let row = |n: u8, name: &str| Row(f64::from(n), format!("{name}{n}"));
            let mut shown: Vec<Row> = Vec::new();
            for turn in 0.. {
                let mut rows: Vec<Row> = keep.iter().map(|n| row(*n, "kept")).collect();
                rows.extend(others.iter().filter(|(_, t)| *t == turn).map(|(n, _)| row(*n, "other")));
                let next = page(&rows, shown.last().map(|row| row.place(())), 3);
                if next.is_empty() {
                    break;
                }
                shown.extend(next);
            }
            let kept: Vec<Row> = shown.into_iter().filter(|row| row.1.starts_with("kept")).collect();
            let expected: Vec<Row> = keep.iter().rev().map(|n| row(*n, "kept")).collect();
            prop_assert_eq!(kept, expected);
        }

        #[test]
        fn largest_comes_first(a in any::<f64>(), b in any::<f64>()) {
            prop_assert_eq!(largest_first(a).cmp(&largest_first(b)), b.total_cmp(&a));
        }
    }

    #[test]
    fn without_a_limit_rows_are_only_counted() {
        let mut top = Top::new((), None, 0);
        (0..5).for_each(|n| top.offer(Row(1.0, n.to_string())));
        assert_eq!((top.total(), top.into_rows()), (5, Vec::new()));
    }
}
