//! Until when a backup goes, if the time is not stated.
//!
//! The database alone does not show it: a server that was started on the backup has written to it, and that looks like
//! the next start of the server that the backup was made of. The marks at Stripe show it. If Stripe has a mark that this
//! copy of the database did not write, the other copy went on after this one was made, and this one has written no mark
//! since, but one at most: both can write the next mark at the same moment. So the mark before the last is from before
//! the backup. Without such a mark, a person has to say it.

use crate::{
    domain::{
        Millis,
        period::rfc3339,
        sender_mark::{Mark, OwnMarks},
    },
    store::sending_state::Sending,
};

/// When the backup was made, or earlier. `last_change` is the last one in the database.
///
/// # Errors
/// It is not known. The error says how to state it.
pub(super) fn backup_time(
    stated: Option<Millis>,
    sending: &Sending,
    at_stripe: &[Mark],
    last_change: Option<Millis>,
) -> Result<Millis, String> {
    // A restore that was interrupted goes on with its time.
    let begun = sending.backup_at.filter(|_| sending.is_restoring());
    stated
        .or(begun)
        .or_else(|| shown_by_marks(&sending.marks, at_stripe))
        .ok_or_else(|| {
            let last_change = last_change.map_or_else(
                || "The database has no usage yet".to_owned(),
                |at| format!("The last change in the database is of {}", rfc3339(at)),
            );
            format!(
                "the marks at Stripe do not show when the backup was made; say so with --backup-at, in RFC 3339, or an earlier time if in doubt. {last_change}: if no server was started on the backup, it was made then"
            )
        })
}

fn shown_by_marks(own: &OwnMarks, at_stripe: &[Mark]) -> Option<Millis> {
    let is_contradicted = at_stripe.iter().any(|mark| !own.includes(mark));
    own.previous_at.filter(|_| is_contradicted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pause::PauseReason;

    fn mark(number: i64, nonce: &str) -> Mark {
        Mark {
            number,
            nonce: nonce.to_owned(),
        }
    }

    fn sending() -> Sending {
        Sending {
            marks: OwnMarks {
                number: 5,
                nonce: Some("a".to_owned()),
                previous_at: Some(100),
                ..OwnMarks::default()
            },
            backup_at: Some(50),
            ..Sending::default()
        }
    }

    #[test]
    fn a_later_mark_shows_that_the_backup_is_not_older_than_the_mark_before_the_last() {
        for other in [mark(6, "b"), mark(5, "b")] {
            let found = backup_time(None, &sending(), &[mark(4, "c"), other], Some(900));
            assert_eq!(found, Ok(100));
        }
    }

    #[test]
    fn without_a_later_mark_the_time_has_to_be_stated() {
        for at_stripe in [vec![], vec![mark(5, "a")]] {
            let error = backup_time(None, &sending(), &at_stripe, Some(0)).unwrap_err();
            assert!(error.contains("--backup-at"), "{error}");
            assert!(error.contains("1970-01-01T00:00:00"), "{error}");
            assert_eq!(backup_time(Some(7), &sending(), &at_stripe, None), Ok(7));
        }
        let only_one = Sending {
            marks: OwnMarks {
                previous_at: None,
                ..sending().marks
            },
            ..Sending::default()
        };
        backup_time(None, &only_one, &[mark(9, "b")], None).unwrap_err();
    }

    #[test]
    fn an_interrupted_restore_goes_on_with_its_time() {
        let begun = Sending {
            paused: Some(PauseReason::Restoring),
            ..sending()
        };
        assert_eq!(backup_time(None, &begun, &[], None), Ok(50));
        assert_eq!(backup_time(Some(7), &begun, &[], None), Ok(7));
        let paused_otherwise = Sending {
            paused: Some(PauseReason::ForeignMark),
            ..begun
        };
        backup_time(None, &paused_otherwise, &[], None).unwrap_err();
    }
}
