//! What `lxc-autostart` (`man 1 lxc-autostart`) does with a container: `lxc.start.*`, `lxc.group`.
//!
//! docklet's host does not use it: its containers come back by `recover`.

use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;

/// Whether `lxc-autostart` starts a container, and when. Default: not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Autostart {
    /// Whether it is started.
    pub enabled: bool,
    /// How long to wait after it before the next, in seconds.
    pub delay_seconds: u32,
    /// The higher, the earlier.
    pub order: i32,
    groups: Vec<String>,
}

impl Autostart {
    /// Adds it to a group of containers.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is empty or holds white space, control characters or quotes.
    pub fn group(&mut self, name: impl Into<String>) -> Result<&mut Self> {
        let name = name.into();
        if name.is_empty()
            || name.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\''))
        {
            let rule = "must not be empty nor hold white space, control characters or quotes";
            return Err(Error::invalid("container group", name, rule));
        }
        self.groups.push(name);
        Ok(self)
    }

    pub(crate) fn render(&self, lines: &mut Lines) {
        if self.enabled {
            lines.add("lxc.start.auto", "1");
        }
        if self.delay_seconds > 0 {
            lines.add("lxc.start.delay", &self.delay_seconds.to_string());
        }
        if self.order != 0 {
            lines.add("lxc.start.order", &self.order.to_string());
        }
        if !self.groups.is_empty() {
            lines.add("lxc.group", &self.groups.join(" "));
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let enabled = reader.one("lxc.start.auto").is_some_and(|entry| reader.flag(&entry));
        let delay_seconds = reader.number("lxc.start.delay").unwrap_or(0);
        let order = reader.one("lxc.start.order").and_then(|entry| reader.signed(&entry)).unwrap_or(0);
        let mut autostart = Self { enabled, delay_seconds, order, groups: Vec::new() };
        for entry in reader.all("lxc.group") {
            let words = reader.text(&entry).unwrap_or_default().to_owned();
            for word in words.split([' ', '\t']).filter(|word| !word.is_empty()) {
                let added = autostart.group(word).map(drop);
                reader.parsed(&entry, added);
            }
        }
        autostart
    }
}
