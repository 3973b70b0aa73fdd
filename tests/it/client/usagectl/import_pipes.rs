//! `usagectl import` from a pipe, and imports that are stopped.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Cursor, Read},
    process::Command,
    sync::mpsc,
    thread,
};

use tokio::sync::oneshot;

use crate::support::{
    flaky_server::{Behavior, FlakyServer},
    world::{World, hours_ago, on_both_engines, within},
};

use super::{Ran, import::Usage, usagectl, usagectl_with};

on_both_engines!(
    a_pipe_is_imported,
    a_pipe_without_ids_needs_a_name,
    lines_of_a_slow_pipe_are_counted_before_it_ends,
    a_stopped_import_says_what_it_left_and_goes_on,
    a_stopped_dry_run_and_an_endless_line_end_at_once,
);

/// A pipe that is written to during the test.
struct Fed {
    parts: mpsc::Receiver<String>,
    rest: Cursor<Vec<u8>>,
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.rest.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            match self.parts.recv() {
                Ok(part) => self.rest = Cursor::new(part.into_bytes()),
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
    }
}

fn pipe() -> (mpsc::Sender<String>, Fed) {
    let (sender, parts) = mpsc::channel();
    let rest = Cursor::new(Vec::new());
    (sender, Fed { parts, rest })
}

/// What ends a command as Ctrl-C does.
fn interrupt() -> (
    oneshot::Sender<()>,
    impl Future<Output = u8> + Send + 'static,
) {
    let (sender, receiver) = oneshot::channel::<()>();
    let stop = async move {
        match receiver.await {
            Ok(()) => 130,
            Err(_) => std::future::pending().await,
        }
    };
    (sender, stop)
}

async fn import(world: &World, text: &str, args: &[&str]) -> Ran {
    let input = Cursor::new(text.to_owned().into_bytes());
    let args = [&["import", "-"], args].concat();
    usagectl_with(world.endpoint(), &args, input, std::future::pending()).await
}

fn with_ids(from: usize, to: usize) -> String {
    let at = hours_ago(5).to_rfc3339();
    let mut lines = String::new();
    for id in from..to {
        writeln!(lines, "e{id},a,1,{at}").unwrap();
    }
    lines
}

const HEADER: &str = "id,account_id,quantity,timestamp\n";

async fn a_pipe_is_imported(world: World) {
    let text = format!("{HEADER}{}", with_ids(0, 1_500));
    let json = format!(
        "\n{{\"id\":\"e7\",\"account_id\":\"a\",\"quantity\":1,\"timestamp\":\"{}\"}}\n",
        hours_ago(5).to_rfc3339()
    );
    for (text, out) in [
        (
            &text,
            "1,500 lines counted (1,500 units), 0 had been counted before, 0 bad\n",
        ),
        (
            &text,
            "0 lines counted (0 units), 1,500 had been counted before, 0 bad\n",
        ),
        (
            &json,
            "0 lines counted (0 units), 1 had been counted before, 0 bad\n",
        ),
    ] {
        let ran = import(&world, text, &[]).await;
        assert_eq!((ran.code, &*ran.out, &*ran.err), (0, out, ""));
    }
    // A named pipe.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    let (to, text) = (path.clone(), format!("{HEADER}{}", with_ids(1_400, 1_600)));
    let writer = thread::spawn(move || fs::write(to, text));
    let ran = usagectl(world.endpoint(), &["import", path.to_str().unwrap()]).await;
    assert_eq!(
        ran.out,
        "100 lines counted (100 units), 100 had been counted before, 0 bad\n"
    );
    writer.join().unwrap().unwrap();
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no progress is stored"
    );

    let progress = folder.path().join("progress");
    let args = ["--progress-file", progress.to_str().unwrap()];
    let ran = import(&world, HEADER, &args).await;
    assert_eq!(ran.code, 2, "{}", ran.err);
    let ran = usagectl(
        world.endpoint(),
        &["import", folder.path().to_str().unwrap()],
    )
    .await;
    assert!(ran.err.contains("this is a folder"), "{}", ran.err);
    assert_eq!(world.usage("a").await.0, 1_600);
    world.finish().await;
}

async fn a_pipe_without_ids_needs_a_name(world: World) {
    let at = hours_ago(5).to_rfc3339();
    let csv = format!("account_id,timestamp\na,{at}\na,{at}\n");
    let json = format!("{{\"account_id\":\"a\",\"timestamp\":\"{at}\"}}\n");
    for text in [&csv, &json] {
        let ran = import(&world, text, &[]).await;
        assert_eq!((ran.code, &*ran.out), (2, ""), "{}", ran.err);
        assert!(ran.err.contains("set --name"), "{}", ran.err);
    }
    assert_eq!(world.usage("a").await.0, 0);
    for (name, out) in [
        ("monday", "2 lines counted (2 units), 0 had"),
        ("monday", "0 lines counted (0 units), 2 had"),
        ("tuesday", "2 lines counted (2 units), 0 had"),
    ] {
        let ran = import(&world, &csv, &["--name", name]).await;
        assert!(ran.out.starts_with(out), "{}", ran.out);
    }
    assert_eq!(world.usage("a").await.0, 4);
    world.finish().await;
}

async fn lines_of_a_slow_pipe_are_counted_before_it_ends(world: World) {
    let (feed, input) = pipe();
    let (interrupt, stop) = interrupt();
    let args = ["import", "-"];
    let steps = async {
        feed.send(format!("{HEADER}{}", with_ids(0, 3))).unwrap();
        world
            .wait_until("the first lines", || async {
                world.usage("a").await.0 == 3
            })
            .await;
        feed.send(with_ids(3, 5)).unwrap();
        world
            .wait_until("more lines", || async { world.usage("a").await.0 == 5 })
            .await;
        // The start of a line is not a line.
        feed.send("e9,a,1".to_owned()).unwrap();
        interrupt.send(()).unwrap();
    };
    let (ran, ()) = within("the end of the import", async {
        tokio::join!(usagectl_with(world.endpoint(), &args, input, stop), steps)
    })
    .await;
    assert_eq!(ran.code, 130, "{}", ran.err);
    // The server has counted them. Its last answer may still be on its way when the import is stopped.
    let summary = |lines: u64| {
        format!("{lines} lines counted ({lines} units), 0 had been counted before, 0 bad\n")
    };
    let is_answered = ran.out == summary(5);
    let is_told = ran.out == summary(3) && ran.err.contains("2 more, up to line 6, were sent");
    assert!(is_answered || is_told, "{}{}", ran.out, ran.err);
    assert!(ran.err.starts_with("stopped after line "), "{}", ran.err);
    assert!(
        ran.err.contains(
            "Import the same input again with the same options to continue; nothing is counted"
        ),
        "{}",
        ran.err
    );
    assert_eq!(world.usage("a").await.0, 5);
    world.finish().await;
}

async fn a_stopped_import_says_what_it_left_and_goes_on(world: World) {
    let file = Usage::new("usage.csv", &super::import::csv(2_500));
    // The second batch is counted, and its response does not come.
    let behaviors = [Behavior::Normal, Behavior::RespondsTooLate];
    let server = FlakyServer::start(world.endpoint(), behaviors).await;
    let (interrupt, stop) = interrupt();
    let path = file.path();
    let args = ["import", path.to_str().unwrap()];
    let steps = async {
        world
            .wait_until("two batches", || async {
                super::import::counted(&world).await == 2_000
            })
            .await;
        interrupt.send(()).unwrap();
    };
    let (ran, ()) = within("the end of the import", async {
        tokio::join!(
            usagectl_with(server.endpoint(), &args, io::empty(), stop),
            steps
        )
    })
    .await;
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert_eq!(
        ran.err,
        "stopped after line 1001: 1,000 lines were counted. 1000 more, up to line 2001, were sent without an answer \
         and may be counted as well. Import the file again with the same options to continue; nothing is counted \
         twice.\n"
    );
    assert!(
        ran.out.starts_with("1,000 lines counted (1,000 units)"),
        "{}",
        ran.out
    );
    let ran = file.import(world.endpoint(), &[]).await;
    assert_eq!((ran.code, &*ran.err), (0, "going on after line 1001\n"));
    assert_eq!(
        ran.out,
        "1,500 lines counted (1,500 units), 1,000 had been counted before, 0 bad\n"
    );
    assert_eq!(super::import::counted(&world).await, 2_500);
    assert!(file.is_alone());
    world.finish().await;
}

async fn a_stopped_dry_run_and_an_endless_line_end_at_once(world: World) {
    // Nothing comes from this pipe, or a line without an end.
    let (_feed, silent) = pipe();
    for input in [
        Box::new(silent) as Box<dyn Read + Send>,
        Box::new(io::repeat(b'x')),
    ] {
        let (interrupt, stop) = interrupt();
        let args = ["import", "-", "--dry-run"];
        let importing = usagectl_with(world.endpoint(), &args, input, stop);
        let steps = async { interrupt.send(()).unwrap() };
        let (ran, ()) = within("the end of the import", async {
            tokio::join!(importing, steps)
        })
        .await;
        assert_eq!(ran.code, 130, "{}", ran.err);
        assert!(
            ran.err.contains("Nothing was counted: this was a dry run."),
            "{}",
            ran.err
        );
    }
    assert_eq!(world.usage("a").await.0, 0);
    world.finish().await;
}
