//! Draws new API keys from the system's random numbers.

use crate::{
    domain::api_key::{KeyText, RANDOM_BYTES},
    error::{Error, Result},
};

/// A new key.
///
/// # Errors
/// The system has no random numbers.
pub(crate) fn draw() -> Result<KeyText> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|error| Error::Internal(error.to_string().into()))?;
    Ok(KeyText::of(random))
}
