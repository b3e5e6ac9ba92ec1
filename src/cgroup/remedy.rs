//! What is missing when a limit cannot be enforced, and how this very host gets it.
//!
//! See the kernel's `Documentation/admin-guide/kernel-parameters.txt`. `cgroup_enable=memory` is what Debian's and
//! Raspberry Pi's kernels understand. Swap accounting of v1: up to 5.7 the build decides (`swapaccount=1` turns it on),
//! from 5.8 on it is there unless `swapaccount=0` stands in the boot line, and since 6.1 the parameter does nothing.

use std::ffi::OsString;
use std::path::Path;

use super::controller::{Controller, Version};
use super::cpu_set::CpuSet;
use super::hierarchy::{Hierarchies, Layout};
use super::huge_page::HugePageSize;
use crate::error::{Error, Result};
use crate::sys::{directory, file, kernel};

/// How a boot parameter is changed on Debian. The seed of many a mistake: of two such lines the last one wins.
const BOOT_LINE: &str = "the existing GRUB_CMDLINE_LINUX line in /etc/default/grub (edit that line, do not append \
                         a second one: the last one wins), run update-grub, reboot";

/// The version that serves `controller`.
///
/// # Errors
/// [`Error::Unsupported`] with the remedy if it is off.
pub(super) fn require(hierarchies: &Hierarchies, controller: Controller) -> Result<Version> {
    match hierarchies.serving(controller) {
        Some(hierarchy) => Ok(hierarchy.version),
        None => {
            Err(unsupported(format!("the {controller} limit"), missing_controller(hierarchies, controller)))
        }
    }
}

/// The version that serves CPU quotas.
pub(super) fn require_cpu_quota(hierarchies: &Hierarchies) -> Result<Version> {
    let version = require(hierarchies, Controller::Cpu)?;
    if hierarchies.probe().quota_file == Some(false) {
        return Err(no_cpu_quota());
    }
    Ok(version)
}

/// The version that serves swap limits, or `None` if there can be no swap to limit.
pub(super) fn require_swap(hierarchies: &Hierarchies) -> Result<Option<Version>> {
    let version = require(hierarchies, Controller::Memory)?;
    let probe = hierarchies.probe();
    let off = match probe.swap_file {
        Some(there) => !there,
        // No group to look at yet: what this kernel does with this boot line.
        None => match kernel::version(&probe.kernel_release) {
            Some(kernel) if kernel >= (6, 1) => !probe.can_swap,
            Some(kernel) if kernel >= (5, 8) => {
                !probe.can_swap || has_word(&probe.boot_parameters, "swapaccount=0")
            }
            _ => !has_word(&probe.boot_parameters, "swapaccount=1"),
        },
    };
    match (off, probe.can_swap) {
        (false, _) => Ok(Some(version)),
        (true, false) => Ok(None),
        (true, true) => Err(no_swap_accounting(hierarchies)),
    }
}

/// Whether a CPU burst can be set.
///
/// # Errors
/// [`Error::Unsupported`] if it cannot, and is `wanted`.
pub(super) fn has_cpu_burst(hierarchies: &Hierarchies, wanted: bool) -> Result<bool> {
    let probe = hierarchies.probe();
    let there = probe
        .burst_file
        .unwrap_or_else(|| kernel::version(&probe.kernel_release).is_some_and(|kernel| kernel >= (5, 14)));
    if wanted && !there {
        let needs = "it takes Linux 5.14 or newer (cpu.max.burst, cpu.cfs_burst_us)".to_owned();
        return Err(unsupported("the cpu burst".to_owned(), needs));
    }
    Ok(there)
}

/// Checks that `controller` is in v2, for a file that only v2 has.
pub(super) fn require_v2(
    hierarchies: &Hierarchies,
    controller: Controller,
    file: &str,
    instead: &str,
) -> Result<()> {
    match require(hierarchies, controller)? {
        Version::V2 => Ok(()),
        Version::V1 => Err(unsupported(
            format!("{file}, which only control groups v2 have,"),
            format!(
                "{instead}; add systemd.unified_cgroup_hierarchy=1 cgroup_no_v1={controller} to {BOOT_LINE}"
            ),
        )),
    }
}

/// Checks that the processors are online.
pub(super) fn require_online(hierarchies: &Hierarchies, cpus: &CpuSet) -> Result<()> {
    match hierarchies.online_cpus() {
        Some(online) if !cpus.is_subset(&online) => {
            Err(Error::invalid("processors", cpus.to_string(), format!("of this host {online} are online")))
        }
        _ => Ok(()),
    }
}

/// The version that limits huge pages of this size.
pub(super) fn require_huge_pages(hierarchies: &Hierarchies, size: HugePageSize) -> Result<Version> {
    if has_word(&hierarchies.probe().huge_pages, &size.directory()) {
        return require(hierarchies, Controller::Hugetlb);
    }
    let names = hierarchies.probe().huge_pages.split_whitespace();
    let sizes: Vec<_> = names.filter_map(HugePageSize::from_directory).map(|size| size.to_string()).collect();
    let needs = match sizes.as_slice() {
        [] => "this kernel has no huge pages: it needs CONFIG_HUGETLBFS=y".to_owned(),
        sizes => format!("this machine has huge pages of {}", sizes.join(" and ")),
    };
    Err(unsupported(format!("the limit of huge pages of {size}"), needs))
}

/// Checks that a weight of input and output has an effect on some disk now.
pub(super) fn require_io_weight() -> Result<()> {
    let disks = directory::entries(Path::new("/sys/block"))?;
    let has_bfq = |disk: &OsString| {
        let path = Path::new("/sys/block").join(disk).join("queue/scheduler");
        file::read_if_exists(&path).is_ok_and(|text| text.is_some_and(|text| text.contains("[bfq]")))
    };
    if disks.iter().any(has_bfq) {
        return Ok(());
    }
    let needs = "no disk of this host has the scheduler BFQ, which alone knows weights: modprobe bfq (CONFIG_IOSCHED_BFQ, \
                 CONFIG_BFQ_GROUP_IOSCHED), then echo bfq > /sys/block/DISK/queue/scheduler for the disk with the volumes";
    Err(unsupported("the io weight".to_owned(), needs.to_owned()))
}

/// The error for a kernel without a file of its io controller.
pub(super) fn no_io_file(file: &str) -> Error {
    let option =
        if file.contains("bfq") { "CONFIG_BFQ_GROUP_IOSCHED=y" } else { "CONFIG_BLK_DEV_THROTTLING=y" };
    unsupported(
        format!("{file} of a control group"),
        format!("this kernel does not have it: it needs {option}"),
    )
}

/// The error for a kernel without CPU quotas.
pub(super) fn no_cpu_quota() -> Error {
    unsupported(
        "the cpu limit".to_owned(),
        "this kernel has no CPU quotas (cpu.cfs_quota_us, cpu.max): it needs CONFIG_CFS_BANDWIDTH=y; install the \
         distribution's kernel (Debian: linux-image-amd64) or rebuild this one with it"
            .to_owned(),
    )
}

/// The error for a kernel that does not account swap.
pub(super) fn no_swap_accounting(hierarchies: &Hierarchies) -> Error {
    let probe = hierarchies.probe();
    let needs = match kernel::version(&probe.kernel_release) {
        Some(kernel) if kernel >= (6, 1) => {
            "the group has no file for swap although this kernel always accounts \
                                             it (swapaccount= does nothing since 6.1): it needs CONFIG_SWAP=y"
                .to_owned()
        }
        Some(kernel) if kernel >= (5, 8) && has_word(&probe.boot_parameters, "swapaccount=0") => {
            format!("swap accounting was turned off at boot: remove swapaccount=0 from {BOOT_LINE}")
        }
        _ => format!("swap accounting is off: add swapaccount=1 to {BOOT_LINE}"),
    };
    unsupported("the swap limit".to_owned(), needs)
}

fn missing_controller(hierarchies: &Hierarchies, controller: Controller) -> String {
    let probe = hierarchies.probe();
    let name = if hierarchies.layout() == Layout::V2 { controller.as_str() } else { controller.v1_name() };
    if disabled_at_boot(&probe.boot_parameters, name) {
        return format!(
            "the {name} controller was turned off at boot: remove {name} from cgroup_disable= in {BOOT_LINE}"
        );
    }
    let row = probe.controllers.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row =
        row.into_iter().find(|fields| fields.first() == Some(&controller.v1_name()) && fields.len() >= 4);
    match row {
        Some(fields) if fields[3] == "0" => {
            let mut parameters = format!("cgroup_enable={name}");
            if controller == Controller::Memory
                && kernel::version(&probe.kernel_release).is_some_and(|kernel| kernel < (5, 8))
            {
                parameters.push_str(" swapaccount=1");
            }
            format!("the {name} controller is off: add {parameters} to {BOOT_LINE}")
        }
        Some(fields) if hierarchies.layout() == Layout::V2 && fields[1] != "0" => format!(
            "the {name} controller is still bound to a v1 hierarchy: unmount that one, or add \
             systemd.unified_cgroup_hierarchy=1 cgroup_no_v1={name} to {BOOT_LINE}"
        ),
        Some(_) if hierarchies.layout() == Layout::V2 => {
            format!(
                "the {name} controller is not in cgroup.controllers of the root group: {}",
                built(controller)
            )
        }
        Some(_) => format!(
            "the {name} controller is not mounted: mkdir /sys/fs/cgroup/{name} && \
             mount -t cgroup -o {name} cgroup /sys/fs/cgroup/{name}"
        ),
        None => format!("this kernel has no {name} controller: {}", built(controller)),
    }
}

fn built(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "it needs CONFIG_MEMCG=y (and for v1 CONFIG_MEMCG_V1=y since 6.11)",
        Controller::Pids => "it needs CONFIG_CGROUP_PIDS=y",
        Controller::Cpu => "it needs CONFIG_CGROUP_SCHED=y and CONFIG_CFS_BANDWIDTH=y",
        Controller::CpuAccounting => "it needs CONFIG_CGROUP_CPUACCT=y",
        Controller::Cpuset => "it needs CONFIG_CPUSETS=y (and for v1 CONFIG_CPUSETS_V1=y since 6.12)",
        Controller::Io => "it needs CONFIG_BLK_CGROUP=y",
        Controller::Hugetlb => "it needs CONFIG_CGROUP_HUGETLB=y",
        Controller::Freezer => "it needs CONFIG_CGROUP_FREEZER=y",
    }
}

fn unsupported(what: String, needs: String) -> Error {
    Error::Unsupported { what, needs }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|given| given == word)
}

/// Whether `cgroup_disable=` names the controller.
fn disabled_at_boot(parameters: &str, name: &str) -> bool {
    parameters
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("cgroup_disable="))
        .any(|list| list.split(',').any(|given| given == name))
}

#[cfg(test)]
mod tests {
    use super::super::limit::Limit;
    use super::super::limits::CgroupLimits;
    use super::super::quota::CpuQuota;
    use super::super::samples::{self, changed, table};
    use super::*;

    fn check(hierarchies: &Hierarchies, limits: &CgroupLimits, expected: &str) {
        let message = limits.check(hierarchies).unwrap_err().to_string();
        assert_eq!(message, expected);
    }

    fn memory() -> CgroupLimits {
        CgroupLimits { memory_max_bytes: Some(Limit::At(64 << 20)), ..CgroupLimits::default() }
    }

    fn with_swap() -> CgroupLimits {
        CgroupLimits { memory_swap_max_bytes: Some(Limit::At(0)), ..memory() }
    }

    const EDIT: &str = "the existing GRUB_CMDLINE_LINUX line in /etc/default/grub (edit that line, do not append a \
                        second one: the last one wins), run update-grub, reboot";

    #[test]
    fn memory_that_is_off_is_turned_on_at_boot() {
        let off = |probe: &mut super::super::probe::HierarchyProbe| {
            probe.controllers = table(&[("cpu", 2, 1), ("cpuacct", 2, 1), ("memory", 0, 0), ("pids", 4, 1)]);
            probe.mountinfo =
                probe.mountinfo.replace("/sys/fs/cgroup/memory rw", "/x rw").replace("rw,memory", "rw");
            probe.unified_controllers = probe.unified_controllers.replace(" memory", "");
        };
        // From 5.8 on swap needs no parameter of its own.
        let expected = "the memory limit is not possible here: the memory controller is off: \
                        add cgroup_enable=memory to ";
        check(&changed(samples::v2(), off), &memory(), &format!("{expected}{EDIT}"));
        check(&changed(samples::hybrid(), off), &memory(), &format!("{expected}{EDIT}"));
        let expected = expected.replace("=memory to", "=memory swapaccount=1 to");
        check(&changed(samples::v1(), off), &memory(), &format!("{expected}{EDIT}"));
    }

    #[test]
    fn what_was_turned_off_at_boot_is_taken_out_there() {
        let host = changed(samples::v2(), |probe| {
            probe.unified_controllers = "cpu pids\n".to_owned();
            probe.boot_parameters = "quiet cgroup_disable=rdma,memory\n".to_owned();
        });
        check(
            &host,
            &memory(),
            &format!(
                "the memory limit is not possible here: the memory controller was turned off at boot: \
                 remove memory from cgroup_disable= in {EDIT}"
            ),
        );
    }

    #[test]
    fn a_controller_can_be_held_by_v1_or_not_be_mounted_or_not_be_built() {
        let pids = CgroupLimits { pids_max: Some(Limit::At(9)), ..CgroupLimits::default() };
        let prefix = "the pids limit is not possible here: ";
        let held = changed(samples::v2(), |probe| {
            probe.unified_controllers = "cpu memory\n".to_owned();
            probe.controllers = table(&[("cpu", 0, 1), ("memory", 0, 1), ("pids", 3, 1)]);
        });
        let expected = "the pids controller is still bound to a v1 hierarchy: unmount that one, or add \
                        systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=pids to ";
        check(&held, &pids, &format!("{prefix}{expected}{EDIT}"));
        let unmounted = changed(samples::hybrid(), |probe| {
            probe.mountinfo =
                probe.mountinfo.lines().filter(|l| !l.contains("pids")).collect::<Vec<_>>().join("\n");
        });
        let expected = "the pids controller is not mounted: mkdir /sys/fs/cgroup/pids && \
                        mount -t cgroup -o pids cgroup /sys/fs/cgroup/pids";
        check(&unmounted, &pids, &format!("{prefix}{expected}"));
        let missing = changed(samples::v2(), |probe| {
            probe.unified_controllers = "cpu memory\n".to_owned();
            probe.controllers = table(&[("cpu", 0, 1), ("memory", 0, 1)]);
        });
        let expected = "this kernel has no pids controller: it needs CONFIG_CGROUP_PIDS=y";
        check(&missing, &pids, &format!("{prefix}{expected}"));
    }

    #[test]
    fn the_remedy_for_swap_depends_on_the_kernel() {
        let prefix = "the swap limit is not possible here: ";
        for (release, parameters, expected) in [
            ("4.19.0-26-amd64\n", "quiet", format!("swap accounting is off: add swapaccount=1 to {EDIT}")),
            ("5.7.0", "", format!("swap accounting is off: add swapaccount=1 to {EDIT}")),
            (
                "5.10.0-28-amd64",
                "ro swapaccount=0",
                format!("swap accounting was turned off at boot: remove swapaccount=0 from {EDIT}"),
            ),
            (
                "6.1.0-18-amd64",
                "swapaccount=0",
                "the group has no file for swap although this kernel always accounts it (swapaccount= does nothing \
                 since 6.1): it needs CONFIG_SWAP=y"
                    .to_owned(),
            ),
        ] {
            let host = changed(samples::v1(), |probe| {
                probe.kernel_release = release.to_owned();
                probe.boot_parameters = parameters.to_owned();
                probe.swap_file = Some(false);
            });
            check(&host, &with_swap(), &format!("{prefix}{expected}"));
            // Memory alone is fine.
            memory().check(&host).unwrap();
        }
    }

    /// A v2 host without any group yet shows no file to look at: the kernel's version and boot line decide.
    #[test]
    fn without_a_group_to_look_at_the_kernel_tells() {
        for (release, parameters, can) in [
            ("6.1.0-18-amd64", "swapaccount=0", true),
            ("5.10.0-28-amd64", "", true),
            ("5.10.0-28-amd64", "swapaccount=0", false),
            ("4.19.0-26-amd64", "", false),
            ("4.19.0-26-amd64", "swapaccount=1", true),
        ] {
            let host = changed(samples::v2(), |probe| {
                probe.kernel_release = release.to_owned();
                probe.boot_parameters = parameters.to_owned();
                probe.swap_file = None;
            });
            assert_eq!(with_swap().check(&host).is_ok(), can, "{release} {parameters}");
        }
    }

    #[test]
    fn quotas_need_their_kernel_option() {
        let cpu = CgroupLimits { cpu: Some(CpuQuota::cores(1.0).unwrap()), ..CgroupLimits::default() };
        for probe in [samples::v1(), samples::hybrid(), samples::v2()] {
            let host = changed(probe, |probe| probe.quota_file = Some(false));
            let message = cpu.check(&host).unwrap_err().to_string();
            assert!(message.contains("CONFIG_CFS_BANDWIDTH=y"), "{message}");
        }
    }
}
