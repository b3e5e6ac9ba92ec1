//! Images on their way out, as programs to be killed: after any kill the same export again makes it whole.

use std::fs;
use std::path::Path;

use docklet::Error;
use docklet::paths::Paths;
use docklet::storage::{ImageOptions, ImageSource, ImageStore, ImageTarget, remove_tree};

use crate::containers::{Result, with_host};
use crate::images::image;
use crate::operations::scratch;
use crate::parts::say;

const LAYOUT: &str = "exported";
const ARCHIVE: &str = "exported.tar";

fn targets() -> docklet::Result<[ImageTarget; 2]> {
    let prefix = Paths::from_env()?.prefix().to_owned();
    Ok([ImageTarget::OciLayout(prefix.join(LAYOUT)), ImageTarget::OciArchive(prefix.join(ARCHIVE))])
}

/// To a directory and to an archive; what is there is left.
pub(crate) fn export() -> Result {
    with_host(async |host| {
        for target in targets()? {
            match host.images().export(&image(), &target) {
                Ok(()) | Err(Error::Differs { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    })
}

/// "present" if both are there and whole, with nothing beside them.
pub(crate) fn state() -> Result {
    for target in targets()? {
        let source = ImageSource::OciLayout { path: target.path().to_owned(), reference: None };
        // A store of its own, which checks every blob on its way in.
        let base = scratch()?.join("imported");
        fs::create_dir(&base)?;
        let store = ImageStore::new(base.join("global"), base.join("local"))?;
        store.import(&source, &image(), &ImageOptions::default(), &mut |_| {})?;
        remove_tree(&scratch()?, Path::new("imported"))?;
    }
    let prefix = Paths::from_env()?.prefix().to_owned();
    for entry in prefix.read_dir()? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with('.') {
            return Err(format!("{name:?} is left").into());
        }
    }
    say(true);
    Ok(())
}

pub(crate) fn remove() -> Result {
    let prefix = Paths::from_env()?.prefix().to_owned();
    remove_tree(&prefix, Path::new(LAYOUT))?;
    Ok(remove_tree(&prefix, Path::new(ARCHIVE))?)
}
