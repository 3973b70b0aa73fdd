//! `ListAccounts` with accounts that were only counted.

use chrono::TimeDelta;
use usage_client::{Error, ListAccounts, PutAccount, Reason};

use crate::support::world::{World, hours_ago, on_both_engines};

on_both_engines!(
    counted_accounts_are_listed_in_order_with_linked_ones,
    a_customer_has_no_counted_accounts,
);

/// The accounts of each page: the linked and the counted ones.
async fn pages(world: &World, query: ListAccounts) -> Vec<(Vec<String>, Vec<String>)> {
    let (mut query, mut pages) = (query, Vec::new());
    loop {
        let page = world.client().list_accounts(query.clone()).await.unwrap();
        let linked = page.accounts.into_iter().map(|one| one.account_id);
        pages.push((linked.collect(), page.counted));
        match page.next_page_token {
            Some(token) => query = query.page_token(token),
            None => return pages,
        }
    }
}

async fn counted_accounts_are_listed_in_order_with_linked_ones(world: World) {
    // Counted and closed, counted and open, linked and counted, linked alone, in many windows.
    for account in ["closed", "both", "b", "B"] {
        for hour in 1..4 {
            world.count(account, 1, hours_ago(hour)).await;
        }
    }
    world.report_all().await;
    for account in ["open", "closed", "open2"] {
        let later = hours_ago(5) + TimeDelta::minutes(1);
        world.count_of(account, "tokens", 1, later).await;
    }
    for account in ["both", "linked"] {
        let free = PutAccount::free(account);
        world.client().put_account(free).await.unwrap();
    }
    let all = ["B", "b", "both", "closed", "linked", "open", "open2"];
    for size in [0, 1, 2, 3, 6, 7, 8] {
        let query = ListAccounts::new().include_counted().page_size(size);
        let pages = pages(&world, query).await;
        let mut listed = Vec::new();
        for (linked, counted) in &pages {
            let mut page = [&linked[..], counted].concat();
            page.sort_unstable();
            assert!(size == 0 || page.len() <= usize::try_from(size).unwrap());
            listed.extend(page);
            assert!(linked.iter().all(|id| id == "both" || id == "linked"));
            assert!(counted.is_sorted());
            assert!(!counted.contains(&"both".to_owned()), "{counted:?}");
        }
        assert_eq!(listed, all, "{size} a page");
        if size > 0 {
            assert_eq!(
                pages.len(),
                all.len().div_ceil(usize::try_from(size).unwrap())
            );
        }
    }
    let linked = pages(&world, ListAccounts::new().page_size(1)).await;
    let expected = ["both", "linked"].map(|id| (vec![id.to_owned()], Vec::new()));
    assert_eq!(linked, expected);
    // A token is for the same question.
    let first = ListAccounts::new().include_counted().page_size(1);
    let token = world.client().list_accounts(first).await.unwrap();
    let other = ListAccounts::new().page_token(token.next_page_token.unwrap());
    let error = world.client().list_accounts(other).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::PageTokenInvalid), "{error}");
    world.finish().await;
}

async fn a_customer_has_no_counted_accounts(world: World) {
    let query = ListAccounts::new().include_counted().customer("cus_a");
    let error: Error = world.client().list_accounts(query).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::InvalidField), "{error}");
    assert_eq!(error.violations()[0].field, "include_counted");
    world.finish().await;
}
