//! Where everything lives: the layout under one prefix.
//!
//! ```text
//! PREFIX/global/             shared by the hosts of a cluster
//!   images/                  the image store: names, and what they stand for
//! PREFIX/local/              this host's own
//!   layers/                  the images' layers, unpacked
//!   manifests/NAME.json      what each container should be
//!   networks/NAME.json       what each network should be
//!   isolation.json           what holds for all networks
//!   containers/ID/           configuration, log, root, network namespace, hosts and resolv.conf of one container
//!   volumes/                 the pool of loop-file volumes
//!   last-ids                 where the search for a free range of ids goes on
//!   locks/                   one lock file per container, the registry's, and that of their names
//! ```

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, access};

use crate::error::{Error, Result};

/// The prefix that is used when `FS_PREFIX` is not set.
pub const DEFAULT_PREFIX: &str = "/var/lib/docklet";

/// The directories of one prefix. All exist; several prefixes can be used on one host at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    prefix: PathBuf,
}

impl Paths {
    /// The prefix that the environment variable `FS_PREFIX` names, or [`DEFAULT_PREFIX`]. Call it once, in `main`.
    ///
    /// # Errors
    /// As [`Paths::new`].
    pub fn from_env() -> Result<Self> {
        Self::new(env::var_os("FS_PREFIX").unwrap_or_else(|| DEFAULT_PREFIX.into()))
    }

    /// Takes `prefix` and makes the directories beneath it that are missing: mode 0700, but 0711 for those on the way to
    /// containers, whose roots are ordinary users of the host, and for the prefix itself if it is made here.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `prefix` is relative, is `/`, is not a directory, or has `..` or control characters in it;
    /// [`Error::Unsupported`] if it takes root to write it; [`Error::Os`] if it cannot be made or written otherwise.
    pub fn new(prefix: impl Into<PathBuf>) -> Result<Self> {
        let given = prefix.into();
        let invalid = |rule: &str| Error::invalid("FS_PREFIX", given.to_string_lossy(), rule);
        if !given.is_absolute() {
            return Err(invalid("must be an absolute path"));
        }
        if given.components().any(|c| c == Component::ParentDir) {
            return Err(invalid("must not contain '..'"));
        }
        if given.components().count() < 2 {
            return Err(invalid("must not be the root directory"));
        }
        if given.to_str().is_none_or(|text| text.contains(char::is_control)) {
            return Err(invalid(
                "must be UTF-8 without control characters: LXC's configuration cannot express them",
            ));
        }
        if given.exists() && !given.is_dir() {
            return Err(invalid("exists and is not a directory"));
        }
        if !given.exists() {
            make_dir(&given, PASSABLE).map_err(|error| unusable(&given, error))?;
        }
        // One prefix has one name, however it was spelled: marks on host objects are made from it.
        let prefix = fs::canonicalize(&given).map_err(|e| Error::os("realpath", given.display(), e))?;
        if prefix.components().count() < 2 {
            return Err(invalid("must not be the root directory"));
        }
        access(&prefix, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|e| unusable(&prefix, Error::os("access", prefix.display(), e)))?;
        let paths = Self { prefix: prefix.clone() };
        for (dir, mode) in [
            (prefix.join("local"), PASSABLE),
            (paths.containers(), PASSABLE),
            (paths.images(), PRIVATE),
            (paths.layers(), PRIVATE),
            (paths.manifests(), PRIVATE),
            (paths.networks(), PRIVATE),
            (paths.volumes(), PRIVATE),
            (paths.locks(), PRIVATE),
        ] {
            make_dir(&dir, mode).map_err(|error| unusable(&prefix, error))?;
        }
        Ok(paths)
    }

    /// The prefix itself: absolute, without links.
    #[must_use]
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.prefix.join("global/images")
    }

    /// This host's cache of unpacked layers.
    #[must_use]
    pub fn layers(&self) -> PathBuf {
        self.prefix.join("local/layers")
    }

    /// What each container should be.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.prefix.join("local/manifests")
    }

    /// What each network should be.
    #[must_use]
    pub fn networks(&self) -> PathBuf {
        self.prefix.join("local/networks")
    }

    /// What holds for all networks: a file, if anything does.
    #[must_use]
    pub fn isolation(&self) -> PathBuf {
        self.prefix.join("local/isolation.json")
    }

    /// The containers' own directories; also liblxc's "lxcpath".
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.prefix.join("local/containers")
    }

    /// The pool of loop-file volumes.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.prefix.join("local/volumes")
    }

    /// Which range of ids was given last.
    pub(crate) fn last_ids(&self) -> PathBuf {
        self.prefix.join("local/last-ids")
    }

    /// Lock files.
    #[must_use]
    pub fn locks(&self) -> PathBuf {
        self.prefix.join("local/locks")
    }

    /// Eight hexadecimal digits that tell this prefix from others on the same host. Host objects that have no
    /// path (links, cgroups, nftables tables) carry it as the mark of their owner.
    #[must_use]
    pub fn tag(&self) -> String {
        // FNV-1a: stable across versions and machines, unlike the standard library's hashers.
        let hash = self
            .prefix
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
    }
}

/// Says what the path is for and what to do. Most who are refused here only forgot who they are.
fn unusable(prefix: &Path, error: Error) -> Error {
    if error.errno() == Some(libc::EACCES) && !rustix::process::geteuid().is_root() {
        return Error::Unsupported {
            what: format!("using FS_PREFIX {} as an ordinary user", prefix.display()),
            needs: "run as root".to_owned(),
        };
    }
    match error {
        Error::Os { call, target, source } => Error::Os {
            call,
            target: format!("{target} (set FS_PREFIX to a directory that can be made and written)"),
            source,
        },
        error => error,
    }
}

/// Of directories that are root's alone.
const PRIVATE: u32 = 0o700;
/// Of those that others may pass, and not read.
const PASSABLE: u32 = 0o711;

fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|e| Error::os("mkdir", dir.display(), e))?;
    let failed = |call: &'static str| move |e: std::io::Error| Error::os(call, dir.display(), e);
    let found = fs::metadata(dir).map_err(failed("stat"))?.permissions().mode();
    if found & mode == mode {
        return Ok(());
    }
    // The caller's mask took a part of it.
    fs::set_permissions(dir, fs::Permissions::from_mode(found | mode)).map_err(failed("chmod"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_prefixes_are_refused() {
        for (bad, rule) in [
            ("relative/path", "absolute"),
            ("", "absolute"),
            ("/", "root directory"),
            ("/tmp/../etc", "'..'"),
            ("/tmp/two\nlines", "control characters"),
            ("/proc/version", "not a directory"),
        ] {
            let message = Paths::new(bad).unwrap_err().to_string();
            assert!(message.contains("FS_PREFIX") && message.contains(rule), "{message}");
        }
        let message = Paths::new("/proc/docklet").unwrap_err().to_string();
        assert!(message.contains("mkdir") && message.contains("/proc/docklet"), "{message}");
        assert!(message.contains("set FS_PREFIX to"), "{message}");
    }
}
