//! Configurations of containers as Debian's LXC brings and writes them, as typed ones.

use std::fs;
use std::path::Path;

use docklet::idmap::IdMap;
use docklet::lxc::{AutoMount, Capabilities, ConfigText, DeviceRule, LxcConfig};

const SHIPPED: &str = "/usr/share/lxc/config";

/// What `lxc-create -t download` writes for root, with these files of LXC's and lines.
fn written(includes: &[&str], lines: &str) -> ConfigText {
    let includes: String = includes.iter().map(|name| format!("lxc.include = {SHIPPED}/{name}\n")).collect();
    let text = format!(
        "# Template used to create this container: /usr/share/lxc/templates/lxc-download\n\
         # Parameters passed to the template: -d debian -r bookworm -a amd64\n\
         #lxc.include = {SHIPPED}/nesting.conf\n\n# Distribution configuration\n{includes}lxc.arch = linux64\n\n\
         # Container specific configuration\n{lines}lxc.rootfs.path = dir:/var/lib/lxc/web/rootfs\nlxc.uts.name = web\n\n\
         # Network configuration\nlxc.net.0.type = veth\nlxc.net.0.link = lxcbr0\nlxc.net.0.flags = up\n\
         lxc.net.0.hwaddr = 00:16:3e:70:0d:ab\n"
    );
    ConfigText::parse(text).unwrap()
}

const IDS: &str = "lxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n";

#[test]
#[ignore = "needs root: the files of the package lxc"]
fn what_lxc_create_writes_is_a_typed_configuration() {
    let privileged = LxcConfig::try_from(written(&["common.conf"], "lxc.tty.max = 2\n")).unwrap();
    assert_eq!(privileged.root(), Path::new("/var/lib/lxc/web/rootfs"));
    assert_eq!(privileged.terminals.ttys, 2);
    assert!(privileged.devices.contains(&"c 10:229 rwm".parse().unwrap()), "fuse, as common.conf says");
    let Capabilities::AllBut(dropped) = &privileged.capabilities else {
        panic!("{:?}", privileged.capabilities)
    };
    assert!(dropped.contains(&"sys_module".parse().unwrap()));
    assert_eq!(privileged.id_map, None);

    let mapped = LxcConfig::try_from(written(&["common.conf", "userns.conf"], IDS)).unwrap();
    assert_eq!(mapped.id_map, Some(IdMap::new([(0, 100_000, 65_536)]).unwrap()));
    assert_eq!(mapped.devices, DeviceRule::standard());
    assert_eq!(mapped.auto_mounts.sys, Some(AutoMount::ReadWrite));
}

/// Each file of the package, in a container's configuration: it converts, or what is wrong is told with its file and line.
#[test]
#[ignore = "needs root: the files of the package lxc"]
fn shipped_files_convert_or_tell_why() {
    let mut names: Vec<String> = fs::read_dir(SHIPPED)
        .expect("the package lxc")
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".conf"))
        .collect();
    names.sort();
    assert!(names.iter().any(|name| name == "common.conf") && names.len() >= 4, "{names:?}");
    for name in &names {
        let mut includes = vec!["common.conf", name];
        includes.dedup();
        let config = LxcConfig::try_from(written(&includes, IDS));
        if name != "nesting.conf" {
            config.unwrap_or_else(|problems| panic!("{name}: {problems}"));
            continue;
        }
        // It shows a whole `/proc` and `/sys`, so that somebody inside can mount them once more.
        let problems = config.unwrap_err();
        let kinds = ["proc", "sysfs"];
        let of_mounts =
            problems.list().iter().filter(|problem| problem.to_string().contains("hides nothing"));
        assert_eq!(of_mounts.count(), kinds.len(), "{problems}");
        for problem in problems.list() {
            let text = problem.to_string();
            assert!(text.starts_with(&format!("{SHIPPED}/nesting.conf, line ")), "{text}");
        }
    }
}
