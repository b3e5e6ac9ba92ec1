//! What went to and from a device (`io.stat`, v1 `blkio.throttle.io_service_bytes_recursive` and `io_serviced_recursive`).

use std::collections::BTreeMap;

use serde::Serialize;

/// What the processes of a group read from and wrote to one device, as far as the device saw it: what the page cache answers is not
/// in it. Control groups v1 count little but what is being held back by a limit with Linux 5.16 to 6.2 (measured on 6.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IoUsage {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub read_operations: u64,
    /// Writes.
    pub write_operations: u64,
}

impl IoUsage {
    /// `7:3 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
    pub(super) fn parse_v2(text: &str) -> BTreeMap<String, Self> {
        let mut devices = BTreeMap::new();
        for (device, pairs) in text.lines().filter_map(|line| line.split_once(' ')) {
            let mut usage = Self::default();
            for (key, value) in pairs.split(' ').filter_map(|pair| pair.split_once('=')) {
                let field = match key {
                    "rbytes" => &mut usage.read_bytes,
                    "wbytes" => &mut usage.write_bytes,
                    "rios" => &mut usage.read_operations,
                    "wios" => &mut usage.write_operations,
                    _ => continue,
                };
                *field = value.parse().unwrap_or(0);
            }
            devices.insert(device.to_owned(), usage);
        }
        devices
    }

    /// `7:3 Read 4096` in one file for bytes and in one for operations, and a line `Total 4096` at the end.
    pub(super) fn parse_v1(bytes: &str, operations: &str) -> BTreeMap<String, Self> {
        let mut devices = BTreeMap::<String, Self>::new();
        for (text, is_bytes) in [(bytes, true), (operations, false)] {
            for line in text.lines() {
                let [device, word, value] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
                let usage = devices.entry(device.to_owned()).or_default();
                let field = match (word, is_bytes) {
                    ("Read", true) => &mut usage.read_bytes,
                    ("Write", true) => &mut usage.write_bytes,
                    ("Read", false) => &mut usage.read_operations,
                    ("Write", false) => &mut usage.write_operations,
                    _ => continue,
                };
                *field = value.parse().unwrap_or(0);
            }
        }
        devices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let expected = BTreeMap::from([
            (
                "254:0".to_owned(),
                IoUsage { read_bytes: 4096, write_bytes: 8192, read_operations: 1, write_operations: 2 },
            ),
            ("7:3".to_owned(), IoUsage { write_bytes: 512, write_operations: 1, ..IoUsage::default() }),
        ]);
        let v2 = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n\
                  7:3 rbytes=0 wbytes=512 rios=0 wios=1 dbytes=0 dios=0\n";
        assert_eq!(IoUsage::parse_v2(v2), expected);
        let lines = |read, write, other| {
            format!(
                "254:0 Read {read}\n254:0 Write {write}\n254:0 Sync 9\n254:0 Total 9\n7:3 Read 0\n7:3 Write {other}\nTotal 9\n"
            )
        };
        assert_eq!(IoUsage::parse_v1(&lines(4096, 8192, 512), &lines(1, 2, 1)), expected);
        assert_eq!(IoUsage::parse_v1("Total 0\n", "Total 0\n"), BTreeMap::new());
    }
}
