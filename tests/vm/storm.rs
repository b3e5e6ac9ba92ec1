//! Containers that come and go for as long as the machine has power, and what must be there when it has it again.

use docklet::host::Host;
use docklet::lxc::State;

use crate::kept::{self, expected, fill, forget, is_as_recorded, record, spec};
use crate::{Result, sh};

const NAMES: [&str; 3] = ["gust", "squall", "gale"];

/// Launches, stops, starts and removes containers at once, until the power is cut.
pub(crate) async fn rage(host: &Host) -> Result {
    let lives = NAMES.map(|name| live(host, name));
    futures_util::future::try_join_all(lives).await?;
    Ok(())
}

async fn live(host: &Host, name: &str) -> Result {
    let parsed = name.parse()?;
    for round in 0_u32.. {
        // One may be there, from before the power was cut.
        if !expected(host, name).exists() {
            let info = host.launch(spec(host, name)?).await?;
            record(host, &info, &fill(host, &parsed, 2_000).await?)?;
        }
        if round % 2 == 0 {
            host.stop(&parsed, std::time::Duration::ZERO).await?;
            host.start(&parsed).await?;
            sh(host, &parsed, "sha256sum /srv/data").await?;
        }
        forget(host, name)?;
        host.remove(&parsed).await?;
        println!("{name}: round {round}");
    }
    Ok(())
}

/// One recovery makes the host whole, a second one changes nothing; what was promised is there, and runs if it should.
pub(crate) async fn calm(host: &Host) -> Result {
    let first = host.recover().await?;
    println!("{}", serde_json::to_string(&first)?);
    if !first.complete() {
        return Err("the first recovery did not make everything whole".into());
    }
    let second = host.recover().await?;
    if second.changed() || !second.complete() {
        return Err(format!("a second recovery did {}", serde_json::to_string(&second)?).into());
    }
    kept::check(host).await?;
    for info in host.list()? {
        let name = &info.spec.name;
        if info.should_run != (info.state == State::Running) {
            return Err(format!("`{name}` is {:?}, should run: {}", info.state, info.should_run).into());
        }
        if !info.should_run {
            // The power went while it was stopped.
            host.start(name).await?;
        }
    }
    for name in NAMES {
        if expected(host, name).exists() {
            is_as_recorded(host, name).await?;
        }
    }
    Ok(())
}
