//! The stored results of batches with a key, encoded as in the table `batch_keys`.

use sea_orm::DbErr;

use crate::domain::{
    increment::Outcome,
    violation::{Reason, Violation},
};

/// The items of a batch that were not counted: `[index]` for a duplicate, `[index, reason, field, message]` for a
/// violation. It is empty if all were counted.
pub(super) fn encode_results(outcomes: &[Outcome]) -> String {
    let rows: Vec<serde_json::Value> = outcomes
        .iter()
        .enumerate()
        .filter_map(|(index, outcome)| match outcome {
            Outcome::Counted => None,
            Outcome::Duplicate => Some(serde_json::json!([index])),
            Outcome::Refused(violation) => Some(serde_json::json!([
                index,
                violation.reason.name(),
                violation.field,
                violation.message
            ])),
        })
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        serde_json::Value::Array(rows).to_string()
    }
}

/// Decodes the results that [`encode_results`] encoded, of a batch of `len` items.
pub(super) fn decode_results(text: &str, len: usize) -> Result<Vec<Outcome>, DbErr> {
    let damaged = || DbErr::Custom(format!("the stored results of a batch are damaged: {text}"));
    let mut outcomes = vec![Outcome::Counted; len];
    if text.is_empty() {
        return Ok(outcomes);
    }
    let rows: Vec<Vec<serde_json::Value>> = serde_json::from_str(text).map_err(|_| damaged())?;
    for row in rows {
        let index = row
            .first()
            .and_then(serde_json::Value::as_u64)
            .and_then(|index| usize::try_from(index).ok());
        let place = index
            .and_then(|index| outcomes.get_mut(index))
            .ok_or_else(damaged)?;
        let text = |at: usize| row.get(at).and_then(serde_json::Value::as_str);
        *place = match (text(1), text(2), text(3)) {
            (Some(reason), Some(field), Some(message)) => Outcome::Refused(Violation::new(
                Reason::from_name(reason).ok_or_else(damaged)?,
                field,
                message,
            )),
            (None, None, None) if row.len() == 1 => Outcome::Duplicate,
            _ => return Err(damaged()),
        };
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batchs_results_survive_their_storage() {
        let outcomes = vec![
            Outcome::Counted,
            Outcome::Duplicate,
            Outcome::Refused(Violation::invalid("quantity", "quantity is 0")),
            Outcome::Counted,
        ];
        assert_eq!(
            decode_results(&encode_results(&outcomes), 4).unwrap(),
            outcomes
        );
        assert_eq!(encode_results(&[Outcome::Counted]), "");
        for wrong in [
            "[[9]]",
            r#"[[0, "INVALID_FIELD"]]"#,
            r#"[[0, "INVALID_FIELD", "quantity"]]"#,
            "[[0, 1, 2, 3]]",
            "[[0, null]]",
        ] {
            assert!(decode_results(wrong, 4).is_err(), "{wrong}");
        }
        assert!(decode_results("[[9]]", 4).is_err());
    }
}
