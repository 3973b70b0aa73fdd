//! What an error of the database means: whether a retry helps, and whether the connection may be used again.

use sea_orm::{DbErr, RuntimeErr};

/// What the database says went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DatabaseCode {
    /// SQLite's extended result code, see its page "Result and Error Codes".
    Sqlite(i32),
    /// PostgreSQL's SQLSTATE, see its appendix "Error Codes".
    Postgres(String),
}

fn database_code(error: &DbErr) -> Option<DatabaseCode> {
    let (DbErr::Exec(RuntimeErr::SqlxError(cause))
    | DbErr::Query(RuntimeErr::SqlxError(cause))
    | DbErr::Conn(RuntimeErr::SqlxError(cause))) = error
    else {
        return None;
    };
    let cause = cause.as_database_error()?;
    let code = cause.code()?;
    if cause
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()
        .is_some()
    {
        code.parse().ok().map(DatabaseCode::Sqlite)
    } else {
        Some(DatabaseCode::Postgres(code.into_owned()))
    }
}

/// Whether a statement broke a CHECK of the schema.
pub(crate) fn is_check_violation(error: &DbErr) -> bool {
    match database_code(error) {
        Some(DatabaseCode::Sqlite(code)) => code == 275,
        Some(DatabaseCode::Postgres(code)) => code == "23514",
        None => false,
    }
}

/// Whether a statement broke a primary key or a unique index.
pub(crate) fn is_unique_violation(error: &DbErr) -> bool {
    match database_code(error) {
        Some(DatabaseCode::Sqlite(code)) => matches!(code, 1555 | 2067),
        Some(DatabaseCode::Postgres(code)) => code == "23505",
        None => false,
    }
}

/// Whether the database was only busy: another connection works, or all connections do.
pub(crate) fn is_busy(error: &DbErr) -> bool {
    match database_code(error) {
        Some(DatabaseCode::Sqlite(code)) => matches!(primary(code), 5 | 6),
        Some(DatabaseCode::Postgres(_)) => false,
        None => match error {
            DbErr::ConnectionAcquire(_) => true,
            DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause)) => {
                matches!(**cause, sqlx::Error::PoolTimedOut)
            }
            _ => false,
        },
    }
}

/// What Citus says, as an internal error, of a worker that went away during a transaction.
const LOST_WORKER: [&str; 6] = [
    "server closed the connection unexpectedly",
    "failure on connection marked as essential",
    "could not receive data from server",
    "could not send data to server",
    "no connection to the server",
    "connection not open",
];

/// Whether Citus lost a worker. The connection to the coordinator is none the worse.
fn is_lost_worker(error: &DbErr) -> bool {
    database_code(error) == Some(DatabaseCode::Postgres("XX000".to_owned())) && {
        let message = error.to_string();
        LOST_WORKER.iter().any(|words| message.contains(words))
    }
}

/// Whether a retry of the same statement may succeed.
pub(crate) fn is_transient(error: &DbErr) -> bool {
    if is_lost_worker(error) {
        return true;
    }
    match database_code(error) {
        // Busy and locked pass by themselves.
        Some(DatabaseCode::Sqlite(code)) => {
            matches!(primary(code), 5 | 6) || breaks_connection(error)
        }
        // Serialization failures, deadlocks, timeouts of locks, statements and idle transactions, too many connections.
        Some(DatabaseCode::Postgres(code)) => {
            matches!(
                code.as_str(),
                "40001" | "40P01" | "55P03" | "57014" | "25P03" | "53300"
            ) || breaks_connection(error)
        }
        None => is_busy(error) || breaks_connection(error),
    }
}

/// Whether PostgreSQL undid a transaction because of others: a serialization failure, a deadlock, or a lock that it did not
/// get in time. Nothing of it is stored, also where COMMIT failed so, and the same transaction may succeed later.
pub(crate) fn is_undone(error: &DbErr) -> bool {
    match database_code(error) {
        Some(DatabaseCode::Postgres(code)) => {
            matches!(code.as_str(), "40001" | "40P01" | "55P03")
        }
        Some(DatabaseCode::Sqlite(_)) | None => false,
    }
}

/// Whether a connection must not be used again after an error: its disk or its server failed, or another server has
/// taken over. None of it is the caller's mistake, and all of it passes.
pub(crate) fn breaks_connection(error: &DbErr) -> bool {
    match database_code(error) {
        // Out of memory, read only, disk I/O error, disk full, a file that cannot be opened, a race at the start of a log.
        Some(DatabaseCode::Sqlite(code)) => matches!(primary(code), 7 | 8 | 10 | 13 | 14 | 15),
        // A read-only server after a failover; full disks, memory; I/O errors; shutdowns; connections.
        Some(DatabaseCode::Postgres(code)) => {
            matches!(
                code.as_str(),
                "25006" | "25P04" | "53000" | "53100" | "53200" | "53400" | "58000" | "58030"
            ) || code.starts_with("57P")
                || code.starts_with("08")
        }
        None => match error {
            DbErr::Conn(_) => true,
            DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause)) => {
                matches!(
                    **cause,
                    sqlx::Error::Io(_)
                        | sqlx::Error::PoolClosed
                        | sqlx::Error::WorkerCrashed
                        | sqlx::Error::Protocol(_)
                        | sqlx::Error::BeginFailed
                        | sqlx::Error::InvalidSavePointStatement
                )
            }
            _ => false,
        },
    }
}

/// Whether the server closed the connection, so that another one may serve at once.
pub(crate) fn is_closed_by_server(error: &DbErr) -> bool {
    match database_code(error) {
        Some(DatabaseCode::Postgres(code)) => code.starts_with("57P") || code.starts_with("08"),
        Some(DatabaseCode::Sqlite(_)) => false,
        None => match error {
            DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause))
            | DbErr::Conn(RuntimeErr::SqlxError(cause)) => matches!(**cause, sqlx::Error::Io(_)),
            _ => false,
        },
    }
}

/// The result code of SQLite that an extended one refines.
fn primary(code: i32) -> i32 {
    code & 0xff
}
