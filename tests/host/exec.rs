//! Commands in a running container.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use docklet::lxc::{Command, Container, Exec, ExecStatus};

use crate::sandbox::Sandbox;
use crate::scripted_root::{self, exec, sh};

fn processes_in(container: &Container) -> Vec<u32> {
    container.payload().processes().unwrap()
}

#[test]
#[ignore = "needs root: containers"]
fn container_runs_commands() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    let message = container.exec(&Exec::new(["true"])).unwrap_err().to_string();
    assert!(message.starts_with("a running container `") && message.ends_with("does not exist"), "{message}");
    container.start(&scripted_root::config(&root)).unwrap();
    for code in [0, 1, 2, 7, 126, 127, 255] {
        let output = exec(&container, &["sh", "-c", &format!("echo out; echo err >&2; exit {code}")]);
        assert_eq!(output.status, ExecStatus::Exited(code));
        assert_eq!((output.stdout, output.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    }
    let killed = exec(&container, &["sh", "-c", "kill -9 $$"]).status;
    assert_eq!((killed.code(), killed.signal()), (Some(137), Some(9)));
    fs::write(root.join("data/text"), "no program").unwrap();
    for (program, expected) in
        [("/nonexistent", 127), ("nonexistent", 127), ("/data/text", 126), ("/data", 126)]
    {
        match exec(&container, &[program]).status {
            ExecStatus::NotRun { code, reason } => {
                assert_eq!(code, expected, "{program}");
                assert!(reason.contains(program), "{reason}");
            }
            status => panic!("{program}: {status:?}"),
        }
    }
    // Arguments arrive as they are; there is no shell in between.
    let odd = ["a b", "", "'\"$HOME`id`", "-n", "x\ny", "ü"];
    let output = exec(&container, &[&["printf", "[%s]"], &odd[..]].concat());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), odd.map(|arg| format!("[{arg}]")).concat());
    assert!(container.exec(&Exec::new([""; 0])).unwrap_err().to_string().contains("must name a program"));
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn container_commands_have_surroundings() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    let mut config = scripted_root::config(&root);
    config.environment("CONFIGURED", " a \"b\" 'c' ").unwrap();
    container.start(&config).unwrap();
    let environment = BTreeMap::from([("GIVEN".to_owned(), "x\ny = $z ".to_owned())]);
    let output = container.exec(&Command { environment, ..Command::new(["env"]) }.into()).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in
        ["GIVEN=x\ny = $z \n", "container=lxc\n", "PATH=/usr/local/sbin:", "CONFIGURED= a \"b\" 'c' \n"]
    {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains("CARGO"), "{text}");
    let init = sh(&container, "tr '\\0' '\\n' < /proc/1/environ");
    assert!(init.contains("CONFIGURED= a \"b\" 'c' \n") && !init.contains("CARGO"), "{init}");
    let run = |exec: Exec| {
        let output = container.exec(&exec).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(Exec::new(["pwd"])), "/\n");
    // Ours, even if there is one of that name inside.
    let ours = std::env::current_dir().unwrap();
    fs::create_dir_all(root.join(ours.strip_prefix("/").unwrap())).unwrap();
    assert_eq!(run(Exec::new(["pwd"])), "/\n");
    let odd = "/data/a b'\"$x";
    fs::create_dir(root.join(&odd[1..])).unwrap();
    assert_eq!(run(Command { cwd: Some(odd.into()), ..Command::new(["pwd"]) }.into()), format!("{odd}\n"));
    let nowhere = Command { cwd: Some("/no".into()), ..Command::new(["pwd"]) };
    let message = container.exec(&nowhere.into()).unwrap_err();
    assert_eq!(message.to_string(), "directory `/no` in the container does not exist");
    let user = Command {
        user: Some(1234.into()),
        group: Some(567.into()),
        ..Command::new(["sh", "-c", "id -u; id -g; id -G"])
    };
    assert_eq!(run(user.into()), "1234\n567\n567\n");
    // What keeps root inside is the same as for init.
    let caps = |path: &str| sh(&container, &format!("grep -E 'Cap(Bnd|Eff)|Seccomp:' {path}"));
    assert_eq!(caps("/proc/self/status"), caps("/proc/1/status"));
    assert!(caps("/proc/1/status").contains("Seccomp:\t2"), "{}", caps("/proc/1/status"));
    // No descriptor of ours but the three streams and what `ls` opens itself.
    assert_eq!(sh(&container, "ls /proc/self/fd | wc -l"), "4\n");
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn container_streams_flow() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    container.start(&scripted_root::config(&root)).unwrap();
    // More than any pipe holds, both ways at once.
    let input: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let exec = Exec { stdin: input.clone(), output_max_bytes: 4 << 20, ..Exec::new(["cat"]) };
    let output = container.exec(&exec).unwrap();
    assert_eq!((output.stdout == input, output.truncated), (true, false));
    let output = container.exec(&Exec { output_max_bytes: 1000, ..exec.clone() }).unwrap();
    assert_eq!((output.stdout == input[..1000], output.truncated), (true, true));
    assert!(output.status.success());
    // One that does not read its input is no error.
    assert!(container.exec(&Exec { command: Command::new(["true"]), ..exec }).unwrap().status.success());
    // A grandchild that keeps the streams open is not waited for.
    let begin = Instant::now();
    sh(&container, "sleep 30 & echo");
    assert!(begin.elapsed() < Duration::from_secs(10));
    // Interactive.
    let mut child = container.spawn(&Command::new(["sh"])).unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut byte = [0];
    stdin.write_all(b"printf x\n").unwrap();
    stdout.read_exact(&mut byte).unwrap();
    stdin.write_all(b"exit 5\n").unwrap();
    assert_eq!(child.wait().unwrap(), ExecStatus::Exited(5));
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn container_commands_end_in_time() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    container.start(&scripted_root::config(&root)).unwrap();
    let sleepers = || {
        let ends =
            |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(b"77\0");
        processes_in(&container).iter().filter(|pid| ends(pid)).count()
    };
    // A slow machine may not come as far as the first word in the shortest.
    let outputs = [300, 3_000, 30_000].map(Duration::from_millis).into_iter().map(|timeout| {
        let command = ["sh", "-c", "echo a; exec sleep 77"];
        let output = container.exec(&Exec { timeout: Some(timeout), ..Exec::new(command) }).unwrap();
        assert_eq!(output.status, ExecStatus::TimedOut);
        assert_eq!(sleepers(), 0);
        output.stdout
    });
    let mut said = outputs.skip_while(Vec::is_empty);
    assert_eq!(said.next(), Some(b"a\n".to_vec()));
    let child = container.spawn(&Command::new(["sleep", "77"])).unwrap();
    while sleepers() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    drop(child);
    assert_eq!(sleepers(), 0);
    // At any moment on the way: what was not started yet is not started later.
    for millis in 0..12 {
        let exec = Exec { timeout: Some(Duration::from_millis(millis)), ..Exec::new(["sleep", "77"]) };
        assert_eq!(container.exec(&exec).unwrap().status, ExecStatus::TimedOut);
        assert_eq!(sleepers(), 0, "{millis} ms");
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!(sleepers(), 0);
    // Its container is killed beneath it, whether it runs already or is on its way.
    for late in [false, true] {
        let mut child = container.spawn(&Command::new(["sleep", "77"])).unwrap();
        while late && sleepers() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        container.kill().unwrap();
        match child.wait() {
            Ok(status) => assert_eq!(status.signal(), Some(9)),
            Err(error) => assert!(error.to_string().contains("it stopped beneath the command"), "{error}"),
        }
        assert_eq!(scripted_root::lock_files(&sandbox), "");
        container.start(&scripted_root::config(&root)).unwrap();
    }
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}
