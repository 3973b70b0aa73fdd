//! The callers: they count with keys and without, in single calls and batches, at once and one after the other, and
//! repeat what was not acknowledged under the same key.

use tokio::task::JoinSet;
use usage_client::{Batch, Error, ErrorKind, Increment, IncrementResult, UsageClient};

use crate::{
    oracle::{Answer, MAX_AGE, Oracle, Unit},
    random::Random,
    time::{self, DAY, HOUR, MINUTE},
    world::{METERS, Outcome, World},
};

/// Repeats in one step.
const MAX_REPEATS: usize = 12;

/// One call to the service, with the numbers of its units.
#[derive(Clone, Debug)]
enum Call {
    One(usize, Increment),
    Many(Vec<usize>, Batch),
}

/// How a call was answered: whether each unit was a duplicate.
type Answered = (Call, Result<Vec<bool>, Error>);

/// What the callers did in a step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) calls: usize,
    pub(crate) errors: usize,
    /// Units whose first answer was that they had been counted: by an earlier attempt of the same call, which the client
    /// repeats when the disk or the server fails.
    pub(crate) known_at_first: usize,
}

/// The callers.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    /// The number of batches so far.
    batches: usize,
}

impl Callers {
    /// Counts some usage in a step.
    pub(crate) async fn count(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        random: &mut Random,
        since_ms: i64,
    ) -> Outcome<Done> {
        let mut calls = Vec::new();
        for account in 0..oracle.accounts.len() {
            for _ in 0..random.below(3) {
                let is_batch = random.one_in(5);
                let units = if is_batch { 1 + random.below(6) } else { 1 };
                let units: Vec<Unit> = (0..units)
                    .map(|_| draw_unit(oracle, random, account, (since_ms, world.now_ms)))
                    .collect();
                calls.push(self.call(oracle, random, units, is_batch));
            }
        }
        let at_once = random.one_in(2);
        send(world, oracle, calls, at_once).await
    }

    fn call(
        &mut self,
        oracle: &mut Oracle,
        random: &mut Random,
        mut units: Vec<Unit>,
        is_batch: bool,
    ) -> Call {
        let first = oracle.units.len();
        if is_batch {
            let number = self.batches;
            self.batches += 1;
            for unit in &mut units {
                unit.batch = Some(number);
                unit.key = None;
            }
            let batch: Batch = units.iter().fold(Batch::new(), |batch, unit| {
                batch.push(increment(oracle, unit).without_key())
            });
            let batch = batch.key(format!("batch-{number}"));
            let numbers = (first..first + units.len()).collect();
            oracle.units.append(&mut units);
            return Call::Many(numbers, batch);
        }
        let mut unit = units.remove(0);
        unit.key = (!random.one_in(8)).then(|| format!("key-{first}"));
        let one = increment(oracle, &unit);
        oracle.units.push(unit);
        Call::One(first, one)
    }
}

/// Repeats some earlier calls: those without an answer, and some that were acknowledged.
pub(crate) async fn repeat(
    world: &mut World,
    oracle: &mut Oracle,
    random: &mut Random,
) -> Outcome<Done> {
    let mut calls = Vec::new();
    for _ in 0..random.place(4) {
        if oracle.units.is_empty() {
            break;
        }
        let number = random.place(oracle.units.len());
        calls.extend(repeated(oracle, number, world.now_ms));
    }
    if random.one_in(2) {
        calls.extend(unanswered(oracle, world.now_ms));
        calls.truncate(MAX_REPEATS);
    }
    send(world, oracle, calls, false).await
}

/// Repeats everything that has no answer. Returns how many still have none.
pub(crate) async fn repeat_all(world: &mut World, oracle: &mut Oracle) -> Outcome<usize> {
    let calls = unanswered(oracle, world.now_ms);
    let done = send(world, oracle, calls, true).await?;
    if done.known_at_first > 0 {
        return Err(format!(
            "{} refused units were counted",
            done.known_at_first
        ));
    }
    Ok(unanswered(oracle, world.now_ms).len())
}

async fn send(
    world: &mut World,
    oracle: &mut Oracle,
    calls: Vec<Call>,
    at_once: bool,
) -> Outcome<Done> {
    let mut done = Done::default();
    let client = world.client.clone();
    let groups: Vec<Vec<Call>> = if at_once {
        vec![calls]
    } else {
        calls.into_iter().map(|call| vec![call]).collect()
    };
    for group in groups {
        let mut tasks = JoinSet::new();
        for call in group {
            tasks.spawn(send_one(client.clone(), call));
        }
        let answered = world.run(async move { tasks.join_all().await }).await?;
        for (call, answer) in answered {
            done.calls += 1;
            done.errors += usize::from(answer.is_err());
            done.known_at_first += note(oracle, &call, answer, world.now_ms)?;
        }
    }
    Ok(done)
}

async fn send_one(client: UsageClient, call: Call) -> Answered {
    let answer = match call.clone() {
        Call::One(_, increment) => client
            .increment(increment)
            .await
            .map(|counted| vec![counted.duplicate]),
        Call::Many(_, batch) => client.increment_batch(batch).await.map(|outcome| {
            let results = outcome.results.iter();
            // A refused one would be an error of the harness: it is told as one below.
            results
                .filter(|result| !matches!(result, IncrementResult::Refused { .. }))
                .map(|_| outcome.duplicate)
                .collect()
        }),
    };
    (call, answer)
}

/// Notes an answer, and checks what is known at once. Returns how many units were known at their first answer.
fn note(
    oracle: &mut Oracle,
    call: &Call,
    answer: Result<Vec<bool>, Error>,
    now_ms: i64,
) -> Outcome<usize> {
    let numbers = match call {
        Call::One(number, _) => vec![*number],
        Call::Many(numbers, _) => numbers.clone(),
    };
    match answer {
        Ok(duplicates) => {
            if duplicates.len() != numbers.len() {
                return Err(format!("items of a batch were refused: {call:?}"));
            }
            let mut known_at_first = 0;
            for (number, is_duplicate) in numbers.iter().zip(duplicates) {
                let unit = &mut oracle.units[*number];
                known_at_first += usize::from(unit.answer == Answer::Refused && is_duplicate);
                match (unit.answer, is_duplicate) {
                    (Answer::Acknowledged, false) => {
                        return Err(format!("an acknowledged unit was lost: {unit:?}"));
                    }
                    (Answer::Acknowledged, true) => {}
                    _ => {
                        unit.answer = Answer::Acknowledged;
                        unit.answered_at = now_ms;
                    }
                }
            }
            Ok(known_at_first)
        }
        Err(error) => {
            let kinds = [
                ErrorKind::Unavailable,
                ErrorKind::Deadline,
                ErrorKind::Transport,
                ErrorKind::Overloaded,
            ];
            if !kinds.contains(&error.kind()) {
                return Err(format!("a call was refused with {error:?}: {call:?}"));
            }
            for number in &numbers {
                let unit = &mut oracle.units[*number];
                if unit.answer == Answer::Refused && error.may_have_taken_effect() {
                    unit.answer = Answer::Unknown;
                }
            }
            Ok(0)
        }
    }
}

/// Draws a unit of usage: mostly of the time since the last step, sometimes late.
fn draw_unit(
    oracle: &Oracle,
    random: &mut Random,
    account: usize,
    (since_ms, now_ms): (i64, i64),
) -> Unit {
    let at = match random.below(12) {
        0 => now_ms - random.below(20 * DAY),
        1 => now_ms - random.below(30 * HOUR),
        2 => now_ms - random.below(HOUR),
        3 => now_ms + random.below(4 * MINUTE),
        4 => at_boundary(oracle, random, account, now_ms),
        _ => now_ms - random.below(now_ms - since_ms),
    };
    Unit {
        account,
        meter: random.place(oracle.accounts[account].meters),
        at,
        quantity: 1 + random.below(1_000),
        key: None,
        batch: None,
        // Until it is sent and something else is known.
        answer: Answer::Refused,
        answered_at: 0,
    }
}

/// At the first moment of a billing period, or one beside it.
fn at_boundary(oracle: &Oracle, random: &mut Random, account: usize, now_ms: i64) -> i64 {
    let start = oracle.accounts[account].period_at(0, now_ms).0;
    let start = start + random.pick(&[0, 0, -1, 1]);
    if start > now_ms - 20 * DAY {
        start
    } else {
        now_ms - random.below(HOUR)
    }
}

fn increment(oracle: &Oracle, unit: &Unit) -> Increment {
    let one = Increment::new(&oracle.accounts[unit.account].name)
        .meter(METERS[unit.meter].0)
        .quantity(unit.quantity)
        .timestamp(time::utc(unit.at));
    match &unit.key {
        Some(key) => one.key(key),
        None => one.without_key(),
    }
}

/// The call that has sent a unit, once more; none if it cannot be repeated.
fn repeated(oracle: &Oracle, number: usize, now_ms: i64) -> Option<Call> {
    let unit = &oracle.units[number];
    let is_young = |unit: &Unit| unit.at + MAX_AGE - DAY > now_ms;
    if let Some(batch) = unit.batch {
        let own = |unit: &Unit| unit.batch == Some(batch);
        let numbers: Vec<usize> = (0..oracle.units.len())
            .filter(|number| own(&oracle.units[*number]))
            .collect();
        let units = numbers.iter().map(|number| &oracle.units[*number]);
        if !units.clone().all(is_young) {
            return None;
        }
        let batch_call = units.fold(Batch::new(), |batch, unit| {
            batch.push(increment(oracle, unit).without_key())
        });
        return Some(Call::Many(
            numbers,
            batch_call.key(format!("batch-{batch}")),
        ));
    }
    (unit.key.is_some() && is_young(unit)).then(|| Call::One(number, increment(oracle, unit)))
}

/// Every call that was not acknowledged and that can be repeated.
fn unanswered(oracle: &Oracle, now_ms: i64) -> Vec<Call> {
    let open = |number: &usize| {
        let unit = &oracle.units[*number];
        // A batch is repeated once, by its first unit.
        let is_first = number
            .checked_sub(1)
            .is_none_or(|before| unit.batch.is_none() || oracle.units[before].batch != unit.batch);
        unit.answer != Answer::Acknowledged && is_first
    };
    let numbers = (0..oracle.units.len()).filter(open);
    numbers
        .filter_map(|number| repeated(oracle, number, now_ms))
        .collect()
}
