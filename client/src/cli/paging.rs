//! Lists that are read page by page: their flags, how far they are read, and how to go on.

use super::{Streams, exit::Failure, time_arg::Times};
use crate::Error;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;

/// The largest page that the server returns.
const MAX_PAGE_SIZE: u32 = 1_000;

/// The flags of a command that lists page by page.
#[derive(Debug, Args)]
pub(super) struct Paging {
    /// The maximum number to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) limit: u32,
    /// Continue an earlier list
    #[arg(long, value_name = "TOKEN")]
    pub(super) page_token: Option<String>,
}

/// A part of a list: its items, and the token that continues after them, unless it is the end.
pub(super) type Part<T> = (Vec<T>, Option<String>);

impl Paging {
    /// Reads pages of at most so many items, each after the token of the one before, until the limit or the end of the list. A
    /// page without items ends it too, because a server could go on with such pages for ever.
    pub(super) async fn read<T, F>(
        self,
        page: impl Fn(u32, Option<String>) -> F,
    ) -> Result<Part<T>, Error>
    where
        F: Future<Output = Result<Part<T>, Error>>,
    {
        let (mut all, mut next) = (Vec::new(), self.page_token);
        let mut missing = self.limit;
        loop {
            let (items, token) = page(missing.min(MAX_PAGE_SIZE), next).await?;
            let received = u32::try_from(items.len()).unwrap_or(u32::MAX);
            missing = missing.saturating_sub(received);
            all.extend(items);
            next = token;
            if next.is_none() || missing == 0 || received == 0 {
                return Ok((all, next));
            }
        }
    }
}

/// Says how to list what is after the last row, if anything is. A token is for the same times, and `-7d` is another time in
/// each command, so they are said too.
pub(super) fn print_next_page(
    token: Option<String>,
    times: Times,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let Some(token) = token else {
        return Ok(());
    };
    let flag = |name: &str, at: Option<DateTime<Utc>>| {
        let at = at.map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        at.map_or_else(String::new, |at| format!("--{name} {at} "))
    };
    let (start, end) = (flag("start", times.start), flag("end", times.end));
    Ok(writeln!(
        streams.err,
        "there are more: {start}{end}--page-token {token}"
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a list of numbers from 0, whose tokens are the next number. Returns the sizes that were asked for, too.
    async fn read(limit: u32, from: Option<&str>, length: u32) -> (Part<u32>, Vec<u32>) {
        let asked = std::cell::RefCell::new(Vec::new());
        let paging = Paging {
            limit,
            page_token: from.map(str::to_owned),
        };
        let page = |size: u32, token: Option<String>| {
            asked.borrow_mut().push(size);
            let start: u32 = token.map_or(0, |token| token.parse().unwrap());
            let end = (start + size).min(length);
            let next = (end < length).then(|| end.to_string());
            async move { Ok(((start..end).collect(), next)) }
        };
        let part = paging.read(page).await.unwrap();
        (part, asked.into_inner())
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_limit_or_its_end() {
        let ((all, next), asked) = read(2_500, None, 10_000).await;
        assert_eq!(all, (0..2_500).collect::<Vec<_>>());
        assert_eq!(next.as_deref(), Some("2500"));
        assert_eq!(asked, [1_000, 1_000, 500]);
        let ((all, next), asked) = read(2_500, Some("2500"), 2_600).await;
        assert_eq!((all.len(), next), (100, None));
        assert_eq!(asked, [1_000]);
    }

    #[tokio::test]
    async fn an_empty_page_ends_a_list_that_goes_on() {
        let paging = Paging {
            limit: 100,
            page_token: None,
        };
        let page = async |_, _| Ok((Vec::<u32>::new(), Some("again".to_owned())));
        let (all, next) = paging.read(page).await.unwrap();
        assert_eq!((all.len(), next.as_deref()), (0, Some("again")));
    }
}
