//! A file system is made once; volumes are copies of it (`man 8 mkfs`).

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use docklet::storage::VolumeSpec;

use crate::kernel;
use crate::loop_files::{FILESYSTEMS, smallest};
use crate::sandbox::Sandbox;
use crate::volume::{MIB, pool};

/// Set in the process whose PATH begins with recorders: the file that they write to.
const RECORD: &str = "DOCKLET_TEST_MKFS_RECORD";
const PROGRAMS: [&str; 3] = ["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"];

/// Counted by programs in the place of mkfs that write down that they were run.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn template_is_made_once() {
    if let Some(record) = env::var_os(RECORD) {
        return ensure_many(Path::new(&record));
    }
    let sandbox = Sandbox::new();
    let (programs, record) = (sandbox.dir("programs"), sandbox.dir("record").join("runs"));
    for program in PROGRAMS {
        let original = kernel::run("which", [program]);
        let script =
            format!("#!/bin/sh\necho {program} >>{}\nexec {} \"$@\"\n", record.display(), original.trim());
        fs::write(programs.join(program), script).expect("write");
        fs::set_permissions(programs.join(program), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let path = format!("{}:{}", programs.display(), env::var("PATH").expect("PATH"));
    let status = Command::new(env::current_exe().expect("own path"))
        .args(["--exact", "templates::template_is_made_once", "--include-ignored", "--quiet"])
        .env(RECORD, &record)
        .env("PATH", path)
        .status()
        .expect("the same program");
    assert!(status.success(), "{status}");
}

fn runs(record: &Path, program: &str) -> usize {
    fs::read_to_string(record).unwrap_or_default().lines().filter(|line| *line == program).count()
}

fn ensure_many(record: &Path) {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    for (filesystem, program) in FILESYSTEMS.into_iter().zip(PROGRAMS) {
        let wanted = smallest(filesystem);
        pool.ensure(&wanted).expect("ensure");
        let first = runs(record, program);
        // Older programs do not know all options, and are asked again without.
        assert!((1..=2).contains(&first), "{program}: {first}");
        for round in 0..5 {
            pool.remove(&wanted.name).expect("remove");
            pool.ensure(&wanted).expect("ensure");
            let name = format!("other{round}").parse().expect("name");
            pool.ensure(&VolumeSpec { name, ..wanted.clone() }).expect("ensure");
        }
        assert_eq!(runs(record, program), first, "{program}");
        // Another size is another template.
        let size_bytes = wanted.size_bytes + 16 * MIB;
        let name = "larger".parse().expect("name");
        pool.ensure(&VolumeSpec { name, size_bytes, ..wanted.clone() }).expect("ensure");
        assert!(runs(record, program) > first, "{program}");
        for name in pool.list().expect("list") {
            pool.remove(&name).expect("remove");
        }
    }
    // What is written over is made again, and not copied; nor is what others could write to, or another file system.
    let wanted = smallest(FILESYSTEMS[0]);
    let templates = sandbox.paths.volumes().join("templates");
    let template = templates.join(format!("{}-{}.img", wanted.filesystem, wanted.size_bytes));
    let other = smallest(FILESYSTEMS[1]);
    let spoil: [(&str, &dyn Fn()); 5] = [
        ("written over", &|| fs::write(&template, vec![0xa5; 4096]).expect("write")),
        ("cut", &|| {
            let file = fs::File::options().write(true).open(&template).expect("open");
            file.set_len(wanted.size_bytes / 2).expect("truncate");
        }),
        ("others may write", &|| {
            fs::set_permissions(&template, fs::Permissions::from_mode(0o666)).expect("chmod");
        }),
        ("another's", &|| std::os::unix::fs::chown(&template, Some(1000), None).expect("chown")),
        ("another file system", &|| {
            let from = templates.join(format!("{}-{}.img", other.filesystem, other.size_bytes));
            fs::copy(from, &template).expect("copy");
            let file = fs::File::options().write(true).open(&template).expect("open");
            file.set_len(wanted.size_bytes).expect("truncate");
        }),
    ];
    for (how, spoil) in spoil {
        let before = runs(record, PROGRAMS[0]);
        spoil();
        let volume = pool.ensure(&wanted).expect("ensure");
        assert!(runs(record, PROGRAMS[0]) > before, "{how}");
        kernel::run("e2fsck", ["-f", "-n", volume.file().to_str().expect("UTF-8")]);
        pool.remove(&wanted.name).expect("remove");
    }
}
