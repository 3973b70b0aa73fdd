//! Which of some values add up to a total. Every combination is tried, so there may only be a few values. Pure.

/// The most values for which every combination is tried.
pub const MAX_VALUES: usize = 12;

/// A choice of values, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subset(usize);

impl Subset {
    /// Whether the value at a place is chosen.
    pub fn contains(self, place: usize) -> bool {
        let bit = u32::try_from(place)
            .ok()
            .and_then(|at| 1_usize.checked_shl(at));
        bit.is_some_and(|bit| self.0 & bit != 0)
    }
}

/// The choices of values whose sum is `total`; none if there are more than [`MAX_VALUES`].
pub fn subsets_with_sum(values: &[i128], total: i128) -> impl Iterator<Item = Subset> + '_ {
    let number = if values.len() > MAX_VALUES {
        0
    } else {
        1_usize.wrapping_shl(u32::try_from(values.len()).unwrap_or(0))
    };
    (0..number).map(Subset).filter(move |subset| {
        let chosen = values
            .iter()
            .enumerate()
            .filter(|(place, _)| subset.contains(*place));
        chosen.fold(0_i128, |sum, (_, value)| sum.saturating_add(*value)) == total
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_with_the_sum_is_found() {
        let chosen = |values: &[i128], total| {
            subsets_with_sum(values, total)
                .map(|subset| {
                    (0..values.len())
                        .filter(|at| subset.contains(*at))
                        .collect()
                })
                .collect::<Vec<Vec<usize>>>()
        };
        assert_eq!(chosen(&[1, 2, 3], 3), [vec![0, 1], vec![2]]);
        assert_eq!(chosen(&[1, -1], 0), [vec![], vec![0, 1]]);
        assert!(chosen(&[2, 4], 3).is_empty());
        assert!(chosen(&[0; MAX_VALUES + 1], 0).is_empty(), "too many");
    }
}
