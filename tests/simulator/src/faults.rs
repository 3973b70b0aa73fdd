//! The faults of a run: a list that is drawn from the seed beforehand, so that single ones can be left out.

use std::{collections::BTreeSet, fmt, time::Duration};

use fake_stripe::Fault as StripeFault;

use crate::{
    disk::{Armed, DiskFault, Operation, Unsynced},
    random::Random,
};

/// The part of the seed that faults are drawn from.
const PART: u64 = 0xfa17;
/// The part that refusals are drawn from. They came later, and follow the others so that these keep their numbers.
const REFUSALS: u64 = 0xfa18;
/// Most refusals of a run.
const MAX_REFUSALS: i64 = 2;
/// Most faults of a run.
const MAX_FAULTS: i64 = 24;
/// So many seeds have every kind of fault.
const SEEDS_OF_ALL: u64 = 1_000;
/// The operations of a step that are counted for faults: most steps have a few dozen.
const OPERATIONS: i64 = 16;

/// Where meter events are sent to.
pub(crate) const EVENTS: &str = "/v1/billing/meter_events";

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The step in which it happens.
    pub(crate) step: usize,
    pub(crate) kind: Kind,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The `nth` write or sync of the step.
    Disk {
        operation: Operation,
        nth: u64,
        how: DiskFault,
        /// Counted from when callers begin, and not from the step's begin, when jobs do most of the work.
        in_calls: bool,
    },
    /// The power is cut at the `nth` write or sync of the step.
    PowerCut {
        operation: Operation,
        nth: u64,
        unsynced: Unsynced,
        /// As for the disk.
        in_calls: bool,
    },
    /// The replica is killed while calls are under way.
    Kill,
    /// The replica is stopped and started.
    Restart,
    /// The replica is killed, and nothing runs for this many steps.
    Outage { steps: usize },
    /// The replica stands still for this many milliseconds.
    Freeze { ms: u32 },
    /// The next requests to Stripe, or the next meter events alone.
    Stripe {
        how: StripeKind,
        times: u64,
        of_events: bool,
    },
    /// Stripe's summaries lag behind by so many minutes, for this many steps.
    Lag { mins: u32, steps: usize },
    /// Stripe takes every event and answers none, for this many steps.
    Deaf { steps: usize },
    /// The wall clock of the replica is set forward or back by so many minutes.
    Clock { mins: i64 },
    /// Webhooks come so many times each, in which order.
    Webhooks { copies: u32, newest_first: bool },
}

/// What Stripe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StripeKind {
    Refuses500,
    Accepts500,
    Limits429,
    Denies401,
    Drops,
    AcceptsAndDrops,
    Undecodable,
    Gateway,
    Slow,
    Silent,
    Loses,
    /// It refuses events for good.
    Refuses400,
}

impl StripeKind {
    /// Those that are drawn together.
    const ALL: [Self; 11] = [
        Self::Refuses500,
        Self::Accepts500,
        Self::Limits429,
        Self::Denies401,
        Self::Drops,
        Self::AcceptsAndDrops,
        Self::Undecodable,
        Self::Gateway,
        Self::Slow,
        Self::Silent,
        Self::Loses,
    ];

    /// The fault as the fake Stripe knows it.
    pub(crate) fn script(self, times: u64, of_events: bool) -> StripeFault {
        let fault = match self {
            Self::Refuses500 => StripeFault::status(500),
            Self::Accepts500 => StripeFault::status(500).after_executing(),
            Self::Limits429 => StripeFault::status(429),
            Self::Denies401 => StripeFault::status(401),
            Self::Drops => StripeFault::drop_connection(),
            Self::AcceptsAndDrops => StripeFault::accept_then_drop(),
            Self::Undecodable => StripeFault::undecodable(),
            Self::Gateway => StripeFault::undecodable_error(),
            Self::Slow => StripeFault::delay(Duration::from_secs(3)).after_executing(),
            Self::Silent => StripeFault::delay(Duration::from_mins(2)).after_executing(),
            // Only of events: elsewhere there is nothing to lose.
            Self::Loses => return StripeFault::lose().times(times).on_path(EVENTS),
            // Elsewhere it says that something is set up wrong.
            Self::Refuses400 => return StripeFault::status(400).times(times).on_path(EVENTS),
        };
        let fault = fault.times(times);
        if of_events {
            fault.on_path(EVENTS)
        } else {
            fault
        }
    }
}

impl Kind {
    /// Whether calls may fail because of it: the disk or the server does not work.
    pub(crate) fn stops_counting(&self) -> bool {
        !matches!(
            self,
            Self::Stripe { .. }
                | Self::Lag { .. }
                | Self::Deaf { .. }
                | Self::Clock { .. }
                | Self::Webhooks { .. }
        )
    }

    /// Its name in summaries.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Disk { operation, how, .. } => {
                let operation = operation_name(*operation);
                match how {
                    DiskFault::Error => format!("{operation} fails"),
                    DiskFault::Full => format!("{operation} without space"),
                    DiskFault::Short => format!("{operation} in part"),
                    DiskFault::AfterEffect => format!("{operation} fails after its effect"),
                    DiskFault::Slow(_) => format!("{operation} is slow"),
                    DiskFault::PowerCut => "power cut".to_owned(),
                }
            }
            Self::PowerCut { unsynced, .. } => match unsynced {
                Unsynced::Kept => "power cut, unsynced kept".to_owned(),
                Unsynced::Dropped => "power cut, unsynced dropped".to_owned(),
                Unsynced::Torn => "power cut, unsynced torn".to_owned(),
            },
            Self::Kill => "kill".to_owned(),
            Self::Restart => "restart".to_owned(),
            Self::Outage { .. } => "outage".to_owned(),
            Self::Freeze { .. } => "freeze".to_owned(),
            Self::Stripe { how, .. } => format!("Stripe: {how:?}"),
            Self::Lag { .. } => "Stripe: summaries lag".to_owned(),
            Self::Deaf { .. } => "Stripe: takes events and answers none".to_owned(),
            Self::Clock { .. } => "clock set".to_owned(),
            Self::Webhooks { .. } => "webhooks repeated, reordered or dropped".to_owned(),
        }
    }
}

fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Write => "write",
        Operation::Sync => "sync",
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {:?}", self.step, self.kind)
    }
}

/// Draws the faults of a run. One in eight runs has none.
pub(crate) fn draw(seed: u64, steps: usize) -> Vec<Fault> {
    let mut random = Random::of_part(seed, PART);
    if random.one_in(8) {
        return Vec::new();
    }
    let number = 1 + random.below(MAX_FAULTS);
    let mut faults: Vec<Fault> = (0..number)
        .map(|_| Fault {
            step: random.place(steps),
            kind: draw_kind(&mut random),
        })
        .collect();
    faults.sort_by_key(|fault| fault.step);
    let mut random = Random::of_part(seed, REFUSALS);
    let refusals = (0..random.below(MAX_REFUSALS + 1)).map(|_| Fault {
        step: random.place(steps),
        kind: Kind::Stripe {
            how: StripeKind::Refuses400,
            times: random.pick(&[1, 1, 4]),
            of_events: true,
        },
    });
    faults.extend(refusals);
    faults
}

/// The names of all kinds that are drawn.
pub(crate) fn names() -> BTreeSet<String> {
    let faults = (0..SEEDS_OF_ALL).flat_map(|seed| draw(seed, 1));
    faults.map(|fault| fault.kind.name()).collect()
}

fn draw_kind(random: &mut Random) -> Kind {
    let operation = random.pick(&[Operation::Write, Operation::Sync]);
    let nth = 1 + u64::try_from(random.below(OPERATIONS)).unwrap_or(0);
    match random.below(17) {
        0..=3 => Kind::Disk {
            operation,
            nth,
            how: match random.below(5) {
                0 => DiskFault::Error,
                1 => DiskFault::Full,
                2 => DiskFault::Short,
                3 => DiskFault::AfterEffect,
                _ => DiskFault::Slow(random.pick(&[300, 4_000, 25_000])),
            },
            in_calls: random.one_in(2),
        },
        4..=5 => Kind::PowerCut {
            operation,
            nth,
            unsynced: random.pick(&[Unsynced::Kept, Unsynced::Dropped, Unsynced::Torn]),
            in_calls: random.one_in(2),
        },
        6 => Kind::Kill,
        7 => Kind::Restart,
        8 => Kind::Outage {
            steps: 1 + random.place(4),
        },
        9 => Kind::Freeze {
            ms: random.pick(&[500, 12_000, 70_000]),
        },
        10..=12 => Kind::Stripe {
            how: random.pick(&StripeKind::ALL),
            times: random.pick(&[1, 1, 3, 10, 50]),
            of_events: random.one_in(2),
        },
        13 => Kind::Lag {
            mins: random.pick(&[5, 60, 600]),
            steps: 1 + random.place(5),
        },
        14 => Kind::Clock {
            mins: random.pick(&[-180, -2, 2, 90, 60 * 24 * 800]),
        },
        15 => Kind::Deaf {
            steps: 1 + random.place(4),
        },
        _ => Kind::Webhooks {
            copies: random.pick(&[0, 2, 3]),
            newest_first: random.one_in(2),
        },
    }
}

/// The faults of the disk in a step, as the disk knows them: those from its begin, or those from when callers begin.
pub(crate) fn of_disk(faults: &[(usize, Fault)], step: usize, of_calls: bool) -> Vec<Armed> {
    let own = faults.iter().filter(|(_, fault)| fault.step == step);
    own.filter_map(|(number, fault)| {
        let (operation, nth, how, in_calls) = match fault.kind {
            Kind::Disk {
                operation,
                nth,
                how,
                in_calls,
            } => (operation, nth, how, in_calls),
            Kind::PowerCut {
                operation,
                nth,
                in_calls,
                ..
            } => (operation, nth, DiskFault::PowerCut, in_calls),
            _ => return None,
        };
        (in_calls == of_calls).then_some(Armed {
            fault: *number,
            operation,
            nth,
            how,
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_list_and_every_kind_is_drawn() {
        for seed in 0..40 {
            assert_eq!(draw(seed, 100), draw(seed, 100));
        }
        let names = names();
        assert!(names.len() >= 31, "{names:?}");
    }
}
