//! Callers that make random calls and record when each began and ended, and what it was answered.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, Utc};
use usage_client::{
    Account, Billing, Correct, Error, ErrorKind, ForceReport, Get, Increment, PutAccount, Reason,
    UsageClient,
};

use super::{
    checker::Operation,
    model::{Answer, Call, KEYS, METERS},
};
use crate::support::{postgres_proxy::PostgresProxy, random::Random};

/// How often one caller changes the link: each time is two operations.
const MAX_PUTS: usize = 2;
/// How many faults one caller causes. Each call without an answer can take effect anywhere later, which doubles the search.
const MAX_FAULTS: usize = 2;

/// The history of one account.
pub(super) struct History {
    pub(super) account: String,
    /// The only time of the usage, so that it is all in one open report of each meter.
    pub(super) at: DateTime<Utc>,
    /// The question for the totals, with a period of its own: the default one changes at the turn of a month.
    pub(super) get: Get,
    /// Grows with each beginning and end of a call.
    clock: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

impl History {
    pub(super) fn new(account: String, at: DateTime<Utc>, get: Get) -> Self {
        Self {
            account,
            at,
            get,
            clock: AtomicU64::new(0),
            operations: Mutex::default(),
        }
    }

    /// What was recorded until now.
    pub(super) fn operations(&self) -> Vec<Operation> {
        let operations = self.operations.lock();
        operations.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The customer of a number; none makes the account free.
    pub(super) fn customer(&self, number: usize) -> Option<String> {
        (number > 0).then(|| format!("cus_{}_{number}", self.account))
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn record(&self, begun: u64, sent: Sent) {
        let at = self.now();
        let operations = self.operations.lock();
        let mut operations = operations.unwrap_or_else(PoisonError::into_inner);
        let mut add = |call, ended, after| {
            operations.push(Operation {
                call,
                begun,
                ended,
                after,
            });
            operations.len() - 1
        };
        match sent {
            Sent::Nothing => {}
            Sent::Lost(call) => {
                add(call, None, None);
            }
            Sent::Answered(call, answer) => {
                add(call, Some((answer, at)), None);
            }
            // The account is read after the change, so it can be as others made it meanwhile.
            Sent::Put(call, link) => {
                let put = add(call, Some((Answer::Done, at)), None);
                add(Call::GetAccount, Some((link, at)), Some(put));
            }
        }
    }
}

/// What became of a call.
#[derive(Clone, Copy)]
enum Sent {
    Answered(Call, Answer),
    /// A change of the link, and the link that it was answered.
    Put(Call, Answer),
    /// It may have taken effect.
    Lost(Call),
    /// It had no effect, and showed none.
    Nothing,
}

/// A caller with a connection of its own.
pub(super) struct Caller {
    client: UsageClient,
    /// Between its server and the database, if it loses answers.
    proxy: Option<Arc<PostgresProxy>>,
    random: Random,
    history: Arc<History>,
    /// The etag and the version that it saw last.
    seen: Option<(String, u64)>,
    puts: usize,
    faults: usize,
}

impl Caller {
    pub(super) fn new(
        client: UsageClient,
        proxy: Option<Arc<PostgresProxy>>,
        random: Random,
        history: &Arc<History>,
    ) -> Self {
        Self {
            client,
            proxy,
            random,
            history: Arc::clone(history),
            seen: None,
            puts: 0,
            faults: 0,
        }
    }

    /// Makes so many random calls, one after the other.
    pub(super) async fn run(mut self, calls: usize) {
        for _ in 0..calls {
            self.maybe_disturb();
            let call = self.choose();
            self.call(call).await;
        }
    }

    /// Makes one call, and records it.
    pub(super) async fn call(&mut self, call: Call) {
        let begun = self.history.now();
        let sent = match self.send(call).await {
            Ok(sent) => sent,
            Err(error) => self.of_error(call, &error),
        };
        self.history.record(begun, sent);
    }

    /// Lets the proxy lose something soon, now and then.
    fn maybe_disturb(&mut self) {
        let Some(proxy) = &self.proxy else {
            return;
        };
        if self.faults == MAX_FAULTS || !self.random.one_in(3) {
            return;
        }
        self.faults += 1;
        match self.random.below(3) {
            0 => proxy.lose_next_commit_answer(),
            1 => proxy.drop_next_commit(),
            _ => proxy.close_connections(),
        }
    }

    fn choose(&mut self) -> Call {
        match self.random.below(20) {
            0..=6 => self.increment(),
            7..=11 => Call::Get,
            12..=14 => self.correct(),
            15..=16 if self.puts < MAX_PUTS => {
                self.puts += 1;
                let version = self.seen.as_ref().map(|(_, version)| *version);
                let expected = version.filter(|_| self.random.one_in(2));
                Call::PutAccount(self.number(3), expected)
            }
            15..=17 => Call::GetAccount,
            // A run that is closed again after a lost COMMIT closes at two times, and says the sum.
            _ if self.proxy.is_some() => Call::Get,
            _ => Call::ForceReport,
        }
    }

    /// Mostly with content that belongs to its key, so that keys are repeated, and sometimes with other content.
    fn increment(&mut self) -> Call {
        let quantity = match self.random.below(12) {
            0 => 0,
            _ => 1 + self.random.below(1_000),
        };
        let key = self.number(KEYS);
        let of_key = (key % METERS.len(), 10_000 * i64::try_from(key + 1).unwrap());
        let other = (self.number(METERS.len()), quantity);
        match self.random.below(8) {
            0..=2 => Call::Increment(Some(key), of_key),
            3 => Call::Increment(Some(key), other),
            _ => Call::Increment(None, other),
        }
    }

    fn correct(&mut self) -> Call {
        let key = self.number(KEYS);
        let of_key = (key % METERS.len(), -500 * i64::try_from(key + 1).unwrap());
        let other = (self.number(METERS.len()), 1_000 - self.random.below(3_000));
        match self.random.below(8) {
            0..=2 => Call::Correct(Some(key), of_key),
            3 => Call::Correct(Some(key), other),
            _ => Call::Correct(None, other),
        }
    }

    fn number(&mut self, below: usize) -> usize {
        let below = i64::try_from(below).unwrap();
        usize::try_from(self.random.below(below)).unwrap()
    }

    async fn send(&mut self, call: Call) -> Result<Sent, Error> {
        let client = self.client.clone();
        let history = Arc::clone(&self.history);
        let account = &history.account;
        let answer = match call {
            Call::Increment(key, (meter, quantity)) => {
                let increment = Increment::new(account)
                    .meter(METERS[meter])
                    .quantity(quantity)
                    .timestamp(history.at);
                let increment = match key {
                    Some(key) => increment.key(format!("increment {key}")),
                    None => increment.without_key(),
                };
                once(client.increment(increment).await?.duplicate)
            }
            Call::Correct(key, (meter, quantity)) => {
                let mut correction = Correct::new(account, quantity, "part of a history")
                    .meter(METERS[meter])
                    .timestamp(history.at);
                if let Some(key) = key {
                    correction = correction.key(format!("correction {key}"));
                }
                once(client.correct(correction).await?.duplicate)
            }
            Call::Get => {
                let usage = client.get(history.get.clone()).await?;
                let total = |meter| usage.meter(meter).expect("a meter").quantities.total;
                Answer::Totals(METERS.map(total))
            }
            Call::PutAccount(number, expected) => {
                let mut put = match history.customer(number) {
                    Some(customer) => PutAccount::stripe(account, customer),
                    None => PutAccount::free(account),
                };
                if expected.is_some() {
                    let (etag, _) = self.seen.clone().expect("an etag");
                    put = put.etag(etag);
                }
                let put = client.put_account(put).await?;
                return Ok(Sent::Put(call, self.see(&put.account)));
            }
            Call::GetAccount => {
                let found = client.get_account(account).await?;
                self.see(&found)
            }
            Call::ForceReport => {
                let run = client
                    .force_report(ForceReport::accounts([account]))
                    .await?;
                Answer::Closed(run.summary().await?.closed.quantity)
            }
        };
        Ok(Sent::Answered(call, answer))
    }

    /// The link of an account as it was shown.
    fn see(&mut self, account: &Account) -> Answer {
        let version = account.etag.split('.').next().map(str::parse::<u64>);
        let version = version.expect("an etag").expect("a version");
        let number = match &account.billing {
            Billing::Stripe(stripe) => {
                let customer = Some(stripe.customer.clone());
                let mut numbers = 1..3;
                let number = numbers.find(|number| self.history.customer(*number) == customer);
                number.expect("a customer of this account")
            }
            _ => 0,
        };
        self.seen = Some((account.etag.clone(), version));
        Answer::Link(Some((number, version)))
    }

    /// What an error says. Only behind a proxy that loses answers may it say nothing.
    fn of_error(&self, call: Call, error: &Error) -> Sent {
        let answer = match error.kind() {
            _ if error.reason() == Some(&Reason::BelowZero) => Some(Answer::BelowZero),
            ErrorKind::KeyReused => Some(Answer::KeyReused),
            ErrorKind::EtagMismatch => Some(Answer::EtagMismatch),
            ErrorKind::NotFound => Some(Answer::Link(None)),
            ErrorKind::Invalid => Some(Answer::Refused),
            _ => None,
        };
        if let Some(answer) = answer {
            return Sent::Answered(call, answer);
        }
        let is_explained = self.proxy.is_some() && error.kind() == ErrorKind::Unavailable;
        assert!(is_explained, "{call:?}: {error:?}");
        let is_read = matches!(call, Call::Get | Call::GetAccount);
        if error.may_have_taken_effect() && !is_read {
            Sent::Lost(call)
        } else {
            Sent::Nothing
        }
    }
}

fn once(is_duplicate: bool) -> Answer {
    if is_duplicate {
        Answer::Duplicate
    } else {
        Answer::Done
    }
}
