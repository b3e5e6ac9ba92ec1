//! What is in force after each entry of a configuration: later values replace or add to earlier ones, empty ones clear.
//! And which entries liblxc refuses because of what stands before them.

use std::collections::BTreeMap;

use crate::lxc::text::form::{Rule, parts};
use crate::lxc::text::key::{self, Empty, Key, Repeated};
use crate::lxc::text::network::{Kind, NetKey};
use crate::lxc::text::{legacy, words};

/// Why an entry is refused, and whether it is for its value.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) is_value: bool,
    pub(crate) rule: Rule,
}

impl Fault {
    fn key(rule: impl Into<Rule>) -> Self {
        Self { is_value: false, rule: rule.into() }
    }

    fn value(rule: impl Into<Rule>) -> Self {
        Self { is_value: true, rule: rule.into() }
    }
}

/// The state of a reader of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// The entries in force, by the key they are kept under.
    in_force: BTreeMap<Vec<u8>, Vec<usize>>,
    networks: BTreeMap<u32, Kind>,
    capabilities: Capabilities,
    clones: bool,
    keeps: bool,
    /// An included file was not read: what depends on what stood there is not judged.
    is_partial: bool,
    unknown: usize,
}

/// For how many unknown keys a similar one is looked for: that takes time.
const GUESSES_MAX: usize = 100;

/// Which of the two lists of capabilities is in use.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Capabilities {
    #[default]
    Unset,
    Dropped,
    Kept,
}

impl Reading {
    /// Takes the entry `index`.
    pub(crate) fn take(&mut self, index: usize, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if let Some(rest) = name.strip_prefix(b"lxc.net.") {
            return self.take_network(index, rest, value);
        }
        let Some(key) = key::find(name, !value.is_empty()) else {
            self.unknown += 1;
            return Err(unknown(name, self.unknown <= GUESSES_MAX));
        };
        if value.is_empty() {
            return self.clear(name, key);
        }
        key.form.check(value).map_err(Fault::value)?;
        match name {
            b"lxc.cap.drop" | b"lxc.cap.keep" => self.take_capabilities(name, value)?,
            b"lxc.namespace.clone" | b"lxc.namespace.keep" => self.take_namespaces(name, value)?,
            _ => {}
        }
        self.is_partial |= name == key::INCLUDE.as_bytes();
        self.put(name.to_vec(), key.repeated, index);
        Ok(())
    }

    /// The entries in force, in their order.
    pub(crate) fn into_entries(self) -> Vec<usize> {
        let mut entries: Vec<usize> = self.in_force.into_values().flatten().collect();
        entries.sort_unstable();
        entries
    }

    fn put(&mut self, slot: Vec<u8>, repeated: Repeated, index: usize) {
        let entries = self.in_force.entry(slot).or_default();
        if repeated == Repeated::Replaces {
            entries.clear();
        }
        entries.push(index);
    }

    fn clear(&mut self, name: &[u8], key: Key) -> Result<(), Fault> {
        match key.empty {
            Empty::Ignored => {}
            Empty::Refused => return Err(Fault::key("must have a value: liblxc does not let it be cleared")),
            Empty::Clears => {
                self.in_force.remove(name);
            }
            Empty::ClearsAll => {
                self.clear_beneath(name);
                if name == b"lxc.net" {
                    self.networks.clear();
                }
            }
        }
        match name {
            b"lxc.cap.drop" | b"lxc.cap.keep" => self.clear_capabilities(),
            b"lxc.namespace.clone" => self.clones = false,
            b"lxc.namespace.keep" => self.keeps = false,
            _ => {}
        }
        Ok(())
    }

    /// Forgets the keys that begin with `name` and a dot, but keys of their own, as `lxc.cgroup.dir`.
    fn clear_beneath(&mut self, name: &[u8]) {
        let prefix = [name, b"."].concat();
        let is_own =
            |slot: &[u8]| slot == b"lxc.hook.version" || name == b"lxc.cgroup" && key::exact(slot).is_some();
        let within = self.in_force.range(prefix.clone()..).map(|(slot, _)| slot);
        let gone: Vec<_> = within
            .take_while(|slot| slot.starts_with(&prefix))
            .filter(|slot| !is_own(slot))
            .cloned()
            .collect();
        for slot in gone {
            self.in_force.remove(&slot);
        }
    }

    fn clear_capabilities(&mut self) {
        self.in_force.remove(&b"lxc.cap.drop"[..]);
        self.in_force.remove(&b"lxc.cap.keep"[..]);
        self.capabilities = Capabilities::Unset;
    }

    fn take_capabilities(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        let keeping = name == b"lxc.cap.keep";
        let other = if keeping { Capabilities::Dropped } else { Capabilities::Kept };
        if self.capabilities == other && !self.is_partial {
            return Err(Fault::key(
                "lxc.cap.drop and lxc.cap.keep exclude each other: clear the one before (`lxc.cap.drop =`), or leave one out",
            ));
        }
        let mut listed = parts(value, b" \t");
        if keeping {
            if listed.any(|word| word == b"none") {
                self.clear_capabilities();
            }
            self.capabilities = Capabilities::Kept;
        } else if listed.next().is_some() {
            self.capabilities = Capabilities::Dropped;
        }
        Ok(())
    }

    fn take_namespaces(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        let cloning = name == b"lxc.namespace.clone";
        let (mine, other) =
            if cloning { (&mut self.clones, self.keeps) } else { (&mut self.keeps, self.clones) };
        if other && !self.is_partial {
            return Err(Fault::key(
                "lxc.namespace.clone and lxc.namespace.keep exclude each other: leave one out",
            ));
        }
        *mine |= parts(value, b" \t").next().is_some();
        Ok(())
    }

    fn take_network(&mut self, index: usize, rest: &[u8], value: &[u8]) -> Result<(), Fault> {
        let NetKey { number, setting } = NetKey::parse(rest).map_err(Fault::key)?;
        let whole = format!("lxc.net.{number}").into_bytes();
        let Some(setting) = setting else {
            if !value.is_empty() {
                return Err(Fault::key("a setting must follow the number: lxc.net.0.type"));
            }
            self.clear_beneath(&whole);
            self.networks.remove(&number);
            return Ok(());
        };
        let slot = slot_of_network(number, rest);
        if value.is_empty() {
            if !self.networks.contains_key(&number) && !self.is_partial {
                return Err(Fault::key("clears a setting of a network that is not there: leave it out"));
            }
            if setting.is_type() {
                self.clear_beneath(&whole);
                self.networks.insert(number, Kind::Cleared);
            }
            self.in_force.remove(&slot);
            return Ok(());
        }
        let kind = *self.networks.entry(number).or_insert(Kind::Empty);
        if let Some(only) = setting.only
            && kind != only
            && !self.is_partial
        {
            let name = only.name();
            return Err(Fault::key(format!(
                "is for a network of the type {name}: give lxc.net.{number}.type = {name} on a line before it"
            )));
        }
        setting.check(value).map_err(Fault::value)?;
        if setting.is_type() {
            self.clear_beneath(&whole);
            self.networks.insert(number, Kind::parse(value).unwrap_or(Kind::Empty));
        }
        self.put(slot, setting.repeated, index);
        Ok(())
    }
}

/// The key under which the values of `name` are kept: numbers of networks can be written in several ways.
pub(crate) fn slot(name: &[u8]) -> Vec<u8> {
    let network = name.strip_prefix(b"lxc.net.").and_then(|rest| Some((rest, NetKey::parse(rest).ok()?)));
    match network {
        Some((rest, NetKey { number, setting: Some(_) })) => slot_of_network(number, rest),
        _ => name.to_vec(),
    }
}

/// The number of a network and the setting, of a key that has both.
pub(crate) fn network_key(name: &[u8]) -> Option<(u32, &[u8])> {
    let rest = name.strip_prefix(b"lxc.net.")?;
    let number = NetKey::parse(rest).ok()?.number;
    Some((number, &rest[rest.iter().position(|b| *b == b'.')? + 1..]))
}

fn slot_of_network(number: u32, rest: &[u8]) -> Vec<u8> {
    let dot = rest.iter().position(|b| *b == b'.').unwrap_or(rest.len());
    [format!("lxc.net.{number}").as_bytes(), &rest[dot..]].concat()
}

fn unknown(name: &[u8], guess: bool) -> Fault {
    if let Some(remedy) = legacy::remedy(name) {
        return Fault::key(remedy);
    }
    if name.starts_with(b"lxc.namespace.share.") {
        return Fault::key(format!(
            "must end in the name of a namespace, as lxc.namespace.share.net: {}",
            words::NAMESPACES.join(", ")
        ));
    }
    match guess.then(|| key::nearest(name)).flatten() {
        Some(meant) => Fault::key(format!("liblxc has no such key: is {meant} meant?")),
        None => Fault::key("liblxc has no such key: see man 5 lxc.container.conf, or leave it out"),
    }
}

#[cfg(test)]
mod tests {
    use crate::lxc::text::ConfigText;

    fn rule(text: &str) -> String {
        ConfigText::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_went_before_counts() {
        for (text, expected) in [
            (
                "lxc.cap.drop = chown\nlxc.cap.keep = kill",
                "line 2, column 1: `lxc.cap.keep` = \"kill\": lxc.cap.drop and lxc.cap.keep exclude",
            ),
            ("lxc.net.0.veth.pair = a", "give lxc.net.0.type = veth on a line before it"),
            ("lxc.net.0.mtu =", "clears a setting of a network that is not there"),
            ("lxc.uts.nam = a", "is lxc.uts.name meant?"),
            ("lxc.mount.fstab =", "must have a value"),
            ("lxc.namespace.share.x = /a", "must end in the name of a namespace"),
        ] {
            let rule = rule(text);
            assert!(rule.contains(expected), "{rule}");
        }
        // What an included file says is not known here.
        assert!(ConfigText::parse("lxc.include = /a\nlxc.net.0.veth.pair = a").is_ok());
    }

    #[test]
    fn clearing_takes_back() {
        for (text, expected) in [
            ("lxc.uts.name = a\nlxc.uts.name = b", vec!["b"]),
            ("lxc.uts.name = a\nlxc.uts.name =", vec![]),
            (
                "lxc.mount.entry = a\nlxc.mount.entry = b\nlxc.mount.entry = ''\nlxc.mount.entry = c",
                vec!["c"],
            ),
            ("lxc.cgroup.a = 1\nlxc.cgroup.dir = d\nlxc.cgroup2.a = 2\nlxc.cgroup =", vec!["d", "2"]),
            ("lxc.hook.mount = a\nlxc.hook.version = 1\nlxc.hook =", vec!["1"]),
            ("lxc.cap.keep = a\nlxc.cap.keep = none", vec!["none"]),
            // Giving the type forgets what was given before it.
            ("lxc.net.0.link = br0\nlxc.net.00.type = veth\nlxc.net.0.mtu = 9", vec!["veth", "9"]),
            ("lxc.net.8.link = a\nlxc.net.1.link = b\nlxc.net.010 =", vec!["b"]),
        ] {
            let text = text.replace("keep = a", "keep = chown");
            let read = ConfigText::parse(text).unwrap();
            let values: Vec<_> = read.in_force().map(|entry| entry.value().to_vec()).collect();
            assert_eq!(values, expected.iter().map(|value| value.as_bytes()).collect::<Vec<_>>());
        }
    }
}
