//! Converts values between the wire and the domain.

use prost_types::Timestamp;
use usage_proto::v1;

use crate::{
    domain::{
        Millis, SECOND_MS,
        correction::RawCorrection,
        decision::{Action, Decision},
        increment::RawIncrement,
        period::Granularity,
        report::{Kind, Report, State, identifier},
        report_archive::AccountArchive,
        violation::{Reason, Violation},
        window::Interval,
    },
    workers::run_summary::Count,
};

const NANOS_PER_MILLI: i64 = 1_000_000;

/// A time on the wire.
pub(super) fn timestamp(at: Millis) -> Timestamp {
    let nanos = at.rem_euclid(SECOND_MS).saturating_mul(NANOS_PER_MILLI);
    Timestamp {
        seconds: at.div_euclid(SECOND_MS),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}

/// A time from the wire, truncated to milliseconds.
pub(super) fn millis(field: &str, timestamp: &Timestamp) -> Result<Millis, Violation> {
    // The range of google.protobuf.Timestamp: the years 1 to 9999.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    if !SECONDS.contains(&timestamp.seconds) || !(0..1_000_000_000).contains(&timestamp.nanos) {
        return Err(Violation::invalid(
            field,
            format!(
                "{field} of {} s and {} ns is not a valid timestamp of the years 1 to 9999",
                timestamp.seconds, timestamp.nanos
            ),
        ));
    }
    let millis = i64::from(timestamp.nanos) / NANOS_PER_MILLI;
    Ok(timestamp
        .seconds
        .saturating_mul(SECOND_MS)
        .saturating_add(millis))
}

/// A period on the wire.
pub(super) fn archive(of_account: AccountArchive) -> v1::ReportArchive {
    let archive = of_account.archive;
    v1::ReportArchive {
        file: archive.file.name,
        sha256: archive.file.sha256,
        reports: of_account.reports,
        quantity: of_account.quantity,
        windows: Some(period(of_account.windows)),
        folded_at: Some(timestamp(archive.created_at)),
    }
}

pub(super) fn period(interval: Interval) -> v1::Period {
    v1::Period {
        start: Some(timestamp(interval.start)),
        end: Some(timestamp(interval.end)),
    }
}

/// A total that a correction would change. An end of the period that is not known is absent.
pub(super) fn corrected_total(period: Interval, before: i64, quantity: i64) -> v1::CorrectedTotal {
    v1::CorrectedTotal {
        period: Some(v1::Period {
            start: (period.start != Millis::MIN).then(|| timestamp(period.start)),
            end: (period.end != Millis::MAX).then(|| timestamp(period.end)),
        }),
        before,
        after: before.saturating_add(quantity),
    }
}

/// A period from the wire; start and end are required.
pub(super) fn interval(field: &str, period: &v1::Period) -> Result<Interval, Violation> {
    let bound = |name: &str, at: &Option<Timestamp>| {
        let field = format!("{field}.{name}");
        match at {
            Some(at) => millis(&field, at),
            None => Err(Violation::invalid(
                field.clone(),
                format!("{field} is missing"),
            )),
        }
    };
    let interval = Interval {
        start: bound("start", &period.start)?,
        end: bound("end", &period.end)?,
    };
    if interval.start >= interval.end {
        return Err(Violation::invalid(
            field,
            format!(
                "{field}.end {} must be later than {field}.start {}",
                crate::domain::period::rfc3339(interval.end),
                crate::domain::period::rfc3339(interval.start)
            ),
        ));
    }
    Ok(interval)
}

/// An increment as the domain parses it.
pub(super) fn raw_increment(request: v1::IncrementRequest) -> Result<RawIncrement, Violation> {
    let stated_at = request
        .timestamp
        .as_ref()
        .map(|at| millis("timestamp", at))
        .transpose()?;
    Ok(RawIncrement {
        account_id: request.account_id,
        meter: request.meter,
        quantity: request.quantity,
        key: request.idempotency_key,
        stated_at,
        has_dimensions: !request.dimensions.is_empty(),
    })
}

/// A reason of the contract.
pub(super) fn reason(reason: Reason) -> v1::ErrorReason {
    v1::ErrorReason::from_str_name(&format!("ERROR_REASON_{}", reason.name()))
        .unwrap_or(v1::ErrorReason::InvalidField)
}

const STATES: [(State, v1::UsageReportState); 15] = [
    (State::Open, v1::UsageReportState::Open),
    (State::Closed, v1::UsageReportState::Closed),
    (State::Sending, v1::UsageReportState::Sending),
    (State::Accepted, v1::UsageReportState::Accepted),
    (State::Confirmed, v1::UsageReportState::Confirmed),
    (State::Invoiced, v1::UsageReportState::Invoiced),
    (State::Missing, v1::UsageReportState::Missing),
    (State::Rejected, v1::UsageReportState::Rejected),
    (
        State::CustomerDeleted,
        v1::UsageReportState::CustomerDeleted,
    ),
    (State::Unknown, v1::UsageReportState::Unknown),
    (State::NotBillable, v1::UsageReportState::NotBillable),
    (State::NoCustomer, v1::UsageReportState::NoCustomer),
    (State::Uncharged, v1::UsageReportState::Uncharged),
    (State::TooLate, v1::UsageReportState::TooLate),
    (State::WrittenOff, v1::UsageReportState::WrittenOff),
];

/// A state of the wire that a filter names.
pub(super) fn state(number: i32) -> Result<State, Violation> {
    STATES
        .iter()
        .find(|(_, wire)| i32::from(*wire) == number)
        .map(|(state, _)| *state)
        .ok_or_else(|| {
            Violation::invalid(
                "states",
                format!("states has {number}, which is not a state of a usage report"),
            )
        })
}

const ACTIONS: [(Action, v1::ResolveAction); 3] = [
    (Action::Retry, v1::ResolveAction::Retry),
    (
        Action::BillInCurrentPeriod,
        v1::ResolveAction::BillInCurrentPeriod,
    ),
    (Action::WriteOff, v1::ResolveAction::WriteOff),
];

/// An action of the wire.
pub(super) fn action(number: i32) -> Result<Action, Violation> {
    ACTIONS
        .iter()
        .find(|(_, wire)| i32::from(*wire) == number)
        .map(|(action, _)| *action)
        .ok_or_else(|| {
            Violation::invalid(
                "action",
                format!(
                    "action is {number}; it must be RETRY, BILL_IN_CURRENT_PERIOD or WRITE_OFF"
                ),
            )
        })
}

/// A kind of the wire that a filter names; unspecified means any.
pub(super) fn kind(number: i32) -> Result<Option<Kind>, Violation> {
    match v1::UsageReportKind::try_from(number) {
        Ok(v1::UsageReportKind::Unspecified) => Ok(None),
        Ok(v1::UsageReportKind::Usage) => Ok(Some(Kind::Usage)),
        Ok(v1::UsageReportKind::Correction) => Ok(Some(Kind::Correction)),
        Ok(v1::UsageReportKind::AlreadySent) => Ok(Some(Kind::AlreadySent)),
        Err(_) => Err(Violation::invalid(
            "kind",
            format!("kind is {number}, which is not a kind of usage report"),
        )),
    }
}

/// A correction as the domain parses it.
pub(super) fn raw_correction(request: v1::CorrectRequest) -> Result<RawCorrection, Violation> {
    let stated_at = request
        .timestamp
        .as_ref()
        .map(|at| millis("timestamp", at))
        .transpose()?;
    Ok(RawCorrection {
        account_id: request.account_id,
        meter: request.meter,
        quantity: request.quantity,
        reason: request.reason,
        stated_at,
        requested_by: request.requested_by,
        key: request.idempotency_key,
    })
}

/// A granularity from the wire, and the one for the response: unspecified means total.
pub(super) fn granularity(number: i32) -> Result<(Granularity, v1::Granularity), Violation> {
    let wire = v1::Granularity::try_from(number).map_err(|_| {
        Violation::invalid(
            "granularity",
            format!("granularity is {number}, which is not a granularity"),
        )
    })?;
    Ok(match wire {
        v1::Granularity::Unspecified | v1::Granularity::Total => {
            (Granularity::Total, v1::Granularity::Total)
        }
        v1::Granularity::Slot => (Granularity::Slot, wire),
        v1::Granularity::Hour => (Granularity::Hour, wire),
        v1::Granularity::Day => (Granularity::Day, wire),
        v1::Granularity::Month => (Granularity::Month, wire),
    })
}

/// Number and total of some reports.
pub(super) fn count(count: Count) -> v1::ReportCount {
    v1::ReportCount {
        reports: count.reports,
        quantity: count.quantity,
    }
}

/// A state's number in the contract.
pub(super) fn state_number(state: State) -> i32 {
    STATES
        .iter()
        .find(|(known, _)| *known == state)
        .map_or(v1::UsageReportState::Unspecified, |(_, wire)| *wire)
        .into()
}

fn decision(decision: Decision) -> v1::ReportDecision {
    let wire_action = ACTIONS
        .iter()
        .find(|(known, _)| *known == decision.action)
        .map_or(v1::ResolveAction::Unspecified, |(_, wire)| *wire);
    v1::ReportDecision {
        action: wire_action.into(),
        reason: decision.reason,
        requested_by: decision.requested_by,
        decided_at: Some(timestamp(decision.decided_at)),
        from_state: state_number(decision.from_state),
    }
}

/// A usage report with its decisions.
pub(super) fn decided_report(report: Report, decisions: Vec<Decision>) -> v1::UsageReport {
    v1::UsageReport {
        decisions: decisions.into_iter().map(decision).collect(),
        ..usage_report(report)
    }
}

/// A usage report without its decisions.
pub(super) fn usage_report(report: Report) -> v1::UsageReport {
    let billed_elsewhere = report.is_billed_elsewhere();
    let kind = match report.kind {
        Kind::Usage => v1::UsageReportKind::Usage,
        Kind::Correction => v1::UsageReportKind::Correction,
        Kind::AlreadySent => v1::UsageReportKind::AlreadySent,
    };
    let window = Interval {
        start: report.window_start,
        end: report.window_end,
    };
    v1::UsageReport {
        id: report.id.to_string(),
        account_id: report.account_id.into(),
        meter: report.meter,
        window: Some(period(window)),
        period_end: report.period_end.map(timestamp),
        closed_at: report.closed_at.map(timestamp),
        quantity: report.quantity,
        state: state_number(report.state),
        reported: report.state.is_reported(),
        identifier: identifier(report.id, report.generation),
        stripe_customer: report.customer.unwrap_or_default(),
        event_timestamp: report.event_timestamp.map(timestamp),
        attempts: report.attempts,
        first_sent_at: report.first_sent_at.map(timestamp),
        reported_at: report.reported_at.map(timestamp),
        last_error: report.last_error.unwrap_or_default(),
        run_id: report.run_id.map(|id| id.to_string()).unwrap_or_default(),
        straddled: report.straddled,
        kind: kind.into(),
        note: report.note.unwrap_or_default(),
        entered_by: report.entered_by.unwrap_or_default(),
        bill_at: report.bill_at.map(timestamp),
        confirmed_at: report.confirmed_at.map(timestamp),
        decisions: Vec::new(),
        billed_elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_reason_is_in_the_contract() {
        for state in State::ALL {
            let (_, wire) = STATES.iter().find(|(known, _)| *known == state).unwrap();
            let name = wire
                .as_str_name()
                .strip_prefix("USAGE_REPORT_STATE_")
                .unwrap();
            assert_eq!(name.to_lowercase(), state.name());
        }
        assert_eq!(reason(Reason::KeyReused), v1::ErrorReason::KeyReused);
        assert_eq!(
            reason(Reason::TooManyPoints),
            v1::ErrorReason::TooManyPoints
        );
    }

    #[test]
    fn times_are_truncated_to_milliseconds_also_before_1970() {
        let before = Timestamp {
            seconds: -1,
            nanos: 999_999_999,
        };
        assert_eq!(millis("t", &before), Ok(-1));
        assert_eq!(
            timestamp(-1),
            Timestamp {
                seconds: -1,
                nanos: 999_000_000
            }
        );
        assert!(
            millis(
                "t",
                &Timestamp {
                    seconds: i64::MAX,
                    nanos: 0
                }
            )
            .is_err()
        );
        assert!(
            millis(
                "t",
                &Timestamp {
                    seconds: 0,
                    nanos: -1
                }
            )
            .is_err()
        );
    }
}
