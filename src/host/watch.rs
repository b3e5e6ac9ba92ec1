//! Changes of containers as they happen: told by the kernel (`man 7 inotify`, `man 2 pidfd_open`), not asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use super::Ended;
use super::handle::Host;
use super::record::Phase;
use crate::error::{Chain, Result};
use crate::lxc::{Run, State};
use crate::name::{ContainerName, ObjectId};
use crate::sys::inotify::{Event, Watches};
use crate::sys::pidfd;

/// What has become of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It runs: it was started, unfrozen, or rebooted from inside.
    Running {
        /// Its first process, by its id as the caller's namespace sees it.
        init_pid: u32,
    },
    /// Its processes are frozen.
    Frozen,
    /// It is down.
    Stopped {
        /// How its last run ended. `None` if there was none in this boot, or nobody knows.
        last_end: Option<Ended>,
    },
    /// It is gone, with everything of it.
    Removed,
}

/// A change of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StateChange {
    /// The container.
    pub name: ContainerName,
    /// Its identity: another one of the same name has another.
    pub id: ObjectId,
    /// What it has become.
    pub change: Change,
}

/// The changes of a host's containers, from [`Host::watch`].
#[derive(Debug)]
pub struct StateChanges {
    host: Host,
    watches: Watches,
    /// The number of the watched directory of manifests.
    manifests: Option<i32>,
    /// Whom the other watches are about.
    watched: BTreeMap<i32, ContainerName>,
    known: BTreeMap<ContainerName, Sight>,
    /// Who is to be looked at.
    pending: BTreeSet<ContainerName>,
    told: VecDeque<StateChange>,
    ends: FuturesUnordered<BoxFuture<'static, ContainerName>>,
}

/// What is seen of a container at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sight {
    id: ObjectId,
    state: State,
    run: Option<Run>,
    init_pid: Option<u32>,
    last_end: Option<Ended>,
}

impl Host {
    /// The changes of this host's containers, whoever makes them. It begins with what each one is now, for who comes late. What
    /// changes twice before it is looked at is told once; that it ended in between is told all the same.
    ///
    /// Nothing is asked again and again, and no program is run: the kernel tells of records that change, of first processes that
    /// end, and of groups that are frozen. (On a host with control groups v1 alone, it tells that freezing begins, and a container
    /// that takes long for it is told of with its next change.)
    ///
    /// ```no_run
    /// # async fn example(host: docklet::host::Host) -> docklet::Result<()> {
    /// use docklet::host::Change;
    ///
    /// let mut changes = host.watch()?;
    /// loop {
    ///     let change = changes.next().await?;
    ///     if let Change::Stopped { last_end: Some(end) } = change.change {
    ///         tracing::info!(name = %change.name, exit = %end.exit, "ended");
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the directories of what is written down cannot be watched.
    pub fn watch(&self) -> Result<StateChanges> {
        let _runtime = self.inner.runtime.enter();
        let watches = Watches::new()?;
        // From now on each change is heard of; then what there is.
        let manifests = watches.directory(&self.inner.paths.manifests())?;
        Ok(StateChanges {
            pending: self.inner.manifests.names()?.into_iter().collect(),
            host: self.clone(),
            watches,
            manifests,
            watched: BTreeMap::new(),
            known: BTreeMap::new(),
            told: VecDeque::new(),
            ends: FuturesUnordered::new(),
        })
    }

    /// What a container is now, and its first process. `None` if there is none of that name.
    fn sight(&self, name: &ContainerName) -> Result<Option<(Sight, Option<OwnedFd>)>> {
        let Some(manifest) = self.inner.manifests.get(name)? else { return Ok(None) };
        if manifest.phase != Phase::Created {
            return Ok(None);
        }
        let container = self.container(&manifest)?;
        let run = container.run()?;
        let (state, init) = match container.running()? {
            Some(running) if container.payload().is_frozen()? => (State::Frozen, Some(running)),
            Some(running) => (State::Running, Some(running)),
            None => (State::Stopped, None),
        };
        let (last_end, _) = self.last_end(&manifest, state)?;
        let init_pid = init.as_ref().map(|running| running.init.pid);
        let sight = Sight { id: manifest.id, state, run, init_pid, last_end };
        Ok(Some((sight, init.map(|running| running.init_fd))))
    }
}

impl StateChanges {
    /// The next change. It waits for ever if there is none. Dropped half-way, it loses nothing.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if a container's files or its control group cannot be watched;
    /// [`Error::Unsupported`](crate::Error::Unsupported) if there are more than the kernel is set to watch. Calling it again goes on.
    pub async fn next(&mut self) -> Result<StateChange> {
        loop {
            if let Some(change) = self.told.pop_front() {
                return Ok(change);
            }
            if let Some(name) = self.pending.first().cloned() {
                self.look(&name).await?;
                self.pending.remove(&name);
                continue;
            }
            tokio::select! {
                events = self.watches.next() => {
                    for event in events? {
                        self.heard(event)?;
                    }
                }
                Some(name) = self.ends.next() => drop(self.pending.insert(name)),
            }
        }
    }

    /// Takes note of who is to be looked at.
    fn heard(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Changed(number, Some(entry)) if Some(number) == self.manifests => {
                let stem = entry.to_str().and_then(|entry| entry.strip_suffix(".json"));
                self.pending.extend(stem.and_then(|stem| ContainerName::new(stem).ok()));
            }
            Event::Changed(number, _) => self.pending.extend(self.watched.get(&number).cloned()),
            Event::Gone(number) => self.pending.extend(self.watched.remove(&number)),
            Event::Lost => {
                self.pending.extend(self.host.inner.manifests.names()?);
                self.pending.extend(self.known.keys().cloned());
            }
        }
        Ok(())
    }

    /// Looks at a container, and tells what has changed of it.
    async fn look(&mut self, name: &ContainerName) -> Result<()> {
        // Watched first, then looked at: what changes in between is heard of.
        if let Ok(Some(manifest)) = self.host.inner.manifests.get(name) {
            let group = self.host.container(&manifest)?.payload().clone();
            let directory = self.watches.directory(self.host.directory(&manifest).path())?;
            let group = group.changing_file().map_or(Ok(None), |path| self.watches.file(&path))?;
            for number in [directory, group].into_iter().flatten() {
                self.watched.insert(number, name.clone());
            }
        }
        let looked = name.clone();
        let seen = match self.host.blocking(move |host| host.sight(&looked)).await {
            Ok(seen) => seen,
            // It is as it was, as far as anybody can tell.
            Err(error) => {
                tracing::warn!(container = %name, error = %Chain(&error), "cannot be looked at");
                return Ok(());
            }
        };
        let before = self.known.remove(name);
        let Some((now, init)) = seen else {
            self.told.extend(before.map(|before| before.tell(name, Change::Removed)));
            return Ok(());
        };
        self.told.extend(now.changes_since(before.as_ref(), name));
        if let Some(init) =
            init.filter(|_| before.as_ref().is_none_or(|before| before.init_pid != now.init_pid))
        {
            let name = name.clone();
            self.ends.push(Box::pin(async move {
                // An error means the same as the end: look again.
                drop(pidfd::ended(init).await);
                name
            }));
        }
        self.known.insert(name.clone(), now);
        Ok(())
    }
}

impl Sight {
    fn tell(&self, name: &ContainerName, change: Change) -> StateChange {
        StateChange { name: name.clone(), id: self.id.clone(), change }
    }

    /// What is to be told of it, when `before` was told last.
    fn changes_since(&self, before: Option<&Self>, name: &ContainerName) -> Vec<StateChange> {
        let mut changes = Vec::new();
        let mut before = before;
        if let Some(other) = before.filter(|before| before.id != self.id) {
            changes.push(other.tell(name, Change::Removed));
            before = None;
        }
        if let Some(earlier) = before.filter(|before| before.state != State::Stopped)
            && self.state != State::Stopped
            && earlier.run != self.run
        {
            // It ended and was started again since.
            changes.push(self.tell(name, Change::Stopped { last_end: self.last_end }));
        }
        let same = before.is_some_and(|before| {
            let end_is_known = self.state != State::Stopped || before.last_end == self.last_end;
            before.state == self.state && before.init_pid == self.init_pid && end_is_known
        });
        if !same {
            changes.push(self.tell(
                name,
                match (self.state, self.init_pid) {
                    (State::Running, Some(init_pid)) => Change::Running { init_pid },
                    (State::Frozen, _) => Change::Frozen,
                    _ => Change::Stopped { last_end: self.last_end },
                },
            ));
        }
        changes
    }
}
