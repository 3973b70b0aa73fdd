//! The queue of scripted faults, the blocks that they name, and the error body of a scripted status.

use std::collections::{HashMap, VecDeque};

use crate::errors::StripeError;
use crate::fault::{Fault, ScriptedError};

/// The part of a request that faults match.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallSubject<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) customer: Option<&'a str>,
    pub(crate) event_name: Option<&'a str>,
}

/// The scripted faults that are not used up, and the blocks.
#[derive(Debug, Default)]
pub(crate) struct FaultQueue {
    faults: VecDeque<Fault>,
    blocks: HashMap<String, Block>,
}

/// A named block, and the number of requests that it blocks now.
#[derive(Debug, Default)]
struct Block {
    released: bool,
    calls: usize,
}

impl FaultQueue {
    /// Adds a fault to the end. Its block blocks again, even if it was released before.
    pub(crate) fn script(&mut self, fault: Fault) {
        if let Some(block) = &fault.block {
            self.blocks.entry(block.clone()).or_default().released = false;
        }
        self.faults.push_back(fault);
    }

    /// The faults that are not used up.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// Takes the first fault that matches the request.
    pub(crate) fn take(&mut self, call: &CallSubject<'_>) -> Option<Fault> {
        let index = self.faults.iter().position(|fault| matches(fault, call))?;
        let fault = self.faults.get_mut(index)?;
        fault.times = fault.times.saturating_sub(1);
        let taken = fault.clone();
        if taken.times == 0 {
            self.faults.remove(index);
        }
        Some(taken)
    }

    /// Removes all faults and releases all blocks.
    pub(crate) fn clear(&mut self) {
        self.faults.clear();
        for block in self.blocks.values_mut() {
            block.released = true;
        }
    }

    /// Releases the block for current and later requests. False if no fault ever named it.
    pub(crate) fn release(&mut self, name: &str) -> bool {
        self.blocks
            .get_mut(name)
            .map(|block| block.released = true)
            .is_some()
    }

    pub(crate) fn is_released(&self, name: &str) -> bool {
        self.blocks.get(name).is_none_or(|block| block.released)
    }

    /// How many requests the block blocks now.
    pub(crate) fn blocked(&self, name: &str) -> usize {
        self.blocks.get(name).map_or(0, |block| block.calls)
    }

    /// Each block with the number of requests that it blocks.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (&str, usize)> {
        self.blocks
            .iter()
            .map(|(name, block)| (name.as_str(), block.calls))
    }

    pub(crate) fn enter(&mut self, name: &str) {
        if let Some(block) = self.blocks.get_mut(name) {
            block.calls = block.calls.saturating_add(1);
        }
    }

    pub(crate) fn leave(&mut self, name: &str) {
        if let Some(block) = self.blocks.get_mut(name) {
            block.calls = block.calls.saturating_sub(1);
        }
    }
}

/// Whether a fault applies to a request.
fn matches(fault: &Fault, request: &CallSubject<'_>) -> bool {
    let matches = |filter: &Option<String>, found: Option<&str>| {
        filter.is_none() || filter.as_deref() == found
    };
    fault.times > 0
        && fault
            .method
            .as_ref()
            .is_none_or(|method| method.eq_ignore_ascii_case(request.method))
        && fault
            .path_prefix
            .as_ref()
            .is_none_or(|prefix| request.path.starts_with(prefix.as_str()))
        && matches(&fault.customer, request.customer)
        && matches(&fault.event_name, request.event_name)
}

/// The error body of a scripted status.
pub(crate) fn scripted_error(status: u16, scripted: &ScriptedError) -> StripeError {
    let mut error = match status {
        429 => StripeError::rate_limit(),
        401 => StripeError::invalid("Invalid API Key provided: sk_test_********").status(401),
        409 => StripeError::invalid("The request conflicts with another request.").status(409),
        400..=499 => StripeError::refused("A scripted fault refused this request.").status(status),
        _ => StripeError {
            kind: "api_error".into(),
            ..StripeError::refused("An unknown error occurred.").status(status)
        },
    };
    if let Some(kind) = &scripted.kind {
        error.kind = kind.clone().into();
    }
    if let Some(code) = &scripted.code {
        error.code = Some(code.clone().into());
    }
    if let Some(message) = &scripted.message {
        error.message.clone_from(message);
    }
    if scripted.param.is_some() {
        error.param.clone_from(&scripted.param);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;

    const CALL: CallSubject<'_> = CallSubject {
        method: "POST",
        path: "/v1/billing/meter_events",
        customer: Some("cus_1"),
        event_name: Some("calls"),
    };

    #[test]
    fn faults_apply_in_order_and_a_limited_number_of_times() {
        let mut queue = FaultQueue::default();
        queue.script(Fault::status(500).times(2));
        queue.script(Fault::accept_then_drop());
        let kinds: Vec<FaultKind> = std::iter::from_fn(|| queue.take(&CALL))
            .map(|fault| fault.kind)
            .collect();
        let refused = FaultKind::Status {
            status: 500,
            error: ScriptedError::default(),
        };
        assert_eq!(kinds, [refused.clone(), refused, FaultKind::AcceptThenDrop]);
    }

    #[test]
    fn a_fault_meets_only_what_it_matches() {
        let mut queue = FaultQueue::default();
        queue.script(Fault::status(500).on_customer("cus_2"));
        queue.script(Fault {
            event_name: Some("tokens".to_owned()),
            ..Fault::status(500)
        });
        queue.script(Fault::status(500).on_path("/v1/customers"));
        queue.script(Fault::status(500).on_method("GET"));
        queue.script(Fault::status(500).times(0));
        assert_eq!(queue.take(&CALL), None);
        queue.script(Fault {
            event_name: Some("calls".to_owned()),
            ..Fault::status(503).on_customer("cus_1").on_method("post")
        });
        assert!(queue.take(&CALL).is_some());
    }

    #[test]
    fn a_block_blocks_again_when_scripted_again() {
        let mut queue = FaultQueue::default();
        assert!(!queue.release("gate"));
        queue.script(Fault::block_until_released("gate"));
        assert!(!queue.is_released("gate"));
        assert!(queue.release("gate"));
        assert!(queue.is_released("gate"));
        queue.script(Fault::block_until_released("gate"));
        assert!(!queue.is_released("gate"));
        queue.clear();
        assert!(queue.is_released("gate"));
    }

    #[test]
    fn a_fault_reads_back_as_it_was_written() {
        let fault = Fault::status(400)
            .with_error("no_meter", "None.")
            .blocked_until_released("gate")
            .after_executing()
            .times(7);
        let text = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault);
        let short: Fault =
            serde_json::from_str(r#"{"kind":{"type":"status","status":500}}"#).unwrap();
        assert_eq!(short, Fault::status(500));
    }
}
