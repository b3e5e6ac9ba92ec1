//! The SIGKILL matrix: an operation is run again and again, and killed before and after each system call with which
//! it changes the host; then docklet must make the host whole.
//!
//! It needs root. `make test-kill` runs all of it, `make test` a sample.
//!
//! ```text
//! kill --full | --sample-seconds N | --point N --before|--after | --calls   [--lvm|--quotas] [--only SUBJECT] [--mode own|runtime|orphan]
//! kill --clean
//! ```
//!
//! `--lvm`: the matrices of volumes on LVM, which need the device mapper, instead of all others. `--quotas`: those of directories
//! with project quotas, which the kernel must have.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests speak to the person who runs them")]

mod bridges;
#[path = "../../examples/parts/busybox.rs"]
mod busybox;
mod containers;
mod exports;
mod firewall;
mod images;
mod leftovers;
mod logical;
mod matrix;
mod mounts;
mod networks;
mod operations;
mod overlays;
mod parts;
mod ports;
mod process;
mod ptrace;
mod quotas;
mod sandbox;
mod snapshot;
mod stores;
mod subjects;
mod syscalls;
mod tracer;
mod tunnels;

use std::env;
use std::fs;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use crate::matrix::{Choice, Matrix, Tally};
use crate::subjects::{ON_LVM, ON_QUOTAS, SUBJECTS, Subject};
use crate::tracer::{Mode, Moment};

/// The roles of this binary, as first arguments: the first process of the sandbox's process namespace, and the one
/// that does the work in it. Without one it makes the namespaces.
const INIT: &str = "--init";
const DRIVER: &str = "--driver";
/// Where prefixes go, from the first role to the last: the process id that others see is in it.
const BASE: &str = "DOCKLET_KILL_BASE";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--clean") => {
            leftovers::clean();
            ExitCode::SUCCESS
        }
        Some(operations::OPERATE) => operations::run(&args[1]),
        Some(INIT) => init(&args[1..]),
        Some(DRIVER) => drive(&Arguments::parse(&args[1..]).expect("parsed once already")),
        _ => match Arguments::parse(&args) {
            Ok(_) => isolate(&args),
            // `cargo test` gives every test program the same arguments.
            Err(_) if !args.iter().any(|arg| Arguments::CHOICES.contains(&&**arg)) => {
                println!("\nthe SIGKILL matrix runs with --full or --sample-seconds N");
                println!("test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n");
                ExitCode::SUCCESS
            }
            Err(reason) => {
                eprintln!("kill: {reason}");
                ExitCode::FAILURE
            }
        },
    }
}

struct Arguments {
    /// `None` lists the calls.
    choice: Option<Choice>,
    /// The subjects to choose from.
    subjects: &'static [Subject],
    only: Option<String>,
    mode: Option<Mode>,
}

impl Arguments {
    /// The arguments that say what to do.
    const CHOICES: [&str; 5] = ["--full", "--sample-seconds", "--point", "--calls", "--include-ignored"];

    fn parse(args: &[String]) -> Result<Self, String> {
        let (mut choice, mut only, mut mode) = (None, None, None);
        let (mut point, mut moment) = (None, Moment::Before);
        let mut subjects = SUBJECTS;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let mut value = || rest.next().ok_or(format!("{arg} needs a value"));
            let number = |text: &String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
            match arg.as_str() {
                "--full" => choice = Some(Some(Choice::Full)),
                "--sample-seconds" => {
                    choice = Some(Some(Choice::Sample(Duration::from_secs(number(value()?)?))));
                }
                "--include-ignored" => choice = Some(Some(Choice::Sample(Duration::from_secs(180)))),
                "--calls" => choice = Some(None),
                "--point" => {
                    point = Some(usize::try_from(number(value()?)?.max(1)).map_err(|e| e.to_string())?)
                }
                "--before" => moment = Moment::Before,
                "--after" => moment = Moment::After,
                "--lvm" => subjects = ON_LVM,
                "--quotas" => subjects = ON_QUOTAS,
                "--only" => only = Some(value()?.clone()),
                "--mode" => {
                    let name = value()?;
                    let known = Mode::ALL.into_iter().find(|mode| mode.name() == name);
                    mode = Some(known.ok_or(format!("no mode called {name}"))?);
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        if let Some(point) = point {
            choice = Some(Some(Choice::One((point, moment))));
        }
        if let Some(name) = &only
            && !subjects.iter().any(|subject| subject.name == name)
        {
            return Err(format!("no subject called {name}"));
        }
        Ok(Self { choice: choice.ok_or("say --full or --sample-seconds N")?, subjects, only, mode })
    }
}

/// Goes on as the first process of a process namespace: when it ends, for whatever reason, nothing that it started
/// is left running.
fn isolate(args: &[String]) -> ExitCode {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run `make test` as root");
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).expect("unshare");
    let base = format!("/var/tmp/docklet-kill-{}", std::process::id());
    run_again(Command::new("/proc/self/exe").arg(INIT).args(args).env(BASE, base))
}

fn run_again(command: &mut Command) -> ExitCode {
    let status = command.status().expect("run myself");
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Process 1: the parent of every orphan.
#[expect(clippy::zombie_processes, reason = "it waits for all of its children at once")]
fn init(args: &[String]) -> ExitCode {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("prctl");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("make / private");
    mount("proc", "/proc", "proc", MountFlags::empty(), None).expect("mount /proc");
    // liblxc takes the control group of process 1 for the root of each hierarchy.
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("cgroups").filter_map(Result::ok) {
        // 0 is the writer. Where there is no hierarchy there is no such file; nor is one made.
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(hierarchy.path().join("cgroup.procs"))
            .and_then(|mut file| file.write_all(b"0"));
    }
    let driver = Command::new("/proc/self/exe").arg(DRIVER).args(args).spawn().expect("run myself");
    let driver = i32::try_from(driver.id()).expect("pid");
    loop {
        let options = rustix::process::WaitOptions::empty();
        if let Ok(Some((pid, status))) = rustix::process::wait(options)
            && pid.as_raw_nonzero().get() == driver
        {
            return if status.exit_status() == Some(0) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    }
}

fn drive(arguments: &Arguments) -> ExitCode {
    let begin = Instant::now();
    let base = env::var(BASE).expect("set by the first role");
    let mut waiting = Vec::new();
    for subject in arguments
        .subjects
        .iter()
        .filter(|subject| arguments.only.as_ref().is_none_or(|name| name == subject.name))
    {
        let modes = subject.modes.iter().filter(|mode| arguments.mode.is_none_or(|wanted| wanted == **mode));
        waiting.extend(modes.map(|mode| (subject, *mode)));
    }
    println!("\nrunning {} matrices", waiting.len());
    let mut total = Tally::default();
    let matrices = u32::try_from(waiting.len()).expect("few");
    for (left, (subject, mode)) in (1..=matrices).rev().zip(waiting) {
        // What one matrix does not use is for the others.
        let choice = match arguments.choice {
            Some(Choice::Sample(time)) => Some(Choice::Sample(time.saturating_sub(begin.elapsed()) / left)),
            other => other,
        };
        let tally = Matrix::new(subject, mode, &base).run(choice);
        total.passed += tally.passed;
        total.failed += tally.failed;
        total.ignored += tally.ignored + tally.unreached;
    }
    let Tally { passed, failed, ignored, .. } = total;
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        begin.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
