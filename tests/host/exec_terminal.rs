//! Commands on terminals, as users by name, and how they end with all that they started.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use docklet::Error;
use docklet::lxc::{Command, Container, Exec, ExecChild, ExecStatus, TerminalSize};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::host::fixture::{Fixture, spec};
use crate::kernel;
use crate::sandbox::Sandbox;
use crate::scripted_root::{self, exec};

const SIZE: TerminalSize = TerminalSize { rows: 40, columns: 132 };

/// Types a line and reads until `wanted` is printed: at most so much of anything else.
fn type_until(child: &ExecChild, line: &str, wanted: &str) -> String {
    let mut terminal = child.terminal.as_ref().unwrap();
    terminal.write_all(line.as_bytes()).unwrap();
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains(wanted) {
        let mut watched = [PollFd::new(terminal, PollFlags::IN)];
        let ready = poll(&mut watched, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
        assert!(ready > 0, "{line:?} printed no {wanted:?}: {text:?}");
        let length = terminal.read(&mut bytes).unwrap();
        assert!(length > 0 && text.len() < 1 << 16, "{line:?} printed no {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    text
}

/// The processes of the container that sleep for 77 seconds.
fn sleepers(container: &Container) -> usize {
    let ends = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(b"77\0");
    container.payload().processes().unwrap().iter().filter(|pid| ends(pid)).count()
}

fn await_sleepers(container: &Container, count: usize) {
    for _ in 0..6000 {
        if sleepers(container) == count {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} sleepers, not {count}", sleepers(container));
}

/// A shell on a terminal: its size, its name, an interrupt, and its end.
fn converse(container: &Container) {
    // Without busybox' own editing of lines, which asks the terminal where its cursor is.
    let line = "trap : INT; while read -r line; do eval \"$line\"; done";
    let shell = Command { terminal: Some(SIZE), ..Command::new(["sh", "-c", line]) };
    let mut child = container.spawn(&shell).unwrap();
    assert!(child.stdin.is_none() && child.stdout.is_none() && child.stderr.is_none());
    type_until(&child, "busybox stty size\n", "40 132");
    // A terminal of the container's own.
    type_until(&child, "busybox tty\n", "/dev/pts/");
    type_until(&child, "test -c $(busybox tty) && echo is-$((1 + 1))\n", "is-2");
    child.terminal.as_ref().unwrap().resize(TerminalSize { rows: 50, columns: 100 }).unwrap();
    // The new size arrives by a signal, some time.
    type_until(
        &child,
        "while test \"$(busybox stty size)\" != '50 100'; do :; done; echo now-$((1 + 1))\n",
        "now-2",
    );
    type_until(&child, "sleep 77; echo code-$?\n", "\n");
    await_sleepers(container, 1);
    type_until(&child, "\x03", "\n");
    await_sleepers(container, 0);
    type_until(&child, "echo on-$((1 + 1)) >&2\n", "on-2");
    type_until(&child, "exit 5\n", "\n");
    assert_eq!(child.wait().unwrap(), ExecStatus::Exited(5));
    // The rest, then the end.
    let mut rest = Vec::new();
    child.terminal.as_ref().unwrap().read_to_end(&mut rest).unwrap();
}

#[test]
#[ignore = "needs root: containers"]
fn a_shell_has_a_terminal() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    container.start(&scripted_root::config(&root)).unwrap();
    converse(&container);
    // Nothing that was printed is lost at the end, and both outputs are one.
    let lines = Command::new(["sh", "-c", "seq 1 20000; echo end >&2; exit 3"]);
    let output = container.exec(&Command { terminal: Some(SIZE), ..lines }.into()).unwrap();
    assert_eq!(output.status, ExecStatus::Exited(3));
    let text = String::from_utf8(output.stdout).unwrap();
    let expected: String = (1..=20000).map(|n| format!("{n}\r\n")).collect();
    assert_eq!((text.len(), text == expected + "end\r\n"), (108_894 + 20_000 + 5, true));
    let command = Command { terminal: Some(SIZE), ..Command::new(["cat"]) };
    let typed = Exec { stdin: b"one\n\x04".to_vec(), ..command.into() };
    let output = container.exec(&typed).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "one\r\none\r\n");
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

/// Who hangs up ends what runs there, as far as it wants to.
#[test]
#[ignore = "needs root: containers"]
fn a_terminal_is_hung_up() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    container.start(&scripted_root::config(&root)).unwrap();
    let sleep = Command { terminal: Some(SIZE), ..Command::new(["sh", "-c", "sleep 77; echo unheard"]) };
    let mut child = container.spawn(&sleep).unwrap();
    await_sleepers(&container, 1);
    drop(child.terminal.take());
    // The hang-up ends lxc-attach, unless it hears of the command's end before.
    let ended = child.wait();
    assert!(!matches!(&ended, Ok(status) if status.success()), "{ended:?}");
    await_sleepers(&container, 0);
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

/// The same in a container with ids of its own.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn an_unprivileged_container_has_terminals() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    converse(&fixture.host.runtime(&spec.name).unwrap());
    let tty = Command { user: Some("root".into()), terminal: Some(SIZE), ..Command::new(["tty"]) };
    let output = fixture.host.exec(&spec.name, tty.into()).await.unwrap();
    assert!(output.stdout.starts_with(b"/dev/pts/"), "{output:?}");
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

#[test]
#[ignore = "needs root: containers"]
fn users_have_names() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/data:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "staff:x:50:web\n").unwrap();
    container.start(&scripted_root::config(&root)).unwrap();
    let said = |command: &Command| {
        container.exec(&command.clone().into()).map(|output| String::from_utf8(output.stdout).unwrap())
    };
    let web = Command { user: Some("web".into()), ..Command::new(["sh", "-c", "id -u; id -g; echo $HOME"]) };
    assert_eq!(said(&web).unwrap(), "33\n34\n/data\n");
    let staff = Command { group: Some("staff".into()), ..web.clone() };
    assert_eq!(said(&staff).unwrap(), "33\n50\n/data\n");
    let home = Command { environment: [("HOME".to_owned(), "/tmp".to_owned())].into(), ..web.clone() };
    assert_eq!(said(&home).unwrap(), "33\n34\n/tmp\n");
    let nobody = Command { user: Some("nobody".into()), ..web.clone() };
    assert_eq!(said(&nobody).unwrap_err().to_string(), "user `nobody` in the container does not exist");
    // LXC takes the number that stands for no id for "not given", which is root.
    for command in [
        Command { user: Some(u32::MAX.into()), ..web.clone() },
        Command { group: Some(u32::MAX.into()), ..web.clone() },
    ] {
        assert!(matches!(said(&command).unwrap_err(), Error::Invalid { .. }));
    }
    // What the container puts in the place of its file is not followed out of it, nor waited for.
    fs::remove_file(root.join("etc/passwd")).unwrap();
    symlink("/etc/group", root.join("etc/passwd")).unwrap();
    assert_eq!(said(&web).unwrap_err().errno(), Some(libc::ELOOP));
    fs::remove_file(root.join("etc/passwd")).unwrap();
    kernel::run("mkfifo", [root.join("etc/passwd")]);
    let error = said(&web).unwrap_err();
    assert!(matches!(error, Error::Os { .. }), "{error}");
    fs::remove_file(root.join("etc/passwd")).unwrap();
    assert!(matches!(said(&web).unwrap_err(), Error::NotFound { .. }));
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

/// A command that is out of time ends with its children, with theirs, and with those that lost their parents.
#[test]
#[ignore = "needs root: containers"]
fn what_a_command_started_ends_with_it() {
    const LINE: &str =
        "sleep 77 & (sleep 77 &); busybox setsid sh -c '(sleep 77 &); sleep 77; :' & echo up; sleep 77; :";
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    container.start(&scripted_root::config(&root)).unwrap();
    for terminal in [None, Some(SIZE)] {
        let mut child = container.spawn(&Command { terminal, ..Command::new(["sh", "-c", LINE]) }).unwrap();
        await_sleepers(&container, 5);
        child.kill().unwrap();
        assert_eq!(sleepers(&container), 0);
    }
    let timeout = Some(Duration::from_millis(500));
    let output = container.exec(&Exec { timeout, ..Exec::new(["sh", "-c", LINE]) }).unwrap();
    assert_eq!((output.status, sleepers(&container)), (ExecStatus::TimedOut, 0));
    // One that ends by itself leaves what it wants to.
    exec(&container, &["sh", "-c", "sleep 77 >/dev/null 2>&1 &"]);
    await_sleepers(&container, 1);
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn commands_are_signalled() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    container.start(&scripted_root::config(&root)).unwrap();
    // At once: it is waited for until it is the command.
    let mut child = container.spawn(&Command::new(["sleep", "77"])).unwrap();
    assert!(child.signal(15).unwrap());
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    assert!(!child.signal(15).unwrap());
    let trap = "trap 'exit 4' USR1; echo up; while :; do sleep 0.01; done";
    let mut child = container.spawn(&Command::new(["sh", "-c", trap])).unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    assert!(child.signal(10).unwrap());
    assert_eq!(child.wait().unwrap(), ExecStatus::Exited(4));
    assert!(child.signal(0).unwrap_err().to_string().contains("must be 1 to 64"));
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}
