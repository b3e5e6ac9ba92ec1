//! The program `nft` (`man 8 nft`, `man 5 libnftables-json`).
//!
//! A program, since the libraries for nftables are under the GPL. It runs once per change of a network, never for
//! a launch. It works in the network namespace of the calling thread.

use std::io::Write;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::sys::tool;

/// Carries out `script` as one transaction: all or nothing.
pub(super) fn transact(script: &str) -> Result<()> {
    run(&["-f", "-"], script.as_bytes()).map(drop)
}

/// The listing of the table `inet NAME`, or `None` if there is no such table.
pub(super) fn list_table(name: &str) -> Result<Option<Vec<u8>>> {
    match run(&["-j", "list", "table", "inet", name], b"") {
        Ok(text) => Ok(Some(text)),
        Err(Error::Command { stderr, .. }) if stderr.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The listing of all tables, without what is in sets.
pub(super) fn list_ruleset() -> Result<Vec<u8>> {
    run(&["-j", "-t", "list", "ruleset"], b"")
}

/// The objects of a listing, or why it cannot be read: `nft` 1.0.6 does not finish that of a table with flags.
pub(super) fn parse(listing: &[u8]) -> Result<Vec<Value>, String> {
    let mut listing: Value = serde_json::from_slice(listing).map_err(|e| e.to_string())?;
    match listing["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Err("no \"nftables\" in it".to_owned()),
    }
}

fn run(args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = spawn(args)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why; that it did not read everything adds nothing.
        drop(stdin.write_all(input));
    }
    let output = child.wait_with_output().map_err(|e| Error::os("wait", "nft", e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    // The first line is the reason; the others repeat the script.
    let reason = stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("it gave no reason");
    Err(Error::Command {
        program: "nft".to_owned(),
        status: output.status.to_string(),
        stderr: reason.to_owned(),
    })
}

fn spawn(args: &[&str]) -> Result<Child> {
    let mut command = tool::command("nft").ok_or_else(|| Error::Unsupported {
        what: "a firewall".to_owned(),
        needs: "the program `nft` is missing: install the package nftables".to_owned(),
    })?;
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|e| Error::os("execve", "nft", e))
}
