//! What happens to the subscriptions at Stripe, without the service: a script for each account, drawn from the seed
//! beforehand. `at_stripe` carries it out.

use crate::{
    plan::{Size, shape, times},
    random::Random,
    time::{self, HOUR, MINUTE, SECOND},
};

/// The part of the seed that scripts are drawn from.
const PART: u64 = 0x5c21;
/// The days of a trial.
const TRIAL_DAYS: [i64; 4] = [1, 2, 4, 9];

/// Something that is done at Stripe, in its dashboard or by its own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The trial ends at once.
    EndTrial,
    /// A subscription that its trial left paused goes on.
    Resume,
    /// Another price for the item of the first meter, which stays.
    SwapPrice,
    /// Another item with another price instead of that of the first meter.
    ReplaceItem,
    /// The item of the second meter is removed.
    RemoveItem,
    /// An item of the second meter is added.
    AddItem,
    /// A cancel at once, with an invoice.
    Cancel,
    /// A cancel at the end of the billing period.
    CancelAtEnd,
    /// Another subscription begins, after the one before ended.
    Subscribe,
    /// Invoices that are made from now on are not collected. None is made until the next event.
    PauseCollection,
    /// The end of that.
    ResumeCollection,
}

impl Event {
    const ALL: [Self; 11] = [
        Self::EndTrial,
        Self::Resume,
        Self::SwapPrice,
        Self::ReplaceItem,
        Self::RemoveItem,
        Self::AddItem,
        Self::Cancel,
        Self::CancelAtEnd,
        Self::Subscribe,
        Self::PauseCollection,
        Self::ResumeCollection,
    ];

    /// Its name in summaries.
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }
}

/// The names of all events.
pub(crate) fn names() -> Vec<String> {
    Event::ALL.map(Event::name).into()
}

/// A trial at the begin of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    /// How long it lasts, in milliseconds.
    pub(crate) length: i64,
    /// Whether the subscription is paused at its end, and does not charge.
    pub(crate) pauses: bool,
}

/// The script of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) trial: Option<Trial>,
    /// Each with the first step in which it happens if it can.
    pub(crate) events: Vec<(usize, Event)>,
}

/// Draws the script of each account. One in three has none.
pub(crate) fn draw(seed: u64, size: &Size) -> Vec<Script> {
    let times = times(seed, size);
    let accounts = shape(seed, size).into_iter().enumerate();
    accounts
        .map(|(number, (anchor, meters))| {
            let part = PART + u64::try_from(number).unwrap_or(0) * 0x1_0000;
            let mut random = Random::of_part(seed, part);
            draw_one(&mut random, &times, (anchor, meters))
        })
        .collect()
}

fn draw_one(random: &mut Random, times: &[i64], (anchor, meters): (i64, usize)) -> Script {
    let mut steps = [random.place(times.len()), random.place(times.len())];
    steps.sort_unstable();
    let [first, second] = steps;
    let trial = Trial {
        length: random.pick(&TRIAL_DAYS) * 24 * HOUR + random.below(24 * HOUR / SECOND) * SECOND,
        pauses: false,
    };
    let only = |events: &[(usize, Event)]| Script {
        trial: None,
        events: events.to_vec(),
    };
    match random.below(15) {
        0 => Script {
            trial: Some(trial),
            events: Vec::new(),
        },
        1 => Script {
            trial: Some(trial),
            events: vec![(first, Event::EndTrial)],
        },
        2 => Script {
            trial: Some(Trial {
                pauses: true,
                ..trial
            }),
            events: vec![(second, Event::Resume)],
        },
        3 | 4 => only(&[(first, Event::SwapPrice)]),
        5 => only(&[(first, Event::ReplaceItem)]),
        6 | 7 if meters > 1 => only(&[(first, Event::RemoveItem), (second, Event::AddItem)]),
        6..=8 => only(&[(first, Event::Cancel), (second, Event::Subscribe)]),
        9 => only(&[(first, Event::CancelAtEnd), (second, Event::Subscribe)]),
        10 if is_within_period(anchor, (times[first], times[second])) => only(&[
            (first, Event::PauseCollection),
            (second, Event::ResumeCollection),
        ]),
        _ => Script::default(),
    }
}

/// Whether a billing period contains two times, and its end is not near.
fn is_within_period(anchor: i64, (first, second): (i64, i64)) -> bool {
    let (start, end) = time::period_around(anchor, first);
    start + 2 * HOUR < first && second + 2 * HOUR + MINUTE < end
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_has_one_script_for_each_account_and_every_event_is_drawn() {
        let size = Size {
            accounts: 2,
            days: 20,
        };
        let mut drawn = BTreeSet::new();
        let mut trials = BTreeSet::new();
        for seed in 0..300 {
            let scripts = draw(seed, &size);
            assert_eq!(scripts, draw(seed, &size));
            assert_eq!(scripts.len(), size.accounts);
            for script in scripts {
                trials.extend(script.trial.map(|trial| trial.pauses));
                let events = script.events.iter();
                drawn.extend(events.map(|(_, event)| event.name()));
            }
        }
        assert_eq!(drawn, names().into_iter().collect());
        assert_eq!(trials.len(), 2);
    }
}
