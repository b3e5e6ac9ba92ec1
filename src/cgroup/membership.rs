//! Which groups a process is in: `/proc/PID/cgroup` (`man 7 cgroups`).

/// A line of it, as `4:memory:/docklet/x`.
pub(super) struct Membership<'a> {
    /// Those of a v1 hierarchy, `name=systemd` among them. Empty: the one of v2.
    pub(super) controllers: &'a str,
    /// The path of the group, as this process's namespace of control groups sees it.
    pub(super) group: &'a str,
}

/// What `text` says.
pub(super) fn memberships(text: &str) -> impl Iterator<Item = Membership<'_>> {
    text.lines().filter_map(|line| {
        let (_, membership) = line.split_once(':')?;
        let (controllers, group) = membership.split_once(':')?;
        Some(Membership { controllers, group })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_of_a_name_are_its_own() {
        let found: Vec<_> = memberships("7:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/x\nrubbish\n")
            .map(|membership| (membership.controllers, membership.group))
            .collect();
        assert_eq!(found, [("cpu,cpuacct", "/a:b"), ("name=systemd", "/"), ("", "/x")]);
    }
}
