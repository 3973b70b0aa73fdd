//! Request parameters: form-encoded pairs whose keys nest by brackets (`payload[value]=3`, `expand[0]=customer`). An
//! endpoint takes the parameters that it supports; the rest are unsupported, since `parameters` already refused those
//! that Stripe does not know.

use std::collections::BTreeMap;

use crate::errors::StripeError;

/// The deepest nesting; no parameter of Stripe is nested deeper.
const MAX_DEPTH: usize = 8;

/// A value: a text, or a bracket with further values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Param {
    Text(String),
    Map(BTreeMap<String, Param>),
}

/// The parameters of one request, or of one bracket within it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Params {
    /// The enclosing bracket, such as `payload`; empty for the outermost.
    within: String,
    map: BTreeMap<String, Param>,
}

/// A text and its full name.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Decodes form-encoded bytes into pairs, in the order in which they came.
pub(crate) fn pairs(encoded: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(encoded).into_owned().collect()
}

impl Params {
    /// Nests pairs by their brackets.
    pub(crate) fn nest(pairs: &[(String, String)]) -> Result<Params, StripeError> {
        let mut params = Params::default();
        for (key, value) in pairs {
            let path = split_key(key).ok_or_else(|| {
                StripeError::invalid(format!("Invalid parameter name: {key}")).param(key.as_str())
            })?;
            insert(&mut params.map, &path, value).ok_or_else(|| {
                StripeError::invalid(format!("Invalid nesting of: {key}")).param(key.as_str())
            })?;
        }
        Ok(params)
    }

    /// Takes a text. An empty text counts as absent: Stripe's clients send it to unset a value.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, StripeError> {
        Ok(self.text_or_empty(name)?.filter(|text| !text.is_empty()))
    }

    /// Takes a text that may be empty.
    pub(crate) fn text_or_empty(&mut self, name: &str) -> Result<Option<String>, StripeError> {
        match self.map.remove(name) {
            None => Ok(None),
            Some(Param::Text(text)) => Ok(Some(text)),
            Some(Param::Map(_)) => {
                Err(StripeError::invalid("Invalid string: not a string.").param(self.name(name)))
            }
        }
    }

    /// Takes a required text.
    pub(crate) fn required(&mut self, name: &str) -> Result<String, StripeError> {
        self.text(name)?
            .ok_or_else(|| StripeError::missing_param(&self.name(name)))
    }

    /// Takes an integer.
    pub(crate) fn integer(&mut self, name: &str) -> Result<Option<i64>, StripeError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(StripeError::invalid(format!("Invalid integer: {text}"))
                .code("parameter_invalid_integer")
                .param(self.name(name))),
        }
    }

    /// Takes a required integer.
    pub(crate) fn required_integer(&mut self, name: &str) -> Result<i64, StripeError> {
        self.integer(name)?
            .ok_or_else(|| StripeError::missing_param(&self.name(name)))
    }

    /// Takes a text that must be one of the allowed ones.
    pub(crate) fn one_of(
        &mut self,
        name: &str,
        allowed: &[&'static str],
    ) -> Result<Option<&'static str>, StripeError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match allowed.iter().find(|candidate| **candidate == text) {
            Some(found) => Ok(Some(*found)),
            None => Err(StripeError::invalid(format!(
                "Invalid {}: must be one of {}",
                self.name(name),
                allowed.join(", ")
            ))
            .param(self.name(name))),
        }
    }

    /// The same, where Stripe allows more values than the fake Stripe supports.
    pub(crate) fn one_of_supported(
        &mut self,
        name: &str,
        supported: &[&'static str],
        unsupported: &[&'static str],
    ) -> Result<Option<&'static str>, StripeError> {
        let all = [supported, unsupported].concat();
        let value = self.one_of(name, &all)?;
        match value.filter(|value| unsupported.contains(value)) {
            None => Ok(value),
            Some(value) => {
                let name = self.name(name);
                Err(StripeError::unsupported(format!("{name}={value}")).param(name))
            }
        }
    }

    /// Takes a nested object.
    pub(crate) fn nested(&mut self, name: &str) -> Result<Option<Params>, StripeError> {
        match self.map.remove(name) {
            None => Ok(None),
            Some(Param::Map(map)) => Ok(Some(Params {
                within: self.name(name),
                map,
            })),
            Some(Param::Text(text)) if text.is_empty() => Ok(None),
            Some(Param::Text(_)) => {
                Err(StripeError::invalid("Invalid object").param(self.name(name)))
            }
        }
    }

    /// Takes a nested object with arbitrary keys, such as metadata.
    pub(crate) fn text_map(
        &mut self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, StripeError> {
        let Some(nested) = self.nested(name)? else {
            return Ok(None);
        };
        let mut texts = BTreeMap::new();
        for (key, value) in nested.map {
            match value {
                Param::Text(text) => texts.insert(key, text),
                Param::Map(_) => {
                    return Err(StripeError::invalid("Invalid string: not a string.")
                        .param(format!("{}[{key}]", nested.within)));
                }
            };
        }
        Ok(Some(texts))
    }

    /// Takes `true` or `false`.
    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, StripeError> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => {
                Err(StripeError::invalid(format!("Invalid boolean: {other}"))
                    .param(self.name(name)))
            }
        }
    }

    /// Takes a list of brackets, such as `items[0][price]`, in the order of their indices.
    pub(crate) fn nested_list(&mut self, name: &str) -> Result<Vec<Params>, StripeError> {
        let Some(list) = self.nested(name)? else {
            return Ok(Vec::new());
        };
        let within = list.within;
        in_order(list.map)
            .into_iter()
            .map(|(key, value)| {
                let within = format!("{within}[{key}]");
                match value {
                    Param::Map(map) => Ok(Params { within, map }),
                    Param::Text(_) => Err(StripeError::invalid("Invalid object").param(within)),
                }
            })
            .collect()
    }

    /// Takes a list of texts, such as `lookup_keys[]=a`.
    pub(crate) fn text_list(&mut self, name: &str) -> Result<Vec<String>, StripeError> {
        let Some(list) = self.nested(name)? else {
            return Ok(Vec::new());
        };
        let within = list.within;
        in_order(list.map)
            .into_iter()
            .map(|(key, value)| match value {
                Param::Text(text) => Ok(text),
                Param::Map(_) => Err(StripeError::invalid("Invalid string: not a string.")
                    .param(format!("{within}[{key}]"))),
            })
            .collect()
    }

    /// Whether a parameter is a text, and no bracket.
    pub(crate) fn is_text(&self, name: &str) -> bool {
        matches!(self.map.get(name), Some(Param::Text(_)))
    }

    /// All texts, with their full names.
    pub(crate) fn leaves(&self) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        self.visit(&mut |name, param| {
            if let Param::Text(value) = param {
                let value = value.clone();
                leaves.push(Leaf { name, value });
            }
        });
        leaves
    }

    /// The number of entries of every bracket.
    pub(crate) fn counts(&self) -> Vec<(String, usize)> {
        let mut counts = Vec::new();
        self.visit(&mut |name, param| {
            if let Param::Map(map) = param {
                counts.push((name, map.len()));
            }
        });
        counts
    }

    fn visit(&self, seen: &mut impl FnMut(String, &Param)) {
        visit(&self.within, &self.map, seen);
    }

    /// Rejects the parameters that were not taken: Stripe knows them, the fake Stripe does not support them.
    pub(crate) fn finish(self) -> Result<(), StripeError> {
        let left: Vec<String> = self.map.keys().map(|name| self.name(name)).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(StripeError::unsupported_params(&left))
    }

    /// The full name of a parameter with its brackets.
    pub(crate) fn name(&self, name: &str) -> String {
        if self.within.is_empty() {
            name.to_owned()
        } else {
            format!("{}[{name}]", self.within)
        }
    }
}

// Generic over the closure by `&mut`, so that the recursion has one type.
fn visit<F: FnMut(String, &Param)>(within: &str, map: &BTreeMap<String, Param>, seen: &mut F) {
    for (key, param) in map {
        let name = if within.is_empty() {
            key.clone()
        } else {
            format!("{within}[{key}]")
        };
        if let Param::Map(inner) = param {
            visit(&name, inner, seen);
        }
        seen(name, param);
    }
}

/// The entries of a list, by index: as texts, `10` would sort before `2`.
fn in_order(map: BTreeMap<String, Param>) -> Vec<(String, Param)> {
    let mut entries: Vec<(String, Param)> = map.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.parse::<u64>().unwrap_or(u64::MAX));
    entries
}

/// Splits `a[b][c]` into its parts; `None` if brackets do not match or are nested too deep.
fn split_key(key: &str) -> Option<Vec<&str>> {
    let Some((first, mut rest)) = key.split_once('[') else {
        return Some(vec![key]);
    };
    let mut path = vec![first];
    loop {
        let (part, after) = rest.split_once(']')?;
        path.push(part);
        if path.len() > MAX_DEPTH {
            return None;
        }
        if after.is_empty() {
            return Some(path);
        }
        rest = after.strip_prefix('[')?;
    }
}

/// Inserts a value; `None` if the same name has both a text and a bracket.
fn insert(map: &mut BTreeMap<String, Param>, path: &[&str], value: &str) -> Option<()> {
    let (first, rest) = path.split_first()?;
    // `a[]=x` appends: its key is the next index.
    let key = if first.is_empty() {
        map.len().to_string()
    } else {
        (*first).to_owned()
    };
    if rest.is_empty() {
        if matches!(map.get(&key), Some(Param::Map(_))) {
            return None;
        }
        map.insert(key, Param::Text(value.to_owned()));
        return Some(());
    }
    match map
        .entry(key)
        .or_insert_with(|| Param::Map(BTreeMap::new()))
    {
        Param::Map(inner) => insert(inner, rest, value),
        Param::Text(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nest(encoded: &str) -> Result<Params, StripeError> {
        Params::nest(&pairs(encoded.as_bytes()))
    }

    #[test]
    fn brackets_nest() {
        let mut params =
            nest("event_name=calls&payload[value]=3&payload%5Bstripe_customer_id%5D=cus_1")
                .unwrap();
        assert_eq!(params.required("event_name").unwrap(), "calls");
        let payload = params.text_map("payload").unwrap().unwrap();
        assert_eq!(payload.get("value").map(String::as_str), Some("3"));
        assert_eq!(
            payload.get("stripe_customer_id").map(String::as_str),
            Some("cus_1")
        );
        params.finish().unwrap();
    }

    #[test]
    fn an_unclaimed_parameter_is_unsupported() {
        let mut params = nest("value_settings[other]=1&colour=red").unwrap();
        let nested = params.nested("value_settings").unwrap().unwrap();
        let error = nested.finish().unwrap_err();
        assert_eq!(error.param.as_deref(), Some("value_settings[other]"));
        let error = params.finish().unwrap_err();
        assert_eq!(
            error.message,
            "fake-stripe does not support the parameter colour"
        );
        assert_eq!(error.status, 501);
    }

    #[test]
    fn an_absent_or_empty_parameter_is_missing() {
        let mut params = nest("event_name=").unwrap();
        let error = params.required("event_name").unwrap_err();
        assert_eq!(error.message, "Missing required param: event_name.");
        assert!(!error.started);
    }

    #[test]
    fn a_text_cannot_also_be_a_bracket() {
        assert!(nest("a=1&a[b]=2").is_err());
        assert!(nest("a[b]=2&a=1").is_err());
        assert!(nest("a[b=2").is_err());
        assert!(nest("a[b]c=2").is_err());
        assert!(nest("a[1][2][3][4][5][6][7][8][9]=2").is_err());
    }
}
