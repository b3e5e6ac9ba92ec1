//! The program `nft` (`man 8 nft`, `man 5 libnftables-json`).
//!
//! A program, since the libraries for nftables are under the GPL. It runs once per change of a network, never for
//! a launch. It works in the network namespace of the calling thread.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Stdio};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::sys::lock::LOCK_TIMEOUT;
use crate::sys::{tool, wait};

/// The only one that changes docklet's tables in this network namespace, from looking to writing, for as long as this
/// is held, and as long as a program runs that was started by a holder who has died since.
pub(super) struct Turn(File);

impl Turn {
    /// Waits for it. The lock is on the network namespace itself (`man 7 namespaces`), that of the calling thread.
    pub(super) fn take() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        let file = File::open(path).map_err(|e| Error::os("open", path, e))?;
        let taken = wait::until_true(wait::deadline(LOCK_TIMEOUT), || {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(true),
                Err(Errno::WOULDBLOCK) => Ok(false),
                Err(error) => Err(Error::os("flock", path, error)),
            }
        })?;
        if taken {
            return Ok(Self(file));
        }
        let reason = format!("somebody else has been changing it for {LOCK_TIMEOUT:?}");
        Err(Error::Busy { what: "the firewall".to_owned(), reason })
    }

    /// Carries out `script` as one transaction: all or nothing.
    pub(super) fn transact(&self, script: &str) -> Result<()> {
        // A script prints nothing: the program has its part of the lock as its standard output.
        let lock = self.0.try_clone().map_err(|e| Error::os("dup", "the firewall's lock", e))?;
        run(&["-f", "-"], script.as_bytes(), Stdio::from(lock)).map(drop)
    }
}

/// The listing of the table `inet NAME`, or `None` if there is no such table.
pub(super) fn list_table(name: &str) -> Result<Option<Vec<u8>>> {
    match run(&["-j", "list", "table", "inet", name], b"", Stdio::piped()) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Command { stderr, .. }) if stderr.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The listing of all tables, without what is in sets.
pub(super) fn list_ruleset() -> Result<Vec<u8>> {
    run(&["-j", "-t", "list", "ruleset"], b"", Stdio::piped())
}

/// The objects of a listing, or why it cannot be read: `nft` 1.0.6 does not finish that of a table with flags.
pub(super) fn parse(listing: &[u8]) -> Result<Vec<Value>, String> {
    let mut listing: Value = serde_json::from_slice(listing).map_err(|e| e.to_string())?;
    match listing["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Err("no \"nftables\" in it".to_owned()),
    }
}

fn run(args: &[&str], input: &[u8], stdout: Stdio) -> Result<Vec<u8>> {
    let mut child = spawn(args, stdout)?;
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

fn spawn(args: &[&str], stdout: Stdio) -> Result<Child> {
    let mut command = tool::command("nft").ok_or_else(|| Error::Unsupported {
        what: "a firewall".to_owned(),
        needs: "the program `nft` is missing: install the package nftables".to_owned(),
    })?;
    command.args(args).stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
    command.spawn().map_err(|e| Error::os("execve", "nft", e))
}
