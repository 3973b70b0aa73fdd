//! A scripted fault: what fails, for which requests, how many times. [`Fault`] builds one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;

/// A fault for the next matching requests. Faults apply in the order of scripting, at most one to each request.
///
/// ```
/// use fake_stripe::Fault;
///
/// // The next three events of one customer are answered with 500 and not executed.
/// let refuse = Fault::status(500).times(3).on_customer("cus_1");
/// // The next request is executed, and its response is blocked until released.
/// let block = Fault::block_until_released("late").after_executing();
/// // The next request is executed, and its connection breaks before a response.
/// let lose = Fault::accept_then_drop();
/// # let _ = (refuse, block, lose);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// How many matching requests it applies to. Default 1.
    #[serde(default = "once")]
    pub times: u64,
    /// Whether a status, delay or block applies after execution rather than before.
    #[serde(default)]
    pub after: bool,
    /// Blocks the request until the block of this name is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// Delays the request by this many milliseconds of real time.
    #[serde(default)]
    pub delay_ms: u64,
    /// Only requests by this method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only requests whose path has this prefix. Without it, every path below `/v1` matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Only requests about this customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// Only requests that name this event name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_name: Option<String>,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FaultKind {
    /// Only the fault's block or delay.
    Pass,
    /// This HTTP status with Stripe's error body, instead of the real response. The request is not executed, unless the
    /// fault says `after`.
    Status {
        /// The HTTP status.
        status: u16,
        /// The error's fields; absent fields have Stripe's values for that status.
        #[serde(default)]
        error: ScriptedError,
    },
    /// The request is executed, and the connection breaks before any of the response.
    AcceptThenDrop,
    /// The connection breaks before the request is executed.
    Drop,
    /// The meter event is accepted and answered, then dropped by asynchronous validation: it is in no total.
    Lose,
    /// The request is executed, and one field of an object in the response is changed.
    Alter {
        /// The id of the object.
        object: String,
        /// The field.
        field: String,
        /// Its value as JSON; without it, the field is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        json: Option<String>,
    },
    /// The request is executed and answered with 200 and truncated JSON.
    Undecodable,
    /// The request is not executed and is answered with 502 and HTML, as by a gateway.
    UndecodableError,
}

/// The fields of a scripted error body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScriptedError {
    /// The error's `type`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The error's `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The error's `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The error's `param`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
}

fn once() -> u64 {
    1
}

impl Fault {
    /// A fault of this kind for one request to any path.
    pub fn new(kind: FaultKind) -> Fault {
        Fault {
            kind,
            times: once(),
            after: false,
            block: None,
            delay_ms: 0,
            method: None,
            path_prefix: None,
            customer: None,
            event_name: None,
        }
    }

    /// Answers with this HTTP status and does not execute the request.
    pub fn status(status: u16) -> Fault {
        Fault::new(FaultKind::Status {
            status,
            error: ScriptedError::default(),
        })
    }

    /// Delays the request, then processes it normally.
    pub fn delay(delay: Duration) -> Fault {
        Fault {
            delay_ms: u64::try_from(clock::millis(delay)).unwrap_or_default(),
            ..Fault::new(FaultKind::Pass)
        }
    }

    /// Blocks the request until [`crate::Control::release`], then processes it normally.
    pub fn block_until_released(name: &str) -> Fault {
        Fault::new(FaultKind::Pass).blocked_until_released(name)
    }

    /// Executes the request and breaks the connection without a response.
    pub fn accept_then_drop() -> Fault {
        Fault::new(FaultKind::AcceptThenDrop)
    }

    /// Accepts a meter event, answers normally, and drops it afterwards.
    pub fn lose() -> Fault {
        Fault::new(FaultKind::Lose)
    }

    /// Breaks the connection without executing the request.
    pub fn drop_connection() -> Fault {
        Fault::new(FaultKind::Drop)
    }

    /// Executes the request, and sets a field of the object with this id in the response to a value in JSON; without a
    /// value, the field is missing.
    pub fn alter(object: &str, field: &str, json: Option<&str>) -> Fault {
        Fault::new(FaultKind::Alter {
            object: object.to_owned(),
            field: field.to_owned(),
            json: json.map(str::to_owned),
        })
    }

    /// Executes the request and answers 200 with truncated JSON.
    pub fn undecodable() -> Fault {
        Fault::new(FaultKind::Undecodable)
    }

    /// Answers 502 with HTML and does not execute the request.
    pub fn undecodable_error() -> Fault {
        Fault::new(FaultKind::UndecodableError)
    }

    /// For this many matching requests.
    #[must_use]
    pub fn times(mut self, times: u64) -> Fault {
        self.times = times;
        self
    }

    /// For every matching request until the faults are cleared.
    #[must_use]
    pub fn always(self) -> Fault {
        self.times(u64::MAX)
    }

    /// Executes the request first; the status, delay or block applies afterwards.
    #[must_use]
    pub fn after_executing(mut self) -> Fault {
        self.after = true;
        self
    }

    /// Also blocks the request until the block of this name is released.
    #[must_use]
    pub fn blocked_until_released(mut self, name: &str) -> Fault {
        self.block = Some(name.to_owned());
        self
    }

    /// Only for requests by this method, such as `POST`.
    #[must_use]
    pub fn on_method(mut self, method: &str) -> Fault {
        self.method = Some(method.to_owned());
        self
    }

    /// Only for requests whose path has this prefix, such as `/v1/billing/meter_events`.
    #[must_use]
    pub fn on_path(mut self, prefix: &str) -> Fault {
        self.path_prefix = Some(prefix.to_owned());
        self
    }

    /// Only for requests about this customer.
    #[must_use]
    pub fn on_customer(mut self, customer: &str) -> Fault {
        self.customer = Some(customer.to_owned());
        self
    }

    /// Sets the code and message of a scripted status; no effect on other kinds.
    #[must_use]
    pub fn with_error(mut self, new_code: &str, new_message: &str) -> Fault {
        if let FaultKind::Status { error, .. } = &mut self.kind {
            error.code = Some(new_code.to_owned());
            error.message = Some(new_message.to_owned());
        }
        self
    }
}
