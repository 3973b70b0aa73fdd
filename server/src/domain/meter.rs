//! Meters: what can be counted, its event name at Stripe and its unit.

use std::{fmt, str::FromStr, sync::Arc};

use super::violation::{Reason, Violation, quoted};

/// The longest name of a meter or of a Stripe event, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// One thing that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// The name that callers use, such as `api_calls`.
    pub name: Arc<str>,
    /// The `event_name` of the Stripe meter.
    pub event_name: Arc<str>,
    /// The unit of its whole numbers, such as `token`; may be empty.
    pub unit: Arc<str>,
}

impl FromStr for Meter {
    type Err = String;

    /// Parses `NAME`, `NAME=EVENT_NAME`, `NAME:UNIT` or `NAME=EVENT_NAME:UNIT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (names, unit) = text.split_once(':').unwrap_or((text, ""));
        let (name, event_name) = names.split_once('=').unwrap_or((names, names));
        for (what, value) in [("name", name), ("Stripe event name", event_name)] {
            let fits = (1..=MAX_NAME_CHARS).contains(&value.len())
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
            if !fits {
                return Err(format!(
                    "the {what} {} of meter {} must be 1 to {MAX_NAME_CHARS} characters out of A-Z a-z 0-9 _ - .",
                    quoted(value),
                    quoted(text)
                ));
            }
        }
        if unit.len() > MAX_NAME_CHARS {
            return Err(format!(
                "the unit {} of meter {} is longer than {MAX_NAME_CHARS} bytes",
                quoted(unit),
                quoted(text)
            ));
        }
        Ok(Self {
            name: name.into(),
            event_name: event_name.into(),
            unit: unit.into(),
        })
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.name, self.event_name, self.unit)
    }
}

/// The configured meters; never empty.
#[derive(Clone, Debug)]
pub struct Meters {
    all: Vec<Meter>,
    default: Option<Arc<str>>,
}

impl Meters {
    /// Validates that names and event names are unique and that the default is one of the names.
    ///
    /// A single meter is its own default.
    ///
    /// # Errors
    /// One sentence that names the invalid meter.
    pub fn new(all: Vec<Meter>, default: Option<&str>) -> Result<Self, String> {
        for (index, meter) in all.iter().enumerate() {
            for other in all.iter().take(index) {
                if other.name == meter.name {
                    return Err(format!("meter {:?} is configured twice", meter.name));
                }
                if other.event_name == meter.event_name {
                    return Err(format!(
                        "meters {:?} and {:?} share the Stripe event name {:?}; each needs its own",
                        other.name, meter.name, meter.event_name
                    ));
                }
            }
        }
        let default = match (default, all.as_slice()) {
            (_, []) => return Err("at least one meter must be configured".to_owned()),
            (Some(name), _) => match all.iter().find(|meter| &*meter.name == name) {
                Some(meter) => Some(Arc::clone(&meter.name)),
                None => {
                    return Err(format!(
                        "the default meter {} is not one of the configured meters",
                        quoted(name)
                    ));
                }
            },
            (None, [only]) => Some(Arc::clone(&only.name)),
            (None, _) => None,
        };
        Ok(Self { all, default })
    }

    /// All meters, in the order of the configuration.
    pub fn all(&self) -> &[Meter] {
        &self.all
    }

    /// Whether a meter is that of requests that name none.
    pub fn is_default(&self, meter: &Meter) -> bool {
        self.default.as_ref() == Some(&meter.name)
    }

    /// The names of all meters.
    pub fn names_of_all(&self) -> Vec<&str> {
        self.all.iter().map(|meter| &*meter.name).collect()
    }

    /// The meter with a name, if it is configured.
    pub fn find(&self, name: &str) -> Option<&Meter> {
        self.all.iter().find(|meter| &*meter.name == name)
    }

    /// The meter of a request: the default meter if the request names none.
    ///
    /// # Errors
    /// A violation that lists the configured meters.
    pub fn resolve(&self, name: &str) -> Result<&Meter, Violation> {
        let wanted = match (name, &self.default) {
            ("", Some(default)) => default,
            ("", None) => {
                return Err(Violation::new(
                    Reason::UnknownMeter,
                    "meter",
                    format!(
                        "meter is empty and no default meter is configured; name one of: {}",
                        self.names()
                    ),
                ));
            }
            (name, _) => name,
        };
        self.find(wanted).ok_or_else(|| {
            Violation::new(
                Reason::UnknownMeter,
                "meter",
                format!(
                    "meter {} is not configured; known meters: {}",
                    quoted(name),
                    self.names()
                ),
            )
        })
    }

    fn names(&self) -> String {
        const SHOWN: usize = 32;
        let names: Vec<&str> = self
            .all
            .iter()
            .take(SHOWN)
            .map(|meter| &*meter.name)
            .collect();
        let mut text = names.join(", ");
        if self.all.len() > SHOWN {
            text.push_str(", ...");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_is_read_with_and_without_its_optional_parts() {
        let read = |text: &str| {
            let meter: Meter = text.parse().unwrap();
            meter.to_string()
        };
        assert_eq!(read("api_calls"), "api_calls=api_calls:");
        assert_eq!(read("tokens=llm_tokens:token"), "tokens=llm_tokens:token");
        assert_eq!(read("bytes:MiB"), "bytes=bytes:MiB");
        assert!("a b".parse::<Meter>().is_err());
        assert!("=x".parse::<Meter>().is_err());
        assert!("".parse::<Meter>().is_err());
    }

    #[test]
    fn several_meters_have_no_default_unless_one_is_named() {
        let meters = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        let without = Meters::new(meters.clone(), None).unwrap();
        assert!(without.resolve("").unwrap_err().message.contains("a, b"));
        let with = Meters::new(meters.clone(), Some("b")).unwrap();
        assert_eq!(&*with.resolve("").unwrap().name, "b");
        assert!(Meters::new(meters, Some("c")).is_err());
        assert!(Meters::new(vec![], None).is_err());
        let twice = vec!["a=x".parse().unwrap(), "b=x".parse().unwrap()];
        assert!(Meters::new(twice, None).unwrap_err().contains("share"));
    }
}
