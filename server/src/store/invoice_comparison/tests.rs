//! Open differences of any age, and usage in no billing period that is looked at again, moves, and is acknowledged.

use sea_orm::ConnectionTrait as _;

use super::{acknowledge::NewAcknowledgement, differences::MAX_READ, uncompared::UNCOMPARED_USAGE};
use crate::{
    domain::{
        DAY_MS, Millis, SECOND_MS,
        account_id::AccountId,
        difference_id::DifferenceId,
        invoice_comparison::{InvoiceFinding, PeriodComparison},
        stream::Stream,
        uncompared_usage::UncomparedUsage,
        window::Interval,
    },
    store::{Store, cursors::StepPlace},
};

const TIME: Interval = Interval {
    start: 1_798_761_600_000,
    end: 1_798_761_600_000 + 20 * DAY_MS,
};

async fn store() -> (Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let store = Store::open(&url, 1).await.unwrap();
    store.migrate().await.unwrap();
    (store, folder)
}

fn account() -> AccountId {
    AccountId::parse("acct").unwrap()
}

fn stream() -> Stream {
    Stream {
        customer: "cus".to_owned(),
        meter: "calls".to_owned(),
    }
}

/// Usage from some days after the start of [`TIME`] on.
fn usage(after_days: Millis, quantity: i64) -> UncomparedUsage {
    UncomparedUsage {
        account_id: account(),
        time: Interval {
            start: TIME.start + after_days * DAY_MS,
            ..TIME
        },
        quantity,
    }
}

/// Records what a step found that began at a time.
async fn record(
    store: &Store,
    found: &[UncomparedUsage],
    begun_at: Millis,
) -> Option<Vec<UncomparedUsage>> {
    let stream = stream();
    let recorded = store.record_uncompared(&stream, TIME.start, found, begun_at);
    recorded.await.unwrap()
}

async fn begin_step(store: &Store, begun_at: Millis) -> bool {
    let place = StepPlace::<Stream> {
        begun_at,
        after: None,
    };
    store.set_step(UNCOMPARED_USAGE, &place).await.unwrap()
}

async fn rows(store: &Store) -> Vec<PeriodComparison> {
    store.comparisons_of(&account(), TIME).await.unwrap()
}

async fn acknowledge(store: &Store, one: &PeriodComparison) -> bool {
    let new = NewAcknowledgement {
        account_id: account(),
        id: DifferenceId::of(one),
        reason: "charged by hand".to_owned(),
        requested_by: "ann".to_owned(),
    };
    let done = store.acknowledge(&new, one.changed_at).await;
    done.unwrap().1
}

#[tokio::test]
async fn many_differences_of_one_kind_hide_no_other_however_old() {
    let (store, _folder) = store().await;
    let insert = |number: u64, finding: &str, changed_at: u64, acknowledged: &str| {
        format!(
            "INSERT INTO invoice_comparisons (account_id, item, period_start, period_end, subscription, customer, meter, \
             finding, reported, changed_at, acknowledged_at) \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number}) \
             SELECT 'acct', 'si_{finding}_{acknowledged}' || i, 1, 2, 'sub', 'cus', 'calls', '{finding}', 3, {changed_at} + i, \
             {acknowledged} FROM n"
        )
    };
    for sql in [
        insert(MAX_READ + 1, "differs", 1_000, "NULL"),
        insert(1, "void", 0, "NULL"),
        insert(MAX_READ, "overdue", 1_000, "NULL"),
        insert(2, "unreadable", 1_000, "7"),
        insert(2, "equal", 1_000, "NULL"),
    ] {
        store.writer.execute_unprepared(&sql).await.unwrap();
    }
    let open = store.open_differences(3).await.unwrap();
    let counts: Vec<(InvoiceFinding, String)> = open
        .iter()
        .map(|(finding, own)| (*finding, own.count.to_string()))
        .collect();
    assert_eq!(
        counts,
        [
            (InvoiceFinding::Differs, format!("at least {MAX_READ}")),
            (InvoiceFinding::Void, "1".to_owned()),
            (InvoiceFinding::Overdue, MAX_READ.to_string()),
        ]
    );
    let differs = &open[&InvoiceFinding::Differs];
    assert_eq!(differs.units, 3 * i64::try_from(MAX_READ).unwrap());
    let latest: Vec<Millis> = differs.first.iter().map(|one| one.changed_at).collect();
    assert_eq!(latest, [11_001, 11_000, 10_999]);
    let numbers = store.open_differences(0).await.unwrap();
    assert!(numbers[&InvoiceFinding::Void].first.is_empty());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_period_that_was_never_compared_is_due_however_old() {
    let (store, _folder) = store().await;
    let now = TIME.end + 1_000 * DAY_MS;
    let insert = format!(
        "INSERT INTO billing_periods (account_id, item, period_start, period_end, recorded_at, subscription, is_trial, invoice_state) \
         VALUES ('acct', 'si', {}, {}, 0, 'sub', false, 'final')",
        TIME.start, TIME.end
    );
    store.writer.execute_unprepared(&insert).await.unwrap();
    let due = store.periods_to_compare(now, 9).await.unwrap();
    assert_eq!(due.len(), 1);
    let (count, first) = store.waiting_comparisons(now, 9).await.unwrap();
    assert_eq!((count.to_string(), first[0].period), ("1".to_owned(), TIME));
    let of_account = store.waiting_comparisons_of(&account(), TIME, now).await;
    assert_eq!(of_account.unwrap(), first);
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_an_earlier_step_found_is_dropped() {
    let (store, _folder) = store().await;
    let later = store.now().await.unwrap();
    let earlier = later - SECOND_MS;
    assert!(begin_step(&store, earlier).await);
    // A replica takes over, and finds the period of the usage.
    assert!(begin_step(&store, later).await);
    assert_eq!(record(&store, &[], later).await, Some(Vec::new()));
    assert_eq!(record(&store, &[usage(0, 7)], earlier).await, None);
    assert!(rows(&store).await.is_empty());
    assert!(!begin_step(&store, earlier).await, "nor goes it on");
    let found = [usage(0, 7)];
    assert_eq!(record(&store, &found, later).await, Some(found.to_vec()));
    assert_eq!(record(&store, &[], earlier).await, None);
    assert_eq!(rows(&store).await.len(), 1);
    store.close().await.unwrap();
}

#[tokio::test]
async fn acknowledged_usage_stays_so_while_its_edges_move() {
    let (store, _folder) = store().await;
    let now = store.now().await.unwrap();
    let first = [usage(0, 7)];
    assert_eq!(record(&store, &first, now).await, Some(first.to_vec()));
    let named = rows(&store).await.remove(0);
    // Its start moves before somebody acknowledges it.
    assert_eq!(record(&store, &[usage(2, 7)], now + 1).await, Some(vec![]));
    assert!(!acknowledge(&store, &named).await);
    assert!(acknowledge(&store, &named).await, "again");
    for (days, quantity) in [(3, 7), (1, 7), (4, 5)] {
        let found = [usage(days, quantity)];
        assert_eq!(record(&store, &found, now + 2).await, Some(vec![]));
        let all = rows(&store).await;
        assert_eq!(all.len(), 1, "{all:#?}");
        assert_eq!(
            (all[0].period, all[0].compared.reported),
            (found[0].time, quantity)
        );
        assert_eq!(all[0].changed_at, named.changed_at);
        let known = all[0].acknowledged.as_ref().expect("it is acknowledged");
        assert_eq!((&*known.by, known.at), ("ann", named.changed_at));
    }
    // There is more of it than was acknowledged.
    let more = [usage(4, 6)];
    assert_eq!(record(&store, &more, now + 3).await, Some(more.to_vec()));
    let all = rows(&store).await;
    assert_eq!(
        (all.len(), &all[0].acknowledged, all[0].changed_at),
        (1, &None, now + 3)
    );
    // It is told already.
    assert_eq!(record(&store, &[usage(4, 8)], now + 4).await, Some(vec![]));
    assert_eq!(rows(&store).await[0].changed_at, now + 4);
    assert_eq!(record(&store, &[], now + 5).await, Some(vec![]));
    assert!(rows(&store).await.is_empty());
    store.close().await.unwrap();
}
