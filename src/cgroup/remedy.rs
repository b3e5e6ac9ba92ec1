//! What is missing when a limit cannot be enforced, and how this very host gets it.
//!
//! See the kernel's `Documentation/admin-guide/kernel-parameters.txt`. `cgroup_enable=memory` is what Debian's and
//! Raspberry Pi's kernels understand. Swap accounting of v1: up to 5.7 the build decides (`swapaccount=1` turns it on),
//! from 5.8 on it is there unless `swapaccount=0` stands in the boot line, and since 6.1 the parameter does nothing.

use super::controller::{Controller, Version};
use super::hierarchy::{Hierarchies, Layout};
use crate::error::{Error, Result};

/// How a boot parameter is changed on Debian. The seed of many a mistake: of two such lines the last one wins.
const BOOT_LINE: &str = "the existing GRUB_CMDLINE_LINUX line in /etc/default/grub (edit that line, do not append \
                         a second one: the last one wins), run update-grub, reboot";

/// The version that serves `controller`.
///
/// # Errors
/// [`Error::Unsupported`] with the remedy if it is off.
pub(super) fn served(hierarchies: &Hierarchies, controller: Controller) -> Result<Version> {
    match hierarchies.serving(controller) {
        Some(hierarchy) => Ok(hierarchy.version),
        None => {
            Err(unsupported(format!("the {controller} limit"), missing_controller(hierarchies, controller)))
        }
    }
}

/// The version that serves CPU quotas.
pub(super) fn cpu_quota(hierarchies: &Hierarchies) -> Result<Version> {
    let version = served(hierarchies, Controller::Cpu)?;
    if hierarchies.probe().quota_file == Some(false) {
        return Err(no_cpu_quota());
    }
    Ok(version)
}

/// The version that serves swap limits, or `None` if there can be no swap to limit.
pub(super) fn swap(hierarchies: &Hierarchies) -> Result<Option<Version>> {
    let version = served(hierarchies, Controller::Memory)?;
    let probe = hierarchies.probe();
    let off = match probe.swap_file {
        Some(there) => !there,
        // No group to look at yet: what this kernel does with this boot line.
        None => match kernel_version(&probe.kernel_release) {
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
    let needs = match kernel_version(&probe.kernel_release) {
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
    let name = controller.as_str();
    if disabled_at_boot(&probe.boot_parameters, name) {
        return format!(
            "the {name} controller was turned off at boot: remove {name} from cgroup_disable= in {BOOT_LINE}"
        );
    }
    let row = probe.controllers.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = row.into_iter().find(|fields| fields.first() == Some(&name) && fields.len() >= 4);
    match row {
        Some(fields) if fields[3] == "0" => {
            let mut parameters = format!("cgroup_enable={name}");
            if controller == Controller::Memory
                && kernel_version(&probe.kernel_release).is_some_and(|kernel| kernel < (5, 8))
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

/// Major and minor number of "6.1.0-18-amd64".
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
