//! Terminals of a container (`man 4 tty`, `man 4 pts`): `lxc.tty.*`, `lxc.pty.max`, `lxc.console.*`.

use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::values::{ConfigPath, ConfigValue};

/// The most a console's log may be bounded to.
pub(crate) const CONSOLE_LOG_MAX: u64 = 1 << 30;

/// How many terminals a container has, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminals {
    /// How many `/dev/ttyN` are made. Default: 0.
    pub ttys: u32,
    /// The directory of `/dev` they are in. Default: `/dev` itself.
    pub tty_directory: Option<ConfigValue>,
    /// How many pseudo terminals there may be (`/dev/pts`). Default: 1024.
    pub ptys: u32,
}

impl Default for Terminals {
    fn default() -> Self {
        Self { ttys: 0, tty_directory: None, ptys: 1024 }
    }
}

/// What is behind a container's `/dev/console`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Console {
    /// There is none.
    #[default]
    None,
    /// A pseudo terminal of LXC's, whose output is kept in a file of at most this size.
    Log { path: ConfigPath, max_bytes: u64 },
    /// A pseudo terminal of LXC's.
    Own,
}

impl Terminals {
    pub(crate) fn render(&self, lines: &mut Lines) {
        lines.add("lxc.tty.max", &self.ttys.to_string());
        if let Some(directory) = &self.tty_directory {
            lines.add("lxc.tty.dir", directory.as_str());
        }
        lines.add("lxc.pty.max", &self.ptys.to_string());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let ttys = reader.number("lxc.tty.max").unwrap_or(0);
        // LXC's own default.
        let ptys = reader.number("lxc.pty.max").unwrap_or(1024);
        let tty_directory = reader.one("lxc.tty.dir").and_then(|entry| reader.value(&entry));
        Self { ttys, tty_directory, ptys }
    }
}

impl Console {
    pub(crate) fn render(&self, lines: &mut Lines) {
        match self {
            Self::Log { path, max_bytes } => {
                let size = (*max_bytes).clamp(4096, CONSOLE_LOG_MAX).next_power_of_two().to_string();
                lines.add("lxc.console.logfile", &path.to_string());
                lines.add("lxc.console.size", &size);
                lines.add("lxc.console.rotate", "1");
            }
            Self::None => lines.add("lxc.console.path", "none"),
            Self::Own => {}
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let path = reader.one("lxc.console.path");
        let log = reader.path("lxc.console.logfile");
        let size = reader.one("lxc.console.size");
        let rotates = reader.one("lxc.console.rotate");
        match (path, log) {
            (Some(path), None) if path.value() == b"none" => Self::None,
            (Some(path), _) => {
                reader.refuse(&path, "must be `none`, or left out for a console of its own");
                Self::None
            }
            (None, None) => Self::Own,
            (None, Some(path)) => {
                let bytes = size.and_then(|entry| reader.text(&entry)?.parse().ok());
                let bounded = bytes.filter(|bytes| *bytes <= CONSOLE_LOG_MAX);
                match (bounded, rotates.is_some_and(|entry| reader.flag(&entry))) {
                    (Some(max_bytes), true) => return Self::Log { path, max_bytes },
                    _ => reader.missing(
                        "lxc.console.logfile",
                        "would grow without a bound: write lxc.console.size with at most 1073741824 bytes, and lxc.console.rotate = 1",
                    ),
                }
                Self::None
            }
        }
    }
}
