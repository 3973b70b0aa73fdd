//! Shared by the tests: the world of one test, databases, and the servers and proxies around the server under test.

pub(crate) mod certificates;
pub(crate) mod chromium;
pub(crate) mod commit_lock;
pub(crate) mod documented;
pub(crate) mod flaky_server;
pub(crate) mod latency;
pub(crate) mod memory_folder;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod postgres_proxy;
pub(crate) mod python;
pub(crate) mod random;
pub(crate) mod raw_messages;
pub(crate) mod refused_address;
pub(crate) mod refused_retries;
pub(crate) mod reverse_proxy;
pub(crate) mod small_disk;
pub(crate) mod statements;
pub(crate) mod world;
