//! The programs that are killed, and those that look afterwards: this binary, run again as `--operate NAME` with
//! FS_PREFIX set. They use docklet as any program does.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use docklet::error::Chain;

use crate::{
    bridges, containers, exports, firewall, images, logical, mounts, networks, overlays, parts, ports,
    quotas, stores, tunnels,
};

/// The argument that makes this binary one of the programs.
pub(crate) const OPERATE: &str = "--operate";

type Program = fn() -> Result<(), Box<dyn Error>>;

const PROGRAMS: &[(&str, Program)] = &[
    ("make-directories", make_directories),
    ("spawn", spawn),
    ("linger", linger),
    ("make-tree", make_tree),
    ("remove-tree", remove_tree),
    ("tree-state", tree_state),
    ("prepare", containers::prepare),
    ("launch", containers::launch),
    ("remove", containers::remove),
    ("crash", containers::crash),
    ("launch-mortal", containers::launch_mortal),
    ("die", containers::die),
    ("recover", containers::recover),
    ("state", containers::state),
    ("stop", containers::stop),
    ("start", containers::start),
    ("apply-limits", containers::apply_limits),
    ("limits-state", containers::limits_state),
    ("supervise", containers::supervise),
    ("prepare-networks", networks::prepare),
    ("ensure-network", networks::ensure),
    ("remove-network", networks::remove),
    ("network-state", networks::state),
    ("launch-wide", networks::launch),
    ("widen", networks::widen),
    ("narrow", networks::narrow),
    ("interfaces-state", networks::interfaces_state),
    ("apply-network", networks::apply),
    ("restore-network", networks::restore),
    ("apply-isolation", networks::apply_isolation),
    ("clear-isolation", networks::clear_isolation),
    ("isolation-state", networks::isolation_state),
    ("launch-mounted", mounts::launch),
    ("add-mounts", mounts::add),
    ("take-mounts-away", mounts::take_away),
    ("mounts-state", mounts::state),
    ("prepare-firewall", firewall::prepare),
    ("change-firewall", firewall::change),
    ("recover-firewall", firewall::recover),
    ("remove-firewall", firewall::remove),
    ("finish-firewall", firewall::finish_removal),
    ("firewall-state", firewall::state),
    ("make-port", bridges::make_port),
    ("ensure-bridge", bridges::ensure),
    ("remove-bridge", bridges::remove),
    ("attach-port", bridges::attach),
    ("detach-port", bridges::detach),
    ("bridge-state", bridges::state),
    ("attached-state", bridges::attached_state),
    ("detached-state", bridges::detached_state),
    ("prepare-port", ports::prepare),
    ("ensure-port", ports::ensure),
    ("ensure-ports", ports::ensure_all),
    ("apply-port", ports::apply),
    ("remove-port", ports::remove),
    ("port-state", ports::state),
    ("build-image", images::build),
    ("import-image", images::import),
    ("commit", images::commit),
    ("tag", images::tag),
    ("remove-image", images::remove),
    ("forget-image", images::forget),
    ("collect-garbage", images::collect),
    ("recover-images", images::recover),
    ("image-state", images::state),
    ("export-image", exports::export),
    ("export-state", exports::state),
    ("remove-export", exports::remove),
    ("change-store", stores::change),
    ("recover-store", stores::recover),
    ("store-state", stores::state),
    ("remove-store", stores::remove),
    ("prepare-lvm", logical::prepare),
    ("prepare-quota-ext4", quotas::prepare_ext4),
    ("prepare-quota-xfs", quotas::prepare_xfs),
    ("make-volume", parts::make_volume),
    ("make-xfs", parts::make_xfs),
    ("make-btrfs", parts::make_btrfs),
    ("made-state", parts::made_state),
    ("make-tmpfs", parts::make_tmpfs),
    ("remove-tmpfs", parts::remove_tmpfs),
    ("tidy-tmpfs", parts::tidy_tmpfs),
    ("tmpfs-state", parts::tmpfs_state),
    ("grow", parts::grow),
    ("remove-volume", parts::remove_volume),
    ("volume-state", parts::volume_state),
    ("mount-volume", parts::mount_volume),
    ("fill-volume", parts::fill_volume),
    ("keep-volume", parts::keep_volume),
    ("snapshot", parts::snapshot_volume),
    ("rollback", parts::rollback),
    ("clone", parts::clone_volume),
    ("remove-snapshot", parts::remove_snapshot),
    ("recover-volumes", parts::recover_volumes),
    ("snapshot-state", parts::snapshot_state),
    ("remove-volumes", parts::remove_volumes),
    ("prepare-overlay", overlays::prepare),
    ("mount-overlay", overlays::mount),
    ("mount-mapped", overlays::mount_mapped),
    ("mount-read-only", overlays::mount_read_only),
    ("unmount-overlay", overlays::unmount),
    ("remove-overlay", overlays::remove),
    ("overlay-state", overlays::state),
    ("prepare-tunnel", tunnels::prepare),
    ("ensure-mesh", tunnels::ensure_mesh),
    ("change-mesh", tunnels::change_mesh),
    ("ensure-star", tunnels::ensure_star),
    ("change-star", tunnels::change_star),
    ("remove-tunnel", tunnels::remove),
    ("mesh-state", tunnels::mesh_state),
    ("changed-mesh-state", tunnels::changed_mesh_state),
    ("star-state", tunnels::star_state),
    ("changed-star-state", tunnels::changed_star_state),
];

/// Runs the program called `name`, once a tracer says so.
pub(crate) fn run(name: &str) -> ExitCode {
    let (_, program) = PROGRAMS.iter().find(|(known, _)| *known == name).expect("a program's name");
    // The tracer writes a byte when it is ready; without a tracer this is the end of an empty file.
    io::stdin().read_exact(&mut [0]).ok();
    match program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// A directory for the programs' own files.
pub(crate) fn scratch() -> Result<PathBuf, env::VarError> {
    Ok(Path::new(&env::var("FS_PREFIX")?).join("scratch"))
}

/// Twelve directories, made by four threads.
fn make_directories() -> Result<(), Box<dyn Error>> {
    let scratch = scratch()?;
    let make = |thread: i32| (0..3).try_for_each(|n| fs::create_dir(scratch.join(format!("{thread}-{n}"))));
    thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|thread| scope.spawn(move || make(thread)));
        threads.into_iter().try_for_each(|thread| thread.join().expect("thread"))
    })?;
    Ok(())
}

/// Runs [`linger`] as a child process.
fn spawn() -> Result<(), Box<dyn Error>> {
    let status = Command::new("/proc/self/exe").args([OPERATE, "linger"]).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(status.to_string().into()) }
}

/// Makes three directories slowly.
fn linger() -> Result<(), Box<dyn Error>> {
    for name in ["a", "b", "c"] {
        thread::sleep(Duration::from_millis(2));
        fs::create_dir(scratch()?.join(name))?;
    }
    Ok(())
}

/// A tree of four directories with three files each.
fn make_tree() -> Result<(), Box<dyn Error>> {
    for directory in ["tree", "tree/a", "tree/a/b", "tree/c"] {
        let directory = scratch()?.join(directory);
        fs::create_dir(&directory)?;
        for file in ["1", "2", "3"] {
            fs::write(directory.join(file), file)?;
        }
    }
    Ok(())
}

fn remove_tree() -> Result<(), Box<dyn Error>> {
    docklet::storage::remove_tree(&scratch()?, Path::new("tree"))?;
    Ok(())
}

fn tree_state() -> Result<(), Box<dyn Error>> {
    println!("{}", if scratch()?.join("tree").exists() { "left" } else { "absent" });
    Ok(())
}
