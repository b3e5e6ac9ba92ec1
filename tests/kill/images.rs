//! Images, as programs to be killed.

use std::fs;
use std::process::Command;
use std::time::Duration;

use docklet::name::ImageName;
use docklet::storage::{CollectOptions, Collected, ImageOptions, ImageSource};

use crate::busybox;
use crate::containers::{self, Result, with_host};
use crate::operations::scratch;
use crate::parts::say;

/// Nothing is spared for being young.
const AT_ONCE: CollectOptions =
    CollectOptions { grace: Duration::ZERO, abandoned: Duration::from_secs(24 * 3600) };

pub(crate) fn image() -> ImageName {
    "other".parse().expect("a name")
}

pub(crate) fn build() -> Result {
    with_host(async |host| Ok(busybox::ensure(host.images(), &image()).map(drop)?))
}

/// Imports an archive of a small root, which is made first: only what docklet does counts.
pub(crate) fn import() -> Result {
    let archive = scratch()?.join("root.tar");
    if !archive.exists() {
        let tar =
            Command::new("tar").args(["-C", "/", "-cf"]).arg(&archive).args(["bin/busybox"]).status()?;
        assert!(tar.success(), "{tar}");
    }
    let imported = with_host(async |host| {
        let source = ImageSource::Tar(archive.clone());
        host.images().import(&source, &image(), &ImageOptions::default(), &mut |_| {})?;
        Ok(())
    });
    fs::remove_file(&archive)?;
    imported
}

/// Makes an image of the container, which is stopped.
pub(crate) fn commit() -> Result {
    with_host(async |host| {
        host.commit(&containers::name(), &image(), &ImageOptions::default()).await?;
        Ok(())
    })
}

/// Moves the image's name to another one.
pub(crate) fn tag() -> Result {
    with_host(async |host| {
        let replace = ImageOptions { replace: true, ..ImageOptions::default() };
        Ok(host.images().tag(&"busybox".parse()?, &image(), &replace)?)
    })
}

pub(crate) fn remove() -> Result {
    with_host(async |host| {
        host.remove_image(&image()).await?;
        host.collect_garbage(&AT_ONCE).await?;
        Ok(())
    })
}

/// Leaves what the image is made of.
pub(crate) fn forget() -> Result {
    with_host(async |host| Ok(host.remove_image(&image()).await?))
}

pub(crate) fn collect() -> Result {
    with_host(async |host| {
        host.collect_garbage(&AT_ONCE).await?;
        Ok(())
    })
}

/// Prints a line for everything that was changed.
pub(crate) fn recover() -> Result {
    containers::recover()?;
    with_host(async |host| {
        let collected = host.collect_garbage(&AT_ONCE).await?;
        if collected != Collected::default() {
            println!("{collected:?}");
        }
        // What the import was made from is none of docklet's.
        fs::remove_file(scratch()?.join("root.tar")).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        Ok(())
    })
}

/// "present" if it is whole.
pub(crate) fn state() -> Result {
    with_host(async |host| {
        let images = host.images();
        assert_eq!(images.verify()?.damaged, Vec::<String>::new());
        let there = images.list()?.contains(&image());
        if there {
            let lowest = images.open(&image())?.layers.pop().expect("a layer");
            assert_eq!(fs::read(lowest.join("bin/busybox"))?, fs::read("/bin/busybox")?, "half an image");
            images.describe(&image())?;
        }
        say(there);
        Ok(())
    })
}
