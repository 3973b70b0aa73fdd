//! The sign-off of a month is the same to the byte before and after its reports and decisions are archived.

use chrono::TimeDelta;
use usage_client::{ResolveAction, ResolveReport};

use super::{AGE, COUNTED, begin, fold_again, let_pass, use_and_close};
use crate::support::world::{World, at, on_both_engines};

on_both_engines!(a_month_is_signed_off_after_folding_as_before);

const MONTH: [&str; 3] = ["sign-off", "--month", "2027-03"];

async fn a_month_is_signed_off_after_folding_as_before(mut world: World) {
    let _folder = begin(&mut world).await;
    // Several reports of a window, and decisions on two of them.
    for (quantity, minutes) in [(5, 0), (6, 0), (7, 30), (8, 45)] {
        let time = at(COUNTED) + TimeDelta::minutes(minutes);
        use_and_close(&world, quantity, time).await;
    }
    for quantity in [5, 8] {
        let rejected = format!(
            "UPDATE usage_reports SET state = 'rejected', customer = 'cus' WHERE quantity = {quantity}"
        );
        world.execute_sql(&rejected).await;
        let reports = world.reports("free").await;
        let report = reports.iter().find(|one| one.quantity == quantity).unwrap();
        let decision = ResolveReport::new("free", &report.id, ResolveAction::WriteOff, "old");
        world.client().resolve_report(decision).await.unwrap();
    }
    let now = at("2027-04-01T00:00:00Z");
    let csv = [&MONTH[..], &["--format=csv"]].concat();
    let before = (
        world.export_at(now, &MONTH).await.unwrap(),
        world.export_at(now, &csv).await.unwrap(),
    );
    let decided = r#""decided":["write_off 2027-03-10"#;
    assert!(before.0.0.contains(decided), "{}", before.0.0);
    assert!(before.0.0.contains(r#""decisions":2"#), "{}", before.0.0);

    let_pass(&mut world, AGE).await;
    assert_eq!(world.count_rows("usage_reports").await, 0);
    assert_eq!(world.count_rows("folded_reports").await, 4);
    let folded = "folded_reports WHERE decisions IS NOT NULL";
    assert_eq!(world.count_rows(folded).await, 2);
    assert_eq!(world.count_rows("report_decisions").await, 2);
    let after = (
        world.export_at(world.now(), &MONTH).await.unwrap(),
        world.export_at(world.now(), &csv).await.unwrap(),
    );
    assert_eq!(after, before);

    // The decisions are archived too.
    world.reconfigure(&["--audit-days=36"]).await;
    fold_again(&world).await;
    world
        .wait_until("a cleanup", async || {
            world.count_rows("report_decisions").await == 0
        })
        .await;
    let last = (
        world.export_at(world.now(), &MONTH).await.unwrap(),
        world.export_at(world.now(), &csv).await.unwrap(),
    );
    assert_eq!(last, before);
    world.finish().await;
}
