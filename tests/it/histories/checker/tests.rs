//! Histories that must be accepted, and one for each way in which the service could break its promise.

use super::*;
use crate::support::random::Random;

/// Counts 5 of the first meter under the first key.
const FIVE: Call = Call::Increment(Some(0), (0, 5));
/// Counts 3 of the first meter without a key.
const THREE: Call = Call::Increment(None, (0, 3));

/// A call that was answered.
fn answered(begun: u64, at: u64, call: Call, answer: Answer) -> Operation {
    Operation {
        call,
        begun,
        ended: Some((answer, at)),
        after: None,
    }
}

/// A call without an answer.
fn lost(begun: u64, call: Call) -> Operation {
    Operation {
        call,
        begun,
        ended: None,
        after: None,
    }
}

fn totals(of_first: i64) -> Answer {
    Answer::Totals([of_first, 0])
}

#[track_caller]
fn assert_accepted(history: &[Operation]) {
    if let Err(fault) = check(history) {
        panic!("{}", Explained(history, &fault));
    }
}

/// Asserts that a history has no order. Returns the calls that may come next and do not fit.
#[track_caller]
fn assert_found(history: &[Operation]) -> Vec<usize> {
    match check(history) {
        Err(Fault::Unexplained { refused, .. }) => refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_one_after_the_other_are_accepted() {
    use Answer::{BelowZero, Closed, Done, Duplicate, EtagMismatch, KeyReused, Link, Refused};
    let other = Call::Increment(Some(0), (1, 5));
    let nothing = Call::Increment(None, (0, 0));
    let less = |quantity| Call::Correct(Some(0), (0, quantity));
    let calls = [
        (Call::Get, totals(0)),
        (FIVE, Done),
        (FIVE, Duplicate),
        (other, KeyReused),
        (nothing, Refused),
        (THREE, Done),
        (THREE, Done),
        (Call::Get, totals(11)),
        (Call::ForceReport, Closed(11)),
        (Call::ForceReport, Closed(0)),
        (less(-12), BelowZero),
        (less(-11), Done),
        (less(-11), Duplicate),
        (less(-10), KeyReused),
        (Call::Get, totals(0)),
        (Call::GetAccount, Link(None)),
        (Call::PutAccount(1, Some(7)), EtagMismatch),
        (Call::PutAccount(1, None), Done),
        (Call::PutAccount(1, None), Done),
        (Call::GetAccount, Link(Some((1, 1)))),
        (Call::PutAccount(2, Some(1)), Done),
        (Call::PutAccount(0, Some(1)), EtagMismatch),
        (Call::GetAccount, Link(Some((2, 2)))),
    ];
    let history: Vec<_> = calls
        .iter()
        .zip(0..)
        .map(|((call, answer), place)| answered(2 * place, 2 * place + 1, *call, *answer))
        .collect();
    assert_accepted(&history);
}

#[test]
fn a_read_beside_an_increment_may_see_it_or_not() {
    for seen in [0, 3] {
        let history = [
            answered(0, 9, THREE, Answer::Done),
            answered(1, 2, Call::Get, totals(seen)),
            answered(10, 11, Call::Get, totals(3)),
        ];
        assert_accepted(&history);
    }
}

#[test]
fn a_call_without_an_answer_takes_effect_late_once_or_never() {
    let history = |seen: [i64; 3]| {
        [
            lost(0, THREE),
            answered(1, 2, Call::Get, totals(seen[0])),
            answered(3, 4, Call::Get, totals(seen[1])),
            answered(5, 6, Call::Get, totals(seen[2])),
        ]
    };
    for seen in [[0, 0, 0], [0, 0, 3], [0, 3, 3], [3, 3, 3]] {
        assert_accepted(&history(seen));
    }
    assert_found(&history([0, 3, 6]));
    assert_found(&history([3, 0, 0]));
}

#[test]
fn a_call_without_an_answer_explains_the_answer_to_its_repetition() {
    for (answer, seen) in [(Answer::Done, 0), (Answer::Duplicate, 5)] {
        let history = [
            lost(0, FIVE),
            answered(1, 2, Call::Get, totals(seen)),
            answered(3, 4, FIVE, answer),
            answered(5, 6, Call::Get, totals(5)),
        ];
        assert_accepted(&history);
    }
}

#[test]
fn a_stale_read_is_found() {
    let history = [
        answered(0, 1, THREE, Answer::Done),
        answered(2, 3, Call::Get, totals(0)),
    ];
    assert_eq!(assert_found(&history), [1]);
}

#[test]
fn a_lost_increment_is_found() {
    let history = [
        answered(0, 3, FIVE, Answer::Done),
        answered(1, 4, THREE, Answer::Done),
        answered(5, 6, Call::Get, totals(5)),
    ];
    assert_found(&history);
}

#[test]
fn a_key_that_counted_twice_is_found() {
    let both_new = [
        answered(0, 3, FIVE, Answer::Done),
        answered(1, 4, FIVE, Answer::Done),
    ];
    assert_found(&both_new);
    let shown_twice = [
        answered(0, 3, FIVE, Answer::Done),
        answered(1, 4, FIVE, Answer::Duplicate),
        answered(5, 6, Call::Get, totals(10)),
    ];
    assert_found(&shown_twice);
}

#[test]
fn a_refused_call_that_counted_is_found() {
    let used = answered(0, 1, FIVE, Answer::Done);
    let reused = Call::Increment(Some(0), (0, 7));
    let history = [
        used.clone(),
        answered(2, 3, reused, Answer::KeyReused),
        answered(4, 5, Call::Get, totals(12)),
    ];
    assert_found(&history);
    let history = [
        used,
        answered(2, 3, Call::Correct(None, (0, -6)), Answer::BelowZero),
        answered(4, 5, Call::Get, totals(-1)),
    ];
    assert_found(&history);
}

#[test]
fn a_read_that_goes_back_is_found() {
    // Each alone may be: the increment has not ended.
    let history = [
        answered(0, 9, THREE, Answer::Done),
        answered(1, 2, Call::Get, totals(3)),
        answered(3, 4, Call::Get, totals(0)),
    ];
    assert_eq!(assert_found(&history), [2]);
}

#[test]
fn reads_that_see_two_increments_in_different_orders_are_found() {
    let history = [
        answered(0, 9, FIVE, Answer::Done),
        answered(0, 9, THREE, Answer::Done),
        answered(1, 8, Call::Get, totals(5)),
        answered(1, 8, Call::Get, totals(3)),
    ];
    assert_found(&history);
}

#[test]
fn a_read_that_sees_part_of_the_past_is_found() {
    let of_second = Call::Increment(None, (1, 4));
    let history = [
        answered(0, 1, THREE, Answer::Done),
        answered(2, 9, of_second, Answer::Done),
        answered(3, 4, Call::Get, Answer::Totals([0, 4])),
    ];
    assert_found(&history);
}

#[test]
fn an_update_lost_under_an_etag_is_found() {
    // Both saw the first version, and only one of them may replace it.
    let history = [
        answered(0, 1, Call::PutAccount(0, None), Answer::Done),
        answered(2, 5, Call::PutAccount(1, Some(1)), Answer::Done),
        answered(3, 6, Call::PutAccount(2, Some(1)), Answer::Done),
    ];
    assert_found(&history);
}

#[test]
fn a_link_that_is_read_before_its_own_put_is_found() {
    let mut read = answered(2, 9, Call::GetAccount, Answer::Link(Some((0, 1))));
    let history = |read: Operation| {
        [
            answered(0, 1, Call::PutAccount(0, None), Answer::Done),
            answered(2, 9, Call::PutAccount(1, None), Answer::Done),
            read,
        ]
    };
    assert_accepted(&history(read.clone()));
    read.after = Some(1);
    assert_found(&history(read));
}

#[test]
fn a_correction_below_zero_is_found() {
    let history = [
        answered(0, 1, FIVE, Answer::Done),
        answered(2, 5, Call::Correct(None, (0, -4)), Answer::Done),
        answered(3, 6, Call::Correct(None, (0, -4)), Answer::Done),
    ];
    assert_found(&history);
}

#[test]
fn a_run_that_closes_too_little_or_twice_is_found() {
    let counted = answered(0, 1, THREE, Answer::Done);
    let run = |begun, closed| answered(begun, begun + 3, Call::ForceReport, Answer::Closed(closed));
    assert_accepted(&[counted.clone(), run(2, 0), run(3, 3)]);
    assert_found(&[counted.clone(), run(2, 0)]);
    assert_found(&[counted, run(2, 3), run(3, 3)]);
}

#[test]
fn a_history_that_is_too_long_is_not_checked() {
    let get = answered(0, 1, Call::Get, totals(0));
    let history = vec![get; MAX_OPERATIONS + 1];
    assert!(matches!(check(&history), Err(Fault::TooLong(65))));
    assert_accepted(&history[1..]);
}

#[test]
fn a_search_that_takes_too_long_says_so() {
    // Increments that differ, without an end, and a read that none of them explains.
    let mut history: Vec<_> = (0..40)
        .map(|number| lost(0, Call::Increment(None, (0, 1 << number))))
        .collect();
    history.push(answered(0, 1, Call::Get, totals(-1)));
    let found = check_within(&history, 10_000);
    assert!(matches!(found, Err(Fault::Undecided(10_000))), "{found:?}");
}

/// Histories that were made by taking calls one after the other and letting each begin earlier and end later.
#[test]
fn what_has_an_order_is_accepted_and_with_another_total_is_not() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut state = State::default();
        let mut history = Vec::new();
        for place in 0..40_u64 {
            let call = random_call(&mut random);
            let (answer, next) = state.after(call);
            state = next;
            let at = 100 + 10 * place;
            let earlier = u64::try_from(random.below(25)).unwrap();
            let later = u64::try_from(random.below(25)).unwrap();
            history.push(answered(at - earlier, at + later, call, answer));
        }
        assert_accepted(&history);
        let (Answer::Totals(mut wrong), _) = state.after(Call::Get) else {
            panic!("totals");
        };
        history.push(answered(900, 901, Call::Get, Answer::Totals(wrong)));
        assert_accepted(&history);
        wrong[1] += 1;
        history.push(answered(902, 903, Call::Get, Answer::Totals(wrong)));
        assert_found(&history);
    }
}

fn random_call(random: &mut Random) -> Call {
    let key = usize::try_from(random.below(4)).unwrap();
    let key = Some(key).filter(|_| random.one_in(2));
    let meter = usize::try_from(random.below(2)).unwrap();
    let quantity = random.below(9) + 1;
    match random.below(8) {
        0..=2 => Call::Increment(key, (meter, quantity)),
        3 => Call::Correct(key, (meter, quantity - 5)),
        4 => Call::PutAccount(meter, None),
        5 => Call::ForceReport,
        _ => Call::Get,
    }
}
