//! A proxy on loopback between the service and its database. It can be put before another server, and it can cut
//! connections, delay, half-close and swallow what they carry.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

const BUFFER_BYTES: usize = 16 * 1024;

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkFault {
    Nothing,
    /// Open connections end, and new ones too.
    Cut,
    /// Whatever passes is late.
    Delay(Duration),
    /// The database's end of each open connection is closed, and the other end stays open. New ones work.
    HalfClose,
    /// Everything on open and on new connections is lost, also after this has ended. None is closed.
    Swallow,
}

#[derive(Clone, Copy, Debug)]
struct State {
    target: SocketAddr,
    fault: LinkFault,
    /// How often connections were cut.
    cuts: u64,
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    state: watch::Sender<State>,
    /// The connections that a fault has met.
    met: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Relay {
    /// Starts in front of a server.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (state, states) = watch::channel(State {
            target,
            fault: LinkFault::Nothing,
            cuts: 0,
        });
        let met = Arc::<AtomicUsize>::default();
        let serving = tokio::spawn(serve(listener, states, Arc::clone(&met)));
        Self {
            address,
            state,
            met,
            serving,
        }
    }

    /// The URL of a database through this proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        let (_, name) = url.rsplit_once('/').expect("a name");
        format!("postgres://usage@{}/{name}", self.address)
    }

    /// Connects to another server from now on, and cuts what is open.
    pub(crate) fn switch_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| {
            state.target = target;
            state.cuts += 1;
        });
    }

    /// Begins a fault, or ends it.
    pub(crate) fn set(&self, fault: LinkFault) {
        self.state.send_modify(|state| {
            state.fault = fault;
            state.cuts += u64::from(fault == LinkFault::Cut);
        });
    }

    /// How often a fault has met a connection.
    pub(crate) fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, states: watch::Receiver<State>, met: Arc<AtomicUsize>) {
    while let Ok((client, _)) = listener.accept().await {
        let mut states = states.clone();
        let state = *states.borrow_and_update();
        if state.fault == LinkFault::Cut {
            met.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let met = Arc::clone(&met);
        tokio::spawn(async move {
            // The closed connection shows that the database cannot be reached.
            let Ok(server) = TcpStream::connect(state.target).await else {
                return;
            };
            drop(client.set_nodelay(true));
            drop(server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let asking = Direction::new(&states, &met, false);
            let answering = Direction::new(&states, &met, true);
            tokio::join!(
                asking.carry(from_client, to_server),
                answering.carry(from_server, to_client)
            );
        });
    }
}

/// One direction of a connection.
struct Direction {
    states: watch::Receiver<State>,
    met: Arc<AtomicUsize>,
    /// From the database.
    is_answer: bool,
    cuts: u64,
    /// Whether the rest is lost.
    is_lost: bool,
}

impl Direction {
    fn new(states: &watch::Receiver<State>, met: &Arc<AtomicUsize>, is_answer: bool) -> Self {
        let mut states = states.clone();
        let state = *states.borrow_and_update();
        Self {
            states,
            met: Arc::clone(met),
            is_answer,
            cuts: state.cuts,
            is_lost: state.fault == LinkFault::Swallow,
        }
    }

    /// Carries bytes until an end is closed.
    async fn carry(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read.unwrap_or(0),
                changed = self.states.changed() => {
                    if changed.is_err() || self.is_cut(&mut to).await {
                        return;
                    }
                    continue;
                }
            };
            if read == 0 {
                return;
            }
            let fault = self.states.borrow().fault;
            if let LinkFault::Delay(by) = fault {
                self.meet();
                tokio::time::sleep(by).await;
            }
            if self.is_lost {
                self.meet();
            } else if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    fn meet(&self) {
        self.met.fetch_add(1, Ordering::SeqCst);
    }

    /// Reads a new fault. Whether it ends the connection.
    async fn is_cut(&mut self, to: &mut OwnedWriteHalf) -> bool {
        let state = *self.states.borrow_and_update();
        if state.cuts != self.cuts {
            self.meet();
            return true;
        }
        match state.fault {
            LinkFault::HalfClose if self.is_answer => {
                self.meet();
                self.is_lost = true;
                // It may be closed.
                drop(to.shutdown().await);
            }
            LinkFault::Swallow => self.is_lost = true,
            _ => {}
        }
        false
    }
}
