//! What LXC itself writes down (`man 5 lxc.container.conf`): `lxc.log.file`, `lxc.log.level`.

use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::values::ConfigPath;

/// How much LXC writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For who looks for a fault.
    Debug,
    /// What is done.
    Info,
    /// What is unusual.
    Notice,
    /// What may be wrong.
    Warn,
    /// What failed.
    Error,
}

const NAMES: [(LogLevel, &str); 6] = [
    (LogLevel::Trace, "TRACE"),
    (LogLevel::Debug, "DEBUG"),
    (LogLevel::Info, "INFO"),
    (LogLevel::Notice, "NOTICE"),
    (LogLevel::Warn, "WARN"),
    (LogLevel::Error, "ERROR"),
];

/// LXC's log. [`Container::start`](crate::lxc::Container::start) gives it a file in the container's directory, which comes
/// before this one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LxcLog {
    /// Where. Default: LXC's.
    pub file: Option<ConfigPath>,
    /// How much. Default: LXC's, errors.
    pub level: Option<LogLevel>,
}

impl LxcLog {
    pub(crate) fn render(&self, lines: &mut Lines) {
        if let Some(file) = &self.file {
            lines.add("lxc.log.file", &file.to_string());
        }
        if let Some(level) = self.level {
            let name = NAMES.iter().find(|(other, _)| *other == level).map_or("ERROR", |(_, name)| name);
            lines.add("lxc.log.level", name);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let file = reader.path("lxc.log.file");
        let level = reader.one("lxc.log.level").and_then(|entry| {
            let name = reader.text(&entry)?.to_ascii_uppercase();
            let by_name = NAMES.iter().find(|(_, other)| *other == name);
            let level = by_name.or_else(|| NAMES.get(name.parse::<usize>().ok()?)).map(|(level, _)| *level);
            if level.is_none() {
                reader.refuse(&entry, "must be trace, debug, info, notice, warn or error");
            }
            level
        });
        Self { file, level }
    }
}
