//! Validates the usage of one line.

use super::{
    bad::{Bad, Cause, cut, quoted},
    columns::Field,
    time,
};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

/// The limits of the server, so that no line makes a whole batch fail.
const MAX_QUANTITY: i64 = 1_000_000_000_000;
const MAX_ACCOUNT_BYTES: usize = 128;
const MAX_METER_BYTES: usize = 100;
const MAX_KEY_BYTES: usize = 255;

/// One line's usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) account: String,
    pub(super) meter: Option<String>,
    pub(super) quantity: i64,
    pub(super) timestamp: DateTime<Utc>,
    /// The line's id; without one the key is made of the contents.
    pub(super) id: Option<String>,
}

/// A field of a line before validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    /// Text or a whole number; empty for null.
    Text(String),
    /// Another JSON value, as it is written.
    Other(String),
}

impl Given {
    /// The same id must be the same key in every format.
    fn trimmed(self) -> Self {
        match self {
            Self::Text(text) => Self::Text(text.trim().to_owned()),
            other @ Self::Other(_) => other,
        }
    }

    /// The text, if there is any.
    fn text(self, cause: Cause, name: &str) -> Result<String, Bad> {
        match self {
            Self::Text(text) if text.is_empty() => {
                Err(Bad::new(cause, format!("{name} is missing")))
            }
            Self::Text(text) => Ok(text),
            Self::Other(value) => {
                let value = quoted(&value);
                let why = format!("{name} {value} is neither text nor a whole number");
                Err(Bad::new(cause, why))
            }
        }
    }
}

/// The fields of a line before validation; `None` if there is no such column or field.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) account_id: Option<Given>,
    pub(super) meter: Option<Given>,
    pub(super) quantity: Option<Given>,
    pub(super) timestamp: Option<Given>,
    pub(super) id: Option<Given>,
}

impl Raw {
    pub(super) fn get(&self, field: Field) -> Option<&Given> {
        match field {
            Field::AccountId => self.account_id.as_ref(),
            Field::Meter => self.meter.as_ref(),
            Field::Quantity => self.quantity.as_ref(),
            Field::Timestamp => self.timestamp.as_ref(),
            Field::Id => self.id.as_ref(),
        }
    }

    pub(super) fn get_mut(&mut self, field: Field) -> &mut Option<Given> {
        match field {
            Field::AccountId => &mut self.account_id,
            Field::Meter => &mut self.meter,
            Field::Quantity => &mut self.quantity,
            Field::Timestamp => &mut self.timestamp,
            Field::Id => &mut self.id,
        }
    }

    /// Validates the fields; `zone` is that of times without an offset.
    pub(super) fn check(self, zone: Option<Tz>) -> Result<Row, Bad> {
        let required = |field: Option<Given>, cause: Cause, name: &str| {
            let field = field.unwrap_or(Given::Text(String::new()));
            field.text(cause, name)
        };
        let quantity = quantity(self.quantity)?;
        let timestamp = match self.timestamp {
            // Its error names the forms that are understood.
            Some(Given::Other(value)) => value,
            given => required(given, Cause::Timestamp, "timestamp")?,
        };
        let account = account(required(self.account_id, Cause::Account, "account_id")?)?;
        let optional = |field: Option<Given>, cause: Cause, name: &str, max: usize| {
            let Some(field) = field else { return Ok(None) };
            let text = field.text(cause.clone(), name)?;
            if text.len() > max {
                let why = format!("{name} {} is longer than {max} bytes", quoted(&text));
                return Err(Bad::new(cause, why));
            }
            Ok(Some(text))
        };
        Ok(Row {
            account,
            meter: optional(self.meter, Cause::Meter, "meter", MAX_METER_BYTES)?,
            quantity,
            timestamp: time::parse(&timestamp, zone).map_err(|why| {
                let why = format!("timestamp {} {why}", quoted(&timestamp));
                Bad::new(Cause::Timestamp, why)
            })?,
            id: optional(self.id.map(Given::trimmed), Cause::Id, "id", MAX_KEY_BYTES)?,
        })
    }
}

fn quantity(given: Option<Given>) -> Result<i64, Bad> {
    let bad = |why: String| Bad::new(Cause::Quantity, why);
    let (whole, shown) = match given {
        None => return Ok(1),
        Some(Given::Text(text)) if text.is_empty() => {
            return Err(bad("quantity is missing".to_owned()));
        }
        Some(Given::Text(text)) => (text.parse().ok(), format!("\"{}\"", cut(&text))),
        Some(Given::Other(value)) => (None, cut(&value)),
    };
    let quantity: i64 =
        whole.ok_or_else(|| bad(format!("quantity {shown} is not a whole number")))?;
    if !(1..=MAX_QUANTITY).contains(&quantity) {
        return Err(bad(format!(
            "quantity {quantity} is not 1 to 1,000,000,000,000"
        )));
    }
    Ok(quantity)
}

fn account(text: String) -> Result<String, Bad> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@/+=-".contains(&byte);
    if text.len() <= MAX_ACCOUNT_BYTES && text.bytes().all(is_plain) {
        return Ok(text);
    }
    let why = format!(
        "account_id {} is not 1 to {MAX_ACCOUNT_BYTES} characters from A-Z a-z 0-9 . _ : @ / + = -",
        quoted(&text)
    );
    Err(Bad::new(Cause::Account, why))
}
