//! Which kernel this is (`man 2 uname`), since when it runs, and what memory it has (`man 5 proc_meminfo`).

use std::path::Path;
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::sys::file;

/// Major and minor number of a release: of "6.1.0-18-amd64" they are 6 and 1.
pub(crate) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The name of this boot: another after each reboot. Read once: no process outlives its boot, and a list of containers asks for
/// each.
pub(crate) fn boot_id() -> Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id);
    }
    let id = file::read(Path::new("/proc/sys/kernel/random/boot_id"))?.trim().to_owned();
    Ok(BOOT_ID.get_or_init(|| id))
}

/// How many bytes of memory programs can still take, without swap.
pub(crate) fn available_memory() -> Result<u64> {
    let path = "/proc/meminfo";
    let text = file::read(Path::new(path))?;
    parse_available(&text)
        .ok_or_else(|| Error::os("read", path, std::io::Error::other("there is no line `MemAvailable`")))
}

fn parse_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       24684568 kB\nMemAvailable:   22838328 kB\nSwapFree: 0 kB\n";
        assert_eq!(parse_available(text), Some(22_838_328 << 10));
        assert_eq!(parse_available("MemTotal: 1 kB\n"), None);
        assert!(available_memory().unwrap() > 0);
    }

    #[test]
    fn releases_are_read() {
        for (release, expected) in [
            ("6.1.0-28-amd64", Some((6, 1))),
            ("5.10.0", Some((5, 10))),
            ("6.18.44-rc1+", Some((6, 18))),
            ("x", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
