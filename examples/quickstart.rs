//! One container from nothing to nothing: launched with every limit, each limit proven from inside, removed.
//!
//! ```text
//! quickstart           run it
//! quickstart --keep    leave the container running, and print how to enter it
//! quickstart --remove  remove what --keep left
//! quickstart --json    print the result for programs, on standard output; a failure is `{"error": …}`
//! ```
//!
//! It needs root. The files go under FS_PREFIX (default /var/lib/docklet). The image and the volume's template stay
//! there, and make the next run faster. Ctrl-C removes what was made so far.
//!
//! Exit status: 0 if all went as it should, 1 if not, 2 for wrong arguments, 130 after Ctrl-C.

#![allow(clippy::print_stderr, reason = "an example talks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;
#[path = "parts/busybox.rs"]
mod busybox;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
use docklet::error::Chain;
use docklet::host::{ContainerInfo, ContainerSpec, Host, Init, NetworkSpec};
use docklet::lxc::{Exec, ExecOutput, HaltSignal, MountEntry};
use docklet::name::ContainerName;
use docklet::paths::Paths;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: quickstart [--keep | --remove] [--json]";
const NETWORK: &str = "quickstart";
const SHARED: &str = "quickstart-shared";
const GATEWAY: &str = "10.88.0.1";

#[tokio::main]
async fn main() -> ExitCode {
    let mut options = Options::default();
    let wrong = |reason: String| {
        eprintln!("quickstart: {reason}; {USAGE}");
        ExitCode::from(2)
    };
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => options.keep = true,
            "--remove" => options.remove = true,
            "--json" => options.json = true,
            "--help" | "-h" => {
                say!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => return wrong(format!("unknown argument {other:?}")),
        }
    }
    if options.keep && options.remove {
        return wrong("--keep and --remove do not go together".to_owned());
    }
    tokio::select! {
        result = run(&options) => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                failed(&options, &Chain(error.as_ref()).to_string());
                ExitCode::FAILURE
            }
        },
        Ok(()) = tokio::signal::ctrl_c() => {
            failed(&options, &clean_up().await);
            ExitCode::from(130)
        }
    }
}

/// One line for a person, and the same for a program.
fn failed(options: &Options, reason: &str) {
    eprintln!("quickstart: {reason}");
    if options.json {
        say!("{:#}", json!({ "error": reason }));
    }
}

/// After Ctrl-C: operations that had begun go on by themselves; removing waits for them.
async fn clean_up() -> String {
    eprintln!("\nquickstart: interrupted, removing what was made");
    let removed = async {
        let host = Host::open(Paths::from_env()?).await?;
        remove(&host, &"quickstart".parse()?).await
    };
    match removed.await {
        Ok(_) => "interrupted; what was made is removed".to_owned(),
        Err(error) => {
            format!("interrupted; run it with --remove: not all could be removed: {}", Chain(error.as_ref()))
        }
    }
}

#[derive(Default)]
struct Options {
    keep: bool,
    remove: bool,
    json: bool,
}

async fn run(options: &Options) -> Outcome<()> {
    let mut report = Report { steps: Vec::new(), quiet: options.json };
    let host = Host::open(Paths::from_env()?).await?;
    let name: ContainerName = "quickstart".parse()?;
    if options.remove {
        let removed = remove(&host, &name).await?;
        if options.json {
            say!("{:#}", json!({ "removed": removed }));
        } else {
            let prefix = host.paths().prefix().display();
            say!("{} under {prefix}", if removed { "removed what was" } else { "nothing to remove" });
        }
        return Ok(());
    }
    if host.get(&name).is_ok() {
        return Err("the container `quickstart` exists, from --keep or from a run that was killed; remove it with --remove".into());
    }
    // What a run that was killed left.
    remove(&host, &name).await?;
    let before = host.inventory().await?;

    report.headline("Launch");
    let image = report.step("image from busybox-static", || {
        let image = busybox::ensure(host.images(), &"busybox".parse()?)?;
        Ok((format!("`{}`", image.name), image))
    })?;
    let gateway = format!("{GATEWAY}/24").parse()?;
    let network = NetworkSpec { nat: true, ..NetworkSpec::new(NETWORK.parse()?, gateway) };
    let started = Instant::now();
    host.ensure_network(&network).await?;
    report.done("bridge with NAT", started, gateway.to_string());

    let shared = host.paths().prefix().join(SHARED);
    fs::create_dir_all(&shared)?;
    fs::write(shared.join("greeting"), "hello from the host\n")?;
    let spec = ContainerSpec {
        limits: CgroupLimits {
            memory_max_bytes: Some(Limit::At(128 << 20)),
            memory_swap_max_bytes: Some(Limit::At(0)),
            cpu: Some(CpuQuota::cores(0.5)?),
            pids_max: Some(Limit::At(64)),
            ..CgroupLimits::default()
        },
        mounts: vec![MountEntry::bind(&shared, "/srv/shared")?.create_dir().read_only()],
        init: Init { halt_signal: HaltSignal::USER2, ..Init::default() },
        ..ContainerSpec::new(name.clone(), image.name.clone()).in_network(network.name)
    };
    let started = Instant::now();
    let launched = host.launch(spec).await;
    let result = match launched {
        Ok(info) => {
            let address = info.address().map(|address| address.to_string()).unwrap_or_default();
            report.done(
                "container with volume, root, port, limits",
                started,
                format!("{} at {address}", info.id),
            );
            prove(&host, &info, &mut report).await
        }
        Err(error) => Err(error.into()),
    };
    if options.keep && result.is_ok() {
        return keep(&host, &name, &report, options.json);
    }
    report.headline("Remove");
    let started = Instant::now();
    if result.is_ok() {
        host.stop(&name, Duration::from_secs(10)).await.map_err(|error| left(&error))?;
        report.done("asked its init to shut down", started, "busybox gives processes 3 s for it".to_owned());
    }
    let started = Instant::now();
    remove(&host, &name).await.map_err(|error| left(error.as_ref()))?;
    report.done("container and network removed", started, String::new());
    result?;
    let started = Instant::now();
    let diff = before.diff(&host.inventory().await?);
    if !diff.is_empty() {
        return Err(format!("something was left behind:\n{diff}").into());
    }
    report.done("inventory before and after", started, "the same: nothing left".to_owned());
    if options.json {
        say!("{:#}", json!({ "steps": report.steps, "left_behind": [] }));
    }
    Ok(())
}

fn left(error: &(dyn std::error::Error + 'static)) -> String {
    format!("{}; --remove removes what is left", Chain(error))
}

/// Tells whether there was something.
async fn remove(host: &Host, name: &ContainerName) -> Outcome<bool> {
    let network_there = host.networks()?.iter().any(|network| network.name.as_str() == NETWORK);
    let there = network_there || host.get(name).is_ok();
    host.remove(name).await?;
    host.remove_network(&NETWORK.parse()?).await?;
    let shared = host.paths().prefix().join(SHARED);
    if shared.exists() {
        fs::remove_file(shared.join("greeting"))?;
        fs::remove_dir(&shared)?;
    }
    Ok(there)
}

/// Proves each limit from inside the container.
async fn prove(host: &Host, info: &ContainerInfo, report: &mut Report) -> Outcome<()> {
    report.headline("Prove, from inside");
    let name = &info.spec.name;
    let started = Instant::now();
    let output = sh(host, name, "cat /srv/shared/greeting && ! touch /srv/shared/x 2>/dev/null").await?;
    expect(
        "the shared directory",
        output.status.success() && output.stdout == b"hello from the host\n",
        &output,
    )?;
    report.done("shared directory is read-only there", started, text(&output.stdout));

    let started = Instant::now();
    let output = sh(host, name, &format!("ping -c 1 -w 5 {GATEWAY}")).await?;
    expect(
        "ping of the gateway, whose subnet nothing else of this host may be in (see `ip route`),",
        output.status.success(),
        &output,
    )?;
    report.done(
        "gateway answers",
        started,
        text(&output.stdout).lines().nth(1).unwrap_or_default().to_owned(),
    );

    let started = Instant::now();
    let output = sh(host, name, "dd if=/dev/zero of=/fill bs=1M; stat -c %s /fill; rm /fill").await?;
    expect("filling the disk", text(&output.stderr).contains("No space left"), &output)?;
    let bytes: u64 = text(&output.stdout).parse()?;
    report.done(
        "disk is full",
        started,
        format!("No space left on device after {} MiB of 1024", bytes >> 20),
    );

    let started = Instant::now();
    let kills = host.usage(name)?.oom_kills.unwrap_or(0);
    let output = sh(host, name, "dd if=/dev/zero of=/dev/null bs=200M count=1").await?;
    let kills = host.usage(name)?.oom_kills.unwrap_or(0) - kills;
    expect("taking too much memory", !output.status.success() && kills > 0, &output)?;
    report.done("200 MiB of memory", started, format!("{kills} process killed by the kernel at 128 MiB"));

    let started = Instant::now();
    // The shell's own kill at the end: nothing else could be started by then.
    let count = "trap 'kill $pids' EXIT; while :; do sleep 30 & pids=\"$pids $!\"; echo $!; done";
    let output = sh(host, name, count).await?;
    let forked = text(&output.stdout).lines().count();
    expect("forking", text(&output.stderr).contains("Resource temporarily unavailable"), &output)?;
    report.done(
        "processes",
        started,
        format!("fork refused after {forked}: Resource temporarily unavailable"),
    );

    let started = Instant::now();
    let before = host.usage(name)?.cpu_time.unwrap_or_default();
    sh(host, name, "timeout 2 sh -c 'while :; do :; done'").await?;
    let used = host.usage(name)?.cpu_time.unwrap_or_default().saturating_sub(before);
    let share = used.as_secs_f64() / started.elapsed().as_secs_f64();
    report.done("a busy loop", started, format!("got {share:.2} of a core, of 0.50 allowed"));
    Ok(())
}

fn keep(host: &Host, name: &ContainerName, report: &Report, json: bool) -> Outcome<()> {
    let info = host.get(name)?;
    let enter = format!("lxc-attach -P {} -n {}", quoted(&host.paths().containers()), info.id);
    let remove = format!("make quickstart ARGS=--remove FS_PREFIX={}", quoted(host.paths().prefix()));
    if json {
        say!("{:#}", json!({ "steps": report.steps, "container": info, "enter": enter, "remove": remove }));
    } else {
        say!("\nThe container is left running.\n  enter it:   {enter}\n  remove it:  {remove}");
    }
    Ok(())
}

/// `path` for a shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

async fn sh(host: &Host, name: &ContainerName, script: &str) -> Outcome<ExecOutput> {
    let exec = Exec { timeout: Some(Duration::from_secs(120)), ..Exec::new(["/bin/sh", "-c", script]) };
    Ok(host.exec(name, exec).await?)
}

fn expect(what: &str, holds: bool, output: &ExecOutput) -> Outcome<()> {
    if holds {
        return Ok(());
    }
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    Err(format!("{what} did not go as expected: {:?}, {out:?}, {err:?}", output.status).into())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// What was done, how long it took, and what came of it.
struct Report {
    steps: Vec<Value>,
    quiet: bool,
}

impl Report {
    fn headline(&self, text: &str) {
        if !self.quiet {
            say!("\n{text}");
        }
    }

    fn step<T>(&mut self, what: &str, work: impl FnOnce() -> Outcome<(String, T)>) -> Outcome<T> {
        let started = Instant::now();
        let (found, value) = work()?;
        self.done(what, started, found);
        Ok(value)
    }

    fn done(&mut self, what: &str, started: Instant, found: String) {
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        if !self.quiet {
            let line = format!("  {what:<44} {milliseconds:>9.1} ms   {found}");
            say!("{}", line.trim_end());
        }
        self.steps.push(json!({ "step": what, "milliseconds": milliseconds, "found": found }));
    }
}
