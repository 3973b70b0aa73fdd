//! Accounts: their links, the customers they own, their billing periods, and the version of all boundaries.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, boolean, integer, text, text_null},
};

use crate::columns::name;

#[derive(DeriveIden)]
enum AccountLinks {
    Table,
    AccountId,
    Version,
    ValidFrom,
    Customer,
    Subscription,
    RecordedAt,
    Ended,
    EndRequested,
}

#[derive(DeriveIden)]
enum Customers {
    Table,
    Customer,
    AccountId,
    Watch,
    Problem,
    IsStartOpen,
}

#[derive(DeriveIden)]
enum BillingPeriods {
    Table,
    AccountId,
    Item,
    PeriodStart,
    PeriodEnd,
    RecordedAt,
    Subscription,
    Meter,
    Price,
    BillsFrom,
    IsTrial,
    Invoice,
    InvoiceState,
    DraftUntil,
    InvoiceReadAt,
    ComparedAt,
    CompareAgainAt,
    CompareFailingSince,
    CompareError,
}

#[derive(DeriveIden)]
enum BoundaryChanges {
    Table,
    Version,
    Previous,
    AccountId,
    RecordedAt,
}

#[derive(DeriveIden)]
enum BoundaryVersion {
    Table,
    Id,
    Version,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use AccountLinks as L;
    manager
        .create_table(
            Table::create()
                .table(L::Table)
                .col(name(manager, L::AccountId))
                .col(big_integer(L::Version))
                .col(big_integer(L::ValidFrom))
                // Null means free.
                .col(text_null(L::Customer))
                .col(text_null(L::Subscription))
                .col(big_integer(L::RecordedAt))
                // The customer's subscription ended: nothing is billed to it from `valid_from` on.
                .col(boolean(L::Ended).default(false))
                // Whether that end was requested here.
                .col(boolean(L::EndRequested).default(false))
                .primary_key(Index::create().col(L::AccountId).col(L::Version))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table(Customers::Table)
                .col(name(manager, Customers::Customer).primary_key())
                .col(name(manager, Customers::AccountId))
                // `unverified`, `test_clock` or `problem`: it is read by itself.
                .col(text_null(Customers::Watch))
                .col(text_null(Customers::Problem))
                .col(boolean(Customers::IsStartOpen).default(false))
                .to_owned(),
        )
        .await?;
    // Customers that are read by themselves are few.
    manager
        .create_index(
            Index::create()
                .name("customers_watched")
                .table(Customers::Table)
                .col(Customers::AccountId)
                .and_where(Expr::cust("watch IS NOT NULL"))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(
            Index::create()
                .name("customers_by_account")
                .table(Customers::Table)
                .col(Customers::AccountId)
                .to_owned(),
        )
        .await?;
    manager
        .create_index(
            Index::create()
                .name("account_links_by_customer")
                .table(L::Table)
                .col(L::Customer)
                .to_owned(),
        )
        .await?;
    create_billing_periods(manager).await?;
    create_boundary_version(manager).await?;
    create_boundary_changes(manager).await
}

async fn create_billing_periods(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use BillingPeriods as P;
    manager
        .create_table(
            Table::create()
                .table(P::Table)
                .col(name(manager, P::AccountId))
                .col(name(manager, P::Item))
                .col(big_integer(P::PeriodStart))
                .col(big_integer(P::PeriodEnd))
                .col(big_integer(P::RecordedAt))
                .col(text_null(P::Subscription))
                .col(text_null(P::Meter))
                .col(text_null(P::Price))
                // The time from which Stripe charges usage to this item, if that is later than the start.
                .col(big_integer_null(P::BillsFrom))
                .col(boolean(P::IsTrial).default(false))
                .col(text_null(P::Invoice))
                // `unknown`, `draft` or `final`.
                .col(text(P::InvoiceState).default("unknown"))
                .col(big_integer_null(P::DraftUntil))
                // The moment of the reading at Stripe that the invoice's state is from.
                .col(big_integer_null(P::InvoiceReadAt))
                // When its invoices were last read for the comparison, and when they are read again.
                .col(big_integer_null(P::ComparedAt))
                .col(big_integer_null(P::CompareAgainAt))
                // Since when and why they cannot be compared; null if they can, or were never tried.
                .col(big_integer_null(P::CompareFailingSince))
                .col(text_null(P::CompareError))
                .primary_key(
                    Index::create()
                        .col(P::AccountId)
                        .col(P::Item)
                        .col(P::PeriodStart),
                )
                .check((
                    "billing_periods_order",
                    Expr::col(P::PeriodStart).lt(Expr::col(P::PeriodEnd)),
                ))
                .to_owned(),
        )
        .await?;
    create_indexes_of_periods(manager).await
}

async fn create_indexes_of_periods(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use BillingPeriods as P;
    // Periods that ended lately are read all the time.
    manager
        .create_index(
            Index::create()
                .name("billing_periods_by_end")
                .table(P::Table)
                .col(P::PeriodEnd)
                .to_owned(),
        )
        .await?;
    // Periods with an invoice that can still charge usage are few.
    manager
        .create_index(
            Index::create()
                .name("billing_periods_not_final")
                .table(P::Table)
                .col(P::PeriodEnd)
                .and_where(Expr::cust("invoice_state <> 'final'"))
                .to_owned(),
        )
        .await?;
    // Periods whose invoices were never compared, by their ends, and those that are compared again, by that time.
    let never_compared = Index::create()
        .name("billing_periods_never_compared")
        .table(P::Table)
        .col(P::PeriodEnd)
        .and_where(Expr::col(P::ComparedAt).is_null())
        .and_where(Expr::col(P::Subscription).is_not_null())
        .to_owned();
    let compared_again = Index::create()
        .name("billing_periods_compared_again")
        .table(P::Table)
        .col(P::CompareAgainAt)
        .and_where(Expr::col(P::CompareAgainAt).is_not_null())
        .to_owned();
    // Those that cannot be compared, since when.
    let failing = Index::create()
        .name("billing_periods_comparison_failing")
        .table(P::Table)
        .col(P::CompareFailingSince)
        .and_where(Expr::col(P::CompareFailingSince).is_not_null())
        .to_owned();
    // An invoice is looked up without its account.
    let by_invoice = Index::create()
        .name("billing_periods_by_invoice")
        .table(P::Table)
        .col(P::Invoice)
        .and_where(Expr::col(P::Invoice).is_not_null())
        .to_owned();
    manager.create_index(by_invoice).await?;
    manager.create_index(never_compared).await?;
    manager.create_index(compared_again).await?;
    manager.create_index(failing).await
}

async fn create_boundary_version(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    manager
        .create_table(
            Table::create()
                .table(BoundaryVersion::Table)
                .col(integer(BoundaryVersion::Id).primary_key())
                .col(big_integer(BoundaryVersion::Version))
                .to_owned(),
        )
        .await?;
    manager
        .execute(
            Query::insert()
                .into_table(BoundaryVersion::Table)
                .columns([BoundaryVersion::Id, BoundaryVersion::Version])
                .values_panic([1.into(), 1_i64.into()])
                .to_owned(),
        )
        .await
}

/// Found by version, of which replicas know the last one they have seen; old ones are deleted by age.
async fn create_boundary_changes(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use BoundaryChanges as C;
    manager
        .create_table(
            Table::create()
                .table(C::Table)
                .col(big_integer(C::Version).primary_key())
                .col(big_integer(C::Previous))
                .col(name(manager, C::AccountId))
                .col(big_integer(C::RecordedAt))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(
            Index::create()
                .name("boundary_changes_by_age")
                .table(C::Table)
                .col(C::RecordedAt)
                .to_owned(),
        )
        .await
}
