//! The program `nft` (`man 8 nft`, `man 5 libnftables-json`).
//!
//! A program, since the libraries for nftables are under the GPL. It runs once per change of a network, never for
//! a launch that publishes nothing. It works in the network namespace of the calling thread.

use std::fs::File;
use std::io::{Seek, Write};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use rustix::io::Errno;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::sys::lock::LOCK_TIMEOUT;
use crate::sys::tool::{self, Limit};
use crate::sys::wait;

/// Killed, it has done all of a script or nothing: the kernel takes it as one message.
const LIMIT: Limit = Limit::Kill(Duration::from_secs(20));

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
        let mut command = command()?;
        command.args(["-f", "-"]).stdin(readable(script)?).stdout(lock);
        succeeded(tool::run(&mut command, LIMIT)?).map(drop)
    }
}

/// The listing of the table `inet NAME`, or `None` if there is no such table.
pub(super) fn list_table(name: &str) -> Result<Option<Vec<u8>>> {
    match list(&["-j", "list", "table", "inet", name]) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Command { stderr, .. }) if stderr.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The listing of all tables, without what is in sets.
pub(super) fn list_ruleset() -> Result<Vec<u8>> {
    list(&["-j", "-t", "list", "ruleset"])
}

/// The objects of a listing, or why it cannot be read: `nft` 1.0.6 does not finish that of a table with flags.
pub(super) fn parse(listing: &[u8]) -> Result<Vec<Value>, String> {
    let mut listing: Value = serde_json::from_slice(listing).map_err(|e| e.to_string())?;
    match listing["nftables"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Err("no \"nftables\" in it".to_owned()),
    }
}

fn list(args: &[&str]) -> Result<Vec<u8>> {
    succeeded(tool::output(command()?.args(args), LIMIT)?)
}

fn command() -> Result<Command> {
    tool::command("nft").ok_or_else(|| Error::Unsupported {
        what: "a firewall".to_owned(),
        needs: "the program `nft` is missing: install the package nftables".to_owned(),
    })
}

/// A file in memory, to be read from its beginning: unlike a pipe nobody has to write on while the program reads.
fn readable(text: &str) -> Result<Stdio> {
    let failed = |e| Error::os("write", "a script for nft", e);
    let memory = memfd_create("nft", MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.map_err(|e| Error::os("memfd_create", "a script for nft", e))?);
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(file.into())
}

/// What it printed, or why it failed.
fn succeeded(output: Output) -> Result<Vec<u8>> {
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
