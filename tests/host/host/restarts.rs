//! How containers end, what is written down of it, and which of them are started again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use docklet::host::{ContainerInfo, ContainerSpec, Init, Outcome, Restart, RestartPolicy};
use docklet::lxc::{Exec, Exit, MountEntry, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fixture::{Fixture, spec};

/// An init that notes each of its lives, and ends with the code in a file once there is one.
const INIT: &str = "#!/bin/sh
echo started >> /srv/shared/lives
while [ ! -e /srv/shared/code ]; do sleep 0.02; done
exit $(cat /srv/shared/code)
";

/// A container whose end the test decides, by files it shares with it.
struct Mortal {
    spec: ContainerSpec,
    shared: PathBuf,
}

impl Mortal {
    fn new(fixture: &Fixture, name: &str, restart: RestartPolicy) -> Self {
        let shared = fixture.sandbox.dir(name);
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(shared.join("init"), INIT).unwrap();
        fs::write(shared.join("lives"), "").unwrap();
        for file in ["init", "lives"] {
            fs::set_permissions(shared.join(file), fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut spec = spec(name);
        spec.mounts.push(MountEntry::bind(&shared, "/srv/shared").unwrap().create_dir());
        let command = vec!["/bin/sh".to_owned(), "/srv/shared/init".to_owned()];
        spec.init = Init { command, halt_signal: "SIGTERM".parse().unwrap() };
        Self { spec: ContainerSpec { restart, ..spec }, shared }
    }

    /// Lets this life and those after it end with `code`.
    fn end_with(&self, code: u8) {
        fs::write(self.shared.join("code.new"), code.to_string()).unwrap();
        fs::rename(self.shared.join("code.new"), self.shared.join("code")).unwrap();
    }

    fn live_on(&self) {
        fs::remove_file(self.shared.join("code")).unwrap();
    }

    fn lives(&self) -> usize {
        fs::read_to_string(self.shared.join("lives")).unwrap().lines().count()
    }

    /// What is known of it once that is as `wanted`.
    async fn once(&self, fixture: &Fixture, wanted: impl Fn(&ContainerInfo) -> bool) -> ContainerInfo {
        for _ in 0..1200 {
            let info = fixture.host.get(&self.spec.name).unwrap();
            if wanted(&info) {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("still {:?}", fixture.host.get(&self.spec.name).unwrap());
    }
}

fn init_pid(fixture: &Fixture, spec: &ContainerSpec) -> Option<u32> {
    fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap()
}

/// Each way to end is told from the others, also by who comes later, and after a restart.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn ends_are_known() {
    let fixture = Fixture::new().await;
    let mortal = Mortal::new(&fixture, "one", RestartPolicy::default());
    let name = &mortal.spec.name;
    assert_eq!(fixture.host.launch(mortal.spec.clone()).await.unwrap().last_end, None);
    let stopped = |info: &ContainerInfo| info.state == State::Stopped && info.last_end.is_some();
    for code in [7, 0, 255] {
        mortal.end_with(code);
        let info = mortal.once(&fixture, stopped).await;
        let end = info.last_end.unwrap();
        assert_eq!((end.exit, end.asked, info.should_run), (Exit::Exited(code), false, true));
        mortal.live_on();
        let again = fixture.host.start(name).await.unwrap();
        assert_eq!((again.last_end, again.state), (Some(end), State::Running));
    }
    let pid = init_pid(&fixture, &mortal.spec).unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    let info = mortal.once(&fixture, |info| stopped(info)).await;
    assert_eq!(info.last_end.unwrap().exit, Exit::Signaled(9));
    fixture.host.start(name).await.unwrap();
    // It has no handler for the signal that asks it to stop.
    fixture.host.stop(name, Duration::from_millis(20)).await.unwrap();
    let end = fixture.host.get(name).unwrap().last_end.unwrap();
    assert_eq!((end.exit, end.asked), (Exit::Signaled(9), true));
    fixture.host.remove(name).await.unwrap();
    fixture.end().await;
}

/// An init that shuts down has halted; one that reboots goes on.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn halting_and_rebooting_are_told_apart() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    let before = fixture.host.launch(spec.clone()).await.unwrap();
    let first = init_pid(&fixture, &spec).unwrap();
    fixture.host.exec(&spec.name, Exec::new(["reboot"])).await.unwrap();
    let mut now = Some(first);
    for _ in 0..1200 {
        now = init_pid(&fixture, &spec);
        if now != Some(first) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(now.is_some() && now != Some(first), "{now:?}");
    assert_eq!(fixture.host.get(&spec.name).unwrap(), before);
    fixture.host.stop(&spec.name, Duration::from_secs(60)).await.unwrap();
    let end = fixture.host.get(&spec.name).unwrap().last_end.unwrap();
    assert_eq!((end.exit, end.asked), (Exit::Halted, true));
    fixture.host.start(&spec.name).await.unwrap();
    fixture.host.exec(&spec.name, Exec::new(["poweroff"])).await.unwrap();
    let runtime = fixture.host.runtime(&spec.name).unwrap();
    assert!(
        tokio::task::spawn_blocking(move || runtime.wait(Some(Duration::from_secs(60))))
            .await
            .unwrap()
            .unwrap()
    );
    let info = fixture.host.get(&spec.name).unwrap();
    assert_eq!(info.last_end.map(|end| (end.exit, end.asked)), Some((Exit::Halted, false)));
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// One that fails each time is started again as often as it may be, over two supervisors, and is down then.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn retries_are_counted_over_supervisors() {
    let fixture = Fixture::new().await;
    let policy = RestartPolicy { when: Restart::OnFailure, max_retries: Some(3) };
    let mortal = Mortal::new(&fixture, "one", policy);
    fixture.host.launch(mortal.spec.clone()).await.unwrap();
    mortal.end_with(3);
    let twice = async {
        mortal.once(&fixture, |_| mortal.lives() >= 2).await;
    };
    fixture.host.supervise(twice).await.unwrap();
    let down = async {
        mortal.once(&fixture, |info| !info.should_run && info.state == State::Stopped).await;
    };
    fixture.host.supervise(down).await.unwrap();
    let info = fixture.host.get(&mortal.spec.name).unwrap();
    assert_eq!((mortal.lives(), info.restarts), (4, 3));
    assert_eq!(info.last_end.unwrap().exit, Exit::Exited(3));
    let report = fixture.host.recover().await.unwrap();
    assert_eq!(report.containers, [(mortal.spec.name.clone(), Outcome::Unchanged)]);
    // A person may start it again, and it may fail again.
    mortal.live_on();
    assert_eq!(fixture.host.start(&mortal.spec.name).await.unwrap().restarts, 0);
    fixture.host.remove(&mortal.spec.name).await.unwrap();
    fixture.end().await;
}

/// What ended as it wanted to is not a failure, and what is never to be restarted is not, by a recovery neither.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn policies_leave_containers_down() {
    let fixture = Fixture::new().await;
    for (name, when, code) in [("one", Restart::OnFailure, 0), ("two", Restart::Never, 1)] {
        let mortal = Mortal::new(&fixture, name, RestartPolicy { when, max_retries: None });
        fixture.host.launch(mortal.spec.clone()).await.unwrap();
        mortal.end_with(code);
        mortal.once(&fixture, |info| info.state == State::Stopped).await;
        let report = fixture.host.recover().await.unwrap();
        assert!(report.containers.contains(&(mortal.spec.name.clone(), Outcome::Ended)), "{report:?}");
        let info = fixture.host.get(&mortal.spec.name).unwrap();
        assert_eq!((info.should_run, info.state, mortal.lives()), (false, State::Stopped, 1));
        assert_eq!(info.last_end.unwrap().exit, Exit::Exited(code));
        assert!(!fixture.host.recover().await.unwrap().changed());
        fixture.host.remove(&mortal.spec.name).await.unwrap();
    }
    fixture.end().await;
}

/// Recovery starts the lower orders first, and is done with them before the higher.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn recovery_keeps_the_start_order() {
    let fixture = Fixture::new().await;
    let specs: Vec<_> = [("a", 5), ("b", 0), ("c", 0), ("d", -5)]
        .map(|(name, start_order)| ContainerSpec { start_order, ..spec(name) })
        .into();
    for spec in &specs {
        fixture.host.launch(spec.clone()).await.unwrap();
    }
    for spec in &specs {
        fixture.host.runtime(&spec.name).unwrap().kill().unwrap();
    }
    let report = fixture.host.recover().await.unwrap();
    assert!(report.containers.iter().all(|(_, outcome)| *outcome == Outcome::Started), "{report:?}");
    // The record of a start is its last step; LXC's log of the next one is made after it.
    let directory = |spec: &ContainerSpec| {
        fixture.sandbox.paths.containers().join(fixture.host.get(&spec.name).unwrap().id.as_str())
    };
    let done = |spec: &ContainerSpec| {
        let status = fs::metadata(directory(spec).join("started.json")).unwrap();
        (status.mtime(), status.mtime_nsec())
    };
    let begun = |spec: &ContainerSpec| {
        let status = fs::metadata(directory(spec).join("config")).unwrap();
        (status.mtime(), status.mtime_nsec())
    };
    let [a, b, c, d] = &specs[..] else { panic!("four") };
    for (earlier, later) in [(d, b), (d, c), (b, a), (c, a)] {
        assert!(done(earlier) <= begun(later), "{} before {}", earlier.name, later.name);
    }
    for spec in &specs {
        fixture.host.remove(&spec.name).await.unwrap();
    }
    fixture.end().await;
}

/// What the host cannot start is not the container's failure: its policy does not give it up.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn failures_of_the_host_are_not_counted() {
    let fixture = Fixture::new().await;
    let policy = RestartPolicy { when: Restart::OnFailure, max_retries: Some(1) };
    let mortal = Mortal::new(&fixture, "one", policy);
    let info = fixture.host.launch(mortal.spec.clone()).await.unwrap();
    mortal.end_with(3);
    mortal.once(&fixture, |info| info.state == State::Stopped).await;
    mortal.live_on();
    let volume = fixture.sandbox.paths.volumes().join(format!("files/{}.img", info.id));
    fs::rename(&volume, volume.with_extension("away")).unwrap();
    fixture.host.supervise(tokio::time::sleep(Duration::from_secs(2))).await.unwrap();
    let info = fixture.host.get(&mortal.spec.name).unwrap();
    assert_eq!((info.should_run, info.restarts, mortal.lives()), (true, 1, 1));
    fs::rename(volume.with_extension("away"), &volume).unwrap();
    let back = async {
        mortal.once(&fixture, |info| mortal.lives() == 2 && info.state == State::Running).await;
    };
    fixture.host.supervise(back).await.unwrap();
    fixture.host.remove(&mortal.spec.name).await.unwrap();
    fixture.end().await;
}

/// A loop of reboots from inside makes LXC's log longer for ever: the supervisor cuts it, and knows the end that comes at last.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_loop_of_reboots_does_not_fill_the_disk() {
    let fixture = Fixture::new().await;
    let policy = RestartPolicy { when: Restart::Never, max_retries: None };
    let mortal = Mortal::new(&fixture, "one", policy);
    fs::write(
        mortal.shared.join("init"),
        INIT.replace("sleep 0.02", "[ -e /srv/shared/loop ] && exec reboot -f; sleep 0.02"),
    )
    .unwrap();
    let info = fixture.host.launch(mortal.spec.clone()).await.unwrap();
    let log = fixture.sandbox.paths.containers().join(info.id.as_str()).join("lxc.log");
    let length = || fs::metadata(&log).unwrap().len();
    // As after many of them.
    let many = fs::File::options().append(true).open(&log).unwrap();
    many.set_len(64 << 20).unwrap();
    fs::write(mortal.shared.join("loop"), "").unwrap();
    let bounded = async {
        let mut lives = 0;
        while length() >= 1 << 20 || lives < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            lives = mortal.lives();
        }
        fs::remove_file(mortal.shared.join("loop")).unwrap();
        mortal.end_with(5);
        mortal.once(&fixture, |info| info.state == State::Stopped && info.last_end.is_some()).await;
    };
    fixture.host.supervise(bounded).await.unwrap();
    assert!(length() < 2 << 20, "{}", length());
    let end = fixture.host.get(&mortal.spec.name).unwrap().last_end.unwrap();
    assert_eq!(end.exit, Exit::Exited(5));
    fixture.host.remove(&mortal.spec.name).await.unwrap();
    fixture.end().await;
}

/// Without LXC's monitor nobody would reap a container or clean up after it: it ends with it, and the supervisor sees to the rest.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_killed_monitor_is_noticed() {
    let fixture = Fixture::new().await;
    let policy = RestartPolicy { when: Restart::OnFailure, max_retries: None };
    let mortal = Mortal::new(&fixture, "one", policy);
    fixture.host.launch(mortal.spec.clone()).await.unwrap();
    let back = async {
        let init = init_pid(&fixture, &mortal.spec).unwrap();
        let status = fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
        let monitor = status.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap();
        kill(Pid::from_raw(monitor.parse().unwrap()), Signal::SIGKILL).unwrap();
        mortal.once(&fixture, |info| mortal.lives() == 2 && info.state == State::Running).await;
    };
    fixture.host.supervise(back).await.unwrap();
    let info = fixture.host.get(&mortal.spec.name).unwrap();
    assert_eq!((info.last_end.unwrap().exit, info.restarts), (Exit::Unknown, 1));
    fixture.host.remove(&mortal.spec.name).await.unwrap();
    fixture.end().await;
}

/// Ten times down and up at once, and ten times gone and new.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn one_name_is_restarted_ten_times_fast() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    let mut seen = BTreeSet::from([init_pid(&fixture, &spec)]);
    for _ in 0..10 {
        fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
        fixture.host.start(&spec.name).await.unwrap();
        seen.insert(init_pid(&fixture, &spec));
    }
    for _ in 0..10 {
        fixture.host.remove(&spec.name).await.unwrap();
        fixture.host.launch(spec.clone()).await.unwrap();
        seen.insert(init_pid(&fixture, &spec));
    }
    assert_eq!(seen.len(), 21);
    assert_eq!(fixture.sh(&spec.name, "echo up").await, "up\n");
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}
