//! Containers that `dist/docklet.service` must bring back at boot, each after those that it needs, and start again when they end.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use docklet::host::{ContainerSpec, Host, NetworkSpec};
use docklet::lxc::State;

use crate::{Result, kept};

/// In the order they start in, which is not that of their names.
const NAMES: [&str; 3] = ["log", "db", "app"];
/// Stopped by its user: no boot starts it.
const IDLE: &str = "idle";
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn make(host: &Host) -> Result {
    let gateway = "10.77.0.1/24".parse()?;
    host.ensure_network(&NetworkSpec { nat: true, ..NetworkSpec::new("lan".parse()?, gateway) }).await?;
    for (start_order, name) in (-1..).zip(NAMES) {
        let info = host.launch(ContainerSpec { start_order, ..kept::spec(host, name)? }).await?;
        kept::record(host, &info, &kept::fill(host, &info.spec.name, 1000).await?)?;
    }
    let idle = host.launch(ContainerSpec { start_order: -2, ..kept::spec(host, IDLE)? }).await?;
    Ok(host.stop(&idle.spec.name, Duration::ZERO).await?)
}

/// They come back in their order, and one that is killed does, too; and the unit's end is not theirs.
pub(crate) async fn back(host: &Host) -> Result {
    let mut begun = Vec::new();
    for name in NAMES {
        let init = running(host, name, None).await?;
        kept::is_as_recorded(host, name).await?;
        begun.push(began(init)?);
    }
    if !begun.is_sorted_by(|one, next| one < next) {
        return Err(format!("{NAMES:?} began at {begun:?}").into());
    }
    let idle = host.get(&IDLE.parse()?)?;
    if idle.state != State::Stopped || idle.should_run {
        return Err(format!("{idle:?}").into());
    }

    let [log, db, app] = NAMES;
    let killed = running(host, db, None).await?;
    command("kill", &["-KILL", &killed.to_string()])?;
    running(host, db, Some(killed)).await?;
    kept::is_as_recorded(host, db).await?;

    let mut before = Vec::new();
    for name in [log, db, app] {
        before.push(running(host, name, None).await?);
    }
    command("systemctl", &["stop", "docklet"])?;
    for (name, init) in [log, db, app].into_iter().zip(before) {
        if host.runtime(&name.parse()?)?.init_pid()? != Some(init) {
            return Err(format!("`{name}` ended with the unit").into());
        }
    }
    command("systemctl", &["start", "docklet"])
}

/// Waits until it runs, with another first process than `not`, and returns that.
async fn running(host: &Host, name: &str, not: Option<u32>) -> Result<u32> {
    let runtime = host.runtime(&name.parse()?)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let init = runtime.init_pid()?.filter(|init| Some(*init) != not);
        if let (Some(init), State::Running) = (init, runtime.state()?) {
            return Ok(init);
        }
        if Instant::now() > deadline {
            return Err(format!("`{name}` is {:?}", runtime.state()?).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// When a process began, in clock ticks since the boot (`man 5 proc_pid_stat`).
fn began(process: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("stat")?;
    Ok(fields.split_whitespace().nth(19).ok_or("starttime")?.parse()?)
}

fn command(program: &str, args: &[&str]) -> Result {
    let status = Command::new(program).args(args).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program} {args:?}: {status}").into()) }
}
