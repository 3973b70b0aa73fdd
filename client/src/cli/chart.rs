//! Charts of block characters.

const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// One character per value; the highest is a full block, and only values of zero or less are blank. If there are more
/// values than `width`, neighbours are summed.
pub(super) fn sparkline(values: &[i64], width: usize) -> String {
    let each = values.len().div_ceil(width.max(1)).max(1);
    let sums: Vec<i64> = values
        .chunks(each)
        .map(|chunk| {
            chunk
                .iter()
                .fold(0_i64, |sum, value| sum.saturating_add(*value))
        })
        .collect();
    let highest = sums.iter().copied().max().unwrap_or(0);
    let level = |value: i64| {
        let level = share(value, highest, 8);
        LEVELS.get(level).copied().unwrap_or(' ')
    };
    sums.into_iter().map(level).collect()
}

/// A bar of at most `width` characters; only a value of zero or less is blank.
pub(super) fn bar(value: i64, highest: i64, width: usize) -> String {
    let eighths = share(value, highest, width.saturating_mul(8));
    let mut bar = "█".repeat(eighths / 8);
    bar.push_str(EIGHTHS.get(eighths % 8).copied().unwrap_or(""));
    bar
}

/// The value as a number of `parts` of the highest value, rounded; 0 for a negative value.
fn share(value: i64, highest: i64, parts: usize) -> usize {
    let (Ok(value), Ok(highest)) = (u128::try_from(value), u128::try_from(highest)) else {
        return 0;
    };
    if value == 0 || highest == 0 {
        return 0;
    }
    let parts = u128::try_from(parts).unwrap_or(u128::MAX);
    let half = highest / 2;
    let rounded = value.saturating_mul(parts).saturating_add(half);
    let rounded = rounded.checked_div(highest).unwrap_or(0);
    usize::try_from(rounded.clamp(1, parts.max(1))).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_value_is_full_and_lowest_is_visible() {
        assert_eq!(sparkline(&[0, 1, 500, 1_000, -5], 10), " ▁▄█ ");
        assert_eq!(sparkline(&[], 10), "");
        assert_eq!(sparkline(&[0, 0], 10), "  ");
        assert_eq!(sparkline(&[i64::MAX, i64::MAX], 10), "██");
    }

    #[test]
    fn values_beyond_the_width_are_summed() {
        assert_eq!(sparkline(&[1, 1, 1, 1, 2, 2], 3), "▄▄█");
        // 6 and 9.
        assert_eq!(sparkline(&[1, 2, 3, 4, 5], 2), "▅█");
    }

    #[test]
    fn bar_has_a_partial_last_character() {
        assert_eq!(bar(1_000, 1_000, 4), "████");
        assert_eq!(bar(500, 1_000, 4), "██");
        assert_eq!(bar(563, 1_000, 4), "██▎");
        assert_eq!(bar(1, 1_000, 4), "▏");
        assert_eq!(bar(0, 1_000, 4), "");
        assert_eq!(bar(-3, 1_000, 4), "");
    }
}
