//! Images as a host uses them: what its containers were made from is kept, and what they wrote becomes a new one.

use tracing::{Instrument, info_span};

use super::handle::Host;
use super::record::Manifest;
use crate::error::{Error, Result};
use crate::lxc::State;
use crate::name::{ContainerName, ImageName};
use crate::storage::{CollectOptions, Collected, Image, ImageContent, ImageOptions};

impl Host {
    /// Takes a name of an image away. One that is gone is taken away.
    ///
    /// Containers go on with what they were made from, whatever names it has; but the last name of an image that
    /// a container of this host was made from is kept, so that no container's image is without a name.
    ///
    /// # Errors
    /// [`Error::Busy`] with the container, if it is such a name.
    pub async fn remove_image(&self, name: &ImageName) -> Result<()> {
        let name = name.clone();
        let span = info_span!("remove_image", image = %name);
        self.owned(|host| {
            async move {
                let host = host.registry().await?;
                host.blocking(move |host| host.remove_image_locked(&name)).await
            }
            .instrument(span)
        })
        .await
    }

    fn remove_image_locked(&self, name: &ImageName) -> Result<()> {
        let images = &self.inner.images;
        match images.resolve(name) {
            Ok(content) => {
                let what = || format!("image `{name}`");
                let manifests = self.inner.manifests.all()?;
                let user = manifests.whole(what)?.iter().find(|manifest| manifest.image == content);
                if let Some(user) = user
                    && images.names_of(&content)? == [name.clone()]
                {
                    let reason = format!(
                        "container `{}` was made from it, and it has no other name; remove that, or tag the image",
                        user.spec.name
                    );
                    return Err(Error::Busy { what: what(), reason });
                }
            }
            // What cannot be read is kept from nobody by its name.
            Err(Error::NotFound { .. } | Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        images.remove(name)
    }

    /// Removes what no image's name and no container of this host needs: blobs of the shared store, and layers that this host
    /// has unpacked. See [`ImageStore::collect_garbage`](crate::storage::ImageStore::collect_garbage) for what it promises.
    ///
    /// # Errors
    /// [`Error::Busy`] while there is a manifest that cannot be read, or another collection; [`Error::Damaged`] if a name
    /// cannot be read.
    pub async fn collect_garbage(&self, options: &CollectOptions) -> Result<Collected> {
        let options = *options;
        self.owned(|host| {
            async move {
                let locked = host.registry().await?;
                // A launch writes down what it needs under this lock; deleting does not need it.
                let (used, layers) = locked
                    .blocking(move |host| {
                        let used = host.images_in_use()?;
                        let layers = host.inner.images.retire_layers(&used, &options)?;
                        Ok((used, layers))
                    })
                    .await?;
                drop(locked);
                host.blocking(move |host| {
                    let images = &host.inner.images;
                    let collected = images.collect_blobs(&used, &options)?;
                    images.tidy()?;
                    Ok(Collected { layers, ..collected })
                })
                .await
            }
            .instrument(info_span!("collect_garbage"))
        })
        .await
    }

    fn images_in_use(&self) -> Result<Vec<ImageContent>> {
        let manifests = self.inner.manifests.all()?;
        let manifests = manifests.whole(|| "the garbage of images".to_owned())?;
        Ok(manifests.iter().map(|manifest| manifest.image.clone()).collect())
    }

    /// Makes an image of a container: its own image, and what it wrote on top, as one more layer. What is mounted in the
    /// container (`/proc`, `/sys`, `/dev`, directories of the host) is not in it, nor are sockets. The container must be
    /// stopped or frozen, and stays as it is.
    ///
    /// The image appears whole, or not at all.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container; [`Error::Busy`] if it runs; otherwise as
    /// [`ImageStore::commit`](crate::storage::ImageStore::commit).
    pub async fn commit(
        &self,
        container: &ContainerName,
        image: &ImageName,
        options: &ImageOptions,
    ) -> Result<Image> {
        let (image, options) = (image.clone(), options.clone());
        self.on(container, info_span!("commit", %container, %image), |host, container| async move {
            let manifest = host.created(&container)?;
            let stopped = match host.state(&manifest).await? {
                State::Stopped => true,
                State::Frozen => false,
                State::Running => {
                    return Err(Error::Busy {
                        what: format!("container `{container}`"),
                        reason: "it runs; freeze or stop it, so that its files stand still".to_owned(),
                    });
                }
            };
            host.blocking(move |host| host.commit_standing(&manifest, stopped, &image, &options)).await
        })
        .await
    }

    fn commit_standing(
        &self,
        manifest: &Manifest,
        stopped: bool,
        image: &ImageName,
        options: &ImageOptions,
    ) -> Result<Image> {
        let volume = self.pool_of(manifest)?.open(&manifest.objects.volume)?;
        let space = volume.mount()?;
        let (upper, ids) = (space.path().join("upper"), manifest.objects.ids.as_ref());
        let committed = self.inner.images.commit(&manifest.image, &upper, image, options, ids);
        let unmounted = if stopped { volume.unmount() } else { Ok(()) };
        // The first error is the one to tell.
        let image = committed?;
        unmounted.map(|()| image)
    }
}
