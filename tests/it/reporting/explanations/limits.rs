//! Invoices and periods that are too large to be explained at once.

use chrono::TimeDelta;
use usage_client::{ExplainInvoice, Reason};

use crate::support::world::{World, on_both_engines};

on_both_engines!(more_billing_periods_than_the_limit_are_refused,);

async fn more_billing_periods_than_the_limit_are_refused(world: World) {
    let (start, end) = (
        world.now() - TimeDelta::hours(1),
        world.now() + TimeDelta::days(20),
    );
    // As many as the limit, and one more.
    for (invoice, number) in [("in_limit", 1_000), ("in_many", 1_001)] {
        let sql = format!(
            "INSERT INTO billing_periods (account_id, item, period_start, period_end, recorded_at, meter, invoice, invoice_state) \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number}) \
             SELECT '{invoice}', 'si_' || i, {}, {}, {}, 'api_calls', '{invoice}', 'final' FROM n",
            start.timestamp_millis(),
            end.timestamp_millis(),
            start.timestamp_millis(),
        );
        world.execute_sql(&sql).await;
    }
    let client = world.client();
    let of_limit = ExplainInvoice::of_invoice("in_limit").without_increments();
    let page = client.explain_invoice(of_limit).await.unwrap();
    assert_eq!(page.lines.len(), 100);
    assert!(page.next_page_token.is_some());
    let many = ExplainInvoice::of_invoice("in_many");
    for (selection, field, words) in [
        (many.clone(), "stripe_invoice", "give account_id too"),
        (
            many.account("in_many"),
            "stripe_invoice",
            "give a period in its place",
        ),
        (
            ExplainInvoice::of_account("in_many").period(start, end),
            "period",
            "give a shorter one",
        ),
    ] {
        let error = client.explain_invoice(selection).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::InvalidField), "{error}");
        assert_eq!(error.violations()[0].field, field);
        for words in ["more than 1000 billing periods", words] {
            assert!(error.to_string().contains(words), "{error}");
        }
    }
    world.finish().await;
}
