//! A report that waits for a retry, and a database that lets no run end that wait.

use fake_stripe::Fault;

use super::world::{Engine, World, hours_ago};

/// Lets a report of 5 units of the new account `acct` wait for a retry, longer than a test does, also if a run is forced.
pub(crate) async fn wait_for_a_refused_retry(world: &mut World) {
    world.reconfigure(&["--stripe-retry-ms=60000"]).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let broken = Fault::status(500).on_path("/v1/billing/meter_events");
    world.stripe().script(broken.times(1)).await.unwrap();
    let failed = world.report_all().await;
    assert_eq!(failed.retried_later.quantity, 5);
    // A forced run clears the error.
    let refuse = match world.engine {
        Engine::Sqlite => {
            "CREATE TRIGGER refuse_retries BEFORE UPDATE OF next_attempt_at ON usage_reports \
             WHEN OLD.last_error IS NOT NULL AND NEW.last_error IS NULL \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        }
        Engine::Postgres => {
            "CREATE FUNCTION refuse_retries() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$; \
             CREATE TRIGGER refuse_retries BEFORE UPDATE OF next_attempt_at ON usage_reports FOR EACH ROW \
             WHEN (OLD.last_error IS NOT NULL AND NEW.last_error IS NULL) EXECUTE FUNCTION refuse_retries()"
        }
    };
    world.execute_sql(refuse).await;
}

/// Lets forced runs end waits again.
pub(crate) async fn allow_retries(world: &World) {
    let sql = match world.engine {
        Engine::Sqlite => "DROP TRIGGER refuse_retries",
        Engine::Postgres => "DROP TRIGGER refuse_retries ON usage_reports",
    };
    world.execute_sql(sql).await;
}
