//! Which of the hosts to use, by what each of them answered.

use super::super::host_answer::Answer;

/// What is known before the hosts are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The index of the host in use.
    pub(super) current: usize,
    /// The newest timeline that was seen.
    pub(super) timeline: u32,
    /// Whether read-only hosts, and those that a failover left behind, are refused.
    pub(super) serves: bool,
}

/// Why nothing is counted at a read-only server.
const READ_ONLY: &str = "the database is read only: a standby, or set so";

/// Why a server that serves may not use one that answered so. It still answers reads, and they miss what was counted since.
pub(super) fn refusal(answer: Answer, newest_timeline: u32) -> Option<String> {
    let Answer {
        is_read_only,
        timeline,
    } = answer;
    if is_read_only {
        return Some(READ_ONLY.to_owned());
    }
    (timeline < newest_timeline).then(|| {
        format!(
            "it is of timeline {timeline}, and one of timeline {newest_timeline} was seen: a failover left it behind; if the cluster was set up anew, restart this server"
        )
    })
}

/// The index of the host to use and its timeline: one that takes writes, of the newest timeline, preferably the one in use,
/// else the first. A command that only checks the database takes any.
pub(super) fn choose(answers: &[Result<Answer, String>], known: Known) -> Option<(usize, u32)> {
    let answered = answers.iter().enumerate();
    let answered = answered.filter_map(|(index, answer)| Some((index, *answer.as_ref().ok()?)));
    let usable =
        answered.filter(|(_, answer)| !known.serves || refusal(*answer, known.timeline).is_none());
    let best = usable.max_by_key(|(index, answer)| {
        let writes = !answer.is_read_only;
        (
            writes,
            answer.timeline,
            *index == known.current,
            usize::MAX.abs_diff(*index),
        )
    });
    best.map(|(index, answer)| (index, answer.timeline))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Asked = Result<Answer, String>;

    const READS: Asked = Ok(Answer {
        is_read_only: true,
        timeline: 0,
    });
    const WRITES: Asked = Ok(Answer {
        is_read_only: false,
        timeline: 1,
    });
    const WRITES_AFTER_FAILOVER: Asked = Ok(Answer {
        is_read_only: false,
        timeline: 2,
    });

    fn silent() -> Asked {
        Err("no answer".to_owned())
    }

    /// A server, with the host in use.
    fn serving(current: usize) -> Known {
        Known {
            current,
            timeline: 0,
            serves: true,
        }
    }

    #[test]
    fn the_first_host_that_takes_writes_is_used() {
        for (answers, chosen) in [
            ([READS, WRITES, WRITES], Some((1, 1))),
            ([silent(), READS, WRITES], Some((2, 1))),
            ([silent(), READS, READS], None),
        ] {
            assert_eq!(choose(&answers, serving(0)), chosen, "{answers:?}");
        }
    }

    #[test]
    fn the_host_in_use_stays_while_it_can() {
        assert_eq!(choose(&[WRITES, WRITES, READS], serving(1)), Some((1, 1)));
    }

    #[test]
    fn a_server_that_a_failover_left_behind_is_not_used() {
        // It came back, and still takes writes.
        let both = [WRITES, WRITES_AFTER_FAILOVER, READS];
        assert_eq!(choose(&both, serving(0)), Some((1, 2)));
        let after = Known {
            timeline: 2,
            ..serving(1)
        };
        assert_eq!(choose(&[WRITES, silent(), READS], after), None);
        // It is not said to be read only.
        let why = refusal(WRITES.unwrap(), 2).unwrap();
        assert!(why.contains("a failover left it behind"), "{why}");
        assert_eq!(refusal(WRITES_AFTER_FAILOVER.unwrap(), 2), None);
        let why = refusal(READS.unwrap(), 2).unwrap();
        assert!(why.contains("read only"), "{why}");
    }

    #[test]
    fn a_check_reads_a_standby_where_there_is_nothing_else() {
        let check = Known {
            serves: false,
            ..serving(0)
        };
        assert_eq!(choose(&[silent(), READS, READS], check), Some((1, 0)));
        assert_eq!(choose(&[READS, WRITES, silent()], check), Some((1, 1)));
    }
}
