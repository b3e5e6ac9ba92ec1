//! What a volume costs: creating it from a template against the same system calls made by hand, in turns in one run,
//! and what each step of a volume's life takes. Run it as root: `cargo bench --bench volume [ROUNDS]`.
//!
//! Not criterion's loop: the two sides must meet the same disk at the same time, so they alternate. The steps are
//! the library's own tracing spans.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use docklet::name::VolumeName;
use docklet::storage::{
    Allocation, Filesystem, OverlayRoot, ProvisionRatio, VolumePool, VolumeSpec, remove_tree,
};
use rustix::fs::{AtFlags, CWD, SeekFrom, copy_file_range, ftruncate, linkat, seek};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Notes how long each span was open.
#[derive(Clone, Default)]
struct Stopwatch {
    open: Arc<Mutex<BTreeMap<u64, (&'static str, Instant)>>>,
    closed: Arc<Mutex<BTreeMap<&'static str, Vec<Duration>>>>,
    next: Arc<AtomicU64>,
}

impl Subscriber for Stopwatch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("docklet")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        if let Ok(mut open) = self.open.lock() {
            open.insert(id, (span.metadata().name(), Instant::now()));
        }
        Id::from_u64(id)
    }

    fn exit(&self, span: &Id) {
        if let (Ok(mut open), Ok(mut closed)) = (self.open.lock(), self.closed.lock())
            && let Some((name, started)) = open.remove(&span.into_u64())
        {
            closed.entry(name).or_default().push(started.elapsed());
        }
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
}

impl Stopwatch {
    fn take(&self) -> BTreeMap<&'static str, Vec<Duration>> {
        self.closed.lock().map(|mut closed| std::mem::take(&mut *closed)).unwrap_or_default()
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn row(name: &str, times: &[Duration]) {
    let least = times.iter().min().copied().unwrap_or_default();
    let most = times.iter().max().copied().unwrap_or_default();
    println!("  {name:<34} {:>9.3?} {least:>9.3?} {most:>9.3?}", median(times));
}

/// The same volume by the system calls alone: the time to a complete file, and the time to have it on the disk.
fn by_hand(template: &Path, directory: &Path, name: &str) -> Outcome<(Duration, Duration)> {
    let started = Instant::now();
    let from = File::open(template)?;
    let to = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(directory)?;
    let size = seek(&from, SeekFrom::End(0))?;
    ftruncate(&to, size)?;
    let mut position = 0;
    while let Ok(start) = seek(&from, SeekFrom::Data(position)) {
        let end = seek(&from, SeekFrom::Hole(start))?;
        let (mut read_at, mut write_at) = (start, start);
        while read_at < end {
            let length = usize::try_from(end - read_at)?;
            copy_file_range(&from, Some(&mut read_at), &to, Some(&mut write_at), length)?;
        }
        position = end;
    }
    let written = started.elapsed();
    let started = Instant::now();
    to.sync_all()?;
    let mut on_disk = started.elapsed();
    let started = Instant::now();
    let path = directory.join(name);
    linkat(CWD, format!("/proc/self/fd/{}", to.as_raw_fd()), CWD, &path, AtFlags::SYMLINK_FOLLOW)?;
    let linked = started.elapsed();
    let started = Instant::now();
    File::open(directory)?.sync_all()?;
    on_disk += started.elapsed();
    fs::remove_file(path)?;
    Ok((written + linked, on_disk))
}

fn spec(filesystem: Filesystem, size_bytes: u64) -> Outcome<VolumeSpec> {
    let name = VolumeName::new("bench")?;
    Ok(VolumeSpec { name, size_bytes, filesystem, allocation: Allocation::Sparse })
}

fn creation(pool: &VolumePool, home: &Path, watch: &Stopwatch, spec: &VolumeSpec, rounds: usize) -> Outcome {
    let VolumeSpec { filesystem, size_bytes, .. } = spec;
    pool.ensure(spec)?;
    pool.remove(&spec.name)?;
    watch.take();
    let template = home.join(format!("templates/{filesystem}-{size_bytes}.img"));
    let raw_directory = home.join("raw");
    fs::create_dir_all(&raw_directory)?;
    let (mut ours, mut ours_sync, mut raw, mut raw_sync) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let started = Instant::now();
        pool.ensure(spec)?;
        let total = started.elapsed();
        let sync = watch.take().get("flush").into_iter().flatten().sum();
        ours.push(total.saturating_sub(sync));
        ours_sync.push(sync);
        pool.remove(&spec.name)?;
        watch.take();

        let (written, on_disk) = by_hand(&template, &raw_directory, "raw.img")?;
        raw.push(written);
        raw_sync.push(on_disk);
    }
    let gib = size_bytes >> 30;
    let what = format!("create {gib} GiB of {filesystem} from a template");
    println!("\n{what:<36} {:>9} {:>9} {:>9}", "median", "least", "most");
    row("docklet, without fsync", &ours);
    row("the system calls by hand", &raw);
    row("docklet, its fsync of file and name", &ours_sync);
    row("the same fsync by hand", &raw_sync);
    println!("  ratio of the medians: {:.2}", median(&ours).as_secs_f64() / median(&raw).as_secs_f64());
    Ok(())
}

fn life(pool: &VolumePool, home: &Path, watch: &Stopwatch, rounds: usize) -> Outcome {
    let spec = spec(Filesystem::Ext4, 1 << 30)?;
    let layer = home.join("layer");
    let target = home.join("root");
    fs::create_dir_all(&layer)?;
    watch.take();
    for _ in 0..rounds {
        let volume = pool.ensure(&spec)?;
        let space = volume.mount()?;
        OverlayRoot::over(&[&layer]).on(&space).mount(&target)?;
        fs::write(target.join("file"), "x")?;
        OverlayRoot::unmount(&target)?;
        volume.unmount()?;
        pool.remove(&spec.name)?;
    }
    let steps = watch.take();
    println!("\na life of 1 GiB with an overlay {:>13} {:>9} {:>9}", "median", "least", "most");
    for (name, parts) in [
        ("ensure_volume", &["copy_template", "check_and_link"][..]),
        ("mount_volume", &["find_loop", "attach_loop", "mount_filesystem"]),
        ("mount_overlay", &["mount_overlayfs"]),
        ("unmount_overlay", &["umount_overlayfs"]),
        ("unmount_volume", &["umount_filesystem"]),
        ("remove_volume", &["unlink"]),
        ("flush", &[]),
    ] {
        row(name, steps.get(name).map_or(&[], Vec::as_slice));
        for part in parts {
            row(&format!("  {part}"), steps.get(part).map_or(&[], Vec::as_slice));
        }
    }
    println!("  (flush: each of the file and of its name, of ensure and of remove together)");
    Ok(())
}

fn main() -> Outcome {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(31);
    let watch = Stopwatch::default();
    tracing::subscriber::set_global_default(watch.clone())?;
    let name = format!("docklet-bench-volume-{}", std::process::id());
    let home = PathBuf::from("/var/tmp").join(&name);
    // 1 TiB is more than most disks have.
    let pool = VolumePool::loop_files(&home)?.with_provision_ratio(ProvisionRatio::percent(100_000)?);
    println!("{rounds} rounds, the two sides in turns, on {}", home.display());
    // The large ones last: they write a gigabyte, and disks of virtual machines are slowed down after that.
    let result = life(&pool, &home, &watch, rounds).and_then(|()| {
        let mut sizes = [1 << 30, 1 << 40].into_iter();
        sizes.try_for_each(|size_bytes| {
            let mut filesystems = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs].into_iter();
            filesystems.try_for_each(|filesystem| {
                creation(&pool, &home, &watch, &spec(filesystem, size_bytes)?, rounds)
            })
        })
    });
    remove_tree("/var/tmp".as_ref(), name.as_ref())?;
    result
}
