//! Invoices that are explained, line by line.

use chrono::TimeDelta;
use usage_client::{
    ChangePlan, Correct, DeleteAccount, ExplainInvoice, ExplainedReport, FindIncrement, Increment,
    InvoiceFinding, PutAccount, Reason, ReportKind, ReportState, proto::KeyRole,
};

use super::{
    END, START, TEXT_KEY, UUID_KEY, begin, count_keyed, count_keyless, explain, find, keys, period,
};
use crate::{
    operations::access::{access, client, create, first_admin, limited_key, new_key},
    support::world::{
        World, at,
        billing::{BASIC, PRO, TOKENS},
        on_both_engines,
    },
};

on_both_engines!(
    a_billed_unit_is_followed_in_both_directions,
    usage_of_a_running_period_is_explained_before_its_invoice,
    late_usage_and_corrections_are_reports_of_the_line,
    a_plan_change_makes_two_lines,
    usage_of_a_customer_that_changed_accounts_is_told_apart,
    a_limited_key_is_not_shown_the_usage_of_another_account,
    without_their_keys_increments_are_one_figure,
    what_has_no_billing_period_is_not_found,
    what_cannot_be_explained_is_refused,
);

async fn a_billed_unit_is_followed_in_both_directions(mut world: World) {
    begin(&mut world, &[BASIC, TOKENS]).await;
    let used = world.now();
    count_keyed(&world, UUID_KEY, 100, used).await;
    count_keyed(&world, TEXT_KEY, 20, used - TimeDelta::hours(2)).await;
    count_keyless(&world, 5, used).await;
    world.count_of("acct", "tokens", 3, used).await;
    world.advance_past_draft(at(END)).await;
    world
        .advance_until_found("invoice_comparisons WHERE finding = 'equal' AND reported = 125")
        .await;

    // From the call to the invoice.
    let found = find(&world, TEXT_KEY).await.unwrap();
    let report = found.report.unwrap();
    assert_eq!(report.state, ReportState::Invoiced);
    let [line] = found.lines.as_slice() else {
        panic!("{:#?}", found.lines);
    };
    let invoices = world.stripe().invoices().await.unwrap();
    let invoice = invoices
        .iter()
        .find(|one| one.id == line.invoice_lines[0].invoice);
    let charged = invoice.unwrap().lines.iter().find(|one| one.price == BASIC);
    let charged = charged.unwrap();
    assert_eq!(charged.quantity, 125);
    let [stored] = line.invoice_lines.as_slice() else {
        panic!("{line:#?}");
    };
    assert_eq!(
        (stored.quantity, stored.amount),
        (Some(125), charged.amount)
    );
    assert_eq!((&*stored.price, &*stored.currency), (BASIC, "usd"));
    assert_eq!(
        (line.reported, line.invoiced, line.difference),
        (125, Some(125), Some(0))
    );

    // From the invoice to the call.
    let of_invoice = ExplainInvoice::of_invoice(&stored.invoice);
    let explained = explain(&world, of_invoice.clone()).await;
    let of_account = explain(&world, of_invoice.account("acct")).await;
    assert_eq!(of_account, explained);
    let by_time = explain(&world, period()).await;
    assert_eq!(by_time, explained);
    let [calls, tokens] = explained.lines.as_slice() else {
        panic!("{explained:#?}");
    };
    assert_eq!((&*calls.meter, &*tokens.meter), ("api_calls", "tokens"));
    assert_eq!((tokens.reported, tokens.invoiced), (3, Some(3)));
    assert_eq!(calls.item, line.item);
    let finding = calls.comparison.as_ref().unwrap().finding;
    assert_eq!(finding, InvoiceFinding::Equal);
    let [earlier, later] = calls.reports.as_slice() else {
        panic!("{calls:#?}");
    };
    assert_eq!(earlier.report.id, report.id);
    assert_eq!(earlier.without_key, Some(0));
    assert_eq!(keys(later), [(UUID_KEY.to_owned(), 100)]);
    assert_eq!(later.without_key, Some(5));
    // The name of a text is its digest, and leads back to the increment.
    let [increment] = earlier.increments.as_slice() else {
        panic!("{earlier:#?}");
    };
    assert_eq!(*increment, found.increment);
    let again = find(&world, &increment.key).await.unwrap();
    assert_eq!(again.increment, found.increment);
    for one in [earlier, later] {
        assert_is_one_event(&world, one).await;
    }
    world.finish().await;
}

/// Asserts that Stripe has a report as one meter event.
async fn assert_is_one_event(world: &World, one: &ExplainedReport) {
    let mut events = world.meter_events("cus_acct").await;
    events.retain(|event| event.identifier == one.report.identifier);
    let values: Vec<i64> = events.iter().map(|event| event.value).collect();
    assert_eq!(values, [one.report.quantity]);
}

async fn usage_of_a_running_period_is_explained_before_its_invoice(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    count_keyed(&world, UUID_KEY, 7, world.now()).await;
    let now = ExplainInvoice::of_account("acct");
    let open = explain(&world, now.clone()).await;
    let [line] = open.lines.as_slice() else {
        panic!("{open:#?}");
    };
    assert_eq!((line.reported, line.invoiced), (0, None));
    assert!(line.comparison.is_none() && line.invoice_lines.is_empty());
    let [report] = line.reports.as_slice() else {
        panic!("{line:#?}");
    };
    assert_eq!(report.report.state, ReportState::Open);
    assert_eq!(keys(report), [(UUID_KEY.to_owned(), 7)]);
    // Only one report, and none of its increments.
    let only = now.report(&report.report.id).without_increments();
    let page = world.client().explain_invoice(only).await.unwrap();
    let reports = &page.lines[0].reports;
    assert_eq!((reports.len(), page.next_page_token), (1, None));
    assert!(reports[0].increments.is_empty());
    assert_eq!((reports[0].with_key, reports[0].without_key), (0, None));
    let missing = ExplainInvoice::of_account("acct").report("0192f0c1-2b3c-7d4e-8f50-61728394a5b6");
    let error = world.client().explain_invoice(missing).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::ReportNotFound), "{error}");
    world.finish().await;
}

async fn late_usage_and_corrections_are_reports_of_the_line(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    let used = world.now();
    count_keyed(&world, UUID_KEY, 100, used).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    world.move_clocks(used + TimeDelta::hours(3)).await;
    // In the same window, after it was reported.
    count_keyed(&world, TEXT_KEY, 20, used).await;
    let correction = Correct::new("acct", -4, "counted twice").timestamp(used);
    world.client().correct(correction).await.unwrap();
    world.report_all().await;
    world.wait_until_sent("acct").await;
    let explained = explain(&world, period()).await;
    let [line] = explained.lines.as_slice() else {
        panic!("{explained:#?}");
    };
    assert_eq!(line.reported, 116);
    assert_eq!(line.reports.len(), 3);
    let of = |quantity| {
        let mut reports = line.reports.iter();
        let found = reports.find(|one| one.report.quantity == quantity);
        found.unwrap_or_else(|| panic!("{line:#?}"))
    };
    assert_eq!(keys(of(100)), [(UUID_KEY.to_owned(), 100)]);
    assert_eq!((of(20).with_key, of(20).without_key), (20, Some(0)));
    let corrected = of(-4);
    assert_eq!(corrected.report.kind, ReportKind::Correction);
    assert_eq!(corrected.report.note.as_deref(), Some("counted twice"));
    assert_eq!((corrected.with_key, corrected.without_key), (0, Some(-4)));
    world.finish().await;
}

async fn a_plan_change_makes_two_lines(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    count_keyed(&world, UUID_KEY, 100, world.now()).await;
    let change = ChangePlan::new("acct", PRO);
    let client = world.client();
    world
        .while_clock_moves(client.change_plan(change))
        .await
        .unwrap();
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    count_keyed(&world, TEXT_KEY, 20, world.now()).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    let whole = ExplainInvoice::of_account("acct").period(at(START), at(END));
    let explained = explain(&world, whole).await;
    let with_usage = explained
        .lines
        .iter()
        .filter(|line| !line.reports.is_empty());
    let lines: Vec<_> = with_usage.collect();
    let [before, after] = lines.as_slice() else {
        panic!("{explained:#?}");
    };
    assert_eq!((&*before.price, before.reported), (BASIC, 100));
    assert_eq!((&*after.price, after.reported), (PRO, 20));
    assert!(before.period.end <= after.period.start);
    assert_eq!(keys(&before.reports[0]), [(UUID_KEY.to_owned(), 100)]);
    assert_eq!(after.reports[0].with_key, 20);
    // Each key leads to its own line.
    for (key, price) in [(UUID_KEY, BASIC), (TEXT_KEY, PRO)] {
        let found = find(&world, key).await.unwrap();
        let prices: Vec<&str> = found.lines.iter().map(|line| &*line.price).collect();
        assert_eq!(prices, [price]);
        // So does its report, among all billing periods.
        let report = found.report.unwrap().id;
        let whole = ExplainInvoice::of_account("acct").period(at(START), at(END));
        let explained = client.explain_invoice(whole.report(&report));
        let explained = explained.await.unwrap();
        let [line] = explained.lines.as_slice() else {
            panic!("{explained:#?}");
        };
        assert_eq!(line.price, price);
        let reports: Vec<&str> = line.reports.iter().map(|one| &*one.report.id).collect();
        assert_eq!(reports, [&*report]);
    }
    world.finish().await;
}

/// Counts 120 units of an account, moves its Stripe customer to the account `heir`, and counts 7 units of that. Ends when
/// both were compared with their invoice.
async fn move_customer(world: &mut World) {
    begin(world, &[BASIC]).await;
    count_keyed(world, UUID_KEY, 120, world.now()).await;
    world.report_all().await;
    let client = world.client();
    client.put_account(PutAccount::free("acct")).await.unwrap();
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    let link = PutAccount::stripe("heir", "cus_acct").bill_from(world.now());
    client.put_account(link).await.unwrap();
    let increment = Increment::new("heir").key(TEXT_KEY).quantity(7);
    let increment = increment.timestamp(world.now());
    world.client().increment(increment).await.unwrap();
    world.advance_past_draft(at(END)).await;
    let both = "(SELECT COUNT(*) AS number FROM invoice_comparisons WHERE finding = 'equal' AND reported = 127) c \
                WHERE number = 2";
    world.advance_until_found(both).await;
}

async fn usage_of_a_customer_that_changed_accounts_is_told_apart(mut world: World) {
    move_customer(&mut world).await;
    let found = find(&world, UUID_KEY).await.unwrap();
    let invoice = found.lines[0].invoice_lines[0].invoice.clone();
    let explained = explain(&world, ExplainInvoice::of_invoice(invoice)).await;
    let figures: Vec<_> = explained
        .lines
        .iter()
        .map(|line| {
            let (own, others) = (line.reported, line.reported_of_other_accounts);
            (&*line.account_id, own, others, line.difference)
        })
        .collect();
    assert_eq!(
        figures,
        [
            ("acct", 120, Some(7), Some(0)),
            ("heir", 7, Some(120), Some(0))
        ]
    );
    world.finish().await;
}

async fn a_limited_key_is_not_shown_the_usage_of_another_account(mut world: World) {
    move_customer(&mut world).await;
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let limited = limited_key("limited", KeyRole::Reader, &["heir"], &[]);
    let limited = create(&mut access, limited).await.text;
    let of_all = create(&mut access, new_key("all", KeyRole::Reader)).await;
    for (key, others, difference) in [(limited, None, None), (of_all.text, Some(120), Some(0))] {
        let reader = client(world.endpoint(), &key).await;
        let found = FindIncrement::new("heir", TEXT_KEY);
        let found = reader.find_increment(found).await.unwrap();
        let explained = ExplainInvoice::of_account("heir").period(at(START), at(END));
        let explained = reader.explain_invoice(explained).await.unwrap();
        let lines: Vec<_> = found.lines.iter().chain(&explained.lines).collect();
        assert_eq!(lines.len(), 2, "{lines:#?}");
        for line in lines {
            assert_eq!((line.reported, line.invoiced), (7, Some(127)));
            assert_eq!(line.reported_of_other_accounts, others);
            assert_eq!(line.difference, difference);
        }
    }
    world.finish().await;
}

async fn without_their_keys_increments_are_one_figure(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    count_keyed(&world, UUID_KEY, 7, world.now()).await;
    count_keyed(&world, TEXT_KEY, 20, world.now()).await;
    count_keyless(&world, 3, world.now()).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    let parts = async |world: &World| {
        let explained = explain(world, period()).await;
        let [report] = explained.lines[0].reports.as_slice() else {
            panic!("{explained:#?}");
        };
        (report.with_key, report.without_key)
    };
    assert_eq!(parts(&world).await, (27, Some(3)));
    world
        .execute_sql("DELETE FROM idempotency_keys WHERE quantity = 20")
        .await;
    assert_eq!(parts(&world).await, (7, Some(23)));
    // After the time for which keys are kept none is searched for.
    world.stop().await;
    world.move_clocks(world.now() + TimeDelta::days(37)).await;
    world.start_server().await;
    assert_eq!(parts(&world).await, (0, Some(30)));
    world.finish().await;
}

async fn what_has_no_billing_period_is_not_found(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    let client = world.client();
    client.put_account(PutAccount::free("free")).await.unwrap();
    world.count("free", 5, world.now()).await;
    let long_ago = at(START) - TimeDelta::days(90);
    for (selection, words) in [
        (ExplainInvoice::of_account("free"), "\"free\""),
        (ExplainInvoice::of_account("missing"), "\"missing\""),
        (
            ExplainInvoice::of_account("acct").period(long_ago, at(START) - TimeDelta::days(60)),
            "\"acct\"",
        ),
        (ExplainInvoice::of_invoice("in_missing"), "\"in_missing\""),
        (ExplainInvoice::of_invoice("' OR 1=1 --x"), "visible"),
        (
            ExplainInvoice::of_invoice("in_missing").account("acct"),
            "for account \"acct\"",
        ),
    ] {
        let error = client.explain_invoice(selection).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        let is_refused = words == "visible";
        let reason = [Reason::InvoiceNotFound, Reason::InvalidField];
        assert_eq!(error.reason(), Some(&reason[usize::from(is_refused)]));
    }
    let missing = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6";
    let error = client.explain_invoice(period().report(missing)).await;
    let error = error.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::ReportNotFound), "{error}");
    // Of a deleted account nothing is found under its id.
    world.report_all().await;
    let deletion = DeleteAccount::new("free");
    client.delete_account(deletion).await.unwrap();
    let error = client.explain_invoice(ExplainInvoice::of_account("free"));
    let error = error.await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::InvoiceNotFound), "{error}");
    world.finish().await;
}

async fn what_cannot_be_explained_is_refused(world: World) {
    let decade = TimeDelta::days(3_661);
    let client = world.client();
    for (selection, field, why) in [
        (ExplainInvoice::of_invoice(""), "account_id", "missing"),
        (ExplainInvoice::of_account("a b"), "account_id", "a b"),
        (
            ExplainInvoice::of_invoice("in 1"),
            "stripe_invoice",
            "visible",
        ),
        (
            ExplainInvoice::of_invoice("in_1").period(at(START), at(END)),
            "period",
            "give one of them",
        ),
        (
            ExplainInvoice::of_account("acct").period(at(START), at(START) + decade),
            "period",
            "3660 days",
        ),
        (
            ExplainInvoice::of_account("acct").period(at(END), at(START)),
            "period",
            "later than",
        ),
        (
            ExplainInvoice::of_account("acct").report("x"),
            "report_id",
            "not a UUID",
        ),
    ] {
        let error = client.explain_invoice(selection).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::InvalidField), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(error.violations()[0].field, field);
    }
    world.finish().await;
}
