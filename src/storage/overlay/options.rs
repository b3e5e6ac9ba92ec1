//! The options of an overlay as the kernel takes them, and as it shows them (kernel
//! `Documentation/filesystems/overlayfs.rst`).
//!
//! Each way in escapes differently, and a wrong escape does not fail: it mounts another directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::mountinfo::{Mount, mounts};

/// What `mount(2)` takes: one page with the terminating zero. It cuts off the rest without a word.
const OPTIONS_MAX: usize = 4095;

/// Which calls mount an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MountMethod {
    /// The first of the others that this kernel has.
    #[default]
    Newest,
    /// `fsconfig` with a descriptor for each directory: no text, nothing to escape. Kernel 6.13.
    Descriptors,
    /// `fsconfig` with one text for each directory, of at most 255 bytes. Kernel 6.5.
    Texts,
    /// `mount(2)` with one text for all, of at most 4095 bytes.
    Classic,
}

/// The directories of an overlay: absolute, and spelled without links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directories {
    /// Uppermost first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
}

impl Directories {
    /// The text of options for `mount(2)`.
    pub(crate) fn classic(&self) -> Result<OsString> {
        let mut text = b"lowerdir=".to_vec();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                text.push(b':');
            }
            escape(layer, b":,\\", &mut text);
        }
        text.extend_from_slice(b",upperdir=");
        escape(&self.upper, b",\\", &mut text);
        text.extend_from_slice(b",workdir=");
        escape(&self.work, b",\\", &mut text);
        if text.len() > OPTIONS_MAX {
            return Err(Error::Unsupported {
                what: format!("an overlay of {} layers", self.layers.len()),
                needs: format!(
                    "kernel 6.5, or fewer layers with shorter paths: their names take {} bytes, and mount(2) takes \
                     {OPTIONS_MAX}",
                    text.len()
                ),
            });
        }
        Ok(OsString::from_vec(text))
    }
}

/// `path` as `fsconfig` takes it for `upperdir` and `workdir`. (`lowerdir+` is taken as it is.)
pub(crate) fn upper_text(path: &Path) -> OsString {
    let mut text = Vec::new();
    escape(path, b",:\\", &mut text);
    OsString::from_vec(text)
}

fn escape(path: &Path, special: &[u8], into: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if special.contains(byte) {
            into.push(b'\\');
        }
        into.push(*byte);
    }
}

/// A mounted overlay, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShownOverlay {
    pub(crate) target: PathBuf,
    /// As each was given, escapes included.
    layers: Vec<Vec<u8>>,
    upper: Option<Vec<u8>>,
    work: Option<Vec<u8>>,
    /// Its file system id is made from a number that is stored on the upper directory. Kernel 6.6.
    pub(crate) has_uuid: bool,
}

/// The overlays of this thread's mount namespace, in the kernel's order.
pub(crate) fn overlays() -> Result<Vec<ShownOverlay>> {
    Ok(mounts()?.iter().filter(|mount| mount.filesystem == "overlay").map(ShownOverlay::parse).collect())
}

impl ShownOverlay {
    pub(crate) fn parse(mount: &Mount) -> Self {
        let mut shown = Self {
            target: mount.target.clone(),
            layers: Vec::new(),
            upper: None,
            work: None,
            has_uuid: false,
        };
        // A comma in a path is shown as \054, so these commas separate options.
        for option in mount.options.split(',') {
            let Some((key, value)) = option.split_once('=') else { continue };
            let value = unescape_octal(value.as_bytes());
            match key {
                "lowerdir" => shown.layers.extend(split_layers(&value)),
                "lowerdir+" => shown.layers.push(value),
                "upperdir" => shown.upper = Some(value),
                "workdir" => shown.work = Some(value),
                "uuid" => shown.has_uuid = value == b"on",
                _ => {}
            }
        }
        shown
    }

    /// Whether it was mounted from these directories.
    pub(crate) fn shows(&self, directories: &Directories) -> bool {
        let same = |shown: &Option<Vec<u8>>, path: &Path| shown.as_ref().is_some_and(|s| names(s, path));
        self.layers.len() == directories.layers.len()
            && self.layers.iter().zip(&directories.layers).all(|(shown, path)| names(shown, path))
            && same(&self.upper, &directories.upper)
            && same(&self.work, &directories.work)
    }

    /// Whether its upper directory is `directory`, or lies in it.
    pub(crate) fn is_on(&self, directory: &Path) -> bool {
        self.upper.as_ref().is_some_and(|upper| lies_in(upper, directory))
    }

    /// Whether one of its layers is `directory`, or lies in it.
    pub(crate) fn reads(&self, directory: &Path) -> bool {
        self.layers.iter().any(|layer| lies_in(layer, directory))
    }
}

/// A path is shown as it was given, and how that was is not shown: plain, or with backslashes as escapes.
fn names(shown: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    shown == path || unescape_backslashes(shown) == path
}

fn lies_in(shown: &[u8], directory: &Path) -> bool {
    let inside = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).starts_with(directory);
    inside(shown) || inside(&unescape_backslashes(shown))
}

/// Splits `a:b\:c`; the parts keep their backslashes.
fn split_layers(text: &[u8]) -> Vec<Vec<u8>> {
    let mut layers = vec![Vec::new()];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        let Some(layer) = layers.last_mut() else { break };
        match byte {
            b'\\' => {
                layer.push(byte);
                layer.extend(bytes.next());
            }
            b':' => layers.push(Vec::new()),
            byte => layer.push(byte),
        }
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

fn unescape_backslashes(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    plain
}

fn unescape_octal(text: &[u8]) -> Vec<u8> {
    crate::sys::mountinfo::unescape(text).into_os_string().into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = "/a b,c:d\\e\nf";

    fn directories(layers: &[&str]) -> Directories {
        Directories {
            layers: layers.iter().map(PathBuf::from).collect(),
            upper: PathBuf::from(format!("{ODD}/upper")),
            work: "/v/work".into(),
        }
    }

    fn shown(options: &str) -> ShownOverlay {
        ShownOverlay::parse(&Mount {
            device: 0,
            id: 1,
            root: "/".into(),
            target: "/t".into(),
            filesystem: "overlay".into(),
            source: "overlay".into(),
            mount_options: "rw".into(),
            options: options.into(),
        })
    }

    #[test]
    fn each_way_in_has_its_own_escapes() {
        let classic = directories(&["/l1", ODD]).classic().unwrap();
        assert_eq!(
            classic.to_str().unwrap(),
            "lowerdir=/l1:/a b\\,c\\:d\\\\e\nf,upperdir=/a b\\,c:d\\\\e\nf/upper,workdir=/v/work"
        );
        assert_eq!(upper_text(Path::new(ODD)).to_str().unwrap(), "/a b\\,c\\:d\\\\e\nf");
    }

    #[test]
    fn a_text_that_would_be_cut_is_refused() {
        let layers: Vec<String> = (0..40).map(|i| format!("/{i:0>100}")).collect();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        let message = directories(&layers).classic().unwrap_err().to_string();
        assert!(message.contains("overlay of 40 layers") && message.contains("4095"), "{message}");
        assert!(directories(&layers[..30]).classic().unwrap().len() <= OPTIONS_MAX);
    }

    #[test]
    fn what_the_kernel_shows_is_recognized() {
        let wanted = directories(&["/l1", ODD]);
        let upper = "upperdir=/a\\040b\\054c:d\\134e\\012f/upper,workdir=/v/work";
        for same in [
            format!("rw,lowerdir+=/l1,lowerdir+=/a\\040b\\054c:d\\134e\\012f,{upper},uuid=on"),
            format!("rw,lowerdir=/l1:/a\\040b\\134\\054c\\134:d\\134\\134e\\012f,{upper}"),
        ] {
            assert!(shown(&same).shows(&wanted), "{same}");
            assert_eq!(shown(&same).has_uuid, same.ends_with("uuid=on"));
        }
        for other in [
            format!("rw,lowerdir+=/l1,{upper}"),
            format!("rw,lowerdir+=/a\\040b\\054c:d\\134e\\012f,lowerdir+=/l1,{upper}"),
            format!("rw,lowerdir=/l1:/a\\040b\\054c:d\\134e\\012f,{upper}"),
            "rw,lowerdir+=/l1,lowerdir+=/a\\040b\\054c:d\\134e\\012f".to_owned(),
            "rw,lowerdir+=/l1,lowerdir+=/a\\040b\\054c:d\\134e\\012f,upperdir=/x,workdir=/v/work".to_owned(),
        ] {
            assert!(!shown(&other).shows(&wanted), "{other}");
        }
        let overlay = shown(&format!("rw,lowerdir+=/l1,{upper}"));
        assert!(
            overlay.is_on(Path::new(ODD))
                && !overlay.is_on(Path::new("/a"))
                && !overlay.is_on(Path::new("/l1"))
        );
        assert!(
            overlay.reads(Path::new("/l1"))
                && overlay.reads(Path::new("/"))
                && !overlay.reads(Path::new("/l"))
        );
    }

    proptest::proptest! {
        #[test]
        fn layers_survive_the_way_through_mount_options(names in proptest::collection::vec("[a,:\\\\ ]{1,8}", 1..5)) {
            let paths: Vec<PathBuf> = names.iter().map(|name| Path::new("/x").join(name)).collect();
            let text = Directories { layers: paths.clone(), upper: "/u".into(), work: "/w".into() }.classic().unwrap();
            let text = text.into_vec();
            let layers = text.strip_prefix(b"lowerdir=").unwrap().strip_suffix(b",upperdir=/u,workdir=/w").unwrap();
            let back: Vec<PathBuf> = split_layers(layers)
                .iter()
                .map(|layer| PathBuf::from(OsString::from_vec(unescape_backslashes(layer))))
                .collect();
            proptest::prop_assert_eq!(back, paths);
        }
    }
}
