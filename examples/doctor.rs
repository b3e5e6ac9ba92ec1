//! What this host can do, and the remedy for what it cannot. `--json` prints it for programs: `healthy`, and `checks` with
//! `subject`, `finding` (`good`, `limited`, `missing`), `detail`, and `remedy` where there is one.
//!
//! Exit status: 0 if containers with limits and networks can run here, 1 if not, 2 for wrong arguments. Where FS_PREFIX
//! cannot be used there is no report; with `--json` it is `{"error": …}` then.

#![allow(clippy::print_stderr, reason = "an example talks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;

use std::process::ExitCode;

use docklet::error::Chain;
use docklet::host::{Doctor, Finding};
use docklet::paths::Paths;

const USAGE: &str = "usage: doctor [--json]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let json = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--json") => true,
        Some("--help" | "-h") => {
            say!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!("doctor: unknown argument {other:?}; {USAGE}");
            return ExitCode::from(2);
        }
    };
    let paths = match Paths::from_env() {
        Ok(paths) => paths,
        Err(error) => {
            eprintln!("doctor: {}", Chain(&error));
            if json {
                say!("{:#}", serde_json::json!({ "error": Chain(&error).to_string() }));
            }
            return ExitCode::FAILURE;
        }
    };
    let report = Doctor::examine(&paths).await;
    if json {
        say!("{:#}", serde_json::json!({ "healthy": report.healthy(), "checks": report.checks }));
    } else {
        for check in &report.checks {
            let mark = match check.finding {
                Finding::Good => "good",
                Finding::Limited => "limited",
                Finding::Missing => "MISSING",
            };
            say!("{mark:<8} {:<16} {}", check.subject, check.detail);
        }
    }
    if report.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
