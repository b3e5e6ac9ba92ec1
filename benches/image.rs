//! What unpacking and packing a layer of 200 MB cost, against GNU tar and `umoci`, in turns in one run; and what flushing
//! adds for all of them alike. Run it as root: `cargo bench --bench image [ROUNDS]`.
//!
//! The layer is made of this host's own `/usr`: what is there, until 200 MB are reached.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use docklet::storage::{Compression, PackOptions, UnpackOptions, pack_layer, remove_tree, unpack_layer};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const BYTES: u64 = 200 << 20;

fn main() -> Outcome {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(5);
    let base = PathBuf::from(format!("/var/tmp/docklet-bench-image-{}", std::process::id()));
    fs::create_dir(&base)?;
    let result = compare(&base, rounds);
    remove_tree(Path::new("/var/tmp"), Path::new(base.file_name().ok_or("name")?))?;
    result
}

fn compare(base: &Path, rounds: usize) -> Outcome {
    let bench = Bench { base, rounds };
    let tree = base.join("tree");
    let (bytes, files) = gather(&tree)?;
    println!("A layer of {} MB in {files} files; medians of {rounds} rounds in turns", bytes >> 20);
    let plain = base.join("layer.tar");
    run("tar", &["--format=pax", "--sort=name", "-cf", text(&plain), "-C", text(&tree), "."])?;
    let gzip = base.join("layer.tar.gz");
    fs::copy(&plain, base.join("copy.tar"))?;
    run("gzip", &["-6", text(&base.join("copy.tar"))])?;
    fs::rename(base.join("copy.tar.gz"), &gzip)?;
    let zstd = base.join("layer.tar.zst");
    run("zstd", &["-q", text(&plain), "-o", text(&zstd)])?;
    let layout = base.join("layout");
    let image = format!("{}:x", text(&layout));
    run("umoci", &["init", "--layout", text(&layout)])?;
    run("umoci", &["new", "--image", &image])?;
    run("umoci", &["raw", "add-layer", "--image", &image, text(&plain)])?;

    for (name, archive) in [("plain", &plain), ("gzip", &gzip), ("zstd", &zstd)] {
        bench.pair(
            &format!("unpack {name}, against tar -x"),
            |into| {
                fs::create_dir(into)?;
                unpack_layer(File::open(archive)?, into, &UnpackOptions::default(), &mut |_| {})?;
                Ok(())
            },
            |into| {
                fs::create_dir(into)?;
                run("tar", &["--numeric-owner", "-xpf", text(archive), "-C", text(into)])
            },
        )?;
    }
    bench.pair(
        "unpack gzip, against umoci raw unpack",
        |into| {
            fs::create_dir(into)?;
            unpack_layer(File::open(&gzip)?, into, &UnpackOptions::default(), &mut |_| {})?;
            Ok(())
        },
        |into| run("umoci", &["raw", "unpack", "--image", &image, text(into)]),
    )?;
    for (name, compression, flag) in [
        ("plain", Compression::None, "--format=pax"),
        ("gzip", Compression::Gzip, "-z"),
        ("zstd", Compression::Zstd, "--zstd"),
    ] {
        bench.pair(
            &format!("pack {name}, against tar -c"),
            |into| {
                let options = PackOptions { compression, map_owner: None };
                pack_layer(&tree, BufWriter::new(File::create(into)?), &options)?;
                Ok(())
            },
            |into| {
                run("tar", &["--format=pax", "--sort=name", flag, "-cf", text(into), "-C", text(&tree), "."])
            },
        )?;
    }
    Ok(())
}

struct Bench<'a> {
    base: &'a Path,
    rounds: usize,
}

impl Bench<'_> {
    /// Runs both in turns, each into a path that is not there and goes again.
    fn pair(
        &self,
        name: &str,
        ours: impl Fn(&Path) -> Outcome,
        theirs: impl Fn(&Path) -> Outcome,
    ) -> Outcome {
        let into = Path::new("into");
        let time = |work: &dyn Fn(&Path) -> Outcome| -> Outcome<Duration> {
            let path = self.base.join(into);
            let started = Instant::now();
            work(&path)?;
            let taken = started.elapsed();
            // What one left to be written is not the other's to wait for.
            rustix::fs::syncfs(File::open(self.base)?)?;
            remove_tree(self.base, into)?;
            Ok(taken)
        };
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            one.push(time(&ours)?);
            other.push(time(&theirs)?);
        }
        let (one, other) = (median(one), median(other));
        let ratio = one.as_secs_f64() / other.as_secs_f64();
        println!("  {name:<40} {one:>9.3?} {other:>9.3?}   ratio {ratio:.2}");
        Ok(())
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Copies of the host's `/usr` until there is enough.
fn gather(tree: &Path) -> Outcome<(u64, u64)> {
    fs::create_dir(tree)?;
    let (mut bytes, mut files) = (0, 0);
    let mut waiting = vec![
        (PathBuf::from("/usr/share"), tree.join("share")),
        (PathBuf::from("/usr/lib"), tree.join("lib")),
    ];
    while let Some((from, to)) = waiting.pop() {
        let kind = fs::symlink_metadata(&from)?;
        if kind.is_dir() {
            fs::create_dir(&to)?;
            let mut below = fs::read_dir(&from)?.collect::<io::Result<Vec<_>>>()?;
            below.sort_by_key(fs::DirEntry::file_name);
            waiting.extend(below.into_iter().map(|entry| (entry.path(), to.join(entry.file_name()))));
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_file() && bytes + kind.len() <= BYTES {
            bytes += fs::copy(&from, &to)?;
            files += 1;
        }
    }
    Ok((bytes, files))
}

fn run(program: &str, args: &[&str]) -> Outcome {
    let output = Command::new(program).args(args).output()?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
