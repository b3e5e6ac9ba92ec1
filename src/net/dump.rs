//! The lists that the kernel gives out (`man 7 rtnetlink`), above all those of links.

use std::io;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::{self, ATTEMPTS, Link, MessageBuilder, brief};
use super::{LinkOwner, Netlink, change};
use crate::error::{Error, Result};
use crate::name::LinkName;

impl Netlink {
    /// All that the kernel answers to `message`.
    pub(super) async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        for attempt in 0..ATTEMPTS {
            link::pause(attempt).await;
            match self.dump_once(message.clone()).await {
                Ok(Some(found)) => return Ok(found),
                // Changed while it was read.
                Ok(None) => {}
                // An earlier one failed before all of it was read; its rest is read now.
                Err(error) if error.errno() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy {
            what: "the list of links and addresses".to_owned(),
            reason: "it changes all the time".to_owned(),
        })
    }

    /// `None` if the list changed while the kernel went through it: something may be missing.
    async fn dump_once(&self, message: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>> {
        let call = change::call(&message);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let (mut found, mut whole, mut refused) = (Vec::new(), true, None);
        let sent = self.connection.lock().await.talk(&mut [request], |_, answer| {
            let Some(answer) = answer else {
                tracing::warn!(call, "something in the list cannot be read");
                return;
            };
            whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message),
                NetlinkPayload::Error(answer) => refused = answer.code,
                _ => {}
            }
        });
        let refused = refused.map(|code| io::Error::from_raw_os_error(-code.get()));
        sent.and(refused.map_or(Ok(()), Err)).map_err(|e| Error::os(call, "all", e))?;
        Ok(whole.then_some(found))
    }

    /// The links for which the kernel is asked with `question`.
    async fn link_messages(&self, question: LinkMessage) -> Result<Vec<LinkMessage>> {
        let found = self.dump(RouteNetlinkMessage::GetLink(question)).await?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(message) => Some(message),
                _ => None,
            })
            .collect())
    }

    /// The ports of the bridge `index`. The kernel goes through all links of the namespace, and shows only these.
    pub(super) async fn ports(&self, index: u32) -> Result<Vec<Link>> {
        let question = brief(MessageBuilder::default()).controller(index).build();
        let found = self.link_messages(question).await?.into_iter().map(Link::from);
        // A kernel before 4.20 does not choose.
        Ok(found.filter(|link| link.master == Some(index)).collect())
    }

    /// What bridges know of all their ports, and of themselves: the VLANs of each, as ranges.
    pub(super) async fn bridge_vlans(&self) -> Result<Vec<LinkMessage>> {
        let question = MessageBuilder::default()
            .interface_family(AddressFamily::Bridge)
            .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]));
        self.link_messages(question.build()).await
    }

    /// All links.
    pub(super) async fn links(&self) -> Result<Vec<Link>> {
        let found = self.link_messages(brief(MessageBuilder::default()).build()).await?;
        Ok(found.into_iter().map(Link::from).collect())
    }

    /// The links whose owner's mark begins with `prefix`, and their marks.
    ///
    /// # Errors
    /// [`Error::Os`] if the system refuses.
    pub async fn links_owned(&self, prefix: &str) -> Result<Vec<(LinkName, LinkOwner)>> {
        Ok(self
            .links()
            .await?
            .into_iter()
            .filter_map(|link| {
                let alias = link.alias.filter(|alias| alias.starts_with(prefix))?;
                Some((LinkName::new(link.name).ok()?, LinkOwner::new(alias).ok()?))
            })
            .collect())
    }
}
