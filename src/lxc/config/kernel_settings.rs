//! Settings that are written as a container starts: `lxc.sysctl.*` beneath its `/proc/sys` (`man 5 proc`), `lxc.proc.*` in
//! its init's own directory of `/proc`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::values::ConfigValue;

/// The name of a setting: `net.ipv4.ip_forward`, `oom_score_adj`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SettingName(String);

impl FromStr for SettingName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        let parts_fit = text.split(['.', '/']).all(|part| !part.is_empty());
        if text.len() <= 255 && text.bytes().all(plain) && parts_fit {
            return Ok(Self(text.to_owned()));
        }
        // It becomes a path: no `..`, no `/` at its beginning.
        let rule =
            "must be words of letters, digits, `_` and `-` with `.` or `/` between, of at most 255 bytes";
        Err(Error::invalid("kernel setting", text, rule))
    }
}

impl fmt::Display for SettingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn render(prefix: &str, settings: &BTreeMap<SettingName, ConfigValue>, lines: &mut Lines) {
    for (name, value) in settings {
        lines.add(&format!("{prefix}{name}"), value.as_str());
    }
}

/// `prefix` is `lxc.sysctl.` or `lxc.proc.`.
pub(crate) fn read(prefix: &str, reader: &mut Reader<'_>) -> BTreeMap<SettingName, ConfigValue> {
    let mut settings = BTreeMap::new();
    for (name, entry) in reader.family(prefix) {
        if let (Some(name), Some(value)) = (reader.parsed(&entry, name.parse()), reader.value(&entry))
            && settings.insert(name, value).is_some()
        {
            reader.refuse(&entry, "is given twice: leave one out");
        }
    }
    settings
}
