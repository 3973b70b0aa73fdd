//! Usage as bars, drawn as SVG. The table below a chart has the same figures for those who do not see it. Texts are beside the
//! drawing, which gets smaller with the screen.

use chrono_tz::Tz;
use maud::{Markup, html};
use usage_proto::v1::{Quantities, UsagePoint};

use super::html::{grouped, utc};

/// The size of the drawing, in its own units.
const WIDTH: i64 = 960;
const HEIGHT: i64 = 180;
/// The part of it that bars have.
const BARS_TOP: i64 = 16;
const BARS_HEIGHT: i64 = 160;
/// The most bars. More would be thinner than a point of the screen.
pub(super) const MAX_POINTS: usize = 1_000;

/// One bar: from left to right, and its parts from below, each with its class.
struct Bar {
    left: i64,
    width: i64,
    parts: Vec<(&'static str, i64, i64)>,
    label: String,
}

/// A chart of points, the first on the left.
pub(super) fn bars(points: &[UsagePoint], name: &str, zone: Tz, format: &str) -> Markup {
    let count = i64::try_from(points.len()).unwrap_or(i64::MAX).max(1);
    let highest = points.iter().map(|point| height_of(point.quantities));
    let highest = highest.max().unwrap_or(0).max(1);
    let bars = (0_i64..).zip(points).map(|(index, point)| {
        let left = scaled(index, WIDTH, count);
        let right = scaled(index.saturating_add(1), WIDTH, count);
        let gap = i64::from(count <= WIDTH.div_euclid(4));
        Bar {
            left,
            width: right.saturating_sub(left).saturating_sub(gap).max(1),
            parts: parts(point.quantities.unwrap_or_default(), highest),
            label: title(point, zone, format),
        }
    });
    let first = points.first().map(|point| label(point, zone, format));
    let last = points.last().map(|point| label(point, zone, format));
    let bottom = BARS_TOP.saturating_add(BARS_HEIGHT);
    html! {
        p .ends { span { "The highest: " (grouped(highest)) } }
        svg .chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (name) ", a bar a step, the highest " (grouped(highest)) } {
            @for bar in bars {
                g {
                    title { (bar.label) }
                    @for (class, top, height) in &bar.parts {
                        rect class=(class) x=(bar.left) y=(top) width=(bar.width) height=(height) {}
                    }
                }
            }
            line .axis x1="0" x2=(WIDTH) y1=(bottom) y2=(bottom) {}
        }
        p .ends {
            span { (first.unwrap_or_default()) }
            span { (last.unwrap_or_default()) }
        }
    }
}

/// What a bar says of itself: its total, and its parts.
fn title(point: &UsagePoint, zone: Tz, format: &str) -> String {
    let of = point.quantities.unwrap_or_default();
    format!(
        "{}: {} ({} at Stripe, {} not yet at Stripe, {} never billed)",
        label(point, zone, format),
        grouped(of.total),
        grouped(of.reported),
        grouped(of.not_yet_reported),
        grouped(of.not_billable)
    )
}

/// What the colours mean.
pub(super) fn legend() -> Markup {
    html! {
        ul .key {
            li { i .reported {} "at Stripe" }
            li { i .waiting {} "not yet at Stripe" }
            li { i .free {} "never billed" }
        }
    }
}

/// The start of a point in the zone.
pub(super) fn label(point: &UsagePoint, zone: Tz, format: &str) -> String {
    let start = point.period.and_then(|period| period.start).and_then(utc);
    start.map_or_else(String::new, |start| {
        start.with_timezone(&zone).format(format).to_string()
    })
}

/// Corrections can be negative; a bar cannot.
fn height_of(quantities: Option<Quantities>) -> i64 {
    let of = quantities.unwrap_or_default();
    let parts = [of.reported, of.not_yet_reported, of.not_billable];
    let parts = parts.into_iter().map(|part| part.max(0));
    parts.fold(0, i64::saturating_add)
}

fn parts(of: Quantities, highest: i64) -> Vec<(&'static str, i64, i64)> {
    let mut below = 0_i64;
    let parts = [
        ("reported", of.reported),
        ("waiting", of.not_yet_reported),
        ("free", of.not_billable),
    ];
    let drawn = parts.into_iter().filter_map(|(class, quantity)| {
        let from = scaled(below, BARS_HEIGHT, highest);
        below = below.saturating_add(quantity.max(0));
        let to = scaled(below, BARS_HEIGHT, highest);
        let height = to.saturating_sub(from);
        // What is there is seen.
        let height = if quantity > 0 { height.max(1) } else { 0 };
        let top = BARS_TOP
            .saturating_add(BARS_HEIGHT)
            .saturating_sub(from)
            .saturating_sub(height);
        (height > 0).then_some((class, top, height))
    });
    drawn.collect()
}

/// `value` of `whole`, as a part of `length`.
fn scaled(value: i64, length: i64, whole: i64) -> i64 {
    let product = i128::from(value).saturating_mul(i128::from(length));
    let part = product.checked_div(i128::from(whole)).unwrap_or(0);
    i64::try_from(part).unwrap_or(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_part_that_is_there_is_seen() {
        let of = Quantities {
            total: 1_001,
            reported: 1_000,
            not_yet_reported: 1,
            not_billable: 0,
        };
        let drawn = parts(of, 1_001);
        let classes: Vec<_> = drawn.iter().map(|(class, ..)| *class).collect();
        assert_eq!(classes, ["reported", "waiting"]);
    }

    proptest! {
        #[test]
        fn bars_stay_within_the_drawing(reported: i64, waiting: i64, free: i64) {
            let of = Quantities { total: 0, reported, not_yet_reported: waiting, not_billable: free };
            let highest = height_of(Some(of)).max(1);
            for (_, top, height) in parts(of, highest) {
                prop_assert!((1..=BARS_HEIGHT).contains(&height));
                // A part that is there has one unit at least.
                prop_assert!(top >= BARS_TOP - 3, "{}", top);
                prop_assert!(top + height <= BARS_TOP + BARS_HEIGHT);
            }
        }
    }
}
