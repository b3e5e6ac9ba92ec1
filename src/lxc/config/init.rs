//! The first process of a container: `lxc.init.*`, `lxc.signal.halt`, `lxc.arch`, `lxc.no_new_privs`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::lxc::HaltSignal;
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::values::ConfigPath;
use crate::lxc::text::number::unsigned_32;
use crate::lxc::text::{self, ARCHITECTURES};

/// Which machine the container's programs are told they run on (`man 2 personality`): `x86_64`, `i686`, `linux64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Architecture(&'static str);

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = ARCHITECTURES.iter().find(|name| **name == text);
        name.map(|name| Self(name)).ok_or_else(|| {
            Error::invalid("architecture", text, format!("must be one of {}", ARCHITECTURES.join(", ")))
        })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// As whom init runs, and where. Default: the container's root, in `/`, with the host's architecture.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InitProcess {
    /// Its user, by the container's ids.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// More groups.
    pub groups: Vec<u32>,
    /// Its working directory, in the container.
    pub directory: Option<ConfigPath>,
    /// Which machine it is told it runs on.
    pub architecture: Option<Architecture>,
    /// Whether no program may gain rights when it is executed (`PR_SET_NO_NEW_PRIVS`): no `sudo`, no `ping`.
    pub no_new_privileges: bool,
}

impl InitProcess {
    pub(crate) fn render(&self, lines: &mut Lines) {
        if let Some(architecture) = self.architecture {
            lines.add("lxc.arch", architecture.0);
        }
        for (key, id) in [("lxc.init.uid", self.user), ("lxc.init.gid", self.group)] {
            if id != 0 {
                lines.add(key, &id.to_string());
            }
        }
        if !self.groups.is_empty() {
            let groups: Vec<_> = self.groups.iter().map(u32::to_string).collect();
            lines.add("lxc.init.groups", &groups.join(","));
        }
        if let Some(directory) = &self.directory {
            lines.add("lxc.init.cwd", &directory.to_string());
        }
        if self.no_new_privileges {
            lines.add("lxc.no_new_privs", "1");
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let architecture = reader.one("lxc.arch").and_then(|entry| {
            let text = reader.text(&entry)?;
            reader.parsed(&entry, text.parse())
        });
        let mut groups = Vec::new();
        for entry in reader.all("lxc.init.groups") {
            let list = entry.value().split(|b| *b == b',').filter(|group| !group.is_empty());
            groups.extend(list.filter_map(unsigned_32));
        }
        let no_new_privileges = reader.one("lxc.no_new_privs").is_some_and(|entry| reader.flag(&entry));
        Self {
            user: reader.number("lxc.init.uid").unwrap_or(0),
            group: reader.number("lxc.init.gid").unwrap_or(0),
            groups,
            directory: reader.path("lxc.init.cwd"),
            architecture,
            no_new_privileges,
        }
    }
}

/// The rules of [`LxcConfig::init`](crate::lxc::LxcConfig::init).
pub(crate) fn check_command(command: Vec<String>) -> Result<Vec<String>> {
    let Some(program) = command.first() else {
        return Err(Error::invalid("init command", "", "must name a program"));
    };
    text::check_path("init command", Path::new(program))?;
    for arg in &command {
        if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::invalid(
                "init command",
                arg,
                "its parts must not be empty nor hold white space or control characters: LXC splits at spaces and \
                 knows no quotes; put such a command into a script",
            ));
        }
    }
    Ok(command)
}

/// The command line of init. Without one it is LXC's own default.
pub(crate) fn read_command(reader: &mut Reader<'_>) -> Vec<String> {
    let default = || vec!["/sbin/init".to_owned()];
    let Some(entry) = reader.one("lxc.init.cmd") else { return default() };
    let Some(text) = reader.text(&entry) else { return default() };
    let words = text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    reader.parsed(&entry, check_command(words)).unwrap_or_else(default)
}

pub(crate) fn read_halt_signal(reader: &mut Reader<'_>) -> HaltSignal {
    let signal = reader.one("lxc.signal.halt").and_then(|entry| {
        let text = reader.text(&entry)?.to_ascii_uppercase();
        let signal = match unsigned_32(text.as_bytes()) {
            Some(number) => HaltSignal::from_number(number),
            None => text.parse(),
        };
        reader.parsed(&entry, signal)
    });
    signal.unwrap_or_default()
}
