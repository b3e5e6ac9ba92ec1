//! Taking a configuration apart by topics (`man 5 lxc.container.conf`): each takes its keys, and what nobody takes is a problem.

use crate::error::{Error, Result};
use crate::lxc::config::values::{ConfigPath, ConfigValue};
use crate::lxc::text::number::{signed, unsigned_32};
use crate::lxc::text::{ConfigProblems, ConfigText, Entry, Found};

/// The entries that count, and what is wrong with them.
pub(crate) struct Reader<'a> {
    entries: Vec<Entry<'a>>,
    taken: Vec<bool>,
    found: Found,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a ConfigText) -> Self {
        let entries: Vec<_> = text.in_force().collect();
        Self { taken: vec![false; entries.len()], entries, found: Found::default() }
    }

    /// `whole`, unless something is wrong, also with what was not taken.
    pub(crate) fn finish<T>(mut self, whole: Option<T>) -> Result<T, ConfigProblems> {
        for (entry, taken) in self.entries.iter().zip(&self.taken) {
            if !taken {
                self.found.add(entry.bad_key(no_place(entry.key())));
            }
        }
        let Some(whole) = whole else {
            if self.found.is_empty() {
                self.missing("the configuration", "is not whole");
            }
            return Err(self.found.into_problems());
        };
        self.found.into_result().map(|()| whole)
    }

    /// All entries whose keys are wanted.
    pub(crate) fn take(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Entry<'a>> {
        let mut entries = Vec::new();
        for (entry, taken) in self.entries.iter().zip(&mut self.taken) {
            if wanted(entry.key()) {
                *taken = true;
                entries.push(*entry);
            }
        }
        entries
    }

    /// All entries of a key.
    pub(crate) fn all(&mut self, key: &str) -> Vec<Entry<'a>> {
        self.take(|other| other == key.as_bytes())
    }

    /// The last entry of a key.
    pub(crate) fn one(&mut self, key: &str) -> Option<Entry<'a>> {
        self.all(key).pop()
    }

    /// All entries whose keys begin so.
    pub(crate) fn beneath(&mut self, prefix: &str) -> Vec<Entry<'a>> {
        self.take(|key| key.starts_with(prefix.as_bytes()))
    }

    /// The same with what follows.
    pub(crate) fn family(&mut self, prefix: &str) -> Vec<(&'a str, Entry<'a>)> {
        let mut named = Vec::new();
        for entry in self.beneath(prefix) {
            match std::str::from_utf8(&entry.key()[prefix.len()..]) {
                Ok(name) => named.push((name, entry)),
                Err(_) => self.refuse_key(&entry, "must be UTF-8"),
            }
        }
        named
    }

    pub(crate) fn text(&mut self, entry: &Entry<'a>) -> Option<&'a str> {
        let text = std::str::from_utf8(entry.value()).ok();
        if text.is_none() {
            self.refuse(entry, "must be UTF-8");
        }
        text
    }

    pub(crate) fn value(&mut self, entry: &Entry<'a>) -> Option<ConfigValue> {
        let text = self.text(entry)?;
        self.parsed(entry, ConfigValue::new(text))
    }

    pub(crate) fn path(&mut self, key: &str) -> Option<ConfigPath> {
        let entry = self.one(key)?;
        let text = self.text(&entry)?;
        self.parsed(&entry, ConfigPath::new(text))
    }

    /// A number, as liblxc reads it; what it would take for "not given" is a problem.
    pub(crate) fn number(&mut self, key: &str) -> Option<u32> {
        let entry = self.one(key)?;
        let number = unsigned_32(entry.value());
        if number.is_none() {
            self.refuse(&entry, "must be a number from 0 to 4294967295");
        }
        number
    }

    pub(crate) fn signed(&mut self, entry: &Entry<'_>) -> Option<i32> {
        let number = signed(entry.value()).and_then(|number| i32::try_from(number).ok());
        if number.is_none() {
            self.refuse(entry, "must be a number of 32 bits");
        }
        number
    }

    pub(crate) fn flag(&mut self, entry: &Entry<'_>) -> bool {
        match unsigned_32(entry.value()) {
            Some(0) => false,
            Some(1) => true,
            _ => {
                self.refuse(entry, "must be 0 or 1");
                false
            }
        }
    }

    /// The value, or a problem with the rule it breaks.
    pub(crate) fn parsed<T>(&mut self, entry: &Entry<'_>, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Error::Invalid { rule, .. }) => {
                self.refuse(entry, rule);
                None
            }
            Err(error) => {
                self.refuse(entry, error.to_string());
                None
            }
        }
    }

    pub(crate) fn refuse(&mut self, entry: &Entry<'_>, rule: impl Into<String>) {
        self.found.add(entry.bad_value(rule));
    }

    pub(crate) fn refuse_key(&mut self, entry: &Entry<'_>, rule: impl Into<String>) {
        self.found.add(entry.bad_key(rule));
    }

    /// What no line says.
    pub(crate) fn missing(&mut self, key: &str, rule: &str) {
        self.found.add_whole(key, rule);
    }
}

/// Why a key has no place, and what to do about it.
fn no_place(key: &[u8]) -> String {
    let starts = |prefix: &str| key.starts_with(prefix.as_bytes());
    let remedy = if starts("lxc.cgroup.dir") || starts("lxc.cgroup.relative") {
        "docklet gives each container its group: leave it out"
    } else if starts("lxc.cgroup") {
        "of control groups there are memory, swap, CPU time and weight, processors, processes, input and output, huge pages and devices: \
         leave it out"
    } else if starts("lxc.net.") {
        "it is for a veth pair, whose type must be given before it, or to be left out"
    } else if starts("lxc.rootfs.") {
        "the root is a directory that is there before: mount it so, and leave this out"
    } else if starts("lxc.namespace.") {
        "a container has all namespaces but those that are kept or shared: leave it out"
    } else {
        "leave it out, or start the container with LXC's own programs"
    };
    format!("has no place in a typed configuration: {remedy}")
}
