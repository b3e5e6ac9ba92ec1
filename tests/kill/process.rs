//! Looking into other threads and processes through `/proc` (`man 5 proc`). What is gone by then is `None`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::ptrace::Tid;

/// The process that a thread belongs to.
pub(crate) fn process_of(tid: Tid) -> Option<Tid> {
    status_field(tid, "Tgid:")
}

/// The thread that traces `tid`; 0 for none.
pub(crate) fn tracer_of(tid: Tid) -> Option<Tid> {
    status_field(tid, "TracerPid:")
}

fn status_field(tid: Tid, name: &str) -> Option<Tid> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// What tells its process namespace from others.
pub(crate) fn pid_namespace(tid: Tid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{tid}/ns/pid")).ok()
}

/// The threads of a process.
pub(crate) fn threads(process: Tid) -> Vec<Tid> {
    numbers(&format!("/proc/{process}/task"))
}

/// Every process of this namespace and those below, but its init (the first) and this one.
pub(crate) fn others() -> Vec<Tid> {
    let own = Tid::try_from(std::process::id()).expect("pid");
    numbers("/proc").into_iter().filter(|pid| *pid != 1 && *pid != own).collect()
}

fn numbers(directory: &str) -> Vec<Tid> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// What a process is to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It is in none.
    Outside,
    /// Its init.
    First,
    /// It was started inside, by its init, or is gone: what such a process does is the container's business.
    Inner,
}

pub(crate) fn part(process: Tid) -> Part {
    let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) else { return Part::Inner };
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    // Its number in this namespace, then in the container's.
    match numbers.split_ascii_whitespace().nth(1) {
        None => Part::Outside,
        Some("1") => Part::First,
        Some(_) => Part::Inner,
    }
}

/// The command line, or the name of a process that has none (it is a zombie).
pub(crate) fn command(process: Tid) -> Option<String> {
    let line = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    if line.is_empty() {
        return Some(format!("[{}]", fs::read_to_string(format!("/proc/{process}/comm")).ok()?.trim()));
    }
    Some(String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " "))
}

/// What a file descriptor is: a path, or "socket:[1234]".
pub(crate) fn descriptor(tid: Tid, fd: u64) -> Option<String> {
    // A descriptor is an int; what is above its 32 bits is left over from another use of the register.
    let fd = fd & 0xffff_ffff;
    let target = fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// Up to `length` bytes of a thread's memory.
pub(crate) fn memory(tid: Tid, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let got = File::open(format!("/proc/{tid}/mem")).ok()?.read_at(&mut bytes, address).ok()?;
    bytes.truncate(got);
    Some(bytes)
}

/// A C string of a thread's memory, cut when it is long.
pub(crate) fn text(tid: Tid, address: u64) -> Option<String> {
    let mut bytes = memory(tid, address, 256)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// One 64-bit number of a thread's memory.
pub(crate) fn word(tid: Tid, address: u64) -> Option<u64> {
    let bytes = memory(tid, address, 8)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}
