//! The console in a real browser.
//!
//! Without Chromium and its driver, or without axe, these tests say that they were skipped; in CI they fail.

mod actions;
mod axe;
mod demo;
mod furniture;
mod hostile;
mod keyboard;
mod looks;
mod pages;
mod print;
mod sessions;
