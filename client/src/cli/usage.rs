//! `usagectl usage`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows},
    paging::{Paging, print_next_page},
    period_args::PeriodArgs,
    time_arg::Times,
};
use crate::{ListUsage, UsageClient};
use clap::Args;
use serde_json::json;
use std::cell::Cell;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The meter
    meter: String,
    #[command(flatten)]
    period: PeriodArgs,
    /// Only accounts whose ids begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// List by account instead of by quantity
    #[arg(long)]
    by_account: bool,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let asked = arguments.period.read()?;
    let mut query = ListUsage::of(&arguments.meter, asked.start, asked.end);
    if asked.is_rounded {
        query = query.round_outward();
    }
    if let Some(prefix) = arguments.prefix {
        query = query.account_prefix(prefix);
    }
    if arguments.by_account {
        query = query.by_account();
    }
    let used = Cell::new(None);
    let page = |size, token: Option<String>| {
        let page = query.clone().page_size(size);
        let page = page.page_token(token.unwrap_or_default());
        async {
            let page = client.list_usage(page).await?;
            used.set(Some(page.period));
            Ok((page.usage, page.next_page_token))
        }
    };
    let (usage, next) = arguments.paging.read(page).await?;
    let mut rows = Rows::new(&["account_id", "meter", "quantity"]);
    for one in usage {
        rows.push(vec![
            json!(one.account_id),
            json!(arguments.meter),
            json!(one.quantity),
        ]);
    }
    rows.print(arguments.format, streams)?;
    // The next page is of the same period, whatever `--last` means then.
    let used = used.get();
    let times = Times {
        start: used.map(|period| period.start),
        end: used.map(|period| period.end),
    };
    print_next_page(next, times, streams)
}
