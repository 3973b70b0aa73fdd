//! Which times of a customer and meter are acknowledged, where the billing periods of several items overlap. Pure.

use super::{Millis, window::Interval};

/// A difference between the usage of a billing period of an item and its invoices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundDifference {
    /// The period.
    pub period: Interval,
    /// Whether an admin acknowledged it.
    pub is_acknowledged: bool,
}

/// The times in which there are differences, and all of them are acknowledged; in order, and apart from each other. All
/// differences are of one customer and meter. Reports do not say which item charges them: where the periods of several items
/// share a time, each of them may concern its reports.
pub fn acknowledged_times(differences: &[FoundDifference]) -> Vec<Interval> {
    let edges = differences.iter().map(|one| one.period);
    let mut edges: Vec<Millis> = edges
        .flat_map(|period| [period.start, period.end])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let mut times: Vec<Interval> = Vec::new();
    for (start, end) in edges.iter().copied().zip(edges.iter().copied().skip(1)) {
        let mut around = differences.iter().filter(|one| one.period.contains(start));
        let Some(first) = around.next() else { continue };
        if !first.is_acknowledged || !around.all(|one| one.is_acknowledged) {
            continue;
        }
        match times.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => times.push(Interval { start, end }),
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn difference() -> impl Strategy<Value = FoundDifference> {
        let parts = (0_i64..20, 1_i64..10, any::<bool>());
        parts.prop_map(|(start, length, is_acknowledged)| FoundDifference {
            period: Interval {
                start,
                end: start + length,
            },
            is_acknowledged,
        })
    }

    proptest! {
        #[test]
        fn a_time_is_acknowledged_with_every_difference_in_it(all in proptest::collection::vec(difference(), 0..8)) {
            let times = acknowledged_times(&all);
            for at in -1..32 {
                let mut around = all.iter().filter(|one| one.period.contains(at)).peekable();
                let expected = around.peek().is_some() && around.all(|one| one.is_acknowledged);
                let found = times.iter().filter(|time| time.contains(at)).count();
                prop_assert_eq!(found, usize::from(expected), "{} in {:?}", at, times);
            }
            for pair in times.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
        }
    }
}
