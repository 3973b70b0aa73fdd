//! Whether a history of calls can be explained: whether there is an order of the calls in which each one gives the answer that
//! it got, and in which a call that ended before another began comes first. This is linearizability.
//!
//! The search is that of Wing and Gong, which takes one call after the other that may be the next, with the memory of Lowe:
//! no set of calls is tried twice with the same state. A call without an answer may take effect at any time after its
//! beginning, or never.

use std::{collections::HashSet, fmt};

use super::model::{Answer, Call, State};

/// The largest history: sets of calls are the bits of a number.
pub(super) const MAX_OPERATIONS: usize = 64;
/// The largest number of sets and states that a search visits. Histories as long as those of these tests need some hundreds,
/// and some thousands if many calls have no answer.
const MAX_VISITED: usize = 300_000;

/// A call with its answer. Times are numbers that only grow.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) call: Call,
    pub(super) begun: u64,
    /// The answer and its time; none if there was none that can be trusted.
    pub(super) ended: Option<(Answer, u64)>,
    /// The number of an operation that must come before this one, if that is known otherwise than by their times.
    pub(super) after: Option<usize>,
}

impl Operation {
    fn ended_before(&self, other: &Self) -> bool {
        self.ended.is_some_and(|(_, at)| at < other.begun)
    }
}

/// Why a history is not accepted.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is longer than [`MAX_OPERATIONS`].
    TooLong(usize),
    /// The search visited so many states and found no order, and it has not tried all.
    Undecided(usize),
    /// There is no such order.
    Unexplained {
        /// The longest order that explains its calls, as their numbers.
        explained: Vec<usize>,
        /// The state after them.
        state: Box<State>,
        /// The calls that could come next, and do not fit.
        refused: Vec<usize>,
    },
}

/// A history with what was found of it, to be read by a person.
pub(super) struct Explained<'a>(pub(super) &'a [Operation], pub(super) &'a Fault);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(history, fault) = self;
        match fault {
            Fault::TooLong(length) => writeln!(
                f,
                "{length} operations, and {MAX_OPERATIONS} can be checked"
            )?,
            Fault::Undecided(visited) => writeln!(f, "not decided after {visited} states")?,
            Fault::Unexplained {
                explained,
                state,
                refused,
            } => writeln!(
                f,
                "no order explains the answers. {explained:?} do, up to {state:?}; \
                 of what may come next, none fits: {refused:?}"
            )?,
        }
        let mut numbers: Vec<usize> = (0..history.len()).collect();
        numbers.sort_by_key(|number| history[*number].begun);
        for number in numbers {
            let Operation {
                call, begun, ended, ..
            } = &history[number];
            match ended {
                Some((answer, at)) => {
                    writeln!(f, "{number:3} {begun:4}-{at:4} {call:?}: {answer:?}")?;
                }
                None => writeln!(f, "{number:3} {begun:4}-     {call:?}: no answer")?,
            }
        }
        Ok(())
    }
}

/// Checks the history of one account, which begins without anything.
pub(super) fn check(history: &[Operation]) -> Result<(), Fault> {
    check_within(history, MAX_VISITED)
}

fn check_within(history: &[Operation], max_visited: usize) -> Result<(), Fault> {
    if history.len() > MAX_OPERATIONS {
        return Err(Fault::TooLong(history.len()));
    }
    let mut search = Search {
        history,
        earlier: history.iter().map(|one| earlier(history, one)).collect(),
        answered: set(history, |one| one.ended.is_some()),
        visited: HashSet::new(),
        max_visited,
        order: Vec::new(),
        deepest: (Vec::new(), State::default()),
    };
    match search.visit(0, State::default()) {
        Some(true) => Ok(()),
        None => Err(Fault::Undecided(max_visited)),
        Some(false) => {
            let (explained, state) = search.deepest;
            let done = explained.iter().fold(0, |set, number| set | bit(*number));
            let refused = (0..history.len())
                .filter(|number| may_be_next(done, *number, search.earlier[*number]))
                .collect();
            Err(Fault::Unexplained {
                explained,
                state: Box::new(state),
                refused,
            })
        }
    }
}

struct Search<'a> {
    history: &'a [Operation],
    /// For each operation, those that come before it in every order.
    earlier: Vec<u64>,
    /// The operations that any order must have.
    answered: u64,
    visited: HashSet<(u64, State)>,
    max_visited: usize,
    /// The operations of the order that is tried.
    order: Vec<usize>,
    /// The longest order that was tried, and the state after it.
    deepest: (Vec<usize>, State),
}

impl Search<'_> {
    /// Whether the operations that are not done can follow in this state; none if the search has taken too long. It is as
    /// deep as the history is long.
    fn visit(&mut self, done: u64, state: State) -> Option<bool> {
        if self.answered & !done == 0 {
            return Some(true);
        }
        if !self.visited.insert((done, state)) {
            return Some(false);
        }
        if self.visited.len() > self.max_visited {
            return None;
        }
        if self.order.len() > self.deepest.0.len() {
            self.deepest = (self.order.clone(), state);
        }
        for number in 0..self.history.len() {
            if !may_be_next(done, number, self.earlier[number]) {
                continue;
            }
            let operation = &self.history[number];
            let (answer, next) = state.after(operation.call);
            let fits = match operation.ended {
                Some((given, _)) => given == answer,
                // Without an effect, it need not be in the order.
                None => next != state,
            };
            if !fits {
                continue;
            }
            self.order.push(number);
            let found = self.visit(done | bit(number), next);
            self.order.pop();
            if found != Some(false) {
                return found;
            }
        }
        Some(false)
    }
}

fn bit(number: usize) -> u64 {
    1 << number
}

fn set(history: &[Operation], has: impl Fn(&Operation) -> bool) -> u64 {
    let numbers = (0..history.len()).filter(|number| has(&history[*number]));
    numbers.fold(0, |set, number| set | bit(number))
}

fn earlier(history: &[Operation], of: &Operation) -> u64 {
    let ended = set(history, |one| one.ended_before(of));
    ended | of.after.map_or(0, bit)
}

/// Whether an operation is not done, and everything is that comes before it.
fn may_be_next(done: u64, number: usize, earlier: u64) -> bool {
    done & bit(number) == 0 && earlier & !done == 0
}

#[cfg(test)]
mod tests;
