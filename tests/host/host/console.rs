//! Consoles of containers.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use docklet::Error;
use docklet::host::{ContainerSpec, Init};
use docklet::lxc::{Console, MountEntry, TerminalSize};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::fixture::{Fixture, spec};

const INIT: &str = "#!/bin/sh
exec < /dev/console > /dev/console 2>&1
echo it is up
while read -r line; do eval \"$line\"; done
";

fn read_until(console: &Console, wanted: &str) {
    let mut terminal = &console.terminal;
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains(wanted) {
        let mut watched = [PollFd::new(terminal, PollFlags::IN)];
        let ready = poll(&mut watched, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap();
        let length = if ready > 0 { terminal.read(&mut bytes).unwrap() } else { 0 };
        assert!(length > 0, "no {wanted:?} in {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
}

/// What init prints is kept, and who sits at the console talks to it.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_console_is_kept_and_sat_at() {
    let fixture = Fixture::new().await;
    let shared = fixture.sandbox.dir("shared");
    fs::write(shared.join("init"), INIT).unwrap();
    for path in [&shared, &shared.join("init")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut spec = ContainerSpec { console_max_bytes: Some(8192), ..spec("one") };
    spec.mounts.push(MountEntry::bind(&shared, "/srv/shared").unwrap().create_dir());
    let command = vec!["/bin/sh".to_owned(), "/srv/shared/init".to_owned()];
    spec.init = Init { command, ..spec.init };
    fixture.host.launch(spec.clone()).await.unwrap();
    let runtime = fixture.host.runtime(&spec.name).unwrap();
    let console = runtime.console(TerminalSize::default()).unwrap();
    (&console.terminal).write_all(b"echo sum-$((1 + 1))\n").unwrap();
    read_until(&console, "sum-2\r");
    let error = runtime.console(TerminalSize::default()).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    drop(console);
    // The seat is free again, some time, and the container is as it was.
    let mut again = runtime.console(TerminalSize::default());
    for _ in 0..600 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        again = runtime.console(TerminalSize::default());
    }
    let console = again.unwrap();
    // A byte that ends the session elsewhere is only a byte, and much is kept up to a bound.
    (&console.terminal).write_all(b"seq 1 5000; echo end-$((1 + 1))\n").unwrap();
    read_until(&console, "end-2\r");
    drop(console);
    let mut log = String::new();
    for _ in 0..600 {
        log = String::from_utf8_lossy(&fixture.host.console_log(&spec.name).unwrap()).into_owned();
        if log.contains("end-2") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(log.contains("4999\r\n5000\r\nend-2") && log.len() <= 2 * 8192, "{} bytes", log.len());
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// What was said before somebody came is there, also after the end; without a console there is nothing to ask.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn last_words_are_kept() {
    let fixture = Fixture::new().await;
    let none = spec("none");
    fixture.host.launch(none.clone()).await.unwrap();
    assert!(matches!(fixture.host.console_log(&none.name).unwrap_err(), Error::NotFound { .. }));
    let one = ContainerSpec { console_max_bytes: Some(4096), ..spec("one") };
    fixture.host.launch(one.clone()).await.unwrap();
    fixture.sh(&one.name, "echo last words > /dev/console").await;
    let mut log = Vec::new();
    for _ in 0..600 {
        log = fixture.host.console_log(&one.name).unwrap();
        if log.ends_with(b"last words\r\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fixture.host.stop(&one.name, Duration::ZERO).await.unwrap();
    assert_eq!(fixture.host.console_log(&one.name).unwrap(), log);
    assert!(log.ends_with(b"last words\r\n"), "{}", String::from_utf8_lossy(&log));
    for name in [&one.name, &none.name] {
        fixture.host.remove(name).await.unwrap();
    }
    fixture.end().await;
}
