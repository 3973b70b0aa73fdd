//! The statements that the server sends in some tests, which run in a process of their own: what other tests send makes
//! no difference.

use std::{path::Path, process::Command};

use crate::support::{
    statements::{self, RECORD_TO, Sent},
    world::Engine,
};

/// Tests that together send every statement, by their module. A new query needs one that sends it.
const TESTS: &[(&str, &str)] = &[
    (
        "console::account",
        "a_decision_is_shown_however_many_reports_came_after_it",
    ),
    (
        "console::account",
        "links_and_subscription_changes_are_on_the_time_line",
    ),
    (
        "client::usagectl::operators",
        "an_account_is_found_by_its_customer",
    ),
    (
        "client::usagectl::operators",
        "runs_are_listed_with_their_results",
    ),
    (
        "console::actions",
        "a_forced_run_is_begun_once_and_watched_without_a_script",
    ),
    ("console::sign_in", "signing_out_ends_the_session"),
    ("console::usage", "accounts_have_their_recent_usage"),
    (
        "counting::batches",
        "a_batch_that_counted_nothing_is_remembered",
    ),
    (
        "counting::batches",
        "item_keys_are_shared_by_batches_and_single_calls",
    ),
    (
        "counting::counted_accounts",
        "counted_accounts_are_listed_in_order_with_linked_ones",
    ),
    ("counting::usage_of_all", "a_prefix_means_itself"),
    (
        "counting::usage_query",
        "the_default_month_of_a_zone_inside_a_slot_is_refused_with_the_zone",
    ),
    (
        "operations::access::audit",
        "entries_are_filtered_and_paged",
    ),
    (
        "operations::access::batches",
        "a_batch_is_recognised_after_the_first_key",
    ),
    (
        "operations::access::batches",
        "denied_items_are_counted_once_by_a_later_key_of_the_caller",
    ),
    (
        "operations::access::keys",
        "a_revoked_key_is_refused_on_every_replica",
    ),
    (
        "operations::access::keys",
        "keys_are_listed_with_their_use_and_without_secrets",
    ),
    ("operations::deletion", "an_id_is_free_again_after_36_days"),
    (
        "operations::deletion::unfinished",
        "doctor_names_a_deletion_that_has_not_ended",
    ),
    (
        "operations::deletion::export",
        "an_export_has_every_row_of_the_account_and_none_of_others",
    ),
    (
        "operations::deletion::traces",
        "the_id_of_a_deleted_account_stands_nowhere",
    ),
    (
        "operations::doctor",
        "doctor_finds_no_fault_in_a_healthy_setup",
    ),
    (
        "operations::doctor::usage",
        "doctor_lists_reports_that_need_a_decision",
    ),
    ("operations::http_server", "health_and_metrics_are_served"),
    (
        "operations::sign_off",
        "a_month_is_the_same_to_the_byte_on_both_engines",
    ),
    (
        "reporting::folding::sign_off",
        "a_month_is_signed_off_after_folding_as_before",
    ),
    ("operations::webhooks", "a_replayed_webhook_changes_nothing"),
    ("operations::webhooks", "old_webhooks_are_deleted"),
    (
        "reporting::delivery",
        "usage_of_a_removed_meter_is_given_up_in_time",
    ),
    (
        "reporting::corrections",
        "a_correction_is_a_separate_report_and_reaches_stripe",
    ),
    (
        "reporting::corrections",
        "a_free_account_is_corrected_and_nothing_is_billed",
    ),
    (
        "reporting::delivery",
        "each_customer_has_one_call_in_flight",
    ),
    (
        "reporting::delivery_check",
        "an_event_proven_lost_is_sent_again_once",
    ),
    (
        "reporting::explanations::increments",
        "an_increment_that_was_divided_names_the_other_reports",
    ),
    (
        "reporting::explanations::invoices",
        "a_billed_unit_is_followed_in_both_directions",
    ),
    (
        "reporting::explanations::invoices",
        "usage_of_a_running_period_is_explained_before_its_invoice",
    ),
    (
        "reporting::explanations::pages",
        "each_increment_is_on_one_page",
    ),
    (
        "reporting::folding::explained",
        "a_folded_report_is_found_in_its_archive",
    ),
    (
        "reporting::folding::explained",
        "a_list_names_the_archives_of_older_reports",
    ),
    (
        "reporting::folding::limits",
        "usage_that_was_folded_is_not_billed_by_a_later_link",
    ),
    (
        "reporting::folding::records",
        "old_records_are_archived_and_then_deleted",
    ),
    (
        "reporting::folding::totals",
        "folded_usage_is_reconciled_as_before",
    ),
    (
        "reporting::forced_runs",
        "a_dry_report_lists_what_it_would_send_and_changes_nothing",
    ),
    (
        "reporting::pauses",
        "a_refused_key_pauses_sending_until_it_is_replaced",
    ),
    (
        "reporting::reconciliation",
        "complete_usage_reconciles_to_the_last_millisecond_of_the_period",
    ),
    ("reporting::reconciliation", "reconciled_accounts_are_paged"),
    (
        "operations::doctor::running",
        "keys_that_expire_are_told_of",
    ),
    (
        "reporting::report_list",
        "reports_are_found_by_meter_customer_and_time",
    ),
    (
        "reporting::report_list",
        "reports_are_listed_newest_first_and_filtered",
    ),
    (
        "reporting::resolutions",
        "a_correction_is_not_moved_below_zero",
    ),
    (
        "reporting::resolutions",
        "a_retried_report_that_is_too_old_is_too_late_again",
    ),
    (
        "reporting::resolutions",
        "a_written_off_report_is_never_billed",
    ),
    (
        "reporting::restore",
        "a_restore_at_once_bills_nothing_twice",
    ),
    (
        "reporting::restore",
        "a_restored_database_pauses_when_stripe_knows_what_it_has_not_sent",
    ),
    (
        "reporting::restore",
        "sending_stays_paused_until_a_restore_is_confirmed",
    ),
    (
        "reporting::shadow",
        "a_link_in_shadow_mode_bills_nothing_that_waited_for_it",
    ),
    (
        "reporting::switch_over",
        "a_moment_is_a_full_hour_ahead_and_final_once_it_has_come",
    ),
    (
        "reporting::shadow",
        "days_are_compared_with_what_the_other_integration_sent",
    ),
    (
        "reporting::switch_over",
        "each_unit_is_billed_once_around_the_switch_over",
    ),
    (
        "reporting::shadow",
        "usage_that_becomes_free_in_shadow_mode_loses_its_mark",
    ),
    (
        "reporting::shadow_restore",
        "a_backup_from_before_the_moment_sends_nothing_until_it_is_named",
    ),
    (
        "reporting::schedule",
        "a_run_interrupted_by_a_crash_is_resumed",
    ),
    (
        "reporting::schedule",
        "deleting_old_commits_and_keys_keeps_the_ledger_balanced",
    ),
    (
        "reporting::schedule",
        "the_schedule_goes_on_when_the_wall_clock_steps_back",
    ),
    (
        "reporting::verification",
        "a_verification_that_a_stop_ended_continues_with_the_next_customer",
    ),
    (
        "reporting::windows",
        "a_late_boundary_does_not_split_a_straddling_report",
    ),
    (
        "reporting::windows",
        "usage_around_a_link_is_in_different_reports",
    ),
    (
        "subscriptions::cancels",
        "a_cancel_at_the_periods_end_bills_until_then_and_nothing_after",
    ),
    (
        "subscriptions::cancels",
        "a_cancel_invoices_what_was_used_and_bills_nothing_after",
    ),
    (
        "subscriptions::changes",
        "a_plan_change_charges_usage_by_the_plan_it_happened_in",
    ),
    (
        "subscriptions::finalized_invoices",
        "a_period_that_ended_during_downtime_is_billed",
    ),
    (
        "subscriptions::invoice_comparison",
        "a_void_invoice_takes_its_usage_back",
    ),
    (
        "subscriptions::invoice_comparison",
        "invoices_that_cannot_be_read_are_read_later",
    ),
    (
        "subscriptions::invoice_comparison::acknowledgements",
        "an_acknowledged_difference_is_told_again_only_if_it_changes",
    ),
    (
        "subscriptions::invoice_comparison::uncompared",
        "usage_after_an_end_that_was_found_late_is_told",
    ),
    (
        "subscriptions::invoice_comparison::uncompared",
        "usage_that_is_confirmed_after_the_last_comparison_is_compared",
    ),
    (
        "subscriptions::link_checks",
        "a_checked_link_can_be_repeated_whatever_became_of_the_customer",
    ),
    (
        "subscriptions::link_checks",
        "an_unverified_link_bills_from_the_period_once_it_is_known",
    ),
    (
        "subscriptions::late_usage",
        "late_usage_after_a_change_needs_a_decision",
    ),
    (
        "subscriptions::late_usage",
        "late_usage_during_a_drain_is_charged_by_the_old_plan",
    ),
    (
        "subscriptions::late_usage",
        "usage_moved_to_the_current_period_is_not_lost_by_a_cancel",
    ),
    (
        "subscriptions::uncharged",
        "a_meter_without_an_item_waits_for_another_subscription",
    ),
    (
        "subscriptions::sync",
        "a_deleted_customer_is_not_billed_again",
    ),
    (
        "subscriptions::sync",
        "a_report_straddling_a_plan_change_at_stripe_goes_to_the_earlier_period",
    ),
    (
        "reporting::database_copies",
        "a_copy_that_sent_first_pauses_the_original",
    ),
    (
        "reporting::stripe_accounts",
        "another_account_gets_nothing_until_it_is_adopted",
    ),
    (
        "reporting::stripe_accounts",
        "what_the_former_account_may_have_is_never_sent_again",
    ),
    (
        "operations::deletion",
        "an_account_whose_period_goes_on_is_not_deleted",
    ),
    (
        "subscriptions::invoice_comparison::overlapping",
        "usage_that_two_items_charge_is_told_once",
    ),
];

/// Runs the tests and returns what they sent.
pub(super) fn run(engine: Engine) -> Vec<Sent> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("statements");
    run_tests(engine, &file);
    statements::read(&file, engine)
}

fn run_tests(engine: Engine, file: &Path) {
    let name = match engine {
        Engine::Sqlite => "sqlite",
        Engine::Postgres => "postgres",
    };
    let tests = TESTS.iter();
    let tests = tests.map(|(module, test)| format!("{module}::{name}::{test}"));
    let tests: Vec<String> = tests.collect();
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .arg("--exact")
        .args(&tests)
        .env(RECORD_TO, file)
        .output()
        .expect("the tests");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = format!("test result: ok. {} passed", tests.len());
    assert!(
        output.status.success() && text.contains(&passed),
        "not all of {tests:#?} exist and pass:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
