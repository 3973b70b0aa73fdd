//! Sums by state as people compare them: what was counted, is at Stripe, is confirmed and is invoiced, beside each other.

use maud::{Markup, html};
use usage_proto::v1::{MeterSummary, StateUsage, SummaryPoint, UsageReportState as State};

use super::{
    chart::{self, Column},
    html::{foreign, grouped, needs_decision},
};

/// The parts of a sum, none of which overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    invoiced: i64,
    /// Without what is invoiced.
    confirmed: i64,
    /// Without what is confirmed.
    accepted: i64,
    /// On its way, or without a customer.
    waiting: i64,
    /// Waits for a decision.
    to_decide: i64,
    never_billed: i64,
}

impl Parts {
    pub(super) fn of(states: &[StateUsage]) -> Self {
        let mut parts = Self::default();
        for one in states {
            let part = match one.state() {
                State::Invoiced => &mut parts.invoiced,
                State::Confirmed => &mut parts.confirmed,
                State::Accepted => &mut parts.accepted,
                State::NotBillable | State::WrittenOff => &mut parts.never_billed,
                state if needs_decision().contains(&state) => &mut parts.to_decide,
                _ => &mut parts.waiting,
            };
            *part = part.saturating_add(one.quantity);
        }
        parts
    }

    fn counted(self) -> i64 {
        let rest = [self.waiting, self.to_decide, self.never_billed];
        rest.into_iter().fold(self.reported(), i64::saturating_add)
    }

    fn reported(self) -> i64 {
        self.accepted.saturating_add(self.confirmed())
    }

    fn confirmed(self) -> i64 {
        self.confirmed.saturating_add(self.invoiced)
    }

    fn column(self, label: String) -> Column {
        let title = format!(
            "{label}: {} ({} at Stripe, {} confirmed, {} invoiced, {} waiting, {} to decide, {} never billed)",
            grouped(self.counted()),
            grouped(self.reported()),
            grouped(self.confirmed()),
            grouped(self.invoiced),
            grouped(self.waiting),
            grouped(self.to_decide),
            grouped(self.never_billed)
        );
        Column {
            label,
            title,
            parts: vec![
                ("invoiced", self.invoiced),
                ("confirmed", self.confirmed),
                ("reported", self.accepted),
                ("waiting", self.waiting),
                ("undecided", self.to_decide),
                ("free", self.never_billed),
            ],
        }
    }
}

/// What the colours of [`columns`] mean.
pub(super) fn legend() -> Markup {
    html! {
        ul .key {
            li { i .invoiced {} "invoiced" }
            li { i .confirmed {} "confirmed, not yet invoiced" }
            li { i .reported {} "at Stripe, not yet confirmed" }
            li { i .waiting {} "not yet at Stripe" }
            li { i .undecided {} "needs a decision" }
            li { i .free {} "never billed" }
        }
    }
}

/// The bars of a series.
pub(super) fn columns(
    points: &[SummaryPoint],
    label: impl Fn(&SummaryPoint) -> String,
) -> Vec<Column> {
    let column = |point: &SummaryPoint| Parts::of(&point.states).column(label(point));
    points.iter().map(column).collect()
}

/// How many accounts there are, of all meters.
pub(super) fn accounts(number: i64) -> Markup {
    html! {
        p { "Accounts with usage of any meter: " strong { (grouped(number)) } "." }
    }
}

/// The sums of each meter, beside each other.
pub(super) fn table(
    meters: &[MeterSummary],
    link: impl Fn(&MeterSummary) -> Option<String>,
) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Units by meter" {
            table {
                caption { "Units of all accounts by meter" }
                thead { (head("Meter", Some("Accounts"))) }
                tbody {
                    @for meter in meters {
                        @let parts = Parts::of(&meter.states);
                        tr {
                            th scope="row" {
                                @match link(meter) {
                                    Some(link) => a href=(link) { (foreign(&meter.meter)) },
                                    None => (foreign(&meter.meter)),
                                }
                                @if !meter.unit.is_empty() { " (" bdi { (meter.unit) } ")" }
                            }
                            (cells(parts))
                            td .number { (grouped(meter.accounts)) }
                        }
                    }
                }
            }
        }
    }
}

/// The figures of a chart.
pub(super) fn steps(
    points: &[SummaryPoint],
    name: &str,
    label: impl Fn(&SummaryPoint) -> String,
) -> Markup {
    html! {
        details {
            summary { "The same as a table" }
            div .scroll tabindex="0" role="region" aria-label={ "Steps of " (name) } {
                table {
                    thead { (head("Step", None)) }
                    tbody {
                        @for point in points {
                            tr {
                                th scope="row" { (label(point)) }
                                (cells(Parts::of(&point.states)))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A chart of one meter with its table.
pub(super) fn chart_of(
    meter: &MeterSummary,
    label: impl Fn(&SummaryPoint) -> String + Copy,
) -> Markup {
    let name = format!("Units of {} of all accounts", meter.meter);
    html! {
        (chart::columns(&columns(&meter.points, label), &name, &[]))
        (steps(&meter.points, &meter.meter, label))
    }
}

fn head(first: &str, last: Option<&str>) -> Markup {
    html! {
        tr {
            th scope="col" { (first) }
            th scope="col" .number { "Counted" }
            th scope="col" .number { "Reported" }
            th scope="col" .number { "Confirmed" }
            th scope="col" .number { "Invoiced" }
            th scope="col" .number { "Not yet at Stripe" }
            th scope="col" .number { "Needs a decision" }
            th scope="col" .number { "Never billed" }
            @if let Some(last) = last { th scope="col" .number { (last) } }
        }
    }
}

fn cells(parts: Parts) -> Markup {
    let figures = [
        parts.counted(),
        parts.reported(),
        parts.confirmed(),
        parts.invoiced,
        parts.waiting,
        parts.to_decide,
        parts.never_billed,
    ];
    html! {
        @for figure in figures { td .number { (grouped(figure)) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_in_one_part_and_all_are_what_was_counted() {
        let every = crate::domain::report::State::ALL.into_iter();
        let states: Vec<StateUsage> = (0_u32..)
            .zip(every)
            .map(|(place, state)| StateUsage {
                state: super::super::html::state_named(state.name())
                    .unwrap()
                    .into(),
                quantity: 1 << place,
            })
            .collect();
        let all: i64 = states.iter().map(|one| one.quantity).sum();
        let parts = Parts::of(&states);
        assert_eq!(parts.counted(), all);
        let of = |wanted: State| {
            let found = states.iter().find(|one| one.state() == wanted);
            found.unwrap().quantity
        };
        assert_eq!(parts.invoiced, of(State::Invoiced));
        assert_eq!(
            parts.confirmed(),
            of(State::Confirmed) + of(State::Invoiced)
        );
        assert_eq!(parts.reported(), parts.confirmed() + of(State::Accepted));
        assert_eq!(
            parts.never_billed,
            of(State::NotBillable) + of(State::WrittenOff)
        );
        assert!(parts.waiting > 0 && parts.to_decide > 0);
    }
}
