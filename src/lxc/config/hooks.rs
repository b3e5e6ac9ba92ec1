//! Programs that LXC runs on the host or in the container as it starts and stops (`man 5 lxc.container.conf`): `lxc.hook.*`.

use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::config::values::ConfigValue;

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HookPoint {
    /// On the host, before anything is set up.
    PreStart,
    /// On the host, when the namespaces are there.
    StartHost,
    /// In the container's mount namespace, before its root is mounted.
    PreMount,
    /// There, when all is mounted.
    Mount,
    /// There, when `/dev` was filled.
    Autodev,
    /// In the container, before init is executed.
    Start,
    /// On the host, with the namespaces of the container that has ended.
    Stop,
    /// On the host, after all.
    PostStop,
    /// When the container is copied with LXC's programs.
    Clone,
    /// When the container is destroyed with LXC's programs.
    Destroy,
}

const KEYS: [(HookPoint, &str); 10] = [
    (HookPoint::PreStart, "lxc.hook.pre-start"),
    (HookPoint::StartHost, "lxc.hook.start-host"),
    (HookPoint::PreMount, "lxc.hook.pre-mount"),
    (HookPoint::Mount, "lxc.hook.mount"),
    (HookPoint::Autodev, "lxc.hook.autodev"),
    (HookPoint::Start, "lxc.hook.start"),
    (HookPoint::Stop, "lxc.hook.stop"),
    (HookPoint::PostStop, "lxc.hook.post-stop"),
    (HookPoint::Clone, "lxc.hook.clone"),
    (HookPoint::Destroy, "lxc.hook.destroy"),
];

/// The hooks. LXC hands each command line to a **shell**, as root: nothing that a stranger wrote may be in it. Default: none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// When, and the command line; those of one point in this order.
    pub list: Vec<(HookPoint, ConfigValue)>,
    /// Whether they get what they need to know as environment variables (`lxc.hook.version = 1`), and not as arguments.
    pub in_environment: bool,
}

impl Hooks {
    pub(crate) fn render(&self, lines: &mut Lines) {
        if self.in_environment {
            lines.add("lxc.hook.version", "1");
        }
        for (point, command) in &self.list {
            let key = KEYS.iter().find(|(other, _)| other == point).map_or("", |(_, key)| key);
            lines.add(key, command.as_str());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let in_environment = reader.one("lxc.hook.version").is_some_and(|entry| reader.flag(&entry));
        let mut list = Vec::new();
        for entry in reader.beneath("lxc.hook.") {
            let Some((point, _)) = KEYS.iter().find(|(_, key)| key.as_bytes() == entry.key()) else {
                continue;
            };
            if let Some(command) = reader.value(&entry) {
                list.push((*point, command));
            }
        }
        Self { list, in_environment }
    }
}
