//! Draws the page of the states from [`State::after`], and the descriptions from the comments of the two enums.

use std::{collections::BTreeMap, env, fmt::Write as _, fs};

use super::{State, Transition, tests::transitions};
use crate::domain::account::BillingTarget;

/// The module with the enums.
const SOURCE: &str = include_str!("../report.rs");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/report-states.md");

/// Writes the page where it is set, instead of comparing it.
const UPDATE: &str = "UPDATE_DOCS";

#[test]
fn the_page_of_states_is_drawn_from_the_code() {
    let drawn = page();
    if env::var_os(UPDATE).is_some() {
        fs::write(PAGE, &drawn).expect("the page is written");
    }
    let kept = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        kept == drawn,
        "server/docs/report-states.md differs from the code: run this test with {UPDATE}=true and look at the difference"
    );
}

#[test]
fn the_comments_describe_each_state_and_each_transition() {
    let states: Vec<String> = State::ALL
        .iter()
        .map(|state| format!("{state:?}"))
        .collect();
    assert_eq!(names(&comments("pub enum State {")), states);
    let mut tried: Vec<String> = transitions().iter().map(name).collect();
    tried.sort_unstable();
    tried.dedup();
    let mut described = names(&comments("pub enum Transition {"));
    described.sort_unstable();
    assert_eq!(described, tried, "`transitions` tries each");
}

#[test]
fn each_state_leads_to_an_end() {
    // Usage at these is charged, decided, or free until a link says otherwise.
    let ends = [State::Invoiced, State::WrittenOff, State::NotBillable];
    for start in State::ALL {
        let mut reached = vec![start];
        let mut looked_at = 0;
        while let Some(state) = reached.get(looked_at).copied() {
            for next in transitions().iter().filter_map(|one| state.after(one)) {
                if !reached.contains(&next) {
                    reached.push(next);
                }
            }
            looked_at += 1;
        }
        assert!(
            reached.iter().any(|state| ends.contains(state)),
            "{start:?} leads nowhere: {reached:?}"
        );
    }
}

fn page() -> String {
    let mut page = "# States of a report\n\n\
        Every report is in one of these states. `State::after` in [`domain/report.rs`](../src/domain/report.rs) is the only place \
        that says how they follow each other;\na test draws this page from it and fails where they differ. How the states serve \
        the protocol is in [Stripe protocol](stripe-protocol.md).\n\n```mermaid\nstateDiagram-v2\n"
        .to_owned();
    for ((from, to), labels) in arrows() {
        let labels = labels.join(", ");
        writeln!(page, "    {} --> {}: {labels}", from.name(), to.name()).expect("text");
    }
    page.push_str("```\n\n## States\n\n| state | what it means | follows |\n| --- | --- | --- |\n");
    for (state, (_, what)) in State::ALL.iter().zip(comments("pub enum State {")) {
        writeln!(
            page,
            "| `{}` | {what} | {} |",
            state.name(),
            following(*state)
        )
        .expect("text");
    }
    page.push_str(
        "\n## Transitions\n\nA transition that is not listed for a state does not happen: the report stays as it is.\n\n\
         | transition | when | from | to |\n| --- | --- | --- | --- |\n",
    );
    for (transition, when) in comments("pub enum Transition {") {
        for (to, from) in ways(&transition) {
            let from: Vec<String> = from
                .iter()
                .map(|state| format!("`{}`", state.name()))
                .collect();
            let from = from.join(", ");
            let to = to.name();
            writeln!(
                page,
                "| {} | {when} | {from} | `{to}` |",
                words(&transition)
            )
            .expect("text");
        }
    }
    page
}

/// The transitions between each two states that have one.
fn arrows() -> BTreeMap<(State, State), Vec<String>> {
    let mut arrows: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for from in State::ALL {
        for transition in transitions() {
            if let Some(to) = from.after(&transition) {
                let labels = arrows.entry((from, to)).or_default();
                let label = words(&name(&transition));
                if !labels.contains(&label) {
                    labels.push(label);
                }
            }
        }
    }
    arrows
}

/// The states after a state.
fn following(state: State) -> String {
    let next = arrows().into_keys().filter(|(from, _)| *from == state);
    let next: Vec<String> = next.map(|(_, to)| format!("`{}`", to.name())).collect();
    if next.is_empty() {
        "nothing".to_owned()
    } else {
        next.join(", ")
    }
}

/// The states after a transition, each with those before it.
fn ways(transition: &str) -> BTreeMap<State, Vec<State>> {
    let mut ways: BTreeMap<State, Vec<State>> = BTreeMap::new();
    let tried = transitions();
    for from in State::ALL {
        for one in tried.iter().filter(|one| name(one) == transition) {
            let Some(to) = from.after(one) else { continue };
            let before = ways.entry(to).or_default();
            if !before.contains(&from) {
                before.push(from);
            }
        }
    }
    ways
}

/// The name of a transition, without its billing target.
fn name(transition: &Transition) -> String {
    let text = format!("{transition:?}");
    let name = text.split('(').next().unwrap_or_default();
    name.to_owned()
}

/// `MarkTooLate` as "mark too late".
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

fn names(described: &[(String, String)]) -> Vec<String> {
    described.iter().map(|(name, _)| name.clone()).collect()
}

/// The variants of an enum of the module, each with its comment.
fn comments(opening: &str) -> Vec<(String, String)> {
    let (_, rest) = SOURCE.split_once(opening).expect("the enum");
    let (variants, _) = rest.split_once("\n}").expect("its end");
    let mut comment: Vec<&str> = Vec::new();
    let mut described = Vec::new();
    for line in variants
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        if let Some(text) = line.strip_prefix("///") {
            comment.push(text.trim());
        } else {
            let end = line.find(['(', ',']).unwrap_or(line.len());
            described.push((line[..end].to_owned(), comment.join(" ")));
            comment.clear();
        }
    }
    described
}

#[test]
fn a_link_decides_where_a_closed_report_goes() {
    let billed = BillingTarget::Billed("cus".to_owned());
    let elsewhere = BillingTarget::Elsewhere("cus".to_owned());
    for (target, state) in [
        (BillingTarget::NoCustomer, State::NoCustomer),
        (BillingTarget::NotBillable, State::NotBillable),
        (elsewhere, State::NotBillable),
        (billed, State::Closed),
    ] {
        assert_eq!(State::Open.after(&Transition::Close(target)), Some(state));
    }
}
