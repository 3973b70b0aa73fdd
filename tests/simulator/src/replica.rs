//! One replica: the service in a runtime and a thread of its own, so that it can crash, freeze, and have a clock of its
//! own.

use std::{
    sync::mpsc as sync_mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use usage_server::{Listeners, clock::Clock, config::Config, serve};

use crate::world::text;

/// How long threads of a replica may take to end, in real time. The one that commits may wait for ever for a task that is
/// gone: it holds nothing and does nothing any more.
const ENDS_WITHIN: Duration = Duration::from_millis(200);

/// What the thread of a replica is told.
enum Order {
    /// Its timers move by so much, and its clock by so many milliseconds, at one moment.
    Advance(Duration, i64, oneshot::Sender<()>),
    /// It stands still until the sender is dropped.
    Freeze(sync_mpsc::Receiver<()>),
}

/// How a replica ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was killed.
    Killed,
    /// It was stopped, or it ended by itself.
    Served(Result<(), String>),
}

/// A running replica.
#[derive(Debug)]
pub(crate) struct Replica {
    orders: mpsc::UnboundedSender<Order>,
    kill: CancellationToken,
    shutdown: CancellationToken,
    ended: Option<oneshot::Receiver<End>>,
    thread: Option<JoinHandle<()>>,
    /// The end of a freeze.
    frozen: Option<sync_mpsc::Sender<()>>,
    /// What its timers have missed while it was frozen. Its clock does not miss any.
    missed: Duration,
    pub(crate) clock: Clock,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Advance(..) => "Advance",
            Self::Freeze(_) => "Freeze",
        })
    }
}

impl Replica {
    /// Starts it. It listens on the addresses of its configuration.
    pub(crate) fn start(config: Config, clock: Clock) -> Self {
        let (orders, taken) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let (kill, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let life = Life {
            config,
            clock: clock.clone(),
            kill: kill.clone(),
            shutdown: shutdown.clone(),
        };
        let thread = thread::Builder::new()
            .name("replica".to_owned())
            .spawn(move || {
                let _ = end.send(life.live(taken));
            });
        Self {
            orders,
            kill,
            shutdown,
            ended: Some(ended),
            thread: thread.ok(),
            frozen: None,
            missed: Duration::ZERO,
            clock,
        }
    }

    /// Moves its timers and its clock. A frozen one moves its timers when it goes on.
    pub(crate) async fn advance(&mut self, timers: Duration, clock_ms: i64) {
        if self.frozen.is_some() {
            self.missed += timers;
            self.clock.advance(clock_ms);
            return;
        }
        let (done, is_done) = oneshot::channel();
        if self
            .orders
            .send(Order::Advance(timers, clock_ms, done))
            .is_ok()
        {
            // It may have ended.
            let _ = is_done.await;
        }
    }

    pub(crate) fn freeze(&mut self) {
        let (sender, receiver) = sync_mpsc::channel();
        if self.orders.send(Order::Freeze(receiver)).is_ok() {
            self.frozen = Some(sender);
        }
    }

    pub(crate) async fn thaw(&mut self) {
        self.frozen = None;
        let missed = std::mem::take(&mut self.missed);
        self.advance(missed, 0).await;
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Begins to stop as on SIGTERM.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Ends as on SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.kill.cancel();
        self.frozen = None;
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<End> {
        let ended = self.ended.as_mut()?;
        match ended.try_recv() {
            Ok(end) => {
                self.ended = None;
                Some(end)
            }
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => {
                self.ended = None;
                Some(End::Served(Err("it panicked".to_owned())))
            }
        }
    }

    /// Waits for the thread, which has ended or is about to.
    pub(crate) async fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the thread of a replica does.
struct Life {
    config: Config,
    clock: Clock,
    kill: CancellationToken,
    shutdown: CancellationToken,
}

impl Life {
    fn live(self, mut orders: mpsc::UnboundedReceiver<Order>) -> End {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return End::Served(Err(error.to_string())),
        };
        // Keeps the runtime from moving its time by itself while threads of the database work.
        let (awake, asleep) = sync_mpsc::channel::<()>();
        let end = runtime.block_on(async {
            tokio::task::spawn_blocking(move || asleep.recv());
            let obeying = async {
                while let Some(order) = orders.recv().await {
                    match order {
                        Order::Advance(timers, clock_ms, done) => {
                            // No task runs in between.
                            self.clock.advance(clock_ms);
                            tokio::time::advance(timers).await;
                            let _ = done.send(());
                        }
                        Order::Freeze(until) => {
                            // Blocks all that it does.
                            let _ = until.recv();
                        }
                    }
                }
                std::future::pending::<()>().await;
            };
            let serving = tokio::spawn(bind_and_serve(self.config, self.clock.clone(), self.shutdown));
            tokio::select! {
                () = obeying => End::Killed,
                () = self.kill.cancelled() => End::Killed,
                served = serving => End::Served(served.unwrap_or_else(|error| Err(error.to_string()))),
            }
        });
        drop(awake);
        runtime.shutdown_timeout(ENDS_WITHIN);
        end
    }
}

async fn bind_and_serve(
    config: Config,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let listeners = Listeners::bind(&config.addresses).await;
    let listeners = listeners.map_err(text)?;
    let served = serve(listeners, config, clock, shutdown).await;
    served.map_err(text)
}
