//! The log of the last ten thousand requests and their responses.

use std::collections::VecDeque;

use crate::control_types::LoggedRequest;

const MAX_REQUESTS: usize = 10_000;

/// The latest requests below `/v1`, and how many there were in all.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    requests: VecDeque<LoggedRequest>,
    total: u64,
}

impl RequestLog {
    /// Logs a request and numbers it.
    pub(crate) fn append(&mut self, mut request: LoggedRequest) -> u64 {
        self.total = self.total.saturating_add(1);
        request.sequence = self.total;
        if self.requests.len() >= MAX_REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back(request);
        self.total
    }

    /// Updates a request that is still in the log.
    pub(crate) fn update(&mut self, sequence: u64, update: impl FnOnce(&mut LoggedRequest)) {
        let first = self.requests.front().map_or(0, |request| request.sequence);
        let index = sequence
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(request) = index.and_then(|index| self.requests.get_mut(index)) {
            update(request);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LoggedRequest> {
        self.requests.iter()
    }

    /// The number of requests: all of them, or those in the log whose path has this prefix.
    pub(crate) fn count(&self, path_prefix: Option<&str>) -> u64 {
        match path_prefix {
            None => self.total,
            Some(prefix) => {
                let matching = self
                    .requests
                    .iter()
                    .filter(|request| request.path.starts_with(prefix))
                    .count();
                u64::try_from(matching).unwrap_or(u64::MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_the_count_is_not() {
        let mut log = RequestLog::default();
        for _ in 0..MAX_REQUESTS {
            log.append(LoggedRequest {
                path: "/v1/old".to_owned(),
                ..LoggedRequest::default()
            });
        }
        let last = log.append(LoggedRequest {
            path: "/v1/new".to_owned(),
            ..LoggedRequest::default()
        });
        log.update(last, |request| request.status = Some(200));
        log.update(1, |request| request.path.clear());
        assert_eq!(last, 10_001);
        assert_eq!(log.iter().count(), MAX_REQUESTS);
        assert_eq!(
            log.iter().last().and_then(|request| request.status),
            Some(200)
        );
        assert_eq!((log.count(None), log.count(Some("/v1/new"))), (10_001, 1));
        assert!(log.iter().all(|request| !request.path.is_empty()));
    }
}
