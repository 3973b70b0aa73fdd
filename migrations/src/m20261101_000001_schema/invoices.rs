//! Invoices: the lines that charge usage, and their comparison with what was reported.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, text, text_null},
};

use crate::columns::name;

#[derive(DeriveIden)]
enum InvoiceLines {
    Table,
    AccountId,
    Invoice,
    Line,
    InvoiceStatus,
    InvoiceCreated,
    Item,
    PeriodStart,
    Price,
    LineStart,
    LineEnd,
    Quantity,
    Amount,
    Currency,
    ReadAt,
}

#[derive(DeriveIden)]
enum InvoiceComparisons {
    Table,
    AccountId,
    Item,
    PeriodStart,
    PeriodEnd,
    Subscription,
    Customer,
    Meter,
    Price,
    Finding,
    Reported,
    Invoiced,
    ChangedAt,
    AcknowledgedAt,
    AcknowledgedBy,
    AcknowledgedReason,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_lines(manager).await?;
    create_comparisons(manager).await
}

async fn create_lines(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use InvoiceLines as L;
    manager
        .create_table(
            Table::create()
                .table(L::Table)
                .col(name(manager, L::AccountId))
                .col(name(manager, L::Invoice))
                .col(name(manager, L::Line))
                // Stripe's name, as last read.
                .col(text(L::InvoiceStatus))
                .col(big_integer(L::InvoiceCreated))
                // The billing period whose usage it charges.
                .col(name(manager, L::Item))
                .col(big_integer(L::PeriodStart))
                .col(text_null(L::Price))
                // The time that it charges, as Stripe says.
                .col(big_integer(L::LineStart))
                .col(big_integer(L::LineEnd))
                // Null if it is absent or no whole number.
                .col(big_integer_null(L::Quantity))
                // In the smallest unit of the currency, as Stripe says.
                .col(big_integer(L::Amount))
                .col(text(L::Currency))
                .col(big_integer(L::ReadAt))
                .primary_key(
                    Index::create()
                        .col(L::AccountId)
                        .col(L::Invoice)
                        .col(L::Line),
                )
                .to_owned(),
        )
        .await?;
    manager
        .create_index(
            Index::create()
                .name("invoice_lines_by_period")
                .table(L::Table)
                .col(L::AccountId)
                .col(L::Item)
                .col(L::PeriodStart)
                .to_owned(),
        )
        .await?;
    // An invoice is looked up without its account too.
    manager
        .create_index(
            Index::create()
                .name("invoice_lines_by_invoice")
                .table(L::Table)
                .col(L::Invoice)
                .to_owned(),
        )
        .await
}

async fn create_comparisons(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use InvoiceComparisons as C;
    manager
        .create_table(
            Table::create()
                .table(C::Table)
                .col(name(manager, C::AccountId))
                // Of usage in no billing period: the customer.
                .col(name(manager, C::Item))
                .col(big_integer(C::PeriodStart))
                .col(big_integer(C::PeriodEnd))
                .col(text(C::Subscription))
                .col(name(manager, C::Customer))
                .col(name(manager, C::Meter))
                .col(text_null(C::Price))
                // `equal`, `differs`, `unreadable`, `unverified`, `uncollectible`, `void`, `overdue`, `kept_draft`,
                // `price_split`, `charged_twice` or `no_period`.
                .col(text(C::Finding))
                // The units that Stripe's totals contain.
                .col(big_integer(C::Reported))
                // The units on valid invoices; null if a quantity cannot be read.
                .col(big_integer_null(C::Invoiced))
                // When the finding or a figure last changed.
                .col(big_integer(C::ChangedAt))
                // When, by whom and why it was acknowledged as it is.
                .col(big_integer_null(C::AcknowledgedAt))
                .col(text_null(C::AcknowledgedBy))
                .col(text_null(C::AcknowledgedReason))
                .primary_key(
                    Index::create()
                        .col(C::AccountId)
                        .col(C::Item)
                        .col(C::PeriodStart)
                        .col(C::Meter),
                )
                .to_owned(),
        )
        .await?;
    // Usage in no billing period is rare.
    manager
        .create_index(
            Index::create()
                .name("invoice_comparisons_without_period")
                .table(C::Table)
                .col(C::Customer)
                .col(C::Meter)
                .col(C::PeriodStart)
                .and_where(Expr::cust("finding = 'no_period'"))
                .to_owned(),
        )
        .await?;
    // Differences are few.
    manager
        .create_index(
            Index::create()
                .name("invoice_comparisons_differences")
                .table(C::Table)
                .col(C::Finding)
                .col(C::ChangedAt)
                .and_where(Expr::cust("finding <> 'equal'"))
                .and_where(Expr::col(C::AcknowledgedAt).is_null())
                .to_owned(),
        )
        .await
}
