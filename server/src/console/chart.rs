//! Usage as bars, drawn as SVG. The table below a chart has the same figures for those who do not see it. Texts are beside the
//! drawing, which gets smaller with the screen.

use chrono_tz::Tz;
use maud::{Markup, html};
use prost_types::Timestamp;
use usage_proto::v1::UsagePoint;

use super::html::{grouped, period_label};

/// The size of the drawing, in its own units.
const WIDTH: i64 = 960;
const HEIGHT: i64 = 180;
/// The part of it that bars have.
const BARS_TOP: i64 = 16;
const BARS_HEIGHT: i64 = 160;
/// The most bars. More would be thinner than a point of the screen.
pub(super) const MAX_POINTS: usize = 1_000;
/// The height of a small chart, and the width of each of its bars with the gap after it.
const SPARK_HEIGHT: i64 = 20;
const SPARK_BAR: i64 = 3;

/// A bar as it is asked for: where it stands, what it says, and its parts from below, each with its class.
pub(super) struct Column {
    pub(super) label: String,
    pub(super) title: String,
    pub(super) parts: Vec<(&'static str, i64)>,
}

/// Something that happened at a time, drawn as a line over all bars.
pub(super) struct Mark {
    pub(super) at: Timestamp,
    pub(super) what: String,
}

/// One bar: from left to right, and its parts from below, each with its class.
struct Bar<'a> {
    left: i64,
    width: i64,
    parts: Vec<(&'static str, i64, i64)>,
    title: &'a str,
}

/// A chart of points, the first on the left.
pub(super) fn bars(
    points: &[UsagePoint],
    name: &str,
    zone: Tz,
    format: &str,
    marks: &[Mark],
) -> Markup {
    let column = |point: &UsagePoint| {
        let of = point.quantities.unwrap_or_default();
        Column {
            label: label(point, zone, format),
            title: title(point, zone, format),
            parts: vec![
                ("reported", of.reported),
                ("waiting", of.not_yet_reported),
                ("free", of.not_billable),
            ],
        }
    };
    let drawn: Vec<Column> = points.iter().map(column).collect();
    let marks = marks.iter();
    let marks: Vec<(i64, &str)> = marks
        .filter_map(|mark| Some((place_of(points, mark.at)?, mark.what.as_str())))
        .collect();
    columns(&drawn, name, &marks)
}

/// Where a time is in a drawing of points; absent if it is in none.
fn place_of(points: &[UsagePoint], at: Timestamp) -> Option<i64> {
    let count = i64::try_from(points.len()).ok()?;
    let (index, point) = (0_i64..).zip(points).find(|(_, point)| {
        let period = point.period.unwrap_or_default();
        let edge = |edge: Option<Timestamp>| edge.map(|edge| (edge.seconds, edge.nanos));
        edge(period.start) <= Some((at.seconds, at.nanos))
            && Some((at.seconds, at.nanos)) < edge(period.end)
    })?;
    let period = point.period.unwrap_or_default();
    let start = period.start.unwrap_or_default().seconds;
    let length = period.end.unwrap_or_default().seconds.saturating_sub(start);
    let left = scaled(index, WIDTH, count);
    let right = scaled(index.saturating_add(1), WIDTH, count);
    let within = scaled(
        at.seconds.saturating_sub(start),
        right.saturating_sub(left),
        length.max(1),
    );
    Some(left.saturating_add(within))
}

/// A chart of bars, with lines at some places.
pub(super) fn columns(columns: &[Column], name: &str, marks: &[(i64, &str)]) -> Markup {
    let count = i64::try_from(columns.len()).unwrap_or(i64::MAX).max(1);
    let highest = columns.iter().map(|column| height_of(&column.parts));
    let highest = highest.max().unwrap_or(0).max(1);
    let bars = (0_i64..).zip(columns).map(|(index, column)| {
        let left = scaled(index, WIDTH, count);
        let right = scaled(index.saturating_add(1), WIDTH, count);
        let gap = i64::from(count <= WIDTH.div_euclid(4));
        Bar {
            left,
            width: right.saturating_sub(left).saturating_sub(gap).max(1),
            parts: parts(&column.parts, highest),
            title: &column.title,
        }
    });
    let label = |column: Option<&Column>| column.map(|column| column.label.clone());
    let bottom = BARS_TOP.saturating_add(BARS_HEIGHT);
    html! {
        p .ends { span { "The highest: " (grouped(highest)) } }
        svg .chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (name) ", a bar a step, the highest " (grouped(highest)) } {
            @for bar in bars {
                g {
                    title { (bar.title) }
                    @for (class, top, height) in &bar.parts {
                        rect class=(class) x=(bar.left) y=(top) width=(bar.width) height=(height) {}
                    }
                }
            }
            @for (x, what) in marks {
                g {
                    title { (what) }
                    line .mark x1=(x) x2=(x) y1="0" y2=(bottom) {}
                }
            }
            line .axis x1="0" x2=(WIDTH) y1=(bottom) y2=(bottom) {}
        }
        p .ends {
            span { (label(columns.first()).unwrap_or_default()) }
            span { (label(columns.last()).unwrap_or_default()) }
        }
    }
}

/// A small chart of a row of a table: one bar a value, without text but what a reader hears.
pub(super) fn sparkline(values: &[i64], name: &str) -> Markup {
    let highest = values.iter().copied().max().unwrap_or(0).max(1);
    let width = i64::try_from(values.len())
        .unwrap_or(i64::MAX)
        .saturating_mul(SPARK_BAR);
    let bars = (0_i64..)
        .zip(values)
        .filter(|(_, value)| **value > 0)
        .map(|(index, value)| {
            let height = scaled(*value, SPARK_HEIGHT, highest).max(1);
            (
                index.saturating_mul(SPARK_BAR),
                SPARK_HEIGHT.saturating_sub(height),
                height,
            )
        });
    html! {
        svg .spark viewBox={ "0 0 " (width.max(1)) " " (SPARK_HEIGHT) } role="img" aria-label=(name) {
            title { (name) }
            @for (x, y, height) in bars {
                rect .reported x=(x) y=(y) width=(SPARK_BAR.saturating_sub(1)) height=(height) {}
            }
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
    period_label(point.period, zone, format)
}

/// Corrections can be negative; a bar cannot.
fn height_of(parts: &[(&'static str, i64)]) -> i64 {
    let parts = parts.iter().map(|(_, part)| (*part).max(0));
    parts.fold(0, i64::saturating_add)
}

fn parts(of: &[(&'static str, i64)], highest: i64) -> Vec<(&'static str, i64, i64)> {
    let mut below = 0_i64;
    let drawn = of.iter().filter_map(|(class, quantity)| {
        let from = scaled(below, BARS_HEIGHT, highest);
        below = below.saturating_add((*quantity).max(0));
        let to = scaled(below, BARS_HEIGHT, highest);
        let height = to.saturating_sub(from);
        // What is there is seen.
        let height = if *quantity > 0 { height.max(1) } else { 0 };
        let top = BARS_TOP
            .saturating_add(BARS_HEIGHT)
            .saturating_sub(from)
            .saturating_sub(height);
        (height > 0).then_some((*class, top, height))
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
    use usage_proto::v1::Period;

    #[test]
    fn a_part_that_is_there_is_seen() {
        let drawn = parts(&[("reported", 1_000), ("waiting", 1), ("free", 0)], 1_001);
        let classes: Vec<_> = drawn.iter().map(|(class, ..)| *class).collect();
        assert_eq!(classes, ["reported", "waiting"]);
    }

    #[test]
    fn a_time_has_its_place_within_its_bar() {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        let points: Vec<UsagePoint> = (0..10)
            .map(|index| UsagePoint {
                period: Some(Period {
                    start: Some(at(index * 100)),
                    end: Some(at(index * 100 + 100)),
                }),
                quantities: None,
            })
            .collect();
        for (seconds, place) in [
            (0, Some(0)),
            (50, Some(48)),
            (100, Some(96)),
            (950, Some(912)),
            (1_000, None),
            (-1, None),
        ] {
            assert_eq!(place_of(&points, at(seconds)), place, "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn bars_stay_within_the_drawing(reported: i64, waiting: i64, free: i64) {
            let of = [("reported", reported), ("waiting", waiting), ("free", free)];
            let highest = height_of(&of).max(1);
            for (_, top, height) in parts(&of, highest) {
                prop_assert!((1..=BARS_HEIGHT).contains(&height));
                // A part that is there has one unit at least.
                prop_assert!(top >= BARS_TOP - 3, "{}", top);
                prop_assert!(top + height <= BARS_TOP + BARS_HEIGHT);
            }
        }
    }
}
