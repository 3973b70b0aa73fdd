//! The variants of each endpoint's answers that are known, and those that were not tried yet.

use std::collections::{BTreeMap, BTreeSet};

use fake_stripe::Variant;
use serde_json::Value;

use crate::support::random::Random;

/// Each variant is tried once.
#[derive(Default)]
pub(super) struct Variants {
    known: BTreeSet<(String, String)>,
    /// By endpoint.
    pending: BTreeMap<String, Vec<Variant>>,
    tried: usize,
}

impl Variants {
    /// Adds the variants of an answer that are new.
    pub(super) fn learn(&mut self, endpoint: &str, answer: &Value) {
        for variant in Variant::of(answer) {
            if self.known.insert((endpoint.to_owned(), variant.name())) {
                let pending = self.pending.entry(endpoint.to_owned()).or_default();
                pending.push(variant);
            }
        }
    }

    /// Takes a variant that was not tried yet, and changes the answer so. Returns its name.
    pub(super) fn apply(
        &mut self,
        random: &mut Random,
        endpoint: &str,
        answer: &mut Value,
    ) -> Option<String> {
        let pending = self.pending.get_mut(endpoint)?;
        let length = i64::try_from(pending.len())
            .ok()
            .filter(|length| *length > 0)?;
        let start = usize::try_from(random.below(length)).ok()?;
        // Not every answer has every field.
        let is_there = |variant: &Variant| !variant.places(answer).is_empty();
        let after = (start..pending.len()).find(|place| is_there(&pending[*place]));
        let place = after.or_else(|| (0..start).find(|place| is_there(&pending[*place])))?;
        let variant = pending.swap_remove(place);
        let mut places = variant.places(answer);
        // One of several objects, or all of them.
        if places.len() > 1 && !random.one_in(3) {
            let length = i64::try_from(places.len()).unwrap();
            let one = usize::try_from(random.below(length)).unwrap();
            places = vec![places.swap_remove(one)];
        }
        variant.make(answer, &places);
        self.tried += 1;
        Some(format!("{endpoint} {}", variant.name()))
    }

    /// How many variants were tried, and how many are known.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.tried, self.known.len())
    }

    /// The endpoints that have been seen, each with the number of its variants that were not tried.
    pub(super) fn endpoints(&self) -> BTreeMap<String, usize> {
        let pending = self.pending.iter();
        pending
            .map(|(endpoint, left)| (endpoint.clone(), left.len()))
            .collect()
    }
}

#[test]
fn each_variant_of_an_answer_is_tried_once() {
    let answer = serde_json::json!({ "data": [{ "id": "a" }, { "id": "b" }], "has_more": false });
    let mut variants = Variants::default();
    variants.learn("GET /v1/things", &answer);
    variants.learn("GET /v1/things", &answer);
    let (_, known) = variants.counts();
    let (mut random, mut seen) = (Random(1), BTreeSet::new());
    for _ in 0..known {
        let mut changed = answer.clone();
        let name = variants.apply(&mut random, "GET /v1/things", &mut changed);
        assert!(seen.insert(name.unwrap()));
        assert_ne!(changed, answer);
    }
    let mut rest = answer.clone();
    assert_eq!(
        variants.apply(&mut random, "GET /v1/things", &mut rest),
        None
    );
    assert_eq!(variants.counts(), (known, known));
    let left = BTreeMap::from([("GET /v1/things".to_owned(), 0)]);
    assert_eq!(variants.endpoints(), left);
    assert!(known >= 3 * 4, "{known}");
}
