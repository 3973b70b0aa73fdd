//! A proxy on loopback in front of `PostgreSQL` that loses the response to a COMMIT, or everything from it on.
//!
//! It parses the messages that it forwards, so it can lose the response after the commit is durable and before the
//! client receives it. It does not support TLS.

use std::{
    collections::HashSet,
    io::{self, BufReader, BufWriter, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Far above anything that the tests send; `PostgreSQL`'s own limit is a gigabyte.
const MAX_MESSAGE_BYTES: u64 = 64 * 1024 * 1024;
const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
const GSS_REQUEST: [u8; 4] = 80_877_104_u32.to_be_bytes();

/// A running proxy. Dropping it closes all its connections.
#[derive(Debug)]
pub(crate) struct PostgresProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    answers_to_lose: AtomicUsize,
    commits_to_drop: AtomicUsize,
    commits_lost: AtomicUsize,
    commits_to_silence: AtomicUsize,
    connections_to_silence: AtomicUsize,
    /// The number of COMMITs up to the one with which the database goes away; 0 if it stays.
    commits_until_away: AtomicUsize,
    away: AtomicBool,
    begins_to_hold: AtomicUsize,
    /// The number of BEGINs whose response is held, and whether they are released.
    held: Mutex<(usize, bool)>,
    held_changed: Condvar,
    stopped: AtomicBool,
    /// Both ends of each connection, to close them.
    links: Mutex<Vec<Link>>,
}

#[derive(Debug)]
struct Link {
    client: TcpStream,
    upstream: TcpStream,
    /// Whether everything on it is lost, although both ends are open.
    silent: Arc<AtomicBool>,
}

impl PostgresProxy {
    /// Listens on a free port and forwards everything to `upstream`.
    pub(crate) fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if accepting.away.load(Ordering::SeqCst) {
                    continue;
                }
                // The closed connection shows that the database cannot be reached.
                if let Err(error) = accept(client, upstream, &accepting) {
                    eprintln!("proxy to {upstream}: {error}");
                }
                if accepting.away.load(Ordering::SeqCst) {
                    accepting.close_all();
                }
            }
        });
        Ok(Self { address, shared })
    }

    /// The database's URL through this proxy.
    pub(crate) fn url(&self, database_url: &str) -> String {
        rewrite(database_url, self.address)
    }

    /// Loses the response to the next successful COMMIT on any connection, and closes that connection. Two calls apply
    /// to two commits.
    pub(crate) fn lose_next_commit_answer(&self) {
        self.shared.answers_to_lose.fetch_add(1, Ordering::SeqCst);
    }

    /// Drops the next COMMIT on any connection, and closes that connection, so that the transaction is rolled back. Two
    /// calls apply to two commits.
    pub(crate) fn drop_next_commit(&self) {
        self.shared.commits_to_drop.fetch_add(1, Ordering::SeqCst);
    }

    /// Forwards the next COMMIT on any connection and loses its response, without closing the connection.
    pub(crate) fn silence_after_next_commit(&self) {
        self.shared
            .commits_to_silence
            .fetch_add(1, Ordering::SeqCst);
    }

    /// Loses everything on the connection of the next COMMIT after its response: also the question whether the connection
    /// responds, which follows when it is returned to its pool.
    pub(crate) fn silence_when_next_returned(&self) {
        self.shared
            .connections_to_silence
            .fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a connection is still to be silenced that way.
    pub(crate) fn awaits_return(&self) -> bool {
        self.shared.connections_to_silence.load(Ordering::SeqCst) > 0
    }

    /// Loses the response to the last of so many successful COMMITs, closes all connections and ends new ones at once, until
    /// [`PostgresProxy::come_back`].
    pub(crate) fn go_away_with_commit(&self, number: usize) {
        self.shared
            .commits_until_away
            .store(number, Ordering::SeqCst);
    }

    /// Whether the database is away.
    pub(crate) fn is_away(&self) -> bool {
        self.shared.away.load(Ordering::SeqCst)
    }

    /// Forwards new connections again.
    pub(crate) fn come_back(&self) {
        self.shared.away.store(false, Ordering::SeqCst);
    }

    /// Holds the response to the next BEGIN on any connection until [`PostgresProxy::release_begin`].
    pub(crate) fn hold_next_begin(&self) {
        self.shared.begins_to_hold.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the response to a BEGIN is held.
    pub(crate) fn holds_begin(&self) -> bool {
        self.shared.held().0 > 0
    }

    /// Releases the responses that are held.
    pub(crate) fn release_begin(&self) {
        self.shared.held().1 = true;
        self.shared.held_changed.notify_all();
    }

    /// The number of COMMITs that got no response because of this proxy.
    pub(crate) fn commits_lost(&self) -> usize {
        self.shared.commits_lost.load(Ordering::SeqCst)
    }

    /// Loses everything on the connections that are open now, and closes none of them. New ones work.
    pub(crate) fn silence_connections(&self) {
        for link in self.shared.links().iter() {
            link.silent.store(true, Ordering::SeqCst);
        }
    }

    /// Closes all connections. New ones are accepted.
    pub(crate) fn close_connections(&self) {
        self.shared.close_all();
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it ends.
        drop(TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT));
        self.shared.close_all();
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Vec<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, (usize, bool)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the held responses are released.
    fn hold(&self) {
        let mut held = self.held();
        held.0 += 1;
        let released =
            self.held_changed
                .wait_timeout_while(held, CONNECT_TIMEOUT, |(_, is_released)| !*is_released);
        drop(released);
    }

    fn close_all(&self) {
        for link in self.links().drain(..) {
            link.close();
        }
    }

    /// Whether the database goes away with this commit.
    fn goes_away(&self) -> bool {
        let left = &self.commits_until_away;
        let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        if before != Ok(1) {
            return false;
        }
        self.commits_lost.fetch_add(1, Ordering::SeqCst);
        self.away.store(true, Ordering::SeqCst);
        self.close_all();
        true
    }

    /// Whether a fault applies to this commit. The count is increased before the connection is closed, so that it is
    /// visible by then.
    fn takes(&self, remaining: &AtomicUsize) -> bool {
        let takes = takes_one(remaining);
        if takes {
            self.commits_lost.fetch_add(1, Ordering::SeqCst);
        }
        takes
    }
}

impl Link {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            client: self.client.try_clone()?,
            upstream: self.upstream.try_clone()?,
            silent: Arc::clone(&self.silent),
        })
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }

    /// Ends the other direction too; on a silent connection the database does not learn that its client is gone.
    fn end(&self) {
        if !self.is_silent() {
            self.close();
        }
    }

    /// It may already be closed.
    fn close(&self) {
        drop(self.client.shutdown(Shutdown::Both));
        drop(self.upstream.shutdown(Shutdown::Both));
    }
}

fn accept(client: TcpStream, upstream: SocketAddr, shared: &Arc<Shared>) -> io::Result<()> {
    let upstream = TcpStream::connect_timeout(&upstream, CONNECT_TIMEOUT)?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let link = Link {
        client,
        upstream,
        silent: Arc::default(),
    };
    let (to_upstream, to_client) = (link.try_clone()?, link.try_clone()?);
    {
        let mut links = shared.links();
        links.retain(|link| link.client.peer_addr().is_ok());
        links.push(link);
    }
    let (asking, answering) = (Arc::clone(shared), Arc::clone(shared));
    // Each direction ends with an error or an end of file, and ends the other.
    thread::spawn(move || {
        drop(pass_questions(&to_upstream, &asking));
        to_upstream.end();
    });
    thread::spawn(move || {
        drop(pass_answers(&to_client, &answering));
        to_client.end();
    });
    Ok(())
}

/// Whether a fault applies now, which it then does once less.
fn takes_one(remaining: &AtomicUsize) -> bool {
    remaining
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |remaining| {
            remaining.checked_sub(1)
        })
        .is_ok()
}

/// From the client to the database.
fn pass_questions(link: &Link, shared: &Shared) -> io::Result<()> {
    let mut from = BufReader::new(&link.client);
    let mut to = BufWriter::new(&link.upstream);
    loop {
        let hello = read_body(&mut from)?;
        let wants = hello.get(4..8).unwrap_or_default();
        if wants != SSL_REQUEST && wants != GSS_REQUEST {
            to.write_all(&hello)?;
            to.flush()?;
            break;
        }
        // Encrypted messages could not be parsed.
        (&link.client).write_all(b"N")?;
    }
    let mut commits = HashSet::new();
    loop {
        let message = read_message(&mut from)?;
        if link.is_silent() {
            continue;
        }
        let is_commit = commits_now(&message, &mut commits);
        if is_commit && shared.takes(&shared.commits_to_drop) {
            link.close();
            return Ok(());
        }
        if is_commit && shared.takes(&shared.commits_to_silence) {
            // The response is lost.
            link.silent.store(true, Ordering::SeqCst);
        }
        pass(&message, &from, &mut to)?;
    }
}

/// From the database to the client.
fn pass_answers(link: &Link, shared: &Shared) -> io::Result<()> {
    let mut from = BufReader::new(&link.upstream);
    let mut to = BufWriter::new(&link.client);
    let mut is_last = false;
    loop {
        let message = read_message(&mut from)?;
        if link.is_silent() {
            continue;
        }
        // ReadyForQuery. Silent before the client can send anything else.
        if is_last && message.first() == Some(&b'Z') {
            link.silent.store(true, Ordering::SeqCst);
        }
        let begun = message.first() == Some(&b'C') && text_at(&message, 5) == b"BEGIN";
        if begun && takes_one(&shared.begins_to_hold) {
            shared.hold();
        }
        // CommandComplete. A COMMIT that failed has the tag ROLLBACK.
        let committed = message.first() == Some(&b'C') && text_at(&message, 5) == b"COMMIT";
        if committed && shared.goes_away() {
            return Ok(());
        }
        if committed && shared.takes(&shared.answers_to_lose) {
            link.close();
            return Ok(());
        }
        is_last |= committed && takes_one(&shared.connections_to_silence);
        pass(&message, &from, &mut to)?;
    }
}

/// Flushes if no further message is buffered.
fn pass<R: Read, W: Write>(message: &[u8], from: &BufReader<R>, to: &mut W) -> io::Result<()> {
    to.write_all(message)?;
    if from.buffer().is_empty() {
        to.flush()?;
    }
    Ok(())
}

/// A message: its kind, its length and its body.
fn read_message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    let mut message = kind.to_vec();
    message.extend(read_body(from)?);
    Ok(message)
}

/// A length, which includes itself, and the bytes after it.
fn read_body(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut body = length.to_vec();
    let rest = u64::from(u32::from_be_bytes(length)).saturating_sub(4);
    if rest > MAX_MESSAGE_BYTES {
        return Err(io::Error::other(format!("a message of {rest} bytes")));
    }
    let came = u64::try_from(from.take(rest).read_to_end(&mut body)?);
    if came != Ok(rest) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// Whether a message of the client is a COMMIT: a simple query (`Q`), or a binding (`B`) of a statement that was parsed
/// (`P`) as a COMMIT. `commits` contains the names of such statements.
fn commits_now(message: &[u8], commits: &mut HashSet<Vec<u8>>) -> bool {
    let first = text_at(message, 5);
    let second = text_at(message, first.len().saturating_add(6));
    match message.first() {
        Some(b'Q') => is_commit(first),
        Some(b'P') if is_commit(second) => {
            commits.insert(first.to_vec());
            false
        }
        Some(b'P') => {
            commits.remove(first);
            false
        }
        Some(b'B') => commits.contains(second),
        _ => false,
    }
}

/// Whether one of the statements is a COMMIT.
fn is_commit(statements: &[u8]) -> bool {
    let text = String::from_utf8_lossy(statements);
    let mut first_words = text
        .split(';')
        .filter_map(|statement| statement.split_whitespace().next());
    first_words.any(|word| word.eq_ignore_ascii_case("commit"))
}

/// The bytes from `start` up to the next zero.
fn text_at(message: &[u8], start: usize) -> &[u8] {
    let rest = message.get(start..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Puts another host and port into `postgres://user@host:port/name`.
fn rewrite(url: &str, address: SocketAddr) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let at = if user.is_some() { "@" } else { "" };
    format!("{scheme}://{}{at}{address}{path}", user.unwrap_or_default())
}

#[cfg(test)]
mod tests;
