//! Usage that invoices charge at another price than the sync expected: the price of an item was replaced at Stripe, and
//! the sync found that later. The comparisons of the two prices differ, and their sums agree.

use super::{
    Millis,
    billing_period::BillingPeriod,
    invoice_comparison::{Compared, InvoiceFinding, Judgement},
};

/// The periods between replacements of an item's price, before and after a period, without itself. No end of a billing
/// period at Stripe is between them.
pub fn periods_around<'a>(
    period: &BillingPeriod,
    periods: &'a [BillingPeriod],
) -> Vec<&'a BillingPeriod> {
    let mut own: Vec<&BillingPeriod> = periods
        .iter()
        .filter(|other| {
            other.item == period.item
                && other.meter == period.meter
                && other.subscription == period.subscription
        })
        .collect();
    own.sort_unstable_by_key(|other| other.period_start);
    own.chunk_by(|one, next| is_replaced(one, next))
        .find(|chunk| {
            chunk
                .iter()
                .any(|one| one.period_start == period.period_start)
        })
        .unwrap_or_default()
        .iter()
        .copied()
        .filter(|one| one.period_start != period.period_start)
        .collect()
}

/// Whether a period follows another one because the item's price was replaced.
pub(super) fn is_replaced(before: &BillingPeriod, next: &BillingPeriod) -> bool {
    before.period_end == next.period_start
        && next.bills_from == Some(next.period_start)
        && before.price != next.price
}

/// The result for a period, once those around it are judged too: if all of them together are charged what was reported,
/// a difference is a price split. `split` are the units charged in their time at a price that was learned later; `None` if
/// a quantity cannot be read.
pub fn join(own: Judgement, others: &[Judgement], split: Option<i64>) -> Judgement {
    let Some(compared) = own
        .compared
        .filter(|compared| compared.finding == InvoiceFinding::Differs)
    else {
        return own;
    };
    if others.is_empty() && split == Some(0) {
        return own;
    }
    let waits: Vec<Millis> = others
        .iter()
        .filter(|other| other.compared.is_none())
        .filter_map(|other| other.again_at)
        .collect();
    if let Some(again_at) = waits.into_iter().min() {
        return Judgement {
            compared: None,
            again_at: Some(again_at),
        };
    }
    let all = || {
        others
            .iter()
            .filter_map(|other| other.compared)
            .chain([compared])
    };
    let is_decided =
        |one: Compared| matches!(one.finding, InvoiceFinding::Equal | InvoiceFinding::Differs);
    let reported = all().try_fold(0_i64, |sum, one| sum.checked_add(one.reported));
    let charged = all().try_fold(split.unwrap_or(0), |sum, one| {
        sum.checked_add(one.invoiced?)
    });
    let is_split =
        split.is_some() && all().all(is_decided) && charged.is_some() && reported == charged;
    if !is_split {
        return own;
    }
    Judgement {
        compared: Some(Compared {
            finding: InvoiceFinding::PriceSplit,
            ..compared
        }),
        ..own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{account_id::AccountId, invoice_draft::InvoiceState};
    use proptest::prelude::*;

    fn period(price: &str, start: Millis, end: Millis, is_replaced: bool) -> BillingPeriod {
        BillingPeriod {
            account_id: AccountId::parse("acct").unwrap(),
            item: "si".to_owned(),
            period_start: start,
            period_end: end,
            recorded_at: 0,
            subscription: Some("sub".to_owned()),
            meter: Some("m".to_owned()),
            price: Some(price.to_owned()),
            bills_from: is_replaced.then_some(start),
            invoice: None,
            invoice_state: InvoiceState::Unknown,
            invoice_read_at: None,
        }
    }

    fn judged(reported: i64, invoiced: i64) -> Judgement {
        let finding = if reported == invoiced {
            InvoiceFinding::Equal
        } else {
            InvoiceFinding::Differs
        };
        Judgement {
            compared: Some(Compared {
                finding,
                reported,
                invoiced: Some(invoiced),
            }),
            again_at: None,
        }
    }

    fn finding(judgement: Judgement) -> Option<InvoiceFinding> {
        judgement.compared.map(|compared| compared.finding)
    }

    #[test]
    fn only_periods_between_replacements_are_joined() {
        let periods = [
            period("a", 0, 10, false),
            period("a", 10, 14, false),
            period("b", 14, 17, true),
            period("c", 17, 20, true),
            period("c", 20, 30, false),
            period("d", 30, 40, false),
        ];
        let around = |index: usize| -> Vec<Millis> {
            let found = periods_around(&periods[index], &periods);
            found.iter().map(|one| one.period_start).collect()
        };
        assert!(around(0).is_empty());
        assert_eq!(around(1), [14, 17]);
        assert_eq!(around(2), [10, 17]);
        assert!(around(4).is_empty());
        let other = BillingPeriod {
            meter: Some("other".to_owned()),
            ..periods[2].clone()
        };
        assert!(periods_around(&other, &periods).is_empty(), "its own meter");
    }

    #[test]
    fn opposite_differences_are_a_price_split() {
        let split = Some(InvoiceFinding::PriceSplit);
        let differs = Some(InvoiceFinding::Differs);
        assert_eq!(
            finding(join(judged(10, 7), &[judged(5, 8)], Some(0))),
            split
        );
        assert_eq!(
            finding(join(judged(10, 7), &[judged(5, 7)], Some(0))),
            differs
        );
        assert_eq!(finding(join(judged(10, 7), &[], Some(3))), split);
        assert_eq!(finding(join(judged(10, 7), &[], Some(0))), differs);
        assert_eq!(finding(join(judged(10, 7), &[], None)), differs);
        assert_eq!(
            finding(join(judged(7, 7), &[judged(5, 8)], Some(0))),
            Some(InvoiceFinding::Equal)
        );
        let mut void = judged(5, 8);
        void.compared = void.compared.map(|compared| Compared {
            finding: InvoiceFinding::Void,
            ..compared
        });
        assert_eq!(finding(join(judged(10, 7), &[void], Some(0))), differs);
    }

    #[test]
    fn a_difference_waits_for_the_other_price() {
        let open = Judgement {
            compared: None,
            again_at: Some(9),
        };
        let joined = join(judged(10, 7), &[open], Some(0));
        assert_eq!((joined.compared, joined.again_at), (None, Some(9)));
    }

    /// How the periods around one are judged: as their figures say, or not decided, or not yet.
    fn of_another() -> impl Strategy<Value = Judgement> {
        let undecided = vec![
            InvoiceFinding::Void,
            InvoiceFinding::Unreadable,
            InvoiceFinding::Overdue,
        ];
        let finding = proptest::option::weighted(0.1, proptest::sample::select(undecided));
        (0_i64..4, 0_i64..4, finding, proptest::bool::weighted(0.05)).prop_map(
            |(reported, invoiced, undecided, is_open)| {
                let mut judgement = judged(reported, invoiced);
                if let (Some(compared), Some(finding)) = (&mut judgement.compared, undecided) {
                    compared.finding = finding;
                    compared.invoiced = compared
                        .invoiced
                        .filter(|_| finding != InvoiceFinding::Unreadable);
                }
                if is_open {
                    (judgement.compared, judgement.again_at) = (None, Some(9));
                }
                judgement
            },
        )
    }

    proptest! {
        /// A difference is a split if and only if everything around it is decided and all together is charged. The figures
        /// stay.
        #[test]
        fn a_difference_is_a_split_if_and_only_if_nothing_is_lost(
            own in (0_i64..4, 0_i64..4),
            others in proptest::collection::vec(of_another(), 0..3),
            split in proptest::option::weighted(0.9, 0_i64..4),
        ) {
            let joined = join(judged(own.0, own.1), &others, split);
            let is_different = own.0 != own.1;
            if is_different && others.iter().any(|other| other.compared.is_none()) {
                prop_assert_eq!((joined.compared, joined.again_at), (None, Some(9)));
                return Ok(());
            }
            let known: Vec<Compared> = others.iter().filter_map(|other| other.compared).collect();
            let is_decided = known.iter().all(|one| {
                matches!(one.finding, InvoiceFinding::Equal | InvoiceFinding::Differs)
            });
            let reported: i64 = own.0 + known.iter().map(|one| one.reported).sum::<i64>();
            let charged: Option<i64> = known.iter().map(|one| one.invoiced).sum();
            let charged = charged.zip(split).map(|(others, split)| own.1 + others + split);
            let is_split = is_different && is_decided && charged == Some(reported);
            let found = finding(joined);
            prop_assert_eq!(found == Some(InvoiceFinding::PriceSplit), is_split);
            if !is_split {
                prop_assert_eq!(found, finding(judged(own.0, own.1)));
            }
            let figures = joined.compared.map(|one| (one.reported, one.invoiced));
            prop_assert_eq!(figures, Some((own.0, Some(own.1))));
        }
    }
}
