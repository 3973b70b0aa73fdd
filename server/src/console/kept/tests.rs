//! What is kept, when it is read again, and what pages are shown meanwhile.

use tokio::sync::oneshot;

use super::*;

fn kept(young: Duration, wait: Duration) -> Kept<u32> {
    Kept::new(Ages {
        young,
        old: Duration::from_hours(1),
        wait,
    })
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_young_answer_is_not_read_again() {
    let kept = kept(LONG, LONG);
    let found = kept.get(async { Ok(1) }).await.unwrap().unwrap();
    assert_eq!(*found.answer, 1);
    let found = kept.get(async { Ok(2) }).await.unwrap().unwrap();
    assert_eq!(*found.answer, 1);
}

#[tokio::test]
async fn an_old_answer_is_shown_while_one_read_goes_on() {
    let kept = kept(Duration::ZERO, LONG);
    kept.get(async { Ok(1) }).await.unwrap();
    let (end, ended) = oneshot::channel();
    let slow = async {
        let answer: u32 = ended.await.unwrap();
        Ok(answer)
    };
    // The first one took no time, so no rest is due for long.
    while !kept.lock().is_reading {
        let found = kept.get(std::future::pending()).await.unwrap().unwrap();
        assert_eq!(*found.answer, 1);
    }
    // No second read begins.
    let found = kept.get(slow).await.unwrap().unwrap();
    assert_eq!(*found.answer, 1);
    assert!(end.send(2).is_err());
}

#[tokio::test]
async fn a_page_does_not_wait_for_long() {
    let kept = kept(LONG, Duration::ZERO);
    let (end, ended) = oneshot::channel();
    let slow = async {
        let answer: u32 = ended.await.unwrap();
        Ok(answer)
    };
    assert!(kept.get(slow).await.unwrap().is_none());
    let has_ended = kept.read.notified();
    end.send(7).unwrap();
    has_ended.await;
    let found = kept.get(std::future::pending()).await.unwrap().unwrap();
    assert_eq!(*found.answer, 7);
}

#[tokio::test]
async fn an_answer_that_is_read_anew_is_waited_for() {
    let kept = kept(Duration::ZERO, LONG);
    for number in 1..4 {
        // What took no time is soon read again.
        let found = loop {
            let found = kept.get_anew(async move { Ok(number) }).await;
            let found = *found.unwrap().unwrap().answer;
            if found == number {
                break found;
            }
        };
        assert_eq!(found, number);
    }
}

#[tokio::test]
async fn an_answer_that_is_young_is_read_again_for_whoever_asks_for_that() {
    let kept = kept(LONG, LONG);
    kept.get_anew(async { Ok(1) }).await.unwrap();
    let found = kept.get_anew(async { Ok(2) }).await.unwrap().unwrap();
    assert_eq!((*found.answer, found.is_old), (1, false));
    let found = kept.get_now(async { Ok(3) }).await.unwrap().unwrap();
    assert_eq!((*found.answer, found.is_old), (3, false));
}

#[tokio::test]
async fn a_read_that_takes_longer_than_a_page_waits_is_told() {
    let kept = kept(LONG, Duration::ZERO);
    let has_ended = kept.read.notified();
    kept.get(async { Ok(1) }).await.unwrap();
    has_ended.await;
    let found = kept.get_now(std::future::pending()).await.unwrap().unwrap();
    assert_eq!((*found.answer, found.is_old), (1, true));
    // A second one that asks begins no other read.
    let found = kept.get_now(async { Ok(2) }).await.unwrap().unwrap();
    assert_eq!((*found.answer, found.is_old), (1, true));
}

#[tokio::test]
async fn the_last_answer_is_shown_while_the_next_one_takes_long() {
    let kept = kept(Duration::ZERO, Duration::ZERO);
    let has_ended = kept.read.notified();
    assert!(kept.get_anew(async { Ok(1) }).await.is_ok());
    has_ended.await;
    while !kept.lock().is_reading {
        let found = kept.get_anew(std::future::pending()).await;
        assert_eq!(*found.unwrap().unwrap().answer, 1);
    }
    let found = kept.get_anew(async { Ok(2) }).await.unwrap().unwrap();
    assert_eq!(*found.answer, 1);
}

#[tokio::test]
async fn a_failure_is_told_and_asked_again() {
    let kept = kept(Duration::ZERO, LONG);
    let failed = kept.get(async { Err(Failure::invalid("no")) }).await;
    assert_eq!(failed.err().unwrap().message, "no");
    // It took no time, so no rest is due for long.
    let found = loop {
        if let Ok(found) = kept.get(async { Ok(3) }).await {
            break found.unwrap();
        }
    };
    assert_eq!(*found.answer, 3);
}

#[tokio::test]
async fn a_failed_read_is_not_repeated_at_once() {
    let kept = kept(LONG, LONG);
    let failed = kept.get(async { Err(Failure::invalid("no")) }).await;
    assert_eq!(failed.err().unwrap().message, "no");
    let told = kept.get(std::future::pending()).await;
    assert_eq!(told.err().unwrap().message, "no");
    assert!(!kept.lock().is_reading);
}

#[test]
fn a_failure_is_kept_for_half_a_minute_however_long_the_read_took() {
    let took = Duration::from_secs(40);
    let is_kept = |since: u64| {
        let ago = took + Duration::from_secs(since);
        let began = Instant::now().checked_sub(ago).unwrap();
        let failed = Failed {
            attempt: Attempt { began, took },
            failure: Failure::invalid("no"),
        };
        let ages = kept(Duration::ZERO, LONG).ages;
        failed.is_kept(&ages)
    };
    assert!(is_kept(0) && is_kept(29));
    assert!(!is_kept(30));
}

#[tokio::test]
async fn a_failure_of_one_visitor_is_not_kept_for_others() {
    let kept = kept(LONG, LONG);
    let denied = Failure {
        status: StatusCode::FORBIDDEN,
        ..Failure::invalid("not you")
    };
    let failed = kept.get(async { Err(denied) }).await;
    assert_eq!(failed.err().unwrap().message, "not you");
    let found = kept.get(async { Ok(3) }).await.unwrap().unwrap();
    assert_eq!(*found.answer, 3);
}
#[tokio::test]
async fn an_old_answer_is_shown_at_once_and_a_failure_in_its_place() {
    let kept: Kept<u32> = Kept::new(Ages {
        young: Duration::ZERO,
        old: Duration::ZERO,
        wait: LONG,
    });
    let attempt = Attempt {
        began: Instant::now(),
        took: Duration::ZERO,
    };
    let answer = Arc::new(1);
    kept.lock().last = Some(Last { attempt, answer });
    let (end, ended) = oneshot::channel();
    let failing = async {
        ended.await.unwrap();
        Err(Failure::invalid("no"))
    };
    let found = kept.get(failing).await.unwrap().unwrap();
    assert_eq!((*found.answer, found.is_old), (1, true));
    // One read goes on, and no second one begins.
    let found = kept.get(std::future::pending()).await.unwrap().unwrap();
    assert!(found.is_old);
    let has_ended = kept.read.notified();
    end.send(()).unwrap();
    has_ended.await;
    // A failure that is kept is told in the place of what is old.
    kept.lock().failed.as_mut().unwrap().attempt.took = LONG;
    let told = kept.get(std::future::pending()).await;
    assert_eq!(told.err().unwrap().message, "no");
}
