//! Random months of everything that callers, admins, crashes and Stripe do, compared with models in memory.

mod random_calls;
mod year;
