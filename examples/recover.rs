//! Makes the host agree with what is written down: what to run once after each boot. Prints what it did, as JSON.
//! `--watch` goes on, and starts containers again that end, as their policies say, until Ctrl-C or SIGTERM; it leaves them
//! running. `dist/docklet.service` runs it under systemd.
//!
//! Exit status: 0 if everything is as it should be now, 1 if not, 2 for wrong arguments.

#![allow(clippy::print_stderr, reason = "an example talks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;

use std::process::ExitCode;

use docklet::error::Chain;
use docklet::host::{Host, Outcome, Recovered};
use docklet::paths::Paths;
use docklet::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: recover [--watch]";

#[tokio::main]
async fn main() -> ExitCode {
    let watch = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--watch") => true,
        Some("--help" | "-h") => {
            say!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!("recover: unknown argument {other:?}; {USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(watch).await {
        Ok(report) if report.complete() => ExitCode::SUCCESS,
        Ok(report) => {
            let failed = |(name, outcome): &_| match outcome {
                Outcome::Failed(reason) => Some(format!("container `{name}`: {reason}")),
                _ => None,
            };
            for failure in report.containers.iter().filter_map(failed).chain(report.failures.clone()) {
                eprintln!("recover: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("recover: {}", Chain(&error));
            say!("{:#}", serde_json::json!({ "error": Chain(&error).to_string() }));
            ExitCode::FAILURE
        }
    }
}

async fn run(watch: bool) -> Result<Recovered> {
    let host = Host::open(Paths::from_env()?).await?;
    let report = host.recover().await?;
    say!("{}", serde_json::to_string_pretty(&report).expect("plain data"));
    if watch {
        let mut terminated = signal(SignalKind::terminate()).map_err(|source| Error::Os {
            call: "sigaction",
            target: "SIGTERM".to_owned(),
            source,
        })?;
        let asked = async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
        };
        host.supervise(asked).await?;
    }
    Ok(report)
}
