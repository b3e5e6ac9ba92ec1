//! What this host can do, and the remedy for what it cannot. `--json` prints it for programs.
//!
//! Exit status: 0 if containers with limits and networks can run here, 1 if not.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the person who runs it")]

use std::process::ExitCode;

use docklet::error::Chain;
use docklet::host::{Doctor, Finding};
use docklet::paths::Paths;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let json = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--json") => true,
        Some(_) => {
            eprintln!("usage: doctor [--json]");
            return ExitCode::from(2);
        }
    };
    let paths = match Paths::from_env() {
        Ok(paths) => paths,
        Err(error) => {
            eprintln!("doctor: {}", Chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let report = Doctor::examine(&paths).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&report).expect("plain data"));
    } else {
        for check in &report.checks {
            let mark = match check.finding {
                Finding::Good => "good",
                Finding::Limited => "limited",
                Finding::Missing => "MISSING",
            };
            println!("{mark:<8} {:<16} {}", check.subject, check.detail);
        }
    }
    if report.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
