//! Bounds the pages of the console that wait to be read, as `answers` bounds the answers of calls.
//!
//! A page counts from before it is made until the last of its bytes is written to its connection or given up. So whoever
//! opens many streams or connections and reads nothing costs a limited amount of memory, and the connection is closed in
//! the end. Forms to sign in need no key: they have a small pool of their own.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tonic::Status;

use super::{
    answers::{AnswerBytes, Held, MAX_ANSWER_BYTES, streamed},
    pools::{Limits, Pools},
};
use crate::{connections::Activity, domain::access::Caller, error::Error};

/// Pages of callers with a key, a certificate or a session, and of all while there is no key.
const OF_CALLERS: Limits = Limits {
    all: 32 * 1024 * 1024,
    of_caller: 8 * 1024 * 1024,
    small: 512 * 1024,
    kept_for_small: 8 * 1024 * 1024,
    always: 0,
};
/// Those of all others. One of each connection always fits.
const OF_STRANGERS: Limits = Limits {
    all: 1024 * 1024,
    of_caller: 64 * 1024,
    small: 64 * 1024,
    kept_for_small: 0,
    always: STRANGER_BYTES,
};
/// The least that is counted for a page, also before it exists.
const PAGE_BYTES: usize = 256 * 1024;
const STRANGER_BYTES: usize = 4 * 1024;
/// The part of a page that is handed to a connection at once. HTTP/1 copies what it is handed.
const FRAME_BYTES: usize = 16 * 1024;

/// Limits the pages that wait to be read.
#[derive(Clone, Debug)]
pub(crate) struct PageLimit(Pools);

impl Default for PageLimit {
    fn default() -> Self {
        Self(Pools::new(OF_CALLERS, OF_STRANGERS))
    }
}

/// Marks an answer that is made while it is read, such as a file of any size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed;

/// What is counted for a page until it is read.
pub(crate) struct PagePlace(Held);

impl PageLimit {
    /// Counts a page that is to be made.
    ///
    /// # Errors
    /// Too many bytes wait to be read.
    pub(crate) fn reserve(
        &self,
        caller: Option<&Caller>,
        connection: Arc<Activity>,
    ) -> Result<PagePlace, Error> {
        let share = self.0.share(caller, connection.answers());
        let least = caller.map_or(STRANGER_BYTES, |_| PAGE_BYTES);
        Held::reserve(connection, share, least).map(PagePlace)
    }
}

impl PagePlace {
    /// Counts the bytes of a page that was made until they are read.
    ///
    /// # Errors
    /// It does not fit.
    pub(crate) async fn keep(self, answer: Response) -> Result<Response, Error> {
        let Self(mut held) = self;
        let (mut parts, body) = answer.into_parts();
        if parts.extensions.remove::<Streamed>().is_some() {
            let body = body.map_err(|error| Status::unknown(error.to_string()));
            return Ok(Response::from_parts(parts, Body::new(streamed(body, held))));
        }
        // All of it exists.
        let read = to_bytes(body, MAX_ANSWER_BYTES).await;
        let bytes = read.map_err(|_| Error::AnswersUnread {
            unread: MAX_ANSWER_BYTES.saturating_add(1),
            limit: MAX_ANSWER_BYTES,
        })?;
        if bytes.is_empty() {
            return Ok(Response::from_parts(parts, Body::empty()));
        }
        held.grow(bytes.len(), true)?;
        let bytes = Bytes::from_owner(AnswerBytes::new(bytes, held));
        Ok(Response::from_parts(parts, Body::new(PageBody(bytes))))
    }
}

/// A page in parts, which share what is counted.
struct PageBody(Bytes);

impl HttpBody for PageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.0.len().min(FRAME_BYTES);
        let part = self.0.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.0.len()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    fn reader(name: &str) -> Caller {
        Caller {
            name: name.to_owned(),
            ..Caller::anyone()
        }
    }

    /// A page of a caller on a connection of its own. It is not read.
    async fn page(limit: &PageLimit, caller: Option<&Caller>, bytes: usize) -> Option<Response> {
        let connection = Activity::unconnected();
        let place = limit.reserve(caller, connection).ok()?;
        place.keep("a".repeat(bytes).into_response()).await.ok()
    }

    #[tokio::test]
    async fn pages_that_are_not_read_are_refused_beyond_a_limit_until_they_end() {
        let limit = PageLimit::default();
        let hostile = reader("hostile");
        let mut unread = Vec::new();
        while let Some(page) = page(&limit, Some(&hostile), 10_000).await {
            unread.push(page);
            assert!(unread.len() < 1_000);
        }
        assert_eq!(unread.len(), OF_CALLERS.of_caller / PAGE_BYTES);
        // Others have theirs, and the same caller has once they end.
        let other = page(&limit, Some(&reader("other")), 10_000).await;
        assert!(other.is_some());
        let read = unread.pop().unwrap().into_body().collect().await;
        assert_eq!(read.unwrap().to_bytes().len(), 10_000);
        assert!(page(&limit, Some(&hostile), 10_000).await.is_some());
    }

    #[tokio::test]
    async fn forms_that_are_not_read_leave_one_to_each_connection() {
        let limit = PageLimit::default();
        let connection = Activity::unconnected();
        let mut unread = Vec::new();
        while let Ok(place) = limit.reserve(None, Arc::clone(&connection)) {
            unread.push(place);
            assert!(unread.len() < 1_000);
        }
        assert_eq!(unread.len(), OF_STRANGERS.of_caller / STRANGER_BYTES);
        let mut pages = Vec::new();
        for _ in 0..2 * OF_STRANGERS.all / STRANGER_BYTES {
            pages.push(page(&limit, None, 1_000).await.unwrap());
        }
        // No form takes anything from those who have a key.
        assert!(page(&limit, Some(&reader("a")), 1_000).await.is_some());
    }

    #[tokio::test]
    async fn a_page_counts_until_the_last_of_its_parts_is_gone() {
        let limit = PageLimit::default();
        let connection = Activity::unconnected();
        let caller = reader("a");
        let place = limit
            .reserve(Some(&caller), Arc::clone(&connection))
            .unwrap();
        let size = 3 * FRAME_BYTES + 1;
        let answer = place.keep("a".repeat(size).into_response()).await.unwrap();
        let mut body = answer.into_body();
        assert_eq!(body.size_hint().exact(), u64::try_from(size).ok());
        let mut parts = Vec::new();
        while let Some(frame) = body.frame().await {
            parts.push(frame.unwrap().into_data().unwrap());
        }
        drop(body);
        let is_counted = || connection.unread().try_add(0, PAGE_BYTES - 1).is_err();
        assert_eq!(parts.len(), 4);
        while parts.pop().is_some() {
            assert_eq!(is_counted(), !parts.is_empty());
        }
        // One that no limit has room for is refused, and nothing of it is counted.
        let place = limit
            .reserve(Some(&caller), Arc::clone(&connection))
            .unwrap();
        let large = "a".repeat(MAX_ANSWER_BYTES + 1).into_response();
        assert!(place.keep(large).await.is_err());
        assert!(!is_counted());
    }
}
