//! Series of numbers as blocks of text.

const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// One character a value, the highest one full; a value that is not zero is never blank. More values than
/// `width` are summed by neighbours.
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

/// A bar of at most `width` characters; a value that is not zero is never blank.
pub(super) fn bar(value: i64, highest: i64, width: usize) -> String {
    let eighths = share(value, highest, width.saturating_mul(8));
    let mut bar = "█".repeat(eighths / 8);
    bar.push_str(EIGHTHS.get(eighths % 8).copied().unwrap_or(""));
    bar
}

/// How many of `parts` a value is of the highest one, rounded; what corrections took below zero is nothing.
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
    fn the_highest_value_is_full_and_the_least_is_seen() {
        assert_eq!(sparkline(&[0, 1, 500, 1_000, -5], 10), " ▁▄█ ");
        assert_eq!(sparkline(&[], 10), "");
        assert_eq!(sparkline(&[0, 0], 10), "  ");
        assert_eq!(sparkline(&[i64::MAX, i64::MAX], 10), "██");
    }

    #[test]
    fn more_values_than_there_is_room_for_are_summed() {
        assert_eq!(sparkline(&[1, 1, 1, 1, 2, 2], 3), "▄▄█");
        // 6 and 9.
        assert_eq!(sparkline(&[1, 2, 3, 4, 5], 2), "▅█");
    }

    #[test]
    fn a_bar_ends_within_a_character() {
        assert_eq!(bar(1_000, 1_000, 4), "████");
        assert_eq!(bar(500, 1_000, 4), "██");
        assert_eq!(bar(563, 1_000, 4), "██▎");
        assert_eq!(bar(1, 1_000, 4), "▏");
        assert_eq!(bar(0, 1_000, 4), "");
        assert_eq!(bar(-3, 1_000, 4), "");
    }
}
