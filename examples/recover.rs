//! Makes the host agree with what is written down: what to run once after each boot. `--watch` goes on, and starts
//! containers again that end.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the person who runs it")]

use std::process::ExitCode;

use docklet::Result;
use docklet::error::Chain;
use docklet::host::{Host, Recovered};
use docklet::paths::Paths;

#[tokio::main]
async fn main() -> ExitCode {
    let watch = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--watch") => true,
        Some(_) => {
            eprintln!("usage: recover [--watch]");
            return ExitCode::from(2);
        }
    };
    match run(watch).await {
        Ok(report) if report.complete() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("recover: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(watch: bool) -> Result<Recovered> {
    let host = Host::open(Paths::from_env()?).await?;
    let report = host.recover().await?;
    println!("{}", serde_json::to_string_pretty(&report).expect("plain data"));
    if watch {
        host.supervise(std::future::pending()).await?;
    }
    Ok(report)
}
