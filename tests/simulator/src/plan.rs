//! The plan of a run, drawn from the seed: its accounts, the moments of its steps, and its faults.

use crate::{
    faults::{self, Fault},
    random::Random,
    time::{self, DAY, HOUR, MINUTE, SECOND},
    world::METERS,
};

/// When every run begins: so that a leap day is near.
pub(crate) const START_MS: i64 = 1_832_990_706_000;
/// How long after a period's end the clocks stop: after the service's own close, while its invoice is a draft, around
/// its finalization, and after it.
pub(crate) const AFTER_END: [i64; 5] = [6, 30, 56, 62, 71];
/// How many different days periods end on.
const MAX_ANCHORS: usize = 2;
/// The parts of the seed.
pub(crate) const SHAPE: u64 = 1;
const TIMES: u64 = 2;
pub(crate) const STEPS: u64 = 3;

/// What a run is of.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub(crate) accounts: usize,
    pub(crate) days: i64,
}

/// The faults of a seed.
pub(crate) fn faults_of(seed: u64, size: &Size) -> Vec<Fault> {
    faults::draw(seed, times(seed, size).len())
}

/// The billing cycle anchors and the number of meters of the accounts of a seed.
pub(crate) fn shape(seed: u64, size: &Size) -> Vec<(i64, usize)> {
    let mut random = Random::of_part(seed, SHAPE);
    let mut anchors = Vec::new();
    (0..size.accounts)
        .map(|number| {
            let meters = 1 + random.place(METERS.len());
            // Each end of a period takes several steps, so most accounts share theirs.
            if number >= MAX_ANCHORS {
                return (random.pick(&anchors), meters);
            }
            let day = random.pick(&[0, 1, 14, 27, 28, 29, 30]);
            let anchor = START_MS - START_MS.rem_euclid(DAY) - 90 * DAY + day * DAY;
            let anchor = anchor + random.below(DAY / SECOND) * SECOND;
            anchors.push(anchor);
            (anchor, meters)
        })
        .collect()
}

/// The moments of the steps: at random distances, and closer around the ends of periods.
pub(crate) fn times(seed: u64, size: &Size) -> Vec<i64> {
    let mut random = Random::of_part(seed, TIMES);
    let anchors = shape(seed, size);
    let mut times = Vec::new();
    let mut now = START_MS;
    while now < START_MS + size.days * DAY {
        let next = now + random.pick(&[10 * MINUTE, 5 * HOUR, 20 * HOUR, 44 * HOUR]);
        let next = next + random.below(HOUR);
        let ends = anchors
            .iter()
            .map(|(anchor, _)| time::period_around(*anchor, now).1);
        if let Some(end) = ends.min().filter(|end| *end <= next) {
            if now < end - 5 * MINUTE {
                times.push(end - 1 - random.below(5 * MINUTE));
            }
            times.push(end + random.below(30 * SECOND));
            for minutes in AFTER_END {
                times.push(end + minutes * MINUTE + random.below(30 * SECOND));
            }
            now = end + 72 * MINUTE;
        } else {
            times.push(next);
            now = next;
        }
    }
    times.sort_unstable();
    times
}
