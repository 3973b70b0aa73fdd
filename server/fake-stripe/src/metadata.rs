//! `metadata`: its limits, and what a request does to it. Stripe documents 50 keys of at most 40 characters without square
//! brackets, and values of at most 500 characters. The message about the number of keys is ours.

use std::collections::BTreeMap;

use crate::errors::StripeError;
use crate::params::Params;

const MAX_KEYS: usize = 50;
const MAX_KEY_CHARS: usize = 40;
const MAX_VALUE_CHARS: usize = 500;

/// The keys and values of an object.
pub(crate) type Metadata = BTreeMap<String, String>;

/// What a request does to an object's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum MetadataChange {
    /// It names no metadata.
    #[default]
    Keep,
    /// It sends an empty string: all keys are removed.
    Clear,
    /// Its keys are written over those of before; an empty value removes its key.
    Merge(Metadata),
}

impl MetadataChange {
    /// Takes the parameter `metadata`.
    pub(crate) fn take(params: &mut Params) -> Result<MetadataChange, StripeError> {
        if params.is_text("metadata") {
            return match params.text("metadata")? {
                None => Ok(MetadataChange::Clear),
                Some(_) => {
                    Err(StripeError::invalid("Invalid object").param(params.name("metadata")))
                }
            };
        }
        let name = params.name("metadata");
        let Some(new) = params.text_map("metadata")? else {
            return Ok(MetadataChange::Keep);
        };
        for (key, value) in &new {
            if key.is_empty() || key.chars().count() > MAX_KEY_CHARS || key.contains(['[', ']']) {
                return Err(StripeError::invalid(format!(
                    "Invalid key: {key} must be a string under {MAX_KEY_CHARS} characters"
                ))
                .param(name));
            }
            let chars = value.chars().count();
            if chars > MAX_VALUE_CHARS {
                return Err(StripeError::invalid(format!(
                    "Metadata values can have up to {MAX_VALUE_CHARS} characters, but you passed in a value that is \
                     {chars} characters. Invalid value: {value}"
                ))
                .param(format!("{name}[{key}]")));
            }
        }
        Ok(MetadataChange::Merge(new))
    }

    /// The metadata after the change.
    pub(crate) fn applied_to(self, before: &Metadata) -> Result<Metadata, StripeError> {
        let mut after = match self {
            MetadataChange::Keep => return Ok(before.clone()),
            MetadataChange::Clear => return Ok(Metadata::new()),
            MetadataChange::Merge(new) => {
                let mut after = before.clone();
                after.extend(new);
                after
            }
        };
        after.retain(|_, value| !value.is_empty());
        if after.len() > MAX_KEYS {
            return Err(StripeError::invalid(format!(
                "Metadata can have up to {MAX_KEYS} keys, and would have {}.",
                after.len()
            ))
            .param("metadata"));
        }
        Ok(after)
    }
}
