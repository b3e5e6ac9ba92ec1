//! Sits down in a running container: `shell -- NAME [COMMAND…]` runs a command (default: `/bin/sh`) on a terminal there that is
//! this one; `shell -- --user NAME …` as that user.
//!
//! Exit status: that of the command, or 255 if it was not run.

#![allow(clippy::print_stderr, reason = "an example talks to the person who runs it")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;

use docklet::error::Chain;
use docklet::host::Host;
use docklet::lxc::{Command, Terminal, TerminalSize};
use docklet::paths::Paths;
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: shell [--user NAME] CONTAINER [COMMAND…]";

#[tokio::main]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("shell: {}", Chain(error.as_ref()));
            ExitCode::from(255)
        }
    }
}

async fn run(mut args: Vec<String>) -> Result<u8, Box<dyn Error>> {
    let user = match args.first().map(String::as_str) {
        Some("--user") if args.len() > 1 => args.drain(..2).nth(1),
        _ => None,
    };
    if args.is_empty() || args[0].starts_with('-') {
        return Err(USAGE.into());
    }
    let name = args.remove(0).parse()?;
    let argv = if args.is_empty() { vec!["/bin/sh".to_owned()] } else { args };
    let host = Host::open(Paths::from_env()?).await?;
    let runtime = host.runtime(&name)?;
    let mut command =
        Command { terminal: Some(size()?), user: user.as_deref().map(Into::into), ..Command::new(argv) };
    command.environment.extend(std::env::var("TERM").map(|term| ("TERM".to_owned(), term)));
    let mut child = runtime.spawn(&command)?;
    let terminal: &'static Terminal = Box::leak(Box::new(child.terminal.take().expect("it was asked for")));

    let mut resized = signal(SignalKind::window_change())?;
    let resizing = tokio::spawn(async move {
        while resized.recv().await.is_some() {
            // A size that cannot be told is not worth the end of a session.
            let _ = size().and_then(|size| Ok(terminal.resize(size)?));
        }
    });
    let before = tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
    // It ends with the program: nobody types any more.
    thread::spawn(move || copy(io::stdin().lock(), terminal));
    let printing = thread::spawn(move || copy(terminal, io::stdout().lock()));
    let status = tokio::task::spawn_blocking(move || child.wait()).await?;
    let _ = printing.join();
    resizing.abort();
    tcsetattr(io::stdin(), OptionalActions::Now, &before)?;
    Ok(status?.code().unwrap_or(255))
}

fn size() -> Result<TerminalSize, Box<dyn Error>> {
    let size = tcgetwinsize(io::stdin()).map_err(|_| "standard input must be a terminal")?;
    Ok(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// Copies what comes at once: nobody waits for a full buffer at a terminal.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..length]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
