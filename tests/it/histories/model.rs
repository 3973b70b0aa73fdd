//! What one account promises, as a machine with one state: each call takes effect at once, between its beginning and its end.

/// The meters of a history.
pub(super) const METERS: [&str; 2] = ["api_calls", "tokens"];
/// The idempotency keys of a history. Increments and corrections have separate ones.
pub(super) const KEYS: usize = 4;

/// What is counted or corrected: the number of a meter, and a quantity.
pub(super) type Content = (usize, i64);

/// What a caller asks of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Counts, under the key of a number, if it has one.
    Increment(Option<usize>, Content),
    /// Enters a correction, under the key of a number, if it has one.
    Correct(Option<usize>, Content),
    /// Reads the totals.
    Get,
    /// Links the account to the customer of a number. The second number is the version that it must have, if it is given.
    PutAccount(usize, Option<u64>),
    /// Reads the link.
    GetAccount,
    /// Closes what is open.
    ForceReport,
}

/// What the service answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Counted, entered or put.
    Done,
    /// The key did that before.
    Duplicate,
    /// The key was used with other content.
    KeyReused,
    /// The correction would make the total negative.
    BelowZero,
    /// Not valid, so nothing was done.
    Refused,
    /// The totals of the meters.
    Totals([i64; METERS.len()]),
    /// The account has another version.
    EtagMismatch,
    /// The number of the customer, and the version; none if the account was never put.
    Link(Option<(usize, u64)>),
    /// The quantity that the run closed.
    Closed(i64),
}

/// The account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    totals: [i64; METERS.len()],
    /// What is counted and in no closed report.
    open: i64,
    counted: [Option<Content>; KEYS],
    corrected: [Option<Content>; KEYS],
    link: Option<(usize, u64)>,
}

impl State {
    /// What the service must answer in this state, and the state after that.
    pub(super) fn after(mut self, call: Call) -> (Answer, Self) {
        let answer = match call {
            Call::Increment(_, (_, quantity)) if quantity < 1 => Answer::Refused,
            Call::Increment(key, content) => {
                if let Some(known) = key.and_then(|key| self.counted[key]) {
                    repeated(known, content)
                } else {
                    if let Some(key) = key {
                        self.counted[key] = Some(content);
                    }
                    self.totals[content.0] += content.1;
                    self.open += content.1;
                    Answer::Done
                }
            }
            Call::Correct(_, (_, 0)) => Answer::Refused,
            Call::Correct(key, content) => match key.and_then(|key| self.corrected[key]) {
                Some(known) => repeated(known, content),
                None if content.1 < 0 && self.totals[content.0] + content.1 < 0 => {
                    Answer::BelowZero
                }
                None => {
                    if let Some(key) = key {
                        self.corrected[key] = Some(content);
                    }
                    self.totals[content.0] += content.1;
                    Answer::Done
                }
            },
            Call::Get => Answer::Totals(self.totals),
            Call::PutAccount(customer, expected) => {
                let version = self.link.map_or(0, |(_, version)| version);
                if expected.is_some_and(|expected| expected != version) {
                    Answer::EtagMismatch
                } else {
                    if self.link.is_none_or(|(current, _)| current != customer) {
                        self.link = Some((customer, version + 1));
                    }
                    Answer::Done
                }
            }
            Call::GetAccount => Answer::Link(self.link),
            Call::ForceReport => Answer::Closed(std::mem::take(&mut self.open)),
        };
        (answer, self)
    }
}

fn repeated(known: Content, content: Content) -> Answer {
    if known == content {
        Answer::Duplicate
    } else {
        Answer::KeyReused
    }
}
