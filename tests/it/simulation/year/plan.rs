//! The random plan: the accounts, and the times and quantities of their usage.

use chrono::{DateTime, Months, TimeDelta, Utc};

use crate::support::{random::Random, world::at};

/// The start of the simulation, chosen so that half a year includes a leap day.
const START: &str = "2027-10-05T04:05:06Z";
/// Accounts, months and seed of a plain run. A second run has the same size and a new seed.
const ACCOUNTS: usize = 10;
const MONTHS: u32 = 3;
const SEED: u64 = 1;
/// The days and times around which periods end. Those of each account are some seconds later.
const ANCHORS: [&str; 5] = [
    "2027-01-31T23:59:31Z",
    "2027-01-30T13:12:34Z",
    "2027-03-29T06:00:00Z",
    "2024-02-29T17:29:59Z",
    "2027-05-11T09:47:13Z",
];

/// The meters: their names in the service and their event names at Stripe.
pub(super) const METERS: [(&str, &str); 2] = [("api_calls", "api_calls"), ("tokens", "llm_tokens")];

/// The size of a simulation.
#[derive(Clone, Debug)]
pub(super) struct Size {
    pub(super) accounts: usize,
    pub(super) months: u32,
    pub(super) seeds: Vec<u64>,
    /// The kinds of events that are excluded.
    pub(super) without: Vec<String>,
}

impl Size {
    pub(super) fn from_environment() -> Self {
        let number = |name: &str| -> Option<u32> {
            let text = std::env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
        };
        let seeds = std::env::var("YEAR_SEEDS").map_or_else(
            |_| vec![SEED, new_seed()],
            |text| {
                let seeds = text.split(',').map(|seed| seed.trim().parse());
                seeds.collect::<Result<_, _>>().expect("seeds")
            },
        );
        Self {
            accounts: number("YEAR_ACCOUNTS").map_or(ACCOUNTS, |accounts| accounts as usize),
            months: number("YEAR_MONTHS").unwrap_or(MONTHS),
            seeds,
            without: std::env::var("YEAR_WITHOUT").map_or(Vec::new(), |text| {
                text.split(',').map(|what| what.trim().to_owned()).collect()
            }),
        }
    }

    /// Whether a kind of event is included.
    pub(super) fn has(&self, what: &str) -> bool {
        self.without.iter().all(|without| without != what)
    }
}

/// A new seed.
fn new_seed() -> u64 {
    u64::from(std::process::id())
        ^ std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| u64::from(since.subsec_nanos()))
}

/// The time at which it begins.
pub(super) fn start() -> DateTime<Utc> {
    at(START)
}

/// The billing cycle anchor of an account.
pub(super) fn anchor(random: &mut Random, number: usize) -> DateTime<Utc> {
    at(ANCHORS[number % ANCHORS.len()]) + TimeDelta::seconds(random.below(40))
}

/// The `number`th period end after an anchor: on the anchor's day, or on the last day of a shorter month.
pub(super) fn month(anchor: DateTime<Utc>, number: u32) -> DateTime<Utc> {
    anchor + Months::new(number)
}

/// The period of an anchor that contains a time.
pub(super) fn period_around(
    anchor: DateTime<Utc>,
    now: DateTime<Utc>,
) -> (DateTime<Utc>, DateTime<Utc>) {
    let number = (1..12_000).find(|number| month(anchor, *number) > now);
    let number = number.expect("a month");
    (month(anchor, number - 1), month(anchor, number))
}
