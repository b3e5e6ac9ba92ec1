//! The storage tier: one suite of behaviour, for each back end with each file system it takes; and what is a back end's
//! own. On the real kernel, in namespaces and under a prefix of its own.
//!
//! They need root and fail without it. Run them with `make test-host`. Those whose module begins with `lvm_` or `quota_`
//! need device-mapper or quotas in the kernel, and run in the VM tier.

#![allow(clippy::print_stderr, reason = "tests speak to the person who runs them")]

mod back_end;
#[path = "../host/kernel.rs"]
#[allow(dead_code, reason = "shared with the host tier")]
mod kernel;
mod loop_files;
mod loop_races;
mod loop_snapshots;
mod loop_space;
mod lvm_group;
mod lvm_loss;
mod lvm_volumes;
mod memory;
mod quota_volumes;
mod quotas;
#[path = "../host/sandbox.rs"]
#[allow(dead_code, reason = "shared with the host tier")]
mod sandbox;
mod stage;
mod suite;
mod templates;
#[path = "../host/volume.rs"]
mod volume;

use docklet::storage::Filesystem::{self, Btrfs, Ext4, Xfs};

use crate::back_end::{LoopFiles, LvmLinear, LvmThin, QuotaExt4, QuotaXfs};

/// `NAME: BACK_END, FILE_SYSTEM, tests…` makes a module with the suite's tests of these names.
macro_rules! suite {
    ($name:ident: $back_end:ty, $filesystem:expr, $($part:ident::{$($test:ident),*}),*) => {
        mod $name {
            use super::*;
            $($(
                #[test]
                #[ignore = "needs root: block devices and mounts"]
                fn $test() {
                    crate::suite::$part::$test::<$back_end>($filesystem);
                }
            )*)*
        }
    };
}

/// What holds everywhere.
macro_rules! behaves {
    ($name:ident: $back_end:ty, $filesystem:expr) => {
        suite!($name: $back_end, $filesystem,
            life::{
                lives_and_leaves_nothing, is_one_when_ensured_twice, is_busy_while_it_is_mounted,
                holds_the_top_of_an_overlay, bad_input_changes_nothing, sixteen_at_once, one_name_for_many_hands
            },
            differs::{differs_field_by_field},
            space::{ends_where_it_says, ends_with_small_files, usage_is_the_kernels},
            growth::{grows_while_it_is_written_to, grows_at_rest, never_shrinks}
        );
    };
}

/// What holds where there is a file system on a device, too.
macro_rules! behaves_on_a_device {
    ($name:ident: $back_end:ty, $filesystem:expr) => {
        suite!($name: $back_end, $filesystem,
            space::{promises_end_where_the_disk_does, a_full_disk_is_an_error_inside},
            damage::{a_lost_superblock_is_damage, a_bad_checksum_is_damage, damage_behind_the_superblock_is_told},
            copies::{two_are_mounted_at_once, new_ones_are_whole},
            snapshots::{keep_what_was}
        );
    };
}

/// What logical volumes have a part in.
macro_rules! behaves_on_lvm {
    ($name:ident: $back_end:ty, $filesystem:expr) => {
        suite!($name: $back_end, $filesystem,
            life::{lives_and_leaves_nothing},
            space::{ends_where_it_says},
            growth::{grows_while_it_is_written_to},
            snapshots::{keep_what_was},
            copies::{two_are_mounted_at_once}
        );
    };
}

behaves!(loop_ext4: LoopFiles, Ext4);
behaves!(loop_xfs: LoopFiles, Xfs);
behaves!(loop_btrfs: LoopFiles, Btrfs);
behaves!(tmpfs: crate::back_end::Tmpfs, Filesystem::Tmpfs);
behaves!(quota_xfs: QuotaXfs, Filesystem::Directory);
behaves!(quota_ext4: QuotaExt4, Filesystem::Directory);

behaves_on_a_device!(loop_ext4_device: LoopFiles, Ext4);
behaves_on_a_device!(loop_xfs_device: LoopFiles, Xfs);
behaves_on_a_device!(loop_btrfs_device: LoopFiles, Btrfs);

// A command of LVM takes seconds in a guest without a processor of its own: what differs by file system is left to one.
behaves!(lvm_thin_ext4: LvmThin, Ext4);
behaves_on_lvm!(lvm_thin_xfs: LvmThin, Xfs);
behaves_on_lvm!(lvm_thin_btrfs: LvmThin, Btrfs);
behaves_on_lvm!(lvm_linear_ext4: LvmLinear, Ext4);

suite!(loop_btrfs_subvolumes: LoopFiles, Btrfs, space::{subvolumes_do_not_escape});
