//! What is killed, one file a subject.

pub(crate) mod database;
pub(crate) mod freeze;
pub(crate) mod full_disk;
pub(crate) mod network;
pub(crate) mod pooler;
pub(crate) mod servers;
pub(crate) mod standby;
pub(crate) mod torn_log;
