//! Where folded reports are: lists and errors name the archive and its SHA-256.

use chrono::TimeDelta;
use usage_client::{
    ErrorKind, ListReports, Reason, ReportKind, ReportState, ResolveAction, ResolveReport,
};

use super::{AGE, COUNTED, begin, files, let_pass, name_of, use_and_close};
use crate::support::world::{World, at, on_both_engines};

on_both_engines!(
    a_list_names_the_archives_of_older_reports,
    a_folded_report_is_found_in_its_archive,
);

async fn a_list_names_the_archives_of_older_reports(mut world: World) {
    let folder = begin(&mut world).await;
    for minutes in [0, 0, 45] {
        use_and_close(&world, 5, at(COUNTED) + TimeDelta::minutes(minutes)).await;
    }
    let list = async |world: &World, filter: ListReports| {
        let page = world.client().list_reports(filter).await.unwrap();
        (page.reports.len(), page.archives)
    };
    let of_account = ListReports::new().account("free");
    assert_eq!(list(&world, of_account.clone()).await.1, []);
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    use_and_close_without_stripe(&world).await;
    let (reports, archives) = list(&world, of_account.clone()).await;
    let [archive] = archives.as_slice() else {
        panic!("{archives:?}");
    };
    assert_eq!(reports, 1);
    assert_eq!(archive.file, name_of(&files(folder.path())[0]));
    assert_eq!(archive.sha256.len(), 64);
    assert_eq!((archive.reports, archive.quantity), (3, 15));
    assert_eq!(archive.windows.start, at(COUNTED));
    assert_eq!(archive.windows.end, at(COUNTED) + TimeDelta::hours(1));
    let folded_at = archive.folded_at.unwrap();
    assert!(folded_at > world.now() - AGE && folded_at <= world.now());
    for (filter, number) in [
        (of_account.clone().states([ReportState::NotBillable]), 1),
        (of_account.clone().states([ReportState::Invoiced]), 0),
        (of_account.clone().states([ReportState::Open]), 0),
        (of_account.clone().kind(ReportKind::Correction), 0),
        (of_account.clone().kind(ReportKind::Usage), 1),
        (ListReports::new().account("another"), 0),
        (ListReports::new(), 0),
    ] {
        let (_, archives) = list(&world, filter.clone()).await;
        assert_eq!(archives.len(), number, "{filter:?}");
    }
    // The older ones come last.
    world
        .count("free", 2, world.now() - TimeDelta::hours(2))
        .await;
    let first = world
        .client()
        .list_reports(of_account.clone().page_size(1))
        .await
        .unwrap();
    assert_eq!((first.reports.len(), first.archives.len()), (1, 0));
    let all = world
        .client()
        .list_all_reports(of_account, 10)
        .await
        .unwrap();
    assert_eq!((all.reports.len(), all.archives.len()), (2, 1));
    world.finish().await;
}

async fn use_and_close_without_stripe(world: &World) {
    world.count("free", 1, world.now()).await;
}

async fn a_folded_report_is_found_in_its_archive(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    use_and_close(&world, 6, at(COUNTED)).await;
    let reports = world.reports("free").await;
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    let file = files(folder.path()).remove(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let archive = "report_archives WHERE sha256 <> ''";
    assert_eq!(world.count_rows(archive).await, 1);
    let decide = async |id: &str| {
        let decision = ResolveReport::new("free", id, ResolveAction::WriteOff, "why");
        world.client().resolve_report(decision).await.unwrap_err()
    };
    for report in reports {
        assert!(text.contains(&report.id));
        let error = decide(&report.id).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.reason(), Some(&Reason::ReportNotFound));
        for word in [name_of(&file).as_str(), "SHA-256", "folded"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    // Later than all of them.
    let error = decide("ffffffff-ffff-7fff-bfff-ffffffffffff").await;
    assert_eq!(error.reason(), Some(&Reason::ReportNotFound));
    assert!(!error.to_string().contains("archive"), "{error}");
    world.finish().await;
}
