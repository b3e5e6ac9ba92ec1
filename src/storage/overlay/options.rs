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

/// What every overlay is mounted with, so that its upper directory alone says what has changed, and no layer says where
/// others are looked for. Known to every kernel since 4.19, with any of the calls.
///
/// Given up is what these would allow: renaming a directory that a layer has is `EXDEV` (as between file systems, so
/// programs copy it instead), a change of a file's owner or mode copies its content too, and the names of a hard-linked
/// file of a layer part when one of them is written to.
pub(crate) const OPTIONS: [(&str, &str); 3] =
    [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")];

/// The text of options for `mount(2)`. The uppermost of `layers` first.
pub(crate) fn classic(layers: &[&Path], top: Option<(&Path, &Path)>) -> Result<OsString> {
    let mut text = b"lowerdir=".to_vec();
    for (index, layer) in layers.iter().enumerate() {
        if index > 0 {
            text.push(b':');
        }
        escape(layer, b":,\\", &mut text);
    }
    if let Some((upper, work)) = top {
        text.extend_from_slice(b",upperdir=");
        escape(upper, b",\\", &mut text);
        text.extend_from_slice(b",workdir=");
        escape(work, b",\\", &mut text);
    }
    for (key, value) in OPTIONS {
        text.extend_from_slice(format!(",{key}={value}").as_bytes());
    }
    if text.len() > OPTIONS_MAX {
        return Err(Error::Unsupported {
            what: format!("an overlay of {} layers", layers.len()),
            needs: format!(
                "it takes kernel 6.5, or fewer layers with shorter paths: their names take {} bytes, and mount(2) takes \
                 {OPTIONS_MAX}",
                text.len()
            ),
        });
    }
    Ok(OsString::from_vec(text))
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
    /// What its maker called it.
    pub(crate) source: OsString,
    pub(crate) read_only: bool,
    /// As each was given, escapes included.
    pub(crate) layers: Vec<Vec<u8>>,
    upper: Option<Vec<u8>>,
    /// Those of its other options that differ from [`OPTIONS`]; they change what is written.
    pub(crate) foreign_options: Vec<String>,
}

/// The overlays of this thread's mount namespace, in the kernel's order.
pub(crate) fn overlays() -> Result<Vec<ShownOverlay>> {
    Ok(mounts()?.iter().filter(|mount| mount.filesystem == "overlay").map(ShownOverlay::parse).collect())
}

impl ShownOverlay {
    pub(crate) fn parse(mount: &Mount) -> Self {
        let mut shown = Self {
            target: mount.target.clone(),
            source: mount.source.clone().into_os_string(),
            read_only: mount.mount_options.split(',').any(|option| option == "ro"),
            layers: Vec::new(),
            upper: None,
            foreign_options: Vec::new(),
        };
        // A comma in a path is shown as \054, so these commas separate options.
        for option in mount.options.split(',') {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let path = unescape_octal(value.as_bytes());
            match key {
                "lowerdir" => shown.layers.extend(split_layers(&path)),
                "lowerdir+" => shown.layers.push(path),
                "upperdir" => shown.upper = Some(path),
                "redirect_dir" | "metacopy" | "index" if OPTIONS.contains(&(key, value)) => {}
                "redirect_dir" | "metacopy" | "index" | "volatile" | "userxattr" => {
                    shown.foreign_options.push(option.to_owned());
                }
                _ => {}
            }
        }
        shown
    }

    /// Whether its upper directory is `directory`, or lies in it; or one of its layers, as a read-only overlay has it.
    pub(crate) fn is_on(&self, directory: &Path) -> bool {
        self.upper.as_ref().is_some_and(|upper| lies_in(upper, directory)) || self.reads(directory)
    }

    /// Whether one of its layers is `directory`, or lies in it.
    pub(crate) fn reads(&self, directory: &Path) -> bool {
        self.layers.iter().any(|layer| lies_in(layer, directory))
    }
}

/// A path is shown as it was given, and how that was is not shown: plain, or with backslashes as escapes.
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

    fn paths<'a>(layers: &'a [&'a str]) -> Vec<&'a Path> {
        layers.iter().map(Path::new).collect()
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
        let upper = PathBuf::from(format!("{ODD}/upper"));
        let text = classic(&paths(&["/l1", ODD]), Some((&upper, Path::new("/v/work")))).unwrap();
        assert_eq!(
            text.to_str().unwrap(),
            "lowerdir=/l1:/a b\\,c\\:d\\\\e\nf,upperdir=/a b\\,c:d\\\\e\nf/upper,workdir=/v/work,\
             redirect_dir=nofollow,metacopy=off,index=off"
        );
        assert_eq!(upper_text(Path::new(ODD)).to_str().unwrap(), "/a b\\,c\\:d\\\\e\nf");
    }

    #[test]
    fn a_text_that_would_be_cut_is_refused() {
        let layers: Vec<String> = (0..40).map(|i| format!("/{i:0>100}")).collect();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        let message = classic(&paths(&layers), None).unwrap_err().to_string();
        assert!(message.contains("overlay of 40 layers") && message.contains("4095"), "{message}");
        assert!(classic(&paths(&layers[..30]), None).unwrap().len() <= OPTIONS_MAX);
    }

    #[test]
    fn what_the_kernel_shows_is_recognized() {
        let ours = "upperdir=/a\\040b\\054c:d\\134e\\012f/upper,workdir=/v/work,redirect_dir=nofollow";
        for text in [
            format!("rw,lowerdir+=/l1,lowerdir+=/a\\040b\\054c:d\\134e\\012f,{ours},uuid=on"),
            format!("rw,lowerdir=/l1:/a\\040b\\134\\054c\\134:d\\134\\134e\\012f,{ours}"),
        ] {
            let overlay = shown(&text);
            assert_eq!(overlay.foreign_options, Vec::<String>::new());
            assert_eq!(overlay.layers.len(), 2, "{text}");
            assert!(overlay.is_on(Path::new(ODD)), "{text}");
            assert!(!overlay.is_on(Path::new("/a")) && overlay.is_on(Path::new("/l1")));
            assert!(overlay.reads(Path::new("/l1")) && overlay.reads(Path::new("/")));
            assert!(overlay.reads(Path::new(ODD)) && !overlay.reads(Path::new("/l")));
        }
        let foreign = shown("rw,lowerdir=/l,redirect_dir=on,metacopy=on,index=on,volatile").foreign_options;
        assert_eq!(foreign, ["redirect_dir=on", "metacopy=on", "index=on", "volatile"]);
    }

    proptest::proptest! {
        #[test]
        fn layers_survive_the_way_through_mount_options(names in proptest::collection::vec("[a,:\\\\ ]{1,8}", 1..5)) {
            let expected: Vec<PathBuf> = names.iter().map(|name| Path::new("/x").join(name)).collect();
            let layers: Vec<&Path> = expected.iter().map(PathBuf::as_path).collect();
            let text = classic(&layers, Some((Path::new("/u"), Path::new("/w")))).unwrap().into_vec();
            let end = b",upperdir=/u,workdir=/w,redirect_dir=nofollow,metacopy=off,index=off";
            let layers = text.strip_prefix(b"lowerdir=").unwrap().strip_suffix(end).unwrap();
            let back: Vec<PathBuf> = split_layers(layers)
                .iter()
                .map(|layer| PathBuf::from(OsString::from_vec(unescape_backslashes(layer))))
                .collect();
            proptest::prop_assert_eq!(back, expected);
        }
    }
}
