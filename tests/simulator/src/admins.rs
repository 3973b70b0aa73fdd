//! The admins: they link accounts and make them free, change plans, cancel, enter corrections and decide on reports. The
//! oracle learns what follows by the rules.

use usage_client::{
    CancelSubscription, ChangePlan, Changed, Correct, Error, ErrorKind, ListReports, PutAccount,
    ReportState, ResolveAction, ResolveReport, UsageClient, UsageReport,
};

use crate::{
    oracle::{Answer, Billing, Oracle, Unit},
    random::Random,
    time::{self, DAY, HOUR, MINUTE, SECOND},
    world::{METERS, Outcome, World},
};

/// A change is made only so far from the ends of a period.
pub(crate) const MARGIN: i64 = 75 * MINUTE;
/// A correction takes at most one part in so many of some usage.
const TAKEN: i64 = 4;
/// Reports that an admin looks at.
const MAX_DECISIONS: usize = 3;

/// The prices of the first meter, between which plans change.
pub(crate) const PLANS: [&str; 2] = ["price_api_calls", "price_api_calls_pro"];

/// What an admin may do to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Link,
    Free,
    Correct,
    Plan,
    Cancel,
    Decide,
}

/// Makes one change, now and then.
pub(crate) async fn act(
    world: &mut World,
    oracle: &mut Oracle,
    random: &mut Random,
) -> Outcome<()> {
    let account = random.place(oracle.accounts.len());
    let known = &oracle.accounts[account];
    let (start, end) = known.period_at(0, world.now_ms);
    let is_near = world.now_ms < start + MARGIN || world.now_ms + MARGIN > end;
    // While something else changes the subscription, or nothing charges, an admin leaves it as it is.
    let can_change = !is_near && known.terms.is_plain(known.meters, world.now_ms);
    let action = match known.billing_at(world.now_ms) {
        Billing::NoCustomer => random.pick(&[Action::Link, Action::Link, Action::Free]),
        Billing::Free if known.is_ended => return Ok(()),
        Billing::Free => random.pick(&[Action::Link, Action::Correct]),
        Billing::Customer => random.pick(&[
            Action::Free,
            Action::Correct,
            Action::Correct,
            Action::Plan,
            Action::Plan,
            Action::Cancel,
            Action::Decide,
            Action::Decide,
        ]),
    };
    match action {
        Action::Link | Action::Free if can_change => link(world, oracle, account, action).await,
        Action::Correct => correct(world, oracle, random, account).await,
        Action::Plan if can_change => change_plan(world, oracle, account).await,
        Action::Cancel if can_change => cancel(world, oracle, random, account).await,
        Action::Decide => decide(world, oracle, random, account).await,
        _ => Ok(()),
    }
}

/// Whether an error may come while something is broken. Others say that the call was wrong.
fn is_excusable(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable
            | ErrorKind::Deadline
            | ErrorKind::Transport
            | ErrorKind::Overloaded
            | ErrorKind::Precondition
    )
}

/// Links an account to its customer, or makes it free.
async fn link(
    world: &mut World,
    oracle: &mut Oracle,
    account: usize,
    action: Action,
) -> Outcome<()> {
    let known = &oracle.accounts[account];
    let was_free = known.billing_at(world.now_ms) == Billing::Free && !known.links.is_empty();
    let (put, billing) = if action == Action::Free {
        (PutAccount::free(&known.name), Billing::Free)
    } else {
        let put = PutAccount::stripe(&known.name, known.customer());
        (put, Billing::Customer)
    };
    let client = world.client.clone();
    let before = world.now_ms;
    let done = world.run(async move { client.put_account(put).await });
    let from = match done.await? {
        Ok(done) => done.account.valid_from.timestamp_millis(),
        Err(error) if is_excusable(&error) => {
            // It may have taken effect.
            oracle.accounts[account].is_blurred = true;
            return Ok(());
        }
        Err(error) => return Err(format!("a link was refused: {error:?}")),
    };
    let known = &mut oracle.accounts[account];
    let start = known.period_at(0, before).0;
    let is_now = (before..world.now_ms + 6 * MINUTE).contains(&from);
    // A link bills from the start of the period, but never free time; without an answer of Stripe, from now on.
    let is_right = is_now || (billing == Billing::Customer && !was_free && from == start);
    if !is_right {
        return Err(format!(
            "{} is billed from {} after a link at {}",
            known.name,
            time::text(from),
            time::text(before)
        ));
    }
    known.links.push((from, billing));
    if is_now {
        known.made.push((from, world.now_ms));
    }
    Ok(())
}

/// Some usage that a correction may take a part of.
fn takeable<'a>(
    oracle: &'a Oracle,
    random: &mut Random,
    account: usize,
    now_ms: i64,
) -> Option<&'a Unit> {
    let recent = now_ms - 10 * DAY..now_ms;
    let is_such = |unit: &&Unit| {
        unit.account == account
            && unit.answer == Answer::Acknowledged
            && unit.quantity > TAKEN
            && recent.contains(&unit.at)
    };
    let all: Vec<&Unit> = oracle.units.iter().filter(is_such).collect();
    (!all.is_empty()).then(|| random.pick(&all))
}

/// Adds usage by a correction, or takes some away.
async fn correct(
    world: &mut World,
    oracle: &mut Oracle,
    random: &mut Random,
    account: usize,
) -> Outcome<()> {
    let known = &oracle.accounts[account];
    let mut unit = Unit {
        account,
        meter: random.place(known.meters),
        at: world.now_ms - random.below(10 * DAY),
        quantity: 1 + random.below(1_000),
        key: None,
        batch: None,
        answer: Answer::Unknown,
        answered_at: 0,
    };
    if random.one_in(3)
        && let Some(from) = takeable(oracle, random, account, world.now_ms)
    {
        (unit.meter, unit.at) = (from.meter, from.at);
        unit.quantity = -1 - random.below(from.quantity / TAKEN);
    }
    let correction = Correct::new(&known.name, unit.quantity, "simulated")
        .meter(METERS[unit.meter].0)
        .timestamp(time::utc(unit.at))
        .key(format!("correction-{}", oracle.units.len()));
    oracle.units.push(unit);
    // One that was entered is repeated now and then: its key enters it once.
    let mut repeats = u32::from(random.one_in(3));
    for _ in 0..3 {
        let (client, correction) = (world.client.clone(), correction.clone());
        let entered = world.run(async move { client.correct(correction).await });
        match entered.await? {
            Ok(_) => {
                if let Some(unit) = oracle.units.last_mut() {
                    unit.answer = Answer::Acknowledged;
                    unit.answered_at = world.now_ms;
                }
                if repeats == 0 {
                    return Ok(());
                }
                repeats -= 1;
            }
            Err(error) if is_excusable(&error) => {}
            Err(error) => return Err(format!("a correction was refused: {error:?}")),
        }
    }
    Ok(())
}

/// Changes the plan of the first meter.
async fn change_plan(world: &mut World, oracle: &mut Oracle, account: usize) -> Outcome<()> {
    let known = &oracle.accounts[account];
    let to = PLANS[1 - known.plan];
    let (client, plan) = (world.client.clone(), ChangePlan::new(&known.name, to));
    let call = async move { patient(&client).change_plan(plan).await };
    let Some(at) = change(world, oracle, account, call).await? else {
        return Ok(());
    };
    let known = &mut oracle.accounts[account];
    known.plan = 1 - known.plan;
    known.splits.push(at);
    known.made.push((at, world.now_ms));
    Ok(())
}

/// Cancels at once.
async fn cancel(
    world: &mut World,
    oracle: &mut Oracle,
    random: &mut Random,
    account: usize,
) -> Outcome<()> {
    let cancel = CancelSubscription::now(&oracle.accounts[account].name);
    let cancel = cancel.prorate(random.one_in(2));
    let client = world.client.clone();
    let call = async move { patient(&client).cancel_subscription(cancel).await };
    let Some(at) = change(world, oracle, account, call).await? else {
        return Ok(());
    };
    let known = &mut oracle.accounts[account];
    known.is_ended = true;
    known.links.push((at, Billing::Free));
    Ok(())
}

/// A client that waits until Stripe shows all usage.
fn patient(client: &UsageClient) -> UsageClient {
    client
        .clone()
        .with_timeout(std::time::Duration::from_mins(3))
}

/// Awaits a change of a subscription. Returns its boundary; none if it was not made, or if that is not known.
async fn change(
    world: &mut World,
    oracle: &mut Oracle,
    account: usize,
    call: impl Future<Output = Result<Changed, Error>>,
) -> Outcome<Option<i64>> {
    let before = world.now_ms;
    match world.run(call).await? {
        Ok(changed) => {
            let boundary = changed
                .change
                .map(|change| change.boundary.timestamp_millis());
            match boundary {
                Some(at) if (before..world.now_ms + 6 * MINUTE).contains(&at) => Ok(Some(at)),
                // A repeated cancel: the one before got no answer and took effect.
                Some(at) if oracle.accounts[account].is_blurred && at < before => Ok(Some(at)),
                other => Err(format!(
                    "the boundary of a change at {} is {other:?}",
                    time::text(before)
                )),
            }
        }
        // It changed nothing, for certain.
        Err(error) if error.kind() == ErrorKind::Precondition => Ok(None),
        Err(error) if is_excusable(&error) => {
            oracle.accounts[account].is_blurred = true;
            Ok(None)
        }
        Err(error) => Err(format!("a change was refused: {error:?}")),
    }
}

/// Decides on reports that wait for a person.
async fn decide(
    world: &mut World,
    oracle: &mut Oracle,
    random: &mut Random,
    account: usize,
) -> Outcome<()> {
    let name = oracle.accounts[account].name.clone();
    let (client, filter) = (world.client.clone(), ListReports::new().account(&name));
    let listing = async move { client.list_all_reports(filter, 10_000).await };
    let Ok(page) = world.run(listing).await? else {
        return Ok(());
    };
    let waiting = [
        ReportState::TooLate,
        ReportState::Rejected,
        ReportState::Missing,
        ReportState::Unknown,
        ReportState::Uncharged,
    ];
    let reports = page.reports.into_iter();
    // What Stripe has of the time before a restore is looked up first.
    let restored = |report: &UsageReport| {
        let start = report.window.start.timestamp_millis();
        oracle.is_before_restore(start)
    };
    let reports = reports.filter(|report| waiting.contains(&report.state) && !restored(report));
    for report in reports.take(MAX_DECISIONS) {
        let action = random.pick(&[
            ResolveAction::Retry,
            ResolveAction::BillInCurrentPeriod,
            ResolveAction::WriteOff,
        ]);
        let decision = ResolveReport::new(&name, &report.id, action, "simulated");
        let client = world.client.clone();
        let deciding = async move { client.resolve_report(decision).await };
        // What becomes of it is shown by the report itself.
        match world.run(deciding).await? {
            Ok(_) => {}
            Err(error) if is_excusable(&error) => {}
            Err(error) => return Err(format!("a decision was refused: {error:?}")),
        }
    }
    Ok(())
}

/// How long after a boundary Stripe may have made the change.
pub(crate) const CHANGE_TAKES: i64 = 3 * MINUTE + 30 * SECOND;
const _: () = assert!(CHANGE_TAKES < HOUR);
