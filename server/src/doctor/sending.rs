//! Checks whether reports are sent, and whether Stripe's totals are larger than what the database knows.

use super::finding::{Finding, cause_of, first_names};
use crate::{
    domain::{
        DAY_MS, Millis,
        meter::Meters,
        send_load::{SendLoad, TOO_SLOW},
        stream::Stream,
        window::Slots,
    },
    restore_look_up::{ComparedHour, LookUp, LookUpError, hours_since},
    store::{Store, sending_state::Sending},
    stripe::{Failure, Stripe},
    workers::schedule::Schedule,
};

const CHECK: &str = "sending";
const TOTALS: &str = "totals";
const RATE: &str = "sending rate";
/// How far back Stripe's totals are compared, unless a backup was restored that is older.
const COMPARED_MS: Millis = 2 * DAY_MS;
/// The longest time that is compared.
const LONGEST_MS: Millis = 35 * DAY_MS;
/// The maximum number of customers that are compared; each needs one request for each meter.
const MAX_CUSTOMERS: u64 = 50;

pub(super) async fn check(
    store: &Store,
    stripe: Option<&Stripe>,
    meters: &Meters,
    now: Millis,
    findings: &mut Vec<Finding>,
) {
    let sending = match store.sending().await {
        Ok(sending) => sending,
        Err(error) => return findings.push(Finding::unchecked(CHECK, &cause_of(&error))),
    };
    findings.push(check_pause(&sending));
    if let Some(stripe) = stripe {
        findings.push(match compare(store, stripe, meters, &sending, now).await {
            Ok((compared, larger)) => check_totals(compared, &larger),
            Err(why) => Finding::unchecked(TOTALS, &why),
        });
    }
}

/// Checks whether what is due in the fullest hour can be sent in time.
pub(super) async fn check_rate(
    store: &Store,
    reporting: (&Schedule, Slots),
    per_sec: u32,
    now: Millis,
) -> Finding {
    match SendLoad::read(store, reporting, per_sec, now).await {
        Err(error) => Finding::unchecked(RATE, &cause_of(&error)),
        Ok(load) if load.is_in_time() => Finding::ok(RATE, load.to_string()),
        Ok(load) => Finding::bad(RATE, load.to_string(), TOO_SLOW),
    }
}

fn check_pause(sending: &Sending) -> Finding {
    match sending.paused {
        None => Finding::ok(CHECK, "it is not paused"),
        Some(why) => Finding::bad(
            CHECK,
            format!("it is paused, and nothing reaches Stripe: {why}"),
            "do not retry reports; do what it says, then run this again",
        ),
    }
}

/// Compares the hours since two days ago, or since the backup. Returns the number of customers, and the accounts of which
/// Stripe has more than the database can explain.
async fn compare(
    store: &Store,
    stripe: &Stripe,
    meters: &Meters,
    sending: &Sending,
    now: Millis,
) -> Result<(usize, Vec<String>), String> {
    let since = now.saturating_sub(COMPARED_MS);
    let since = sending.backup_at.map_or(since, |at| at.min(since));
    let since = since.max(now.saturating_sub(LONGEST_MS));
    // What another integration sent is not known here.
    let moment = sending.billing_start.moment();
    if moment > now {
        return Ok((0, Vec::new()));
    }
    let range = hours_since(since.max(moment), now);
    let customers = store.billed_customers("", MAX_CUSTOMERS).await;
    let customers = customers.map_err(|error| cause_of(&error))?;
    let mut larger = Vec::new();
    for billed in &customers {
        for meter in meters.all() {
            let stream = Stream {
                customer: billed.customer.clone(),
                meter: meter.name.to_string(),
            };
            let look_up = LookUp {
                store,
                stripe,
                stream: &stream,
                event_name: &meter.event_name,
                range,
                restored_at: sending.restored_at,
                records: false,
            };
            let hours = match look_up.compare(now).await {
                // Other checks name it.
                Err(LookUpError::Stripe(Failure::NoCustomer(_) | Failure::NoMeter(_))) => continue,
                compared => compared.map_err(|error| error.to_string())?,
            };
            let beyond = hours
                .iter()
                .map(unexplained)
                .fold(0_i64, i64::saturating_add);
            if beyond > 0 {
                larger.push(format!("{} {} {beyond}", billed.account_id, stream.meter));
            }
        }
    }
    Ok((customers.len(), larger))
}

/// What Stripe has of an hour beyond everything that the database knows.
fn unexplained(hour: &ComparedHour) -> i64 {
    hour.already_sent.saturating_sub(hour.entered).max(0)
}

fn check_totals(compared: usize, larger: &[String]) -> Finding {
    if larger.is_empty() {
        return Finding::ok(
            TOTALS,
            format!(
                "Stripe's hourly totals of the last days match the database, for {compared} customers"
            ),
        );
    }
    Finding::bad(
        TOTALS,
        format!(
            "Stripe has more units than the database knows of: {}",
            first_names(larger, larger.len())
        ),
        "if the database was restored from a backup or copied, stop the server and run `usage-server restore`; do not retry reports before that. Else find out what else sends to these meters",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::finding::Severity, domain::pause::PauseReason};

    #[test]
    fn a_pause_is_bad_and_says_why() {
        assert_eq!(check_pause(&Sending::default()).severity, Severity::Ok);
        let paused = Sending {
            paused: Some(PauseReason::ForeignMark),
            ..Sending::default()
        };
        let finding = check_pause(&paused);
        assert_eq!(finding.severity, Severity::Bad);
        assert!(finding.fact.contains("usage-server restore"), "{finding}");
    }
}
