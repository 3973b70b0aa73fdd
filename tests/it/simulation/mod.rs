//! Random sequences of calls, admin actions, crashes and changes at Stripe, compared with models in memory.

mod random_calls;
mod year;
