//! The files of `corpus/stripe_answers/`: a change of one field of an endpoint's answers that the service once got wrong.

use fake_stripe::Variant;
use serde_json::Value;

/// A written change.
pub(super) struct Case {
    pub(super) name: String,
    endpoint: String,
    pub(super) variant: Variant,
}

impl Case {
    /// Whether it is a change of this answer.
    pub(super) fn is_of(&self, endpoint: &str, answer: &Value) -> bool {
        self.endpoint == endpoint && !self.variant.places(answer).is_empty()
    }
}

/// The changes of the corpus. A file without `becomes` removes its field.
pub(super) fn cases() -> Vec<Case> {
    let files = super::super::corpus("stripe_answers").into_iter();
    files
        .map(|(name, text)| {
            let read: Value = serde_json::from_slice(&text).unwrap();
            let text = |field: &str| read[field].as_str().unwrap().to_owned();
            Case {
                endpoint: text("endpoint"),
                variant: Variant::new(&text("field"), read.get("becomes").cloned()),
                name,
            }
        })
        .collect()
}
