//! Carries out the scripts of the accounts: changes subscriptions at Stripe, as somebody does in its dashboard. The service
//! learns of it by a webhook or by its next sync. The oracle learns what follows by the rules.

use std::time::Duration;

use fake_stripe::{NewSubscription, SubscriptionSnapshot};

use crate::{
    admins::{MARGIN, PLANS},
    oracle::Billing,
    run::Run,
    scripts::{Event, Trial},
    terms::{Change, Charge, Term, Terms},
    time::{HOUR, SECOND},
    world::{METERS, Outcome, World, text},
};

/// How long before a change usage may not have been closed and sent, although nothing fails.
const UNSENT: i64 = 3 * HOUR;
/// More than summaries ever lag.
const MAX_LAG: i64 = 11 * HOUR;
/// How many seconds the service is given to learn of a change, where nothing fails.
const LEARNING_SECS: u32 = 5;
/// The item of the second meter.
const TOKENS: &str = "price_tokens";

/// The prices of a subscription of an account, by its plan and its number of meters.
pub(crate) fn prices(plan: usize, meters: usize) -> Vec<String> {
    let all = [PLANS[plan], TOKENS];
    let own = all.iter().take(meters);
    own.map(|price| (*price).to_owned()).collect()
}

/// A new subscription. Its anchor is in seconds.
pub(crate) fn subscription(
    (id, customer): (String, String),
    prices: Vec<String>,
    anchor: Option<i64>,
) -> NewSubscription {
    NewSubscription {
        id,
        customer,
        prices,
        anchor,
        ..NewSubscription::default()
    }
}

/// The same with a trial from now on.
pub(crate) fn in_trial(new: NewSubscription, trial: Trial, now_ms: i64) -> NewSubscription {
    let at_end = if trial.pauses {
        "pause"
    } else {
        "create_invoice"
    };
    NewSubscription {
        anchor: None,
        trial_end: Some((now_ms + trial.length).div_euclid(SECOND)),
        missing_payment_method: Some(at_end.to_owned()),
        ..new
    }
}

/// The terms of a subscription that has just begun with a trial.
pub(crate) fn terms_of_trial(of: &SubscriptionSnapshot, trial: Trial) -> Outcome<Terms> {
    let item = of.items.first().ok_or("a subscription without items")?;
    let time = item.period_start * SECOND..item.period_end * SECOND;
    Ok(Terms::of_trial(&time, trial.pauses))
}

impl Run {
    /// Does what is due in the scripts. `before` is the time of the step before the last one: what was acknowledged since then
    /// may not have been sent.
    pub(crate) async fn change_at_stripe(&mut self, step: usize, before: i64) -> Outcome<()> {
        let mut has_changed = false;
        for account in 0..self.scripts.len() {
            self.leave_out_missed(account, step);
            let Some((at, event)) = self.scripts[account].events.first().copied() else {
                continue;
            };
            if at > step {
                continue;
            }
            if self.carry_out(account, event, before).await? {
                self.scripts[account].events.remove(0);
                self.report.changes.push((event.name(), true));
                has_changed = true;
            }
        }
        if has_changed {
            for _ in 0..LEARNING_SECS {
                self.world.pass(Duration::from_secs(1)).await?;
            }
        }
        Ok(())
    }

    /// A pause of the collection comes in its step or not at all, because no invoice is to be made in it.
    fn leave_out_missed(&mut self, account: usize, step: usize) {
        let events = &mut self.scripts[account].events;
        let first = events.first();
        if first.is_some_and(|(at, event)| *event == Event::PauseCollection && *at < step) {
            let missed = events.drain(..).map(|(_, event)| (event.name(), false));
            self.report.changes.extend(missed);
        }
    }

    /// Carries out an event, if it can be.
    async fn carry_out(&mut self, account: usize, event: Event, before: i64) -> Outcome<bool> {
        let known = &self.oracle.accounts[account];
        let now = self.world.now_ms.div_euclid(SECOND) * SECOND;
        // It is not known what became of its subscription, or an admin ended it.
        if known.is_blurred || known.is_ended {
            return Ok(false);
        }
        let (start, end) = known.period_at(0, now);
        let is_near = now < start + MARGIN || now + MARGIN > end;
        let is_plain = known.terms.is_plain(known.meters, now)
            && known.billing_at(now) == Billing::Customer
            && !is_near;
        let is_trial = known.terms.charge_at(0, now) == Charge::Trial && !is_near;
        let all = self.world.stripe.subscriptions().await.map_err(text)?;
        let found = all.into_iter().find(|one| one.id == known.subscription());
        let found = found.ok_or("a subscription is not at Stripe")?;
        let can_be = match event {
            Event::EndTrial => is_trial && found.status == "trialing",
            Event::Resume => found.status == "paused",
            Event::Subscribe => found.status == "canceled",
            Event::ResumeCollection => known.terms.is_collection_paused,
            Event::AddItem => {
                known.terms.charge_at(1, now) == Charge::Nothing
                    && known.terms.is_plain(1, now)
                    && !is_near
            }
            _ => is_plain,
        };
        if !can_be {
            return Ok(false);
        }
        let lag = if self.lag_ends.is_some() { MAX_LAG } else { 0 };
        let change = Change {
            meter: None,
            at: now,
            is_swap: false,
            unsent_since: before.min(now - UNSENT),
            lost_since: now - lag,
            known_at: None,
        };
        self.ask_stripe(account, event, &found).await?;
        self.note(account, event, change);
        Ok(true)
    }

    /// The requests of an event.
    async fn ask_stripe(
        &mut self,
        account: usize,
        event: Event,
        found: &SubscriptionSnapshot,
    ) -> Outcome<()> {
        let known = &self.oracle.accounts[account];
        let item = |meter: usize| {
            let mut items = found.items.iter();
            let own = items.find(|item| item.event_name.as_deref() == Some(METERS[meter].1));
            own.map(|item| item.id.clone())
                .ok_or("a subscription without an item of a meter")
        };
        let other = PLANS[1 - known.plan];
        let path = format!("/v1/subscriptions/{}", found.id);
        let update = match event {
            Event::EndTrial => vec![("trial_end", "now".to_owned())],
            Event::Resume => {
                let path = format!("{path}/resume");
                return self.world.call_stripe("POST", &path, &[]).await;
            }
            Event::SwapPrice => vec![
                ("items[0][id]", item(0)?),
                ("items[0][price]", other.to_owned()),
                ("proration_behavior", "always_invoice".to_owned()),
            ],
            Event::ReplaceItem => vec![
                ("items[0][id]", item(0)?),
                ("items[0][deleted]", "true".to_owned()),
                ("items[1][price]", other.to_owned()),
                ("proration_behavior", "always_invoice".to_owned()),
            ],
            Event::RemoveItem => vec![
                ("items[0][id]", item(1)?),
                ("items[0][deleted]", "true".to_owned()),
                ("proration_behavior", "always_invoice".to_owned()),
            ],
            Event::AddItem => vec![("items[0][price]", TOKENS.to_owned())],
            Event::Cancel => {
                let form = [("invoice_now", "true".to_owned())];
                return self.world.call_stripe("DELETE", &path, &form).await;
            }
            Event::CancelAtEnd => vec![("cancel_at_period_end", "true".to_owned())],
            Event::PauseCollection => vec![("pause_collection[behavior]", "void".to_owned())],
            Event::ResumeCollection => vec![("pause_collection", String::new())],
            Event::Subscribe => {
                let known = &mut self.oracle.accounts[account];
                known.subscriptions += 1;
                let names = (known.subscription(), known.customer());
                let new = subscription(names, prices(0, known.meters), None);
                let created = self.world.stripe.create_subscription(&new).await;
                return created.map(|_| ()).map_err(text);
            }
        };
        self.world.call_stripe("POST", &path, &update).await
    }

    /// What follows by the rules.
    fn note(&mut self, account: usize, event: Event, change: Change) {
        let known = &mut self.oracle.accounts[account];
        let now = change.at;
        let (_, end) = known.period_at(0, now);
        let begin = |meter: Option<usize>, from: i64, anchor: i64, charge: Charge| Term {
            meter,
            from,
            anchor,
            charge,
        };
        let anchor = known.terms.anchor_at(0, now);
        let terms = &mut known.terms;
        match event {
            Event::EndTrial | Event::Resume | Event::Subscribe => {
                terms.begin(begin(None, now, now, Charge::Charged));
                terms.change(change);
                terms.is_ending = false;
                if event == Event::Subscribe {
                    known.plan = 0;
                }
            }
            Event::SwapPrice => {
                terms.change(Change {
                    meter: Some(0),
                    is_swap: true,
                    ..change
                });
                known.plan = 1 - known.plan;
            }
            Event::ReplaceItem => {
                terms.change(Change {
                    meter: Some(0),
                    ..change
                });
                known.splits.push(now);
                known.plan = 1 - known.plan;
            }
            Event::RemoveItem | Event::AddItem => {
                let charged = if event == Event::AddItem {
                    Charge::Charged
                } else {
                    Charge::Nothing
                };
                terms.begin(begin(Some(1), now, anchor, charged));
                terms.change(Change {
                    meter: Some(1),
                    ..change
                });
            }
            Event::Cancel => {
                terms.begin(begin(None, now, anchor, Charge::Nothing));
                terms.change(change);
            }
            // It is the end of the period that was known before, with its draft invoice.
            Event::CancelAtEnd => {
                terms.begin(begin(None, end, anchor, Charge::Nothing));
                terms.is_ending = true;
            }
            Event::PauseCollection => terms.is_collection_paused = true,
            Event::ResumeCollection => terms.is_collection_paused = false,
        }
    }

    /// Notes that the service knows what was changed, after a step in which it could learn it.
    pub(crate) async fn note_read(&mut self, step: usize) -> Outcome<()> {
        let accounts = &self.oracle.accounts;
        if accounts.iter().all(|known| known.terms.is_read()) || !self.is_quiet(step) {
            return Ok(());
        }
        for _ in 0..2 * LEARNING_SECS {
            self.world.pass(Duration::from_secs(1)).await?;
        }
        for known in &mut self.oracle.accounts {
            known.terms.note_read(self.world.now_ms);
        }
        Ok(())
    }
}

impl World {
    /// Makes a request to Stripe as its dashboard does: without a fault, and at one moment.
    pub(crate) async fn call_stripe(
        &self,
        method: &str,
        path: &str,
        form: &[(&str, String)],
    ) -> Outcome<()> {
        let faults = self.stripe.faults().await.map_err(text)?;
        self.stripe.clear_faults().await.map_err(text)?;
        let answered = self.request_stripe(method, path, form).await;
        for fault in faults {
            self.stripe.script(fault).await.map_err(text)?;
        }
        answered
    }

    async fn request_stripe(
        &self,
        method: &str,
        path: &str,
        form: &[(&str, String)],
    ) -> Outcome<()> {
        let (base, key) = self.stripe_address();
        let client = reqwest::Client::builder().no_proxy().build();
        let client = client.map_err(text)?;
        let method = method.parse::<reqwest::Method>().map_err(text)?;
        let request = client
            .request(method, format!("{base}{path}"))
            .bearer_auth(key)
            .form(form);
        let answer = request.send().await.map_err(text)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = answer.text().await.unwrap_or_default();
        Err(format!("Stripe refused {path}: {status} {body}"))
    }
}
