//! Rows of tables as the domain's types: no entity leaves the store.

use sea_orm::DbErr;

use crate::{
    domain::{
        Millis,
        account::{Billing, Link},
        account_id::AccountId,
        billing_period::BillingPeriod,
        decision::Decision,
        invoice_comparison::{Acknowledgement, Compared, PeriodComparison},
        report::{Kind, Report, State},
        run::{Run, Scope},
        subscription::SyncedSubscription,
        subscription_change::SubscriptionChange,
        subscription_status::{BillingMode, SubscriptionStatus},
        verification::{DayResult, VerifiedDay},
        violation::Violation,
        window::Interval,
    },
    entity::{
        account_link, billing_period, invoice_comparison, open_report, report_decision, report_run,
        subscription, subscription_change, usage_report, verification,
    },
};

/// Rows as a domain type.
pub(super) fn all<R, D: From<R>>(rows: Vec<R>) -> Vec<D> {
    rows.into_iter().map(D::from).collect()
}

impl From<usage_report::Model> for Report {
    fn from(row: usage_report::Model) -> Self {
        Self {
            account_id: row.account_id,
            id: row.id,
            meter: row.meter,
            window_start: row.window_start,
            window_end: row.window_end,
            period_end: row.period_end,
            closed_at: row.closed_at,
            quantity: row.quantity,
            first_at: row.first_at,
            last_at: row.last_at,
            state: row.state.into(),
            straddled: row.straddled,
            generation: row.generation,
            event_timestamp: row.event_timestamp,
            customer: row.customer,
            attempts: row.attempts,
            first_sent_at: row.first_sent_at,
            last_sent_at: row.last_sent_at,
            reported_at: row.reported_at,
            last_error: row.last_error,
            run_id: row.run_id,
            kind: row.kind.into(),
            note: row.note,
            entered_by: row.entered_by,
            bill_at: row.bill_at,
            confirmed_at: row.confirmed_at,
            looked_up_at: row.looked_up_at,
        }
    }
}

impl From<open_report::Model> for Report {
    fn from(row: open_report::Model) -> Self {
        Self {
            account_id: row.account_id,
            id: row.id,
            meter: row.meter,
            window_start: row.window_start,
            window_end: row.window_end,
            period_end: None,
            closed_at: None,
            quantity: row.quantity,
            first_at: row.first_at,
            last_at: row.last_at,
            state: State::Open,
            straddled: false,
            generation: 0,
            event_timestamp: None,
            customer: None,
            attempts: 0,
            first_sent_at: None,
            last_sent_at: None,
            reported_at: None,
            last_error: None,
            run_id: None,
            kind: Kind::Usage,
            note: None,
            entered_by: None,
            bill_at: None,
            confirmed_at: None,
            looked_up_at: None,
        }
    }
}

impl From<report_decision::Model> for Decision {
    fn from(row: report_decision::Model) -> Self {
        Self {
            report_id: row.report_id,
            action: row.action.into(),
            reason: row.reason,
            requested_by: row.requested_by,
            from_state: row.from_state.into(),
            generation: row.generation,
            decided_at: row.decided_at,
        }
    }
}

impl From<billing_period::Model> for BillingPeriod {
    fn from(row: billing_period::Model) -> Self {
        Self {
            account_id: row.account_id,
            item: row.item,
            period_start: row.period_start,
            period_end: row.period_end,
            recorded_at: row.recorded_at,
            subscription: row.subscription,
            meter: row.meter,
            price: row.price,
            bills_from: row.bills_from,
            invoice: row.invoice,
            invoice_state: row.invoice_state.with_draft_end(row.draft_until),
            invoice_read_at: row.invoice_read_at,
        }
    }
}

impl From<subscription::Model> for SyncedSubscription {
    fn from(row: subscription::Model) -> Self {
        Self {
            account_id: row.account_id,
            subscription: row.subscription,
            customer: row.customer,
            status: SubscriptionStatus::parse(&row.status),
            billing_mode: BillingMode::parse(&row.billing_mode),
            cancel_at: row.cancel_at,
            ended_at: row.ended_at,
            is_end_requested: row.end_requested,
            is_companion: row.is_companion,
            synced_at: row.synced_at,
            sync_requested_at: row.sync_requested_at,
            customer_deleted_at: row.customer_deleted_at,
        }
    }
}

impl From<subscription_change::Model> for SubscriptionChange {
    fn from(row: subscription_change::Model) -> Self {
        Self {
            account_id: row.account_id,
            id: row.id,
            kind: row.kind.into(),
            request: row.request,
            requested_by: row.requested_by,
            subscription: row.subscription,
            step: row.step.into(),
            boundary_at: row.boundary_at,
            started_at: row.started_at,
            deadline_at: row.deadline_at,
            requested_at: row.requested_at,
            heartbeat_at: row.heartbeat_at,
            holder: row.holder,
            finished_at: row.finished_at,
            error: row.error,
        }
    }
}

impl TryFrom<report_run::Model> for Run {
    type Error = DbErr;

    fn try_from(row: report_run::Model) -> Result<Self, DbErr> {
        let scope = match &row.scope {
            None => Scope::All,
            Some(text) => {
                let invalid = |why: String| {
                    DbErr::Type(format!("invalid scope in table report_runs: {text}: {why}"))
                };
                let accounts: Vec<String> =
                    serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
                let ids = accounts.iter().map(|account| AccountId::parse(account));
                let ids: Result<Vec<AccountId>, Violation> = ids.collect();
                Scope::Accounts(ids.map_err(|violation| invalid(violation.message))?)
            }
        };
        Ok(Self {
            id: row.id,
            trigger: row.trigger.into(),
            requested_by: row.requested_by,
            scope,
            started_at: row.started_at,
            heartbeat_at: row.heartbeat_at,
            closing_finished_at: row.closing_finished_at,
            closed_reports: row.closed_reports,
            closed_quantity: row.closed_quantity,
        })
    }
}

impl From<verification::Model> for VerifiedDay {
    fn from(row: verification::Model) -> Self {
        Self {
            day: row.day,
            result: DayResult {
                sent_total: row.sent_total,
                stripe_total: row.stripe_total,
                finding: row.finding.into(),
            },
            changed_at: row.changed_at,
            verified_at: row.verified_at,
        }
    }
}

impl From<&invoice_comparison::Model> for Compared {
    fn from(row: &invoice_comparison::Model) -> Self {
        Self {
            finding: row.finding.into(),
            reported: row.reported,
            invoiced: row.invoiced,
        }
    }
}

/// Without the invoices, which are in another table.
impl From<invoice_comparison::Model> for PeriodComparison {
    fn from(row: invoice_comparison::Model) -> Self {
        let acknowledged = row.acknowledged_at.map(|at| Acknowledgement {
            at,
            by: row.acknowledged_by.clone().unwrap_or_default(),
            reason: row.acknowledged_reason.clone().unwrap_or_default(),
        });
        Self {
            compared: Compared::from(&row),
            period: Interval {
                start: row.period_start,
                end: row.period_end,
            },
            account_id: row.account_id,
            item: if row.item == row.customer {
                String::new()
            } else {
                row.item
            },
            price: row.price,
            meter: row.meter,
            customer: row.customer,
            changed_at: row.changed_at,
            acknowledged,
            invoices: Vec::new(),
        }
    }
}

impl From<account_link::Model> for Link {
    fn from(row: account_link::Model) -> Self {
        let billing = match row.customer {
            Some(customer) if row.ended => Billing::Ended {
                customer,
                subscription: row.subscription,
                is_requested: row.end_requested,
            },
            Some(customer) => Billing::Stripe {
                customer,
                subscription: row.subscription,
            },
            None => Billing::Free,
        };
        Self {
            version: row.version,
            valid_from: row.valid_from,
            billing,
            recorded_at: row.recorded_at,
            // Known where links decide on usage: see `read_links`.
            elsewhere_until: Millis::MIN,
        }
    }
}
