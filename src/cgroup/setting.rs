//! One value for one interface file, and whether a file holds it (`Documentation/admin-guide/cgroup-v2.rst`).

use std::borrow::Cow;

use super::controller::{Controller, Version};
use super::cpu_set::CpuSet;
use super::limit::Limit;
use super::limits::ENDLESS_BYTES;

/// The kernel counts whole pages, of 64 KiB at most, and rounds a limit down.
const PAGE_MOST_BYTES: u64 = 64 << 10;

/// One value for one interface file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Whose file it is.
    pub controller: Controller,
    /// Which interface it belongs to: LXC's key is `lxc.cgroup.FILE` in v1 and `lxc.cgroup2.FILE` in v2.
    pub version: Version,
    /// The file's name in the group's directory: `memory.max`.
    pub file: Cow<'static, str>,
    /// What is written.
    pub value: String,
}

impl Setting {
    pub(super) fn new(
        controller: Controller,
        version: Version,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Self {
        Self { controller, version, file: file.into(), value: value.to_string() }
    }

    /// The file that tells what came of it: processors that are not there are taken, and not used.
    pub(super) fn read_file(&self) -> &str {
        match (self.controller, self.version) {
            (Controller::Cpuset, Version::V1) => "cpuset.effective_cpus",
            (Controller::Cpuset, Version::V2) => "cpuset.cpus.effective",
            _ => &self.file,
        }
    }

    /// Whether it holds for this group only, and not for those beneath it: in v1 the kernel throttles each group by itself.
    pub(super) fn is_flat(&self) -> bool {
        self.controller == Controller::Io && self.file.starts_with("blkio.throttle.")
    }

    /// Whether [`Setting::read_file`] with the content `found` is as it should be.
    pub(super) fn is_in(&self, found: &str) -> bool {
        let found = found.trim();
        match (self.controller, &*self.file) {
            (Controller::Memory, "memory.oom.group") => found == self.value,
            (Controller::Memory, _) => match (parse_limit(&self.value), parse_limit(found)) {
                (Some(Limit::At(asked)), Some(Limit::At(found))) => {
                    found <= asked && asked - found < PAGE_MOST_BYTES
                }
                (asked, found) => asked.is_some() && asked == found,
            },
            (Controller::Hugetlb, _) => {
                let asked = parse_limit(&self.value);
                asked.is_some() && asked == parse_limit(found)
            }
            (Controller::Cpuset, _) => found
                .parse::<CpuSet>()
                .is_ok_and(|found| Ok(found) == self.value.parse::<CpuSet>().map_err(drop)),
            (Controller::Io, "io.bfq.weight" | "blkio.bfq.weight") => {
                parse_weight(found) == parse_weight(&self.value)
            }
            (Controller::Io, _) => self.is_line_of(found),
            _ => found == self.value,
        }
    }

    /// Files with a line for each device. What is not limited is left out by the kernel.
    fn is_line_of(&self, found: &str) -> bool {
        let Some((device, asked)) = self.value.split_once(' ') else { return false };
        let line = found.lines().find_map(|line| line.strip_prefix(device)?.strip_prefix(' '));
        if self.version == Version::V1 {
            return line.unwrap_or("0") == asked;
        }
        let held: Vec<_> = line.unwrap_or_default().split(' ').collect();
        asked.split(' ').all(|pair| held.contains(&pair) || line.is_none() && pair.ends_with("=max"))
    }
}

/// A limit as either interface writes it.
pub(super) fn parse_limit(text: &str) -> Option<Limit> {
    match text.trim() {
        "max" | "-1" => Some(Limit::Max),
        number => {
            let value: u64 = number.parse().ok()?;
            Some(if value >= ENDLESS_BYTES { Limit::Max } else { Limit::At(value) })
        }
    }
}

/// BFQ's weight of a group: `100` in v1, `default 100` and lines for devices in v2.
pub(super) fn parse_weight(text: &str) -> Option<u64> {
    let line = text.lines().next()?.trim();
    line.strip_prefix("default ").unwrap_or(line).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_either_interface_prints_them() {
        for (text, expected) in [
            ("max\n", Some(Limit::Max)),
            ("-1\n", Some(Limit::Max)),
            ("9223372036854771712\n", Some(Limit::Max)),
            // Rounded to huge pages of 1 GiB.
            ("9223372035781033984\n", Some(Limit::Max)),
            ("134217728\n", Some(Limit::At(134_217_728))),
            ("0", Some(Limit::At(0))),
            ("", None),
            ("1 2", None),
        ] {
            assert_eq!(parse_limit(text), expected, "{text:?}");
        }
    }

    fn check(controller: Controller, version: Version, file: &'static str, cases: &[(&str, &str, bool)]) {
        for (asked, found, expected) in cases {
            let setting = Setting::new(controller, version, file, asked);
            assert_eq!(setting.is_in(found), *expected, "{file} {asked:?} {found:?}");
        }
    }

    #[test]
    fn memory_is_the_same_up_to_a_page() {
        let cases = [
            ("10000000", "9998336", true),
            ("10000000", "10000001", false),
            ("10000000", "9900000", false),
            ("max", "max", true),
            ("-1", "9223372036854771712", true),
            ("10000000", "max", false),
            ("10000000", "", false),
        ];
        check(Controller::Memory, Version::V2, "memory.max", &cases);
        check(
            Controller::Memory,
            Version::V2,
            "memory.oom.group",
            &[("1", "1\n", true), ("1", "0\n", false)],
        );
    }

    #[test]
    fn devices_have_lines_of_their_own() {
        let of_two =
            "7:3 rbps=max wbps=1048576 riops=max wiops=7\n7:33 rbps=9 wbps=max riops=max wiops=max\n";
        let cases = [
            ("7:3 wbps=1048576", of_two, true),
            ("7:3 wbps=1048576 wiops=7", of_two, true),
            ("7:3 rbps=max", of_two, true),
            ("7:3 rbps=9", of_two, false),
            ("7:33 rbps=9", of_two, true),
            ("7:4 rbps=max wiops=max", of_two, true),
            ("7:4 rbps=9", of_two, false),
            ("7:3 wbps=104857", of_two, false),
        ];
        check(Controller::Io, Version::V2, "io.max", &cases);
        let cases = [("7:3 5", "7:33 6\n7:3 5\n", true), ("7:3 6", "7:33 6\n", false), ("7:3 0", "", true)];
        check(Controller::Io, Version::V1, "blkio.throttle.read_bps_device", &cases);
        check(
            Controller::Io,
            Version::V1,
            "blkio.bfq.weight",
            &[("200", "200\n", true), ("200", "100\n", false)],
        );
        check(
            Controller::Io,
            Version::V2,
            "io.bfq.weight",
            &[("200", "default 200\n8:0 5\n", true), ("5", "", false)],
        );
    }

    #[test]
    fn processors_are_the_same_however_they_are_written() {
        let cases = [("0-1", "0,1\n", true), ("0-1", "0\n", false), ("0", "\n", false)];
        check(Controller::Cpuset, Version::V2, "cpuset.cpus", &cases);
    }
}
