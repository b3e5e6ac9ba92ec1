//! The documents of OCI images as they are read (`config.md`, `manifest.md`, `image-index.md`, `descriptor.md` of
//! `opencontainers/image-spec`), and Docker's that mean the same.
//!
//! Here is what is needed of them. The bytes that a digest is of are kept as they came, never written anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::storage::image::compression::Compression;
use crate::storage::image::content::check_count;
use crate::storage::image::digest::Digest;

/// The largest document that is read, in bytes: what registries take, too.
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;
/// Layers of one image, those that occur again counted again. No overlay takes so many different ones.
const LAYERS_MAX: usize = 1000;
/// The annotation that gives an image in a layout its name.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Where a piece of content is: what it hashes to, and how long it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// What a manifest's image runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

/// What an image runs on, in Go's words. Variants of an architecture are not told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    /// "amd64", "arm64", …
    pub(crate) architecture: String,
    /// "linux".
    pub(crate) os: String,
}

/// Several images, or one for several platforms.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
}

/// What one image consists of.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    /// The layers' archives, the lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

/// What an image is.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) platform: Platform,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    /// What the layers' uncompressed archives hash to, the lowest first. Go writes a list that it never filled as `null`.
    #[serde(default)]
    pub(crate) diff_ids: Option<Vec<Digest>>,
}

/// What says that a directory is an image layout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layout {
    pub(crate) image_layout_version: String,
}

impl Descriptor {
    /// Where it is in a layout.
    pub(crate) fn blob(&self) -> String {
        format!("blobs/sha256/{}", self.digest.hex())
    }

    /// An error if what was found has another size.
    pub(crate) fn check_size(&self, size: u64) -> Result<()> {
        if self.size == size {
            return Ok(());
        }
        let reason = format!("it has {size} bytes instead of {}; get it again", self.size);
        Err(Error::Damaged { what: format!("blob {}", self.digest), reason })
    }

    pub(crate) fn is_manifest(&self) -> bool {
        matches!(&*self.media_type, MANIFEST | DOCKER_MANIFEST)
    }

    pub(crate) fn is_index(&self) -> bool {
        matches!(&*self.media_type, INDEX | DOCKER_INDEX)
    }

    /// How a layer's archive is compressed, by its media type.
    pub(crate) fn layer_compression(&self) -> Result<Compression> {
        let media_type = &*self.media_type;
        let suffix = media_type.strip_prefix(LAYER).or_else(|| media_type.strip_prefix(DOCKER_LAYER));
        match suffix {
            Some("") => Ok(Compression::None),
            Some("+gzip" | ".gzip") => Ok(Compression::Gzip),
            Some("+zstd" | ".zstd") => Ok(Compression::Zstd),
            Some("+xz") => Ok(Compression::Xz),
            _ => {
                let rule =
                    "must be a layer that may be passed on: a tar archive with gzip, zstd, xz or nothing";
                Err(Error::invalid("media type of a layer", media_type, rule))
            }
        }
    }
}

impl Platform {
    /// This host's.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            same => same,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned() }
    }
}

/// Reads a document.
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(what: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|e| Error::Damaged { what: what.to_owned(), reason: format!("it cannot be read: {e}") })
}

/// What the layers of a configuration hash to. There must be `layers` of them, for this host, and an overlay of them must be
/// possible: before the first of them is read.
pub(crate) fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<Digest>> {
    let config: Config = parse("image configuration", config)?;
    let host = Platform::host();
    if config.platform != host {
        let Platform { architecture, os } = config.platform;
        return Err(Error::Unsupported {
            what: format!("an image for {architecture} and {os}"),
            needs: format!("it takes one for {} and {}", host.architecture, host.os),
        });
    }
    let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != layers {
        let reason = format!("it names {} layers, the manifest {layers}", diff_ids.len());
        return Err(Error::Damaged { what: "image configuration".to_owned(), reason });
    }
    if layers > LAYERS_MAX {
        return Err(Error::invalid(
            "number of image layers",
            layers.to_string(),
            format!("must be {LAYERS_MAX} at most"),
        ));
    }
    check_count(diff_ids.iter(), 0)?;
    Ok(diff_ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn configurations_are_for_this_host_and_have_all_layers() {
        let config = |architecture: &str, diff_ids: &str| {
            let rootfs = format!(r#""rootfs":{{"type":"layers","diff_ids":{diff_ids}}}"#);
            format!(r#"{{"architecture":"{architecture}","os":"linux",{rootfs},"more":[1],"history":null}}"#)
        };
        let here = Platform::host().architecture;
        let one = format!("[{EMPTY:?}]");
        assert_eq!(diff_ids(config(&here, &one).as_bytes(), 1).unwrap(), [Digest::of(b"")]);
        assert_eq!(diff_ids(config(&here, "null").as_bytes(), 0).unwrap(), []);
        assert!(matches!(diff_ids(config(&here, &one).as_bytes(), 2), Err(Error::Damaged { .. })));
        assert!(matches!(diff_ids(config("z80", &one).as_bytes(), 1), Err(Error::Unsupported { .. })));
        assert!(matches!(diff_ids(config(&here, "[\"../x\"]").as_bytes(), 1), Err(Error::Damaged { .. })));
        assert!(matches!(diff_ids(b"{}", 0), Err(Error::Damaged { .. })));
        let many = |count: usize, different: usize| {
            let ids: Vec<_> = (0..count).map(|n| Digest::of(&(n % different).to_le_bytes())).collect();
            diff_ids(config(&here, &serde_json::to_string(&ids).unwrap()).as_bytes(), count)
        };
        assert_eq!(many(1000, 500).unwrap().len(), 1000);
        assert!(matches!(many(501, 501), Err(Error::Invalid { .. })));
        assert!(matches!(many(1001, 1), Err(Error::Invalid { .. })));
    }

    #[test]
    fn media_types_tell_the_compression() {
        let check = |media_type: &str, expected: Option<Compression>| {
            let (annotations, platform, digest) = (BTreeMap::new(), None, Digest::of(b""));
            let descriptor =
                Descriptor { media_type: media_type.to_owned(), digest, size: 0, annotations, platform };
            assert_eq!(descriptor.layer_compression().ok(), expected, "{media_type}");
        };
        check("application/vnd.oci.image.layer.v1.tar", Some(Compression::None));
        check("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip));
        check("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd));
        check("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compression::Gzip));
        check("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", None);
        check("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", None);
        check("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None);
        check("application/octet-stream", None);
    }
}
