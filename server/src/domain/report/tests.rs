//! What no sequence of transitions may do.

use super::*;

/// Each transition, with each billing target where it has one.
pub(super) fn transitions() -> Vec<Transition> {
    let targets = [
        BillingTarget::NoCustomer,
        BillingTarget::NotBillable,
        BillingTarget::Billed("cus".to_owned()),
        BillingTarget::Elsewhere("cus".to_owned()),
    ];
    let mut transitions: Vec<Transition> = targets
        .iter()
        .flat_map(|target| {
            [
                Transition::Close(target.clone()),
                Transition::Relink(target.clone()),
            ]
        })
        .collect();
    transitions.extend([
        Transition::Send,
        Transition::Accept,
        Transition::Reject,
        Transition::MarkCustomerDeleted,
        Transition::MarkUnknown,
        Transition::SendUnderNewIdentifier,
        Transition::SendAfterLookUp,
        Transition::MarkUncharged,
        Transition::DecideAgain,
        Transition::MarkNotBillable,
        Transition::MarkTooLate,
        Transition::Confirm,
        Transition::MarkMissing,
        Transition::Invoice,
        Transition::TakeOffInvoice,
        Transition::Retry,
        Transition::WriteOff,
    ]);
    transitions
}

#[test]
fn an_accepted_or_written_off_report_is_never_sent_again() {
    let final_states = [
        State::Accepted,
        State::Confirmed,
        State::Invoiced,
        State::WrittenOff,
    ];
    for (state, event) in final_states
        .iter()
        .flat_map(|state| transitions().into_iter().map(move |event| (*state, event)))
    {
        let next = state.after(&event);
        assert!(
            matches!(
                next,
                None | Some(State::Confirmed | State::Invoiced | State::Missing)
            ),
            "{state:?} {event:?} {next:?}"
        );
    }
}

#[test]
fn only_an_admin_retries_a_report_that_needs_a_decision() {
    for (state, event) in State::NEEDS_DECISION
        .iter()
        .flat_map(|state| transitions().into_iter().map(move |event| (*state, event)))
    {
        let is_proven_absent = state == State::Unknown
            && matches!(
                event,
                Transition::SendUnderNewIdentifier | Transition::SendAfterLookUp
            );
        let was_never_sent = state == State::Uncharged
            && matches!(event, Transition::Relink(_) | Transition::DecideAgain);
        if state.after(&event) == Some(State::Closed) && !is_proven_absent && !was_never_sent {
            assert_eq!(event, Transition::Retry, "{state:?}");
        }
    }
}

#[test]
fn only_what_the_totals_contain_is_invoiced() {
    for (state, event) in State::ALL
        .iter()
        .flat_map(|state| transitions().into_iter().map(move |event| (*state, event)))
    {
        if state.after(&event) == Some(State::Invoiced) {
            assert_eq!((state, event), (State::Confirmed, Transition::Invoice));
        } else if state == State::Invoiced && state.after(&event).is_some() {
            assert_eq!(event, Transition::TakeOffInvoice);
        }
    }
    assert!(State::IN_TOTALS.iter().all(|state| state.is_reported()));
}

#[test]
fn only_closing_leaves_the_open_state_and_nothing_enters_it() {
    for state in State::ALL {
        for event in transitions() {
            let next = state.after(&event);
            assert_ne!(next, Some(State::Open));
            if state == State::Open {
                assert_eq!(next.is_some(), matches!(event, Transition::Close(_)));
            }
        }
    }
}

#[test]
fn an_identifier_is_stable_unique_to_its_generation_and_short_enough() {
    let id = Uuid::now_v7();
    assert_eq!(identifier(id, 0), identifier(id, 0));
    assert_ne!(identifier(id, 0), identifier(id, 1));
    assert!(identifier(id, i32::MAX).len() <= 100);
}
