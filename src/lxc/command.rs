//! A command for a container: what is run there, as whom, and with which surroundings (`man 2 execve`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::lxc::account::Account;
use crate::lxc::config::check_variable;
use crate::lxc::terminal::TerminalSize;
use crate::lxc::text;

/// A command to run in a container.
///
/// ```
/// # use docklet::lxc::Command;
/// let command = Command { user: Some(1000.into()), ..Command::new(["id", "-u"]) };
/// assert_eq!(command.argv, ["id", "-u"]);
/// let command: Command = serde_json::from_str(r#"{"argv": ["id"]}"#).unwrap();
/// assert_eq!(command, Command::new(["id"]));
/// ```
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments. A program without a slash is searched for in the container's `PATH`.
    pub argv: Vec<String>,
    /// Its environment. Nothing of the caller's is handed on; `PATH` has a usual value unless it is given, and LXC adds
    /// `container=lxc` and the variables of the container's configuration. They are arguments of `lxc-attach`, as the command is, and
    /// those every user of the host can read while it runs: a secret is for [`Exec::stdin`](crate::lxc::Exec::stdin), or a file.
    pub environment: BTreeMap<String, String>,
    /// The directory to run it in, as the container sees it. Default: `/`. It needs `/bin/sh` in the container, which
    /// changes there before it becomes the command: LXC has no way of its own.
    pub cwd: Option<PathBuf>,
    /// The user to run it as. Default: 0. By a name, the container's `/etc/passwd` says which, and `HOME` is what stands there,
    /// unless it is given. It has no supplementary groups: `lxc-attach` gives none.
    pub user: Option<Account>,
    /// The group to run it as. Default: that of a user given by name, else 0. By a name, the container's `/etc/group` says which.
    pub group: Option<Account>,
    /// Runs it on a pseudo terminal of this size, of the container's own (`tty` tells its name), as its controlling one.
    /// Standard output and error are one then. Default: none, its streams are pipes.
    pub terminal: Option<TerminalSize>,
}

impl Command {
    /// The program and its arguments, with an empty environment, as root, in `/`, with pipes as its streams.
    #[must_use]
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("command", "", "must name a program"));
        }
        let zero = |text: &&String| text.contains('\0');
        if let Some(bad) = self.argv.iter().chain(self.environment.values()).find(zero) {
            return Err(Error::invalid("command", bad, "must not contain a zero byte"));
        }
        self.environment.keys().try_for_each(|name| check_variable(name))?;
        self.user.iter().chain(&self.group).try_for_each(Account::check)?;
        if let Some(cwd) = &self.cwd
            && cwd != Path::new("/")
        {
            text::check_path("working directory", cwd)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_checked() {
        Command { cwd: Some("/".into()), ..Command::new(["id", ""]) }.check().unwrap();
        let id = || Command::new(["id"]);
        for (bad, words) in [
            (Command::new([""; 0]), "must name a program"),
            (Command::new(["", "x"]), "must name a program"),
            (Command::new(["id", "a\0b"]), "zero byte"),
            (Command { environment: [("A=B".to_owned(), String::new())].into(), ..id() }, "A=B"),
            (Command { cwd: Some("data".into()), ..id() }, "working directory"),
            (Command { user: Some(u32::MAX.into()), ..id() }, "4294967295"),
        ] {
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
